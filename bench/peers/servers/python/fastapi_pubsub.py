"""FastAPI and Redis pub/sub, as tutorials show it."""

import asyncio
import json
import os
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import jwt
from fastapi import FastAPI, WebSocket, WebSocketDisconnect, status
from pydantic import BaseModel
from redis.asyncio import Redis

JWT_SECRET = os.environ["JWT_SECRET"]

redis = Redis.from_url(os.environ["REDIS_URL"], decode_responses=True)


class ConnectionManager:
    def __init__(self) -> None:
        self.channels: dict[str, set[WebSocket]] = defaultdict(set)

    async def connect(self, websocket: WebSocket, channels: list[str]) -> None:
        await websocket.accept()
        for channel in channels:
            self.channels[channel].add(websocket)

    def disconnect(self, websocket: WebSocket, channels: list[str]) -> None:
        for channel in channels:
            self.channels[channel].discard(websocket)
            if not self.channels[channel]:
                del self.channels[channel]

    async def send(self, channel: str, message: str) -> None:
        for websocket in list(self.channels.get(channel, ())):
            with suppress(WebSocketDisconnect, RuntimeError):  # its endpoint takes it out
                await websocket.send_text(message)


manager = ConnectionManager()


async def listen() -> None:
    async with redis.pubsub() as pubsub:
        await pubsub.psubscribe("user:*", "all")
        async for message in pubsub.listen():
            if message["type"] == "pmessage":
                await manager.send(message["channel"], message["data"])


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    listener = asyncio.create_task(listen())
    yield
    listener.cancel()
    await redis.aclose()


app = FastAPI(lifespan=lifespan)


class Event(BaseModel):
    to: str
    type: str
    data: Any


@app.post("/publish", status_code=202)
async def publish(event: Event) -> dict[str, int]:
    message = json.dumps({"channel": event.to, "type": event.type, "data": event.data})
    return {"receivers": await redis.publish(event.to, message)}


@app.websocket("/ws")
async def websocket_endpoint(websocket: WebSocket, token: str) -> None:
    try:
        user = jwt.decode(token, JWT_SECRET, algorithms=["HS256"])["sub"]
    except jwt.InvalidTokenError:
        await websocket.close(code=status.WS_1008_POLICY_VIOLATION)
        return
    channels = [f"user:{user}", "all"]
    await manager.connect(websocket, channels)
    try:
        while True:
            await websocket.receive_text()
    except WebSocketDisconnect:
        pass
    finally:
        manager.disconnect(websocket, channels)
