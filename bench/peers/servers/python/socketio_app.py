"""python-socketio in front of a FastAPI application, as its documentation joins them."""

import os
from typing import Any

import jwt
import socketio
from fastapi import FastAPI
from pydantic import BaseModel

JWT_SECRET = os.environ["JWT_SECRET"]

sio = socketio.AsyncServer(
    async_mode="asgi",
    client_manager=socketio.AsyncRedisManager(os.environ["REDIS_URL"]),
    transports=["websocket"],
    ping_interval=int(os.environ.get("PING_INTERVAL", "25")),
)
app = FastAPI()
application = socketio.ASGIApp(sio, other_asgi_app=app)


class Event(BaseModel):
    to: str
    type: str
    data: Any


@app.post("/publish", status_code=202)
async def publish(event: Event) -> dict[str, str]:
    await sio.emit(event.type, event.data, room=event.to)
    return {}


@sio.event
async def connect(sid: str, environ: dict[str, Any], auth: dict[str, str] | None) -> None:
    try:
        user = jwt.decode((auth or {}).get("token", ""), JWT_SECRET, algorithms=["HS256"])["sub"]
    except jwt.InvalidTokenError:
        raise socketio.exceptions.ConnectionRefusedError("unauthorized") from None
    await sio.enter_room(sid, f"user:{user}")
    await sio.enter_room(sid, "all")
