"""A FastAPI backend that publishes to its users and gives their pages tokens for Herald.

Run it beside a Herald (`make run` prints the key and the secret), in the repository's root:

    export HERALD_URL=http://127.0.0.1:8000 HERALD_API_KEY=… HERALD_JWT_SECRET=…
    pip install fastapi uvicorn itsdangerous pyjwt ./clients/python
    uvicorn --app-dir examples fastapi_app:app --port 8080

and order, in another terminal:

    json='Content-Type: application/json'
    curl -c cookies -H "$json" -d '{"user":"alice"}' http://127.0.0.1:8080/login
    curl -b cookies http://127.0.0.1:8080/herald-token
    curl -b cookies -H "$json" -d '{"product":"tea"}' http://127.0.0.1:8080/orders
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import jwt
from fastapi import Depends, FastAPI, HTTPException, Request
from herald_client import AsyncPublisher
from pydantic import BaseModel
from starlette.middleware.sessions import SessionMiddleware

publisher = AsyncPublisher()  # HERALD_URL and HERALD_API_KEY
TOKEN_SECONDS = 600


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Close the connections to Herald with the application."""
    async with publisher:
        yield


app = FastAPI(lifespan=lifespan)
app.add_middleware(SessionMiddleware, secret_key=secrets.token_hex())


class Login(BaseModel):
    """Who wants in."""

    user: str


class Order(BaseModel):
    """What is ordered."""

    product: str


def logged_in(request: Request) -> str:
    """The user of this session."""
    user: str | None = request.session.get("user")
    if user is None:
        raise HTTPException(401, "Log in first.")
    return user


User = Annotated[str, Depends(logged_in)]


@app.post("/login")
async def login(login: Login, request: Request) -> dict[str, str]:
    """Believes everybody: put your own login here."""
    request.session["user"] = login.user
    return {"user": login.user}


@app.get("/herald-token")
async def herald_token(user: User) -> dict[str, str]:
    """What the page brings to Herald; it asks again when this one runs out."""
    claims = {"sub": user, "exp": time.time() + TOKEN_SECONDS, "topics": ["news.*"]}
    return {"token": jwt.encode(claims, os.environ["HERALD_JWT_SECRET"], algorithm="HS256")}


@app.post("/orders", status_code=201)
async def order(order: Order, user: User) -> dict[str, str]:
    """Take an order and tell all of the user's pages."""
    order_id = secrets.token_hex(4)
    await publisher.publish(
        to=f"user:{user}", type="order.created", data={"id": order_id, "product": order.product}
    )
    return {"id": order_id}
