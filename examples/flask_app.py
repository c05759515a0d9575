"""A Flask backend that publishes to its users and gives their pages tokens for Herald.

Run it beside a Herald (`make run` prints the key and the secret), in the repository's root:

    export HERALD_URL=http://127.0.0.1:8000 HERALD_API_KEY=… HERALD_JWT_SECRET=…
    pip install flask pyjwt ./clients/python
    flask --app examples/flask_app.py run --port 8080

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
from typing import Any

import jwt
from flask import Flask, abort, request, session
from herald_client import Publisher

app = Flask(__name__)
app.secret_key = secrets.token_bytes()
# One for all threads, and for the workers of a prefork server too: HERALD_URL and HERALD_API_KEY.
publisher = Publisher()
TOKEN_SECONDS = 600


def logged_in() -> str:
    """The user of this session."""
    user: str | None = session.get("user")
    if user is None:
        abort(401, "Log in first.")
    return user


@app.post("/login")
def login() -> dict[str, str]:
    """Believes everybody: put your own login here."""
    session["user"] = request.get_json()["user"]
    return {"user": session["user"]}


@app.get("/herald-token")
def herald_token() -> dict[str, str]:
    """What the page brings to Herald; it asks again when this one runs out."""
    claims = {"sub": logged_in(), "exp": time.time() + TOKEN_SECONDS, "topics": ["news.*"]}
    return {"token": jwt.encode(claims, os.environ["HERALD_JWT_SECRET"], algorithm="HS256")}


@app.post("/orders")
def order() -> tuple[dict[str, Any], int]:
    """Take an order and tell all of the user's pages."""
    user = logged_in()
    order_id = secrets.token_hex(4)
    data = {"id": order_id, "product": request.get_json()["product"]}
    publisher.publish(to=f"user:{user}", type="order.created", data=data)
    # What nobody waits for goes through the background queue, in batches.
    publisher.enqueue(to="topic:news.orders", type="order.counted", data=1)
    return {"id": order_id}, 201
