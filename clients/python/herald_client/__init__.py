"""Publish events to Herald, and receive them.

with Publisher("http://127.0.0.1:8000", "the key") as publisher:
    publisher.publish(to="user:alice", type="order.shipped", data={"order": 17})

async for event in subscribe("ws://127.0.0.1:8000", "alice's token", on_gap=reload):
    print(event.type, event.data)
"""

from herald_client.async_publisher import AsyncPublisher
from herald_client.background import QueueOptions
from herald_client.errors import (
    Closed,
    ConfigurationError,
    ConnectionRefused,
    Forbidden,
    HeraldError,
    IdConflict,
    InvalidEvent,
    LoggedOut,
    NoAnswer,
    Overloaded,
    QueueFull,
    Rejected,
    RequestFailed,
    SomeNotPublished,
    SubscriptionEnded,
    TokenRefused,
    TooLarge,
    Unauthorized,
    Unavailable,
)
from herald_client.events import (
    Event,
    EventFields,
    FailedEvent,
    Gap,
    HistoryPage,
    Published,
    Ticket,
)
from herald_client.protocol import State
from herald_client.publisher import Publisher
from herald_client.runner import ServerError, Status
from herald_client.subscription import (
    SubscribeOptions,
    Subscription,
    SyncSubscription,
    TokenSource,
    subscribe,
    subscribe_sync,
)

__version__ = "0.1.0"

__all__ = [
    "AsyncPublisher",
    "Closed",
    "ConfigurationError",
    "ConnectionRefused",
    "Event",
    "EventFields",
    "FailedEvent",
    "Forbidden",
    "Gap",
    "HeraldError",
    "HistoryPage",
    "IdConflict",
    "InvalidEvent",
    "LoggedOut",
    "NoAnswer",
    "Overloaded",
    "Published",
    "Publisher",
    "QueueFull",
    "QueueOptions",
    "Rejected",
    "RequestFailed",
    "ServerError",
    "SomeNotPublished",
    "State",
    "Status",
    "SubscribeOptions",
    "Subscription",
    "SubscriptionEnded",
    "SyncSubscription",
    "Ticket",
    "TokenRefused",
    "TokenSource",
    "TooLarge",
    "Unauthorized",
    "Unavailable",
    "subscribe",
    "subscribe_sync",
]
