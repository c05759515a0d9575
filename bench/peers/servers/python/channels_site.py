"""A Django site in one file: a consumer with two groups, and a view that sends to a group."""

import json
import os

import django
import jwt
from channels.generic.websocket import AsyncWebsocketConsumer
from channels.layers import get_channel_layer
from channels.routing import ProtocolTypeRouter, URLRouter
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import HttpRequest, JsonResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

JWT_SECRET = os.environ["JWT_SECRET"]

settings.configure(
    SECRET_KEY=JWT_SECRET,
    DEBUG=False,
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    INSTALLED_APPS=["channels"],
    CHANNEL_LAYERS={
        "default": {
            "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
            "CONFIG": {"hosts": [os.environ["REDIS_URL"]]},
        }
    },
)
django.setup()


class NotificationConsumer(AsyncWebsocketConsumer):
    async def connect(self) -> None:
        self.joined: list[str] = []
        header = dict(self.scope["headers"]).get(b"authorization", b"").decode()
        try:
            claims = jwt.decode(header.removeprefix("Bearer "), JWT_SECRET, algorithms=["HS256"])
        except jwt.InvalidTokenError:
            await self.close()
            return
        self.joined = [f"user.{claims['sub']}", "all"]
        for group in self.joined:
            await self.channel_layer.group_add(group, self.channel_name)
        await self.accept()

    async def disconnect(self, code: int) -> None:
        for group in self.joined:
            await self.channel_layer.group_discard(group, self.channel_name)

    async def notify(self, event: dict[str, str]) -> None:
        await self.send(text_data=event["text"])


@csrf_exempt
@require_POST
async def publish(request: HttpRequest) -> JsonResponse:
    event = json.loads(request.body)
    text = json.dumps({"channel": event["to"], "type": event["type"], "data": event["data"]})
    await get_channel_layer().group_send(event["to"], {"type": "notify", "text": text})
    return JsonResponse({}, status=202)


urlpatterns = [path("publish", publish)]

application = ProtocolTypeRouter(
    {
        "http": get_asgi_application(),
        "websocket": URLRouter([path("ws/", NotificationConsumer.as_asgi())]),
    }
)
