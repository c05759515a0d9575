"""Log in, get a token for Herald, order, announce."""

from __future__ import annotations

import json
import time
from typing import Any

import jwt
from django.conf import settings
from django.contrib.auth import authenticate, login
from django.db import transaction
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.csrf import ensure_csrf_cookie
from herald_client import AsyncPublisher

from shop.models import Order

TOKEN_SECONDS = 600
async_publisher = AsyncPublisher()


class PaymentFailed(Exception):
    """The order is not paid for."""


@ensure_csrf_cookie
def log_in(request: HttpRequest) -> HttpResponse:
    """GET brings the cookie that Django wants back in the header of every POST."""
    if request.method == "POST":
        said = json.loads(request.body)
        user = authenticate(request, username=said["username"], password=said["password"])
        if user is None:
            return JsonResponse({"detail": "No."}, status=401)
        login(request, user)
    return JsonResponse({"user": request.user.get_username()})


def herald_token(request: HttpRequest) -> HttpResponse:
    """What the page brings to Herald; it asks again when this one runs out."""
    if not request.user.is_authenticated:
        return JsonResponse({"detail": "Log in first."}, status=401)
    claims = {"sub": request.user.get_username(), "exp": time.time() + TOKEN_SECONDS}
    token = jwt.encode(claims, settings.HERALD_JWT_SECRET, algorithm="HS256")
    return JsonResponse({"token": token})


def order(request: HttpRequest) -> HttpResponse:
    """Take an order; what tells the user is the signal."""
    if not request.user.is_authenticated:
        return JsonResponse({"detail": "Log in first."}, status=401)
    wanted: dict[str, Any] = json.loads(request.body)
    try:
        with transaction.atomic():
            order = Order.objects.create(
                user=request.user, product=wanted["product"], price=wanted["price"]
            )
            charge(order)
    except PaymentFailed as failure:
        return JsonResponse({"detail": str(failure)}, status=402)
    return JsonResponse({"id": order.pk}, status=201)


def charge(order: Order) -> None:
    """Raises PaymentFailed, and the order is rolled back."""
    if order.price > 1000:
        raise PaymentFailed("That is too much.")


async def announce(request: HttpRequest) -> HttpResponse:
    """An asynchronous view: tell everybody, and answer once the event is stored."""
    user = await request.auser()
    if not user.is_authenticated:
        return JsonResponse({"detail": "Log in first."}, status=401)
    text = json.loads(request.body)["text"]
    published = await async_publisher.publish(to="all", type="announcement", data=text)
    return JsonResponse({"id": published.id}, status=202)
