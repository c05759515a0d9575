"""What the inside of Herald asks of the outside, and what it may rely on.

`hub` and `edge` know these protocols only; `broker`, `auth` and `telemetry` fulfil them, and `app`
puts them together.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from typing import Literal, NamedTuple, Protocol

from service.core.errors import HeraldError
from service.core.event import Event
from service.core.log import Entry, Page
from service.core.position import Position
from service.core.principal import Principal, Publisher


class Receipt(NamedTuple):
    """What became of an event.

    Attributes:
        id: the publisher's, or one made up.
        positions: where it is stored, with the copies that are demanded; all of its channels where
            `failure` is None.
        duplicate: whether every channel had this id already, so that nothing was delivered.
        failure: why the other channels do not have it: EngineUnavailable, EngineError, NotCopied
            or IdempotencyConflict.
    """

    id: str
    positions: dict[str, str]
    duplicate: bool
    failure: HeraldError | None


class Submission(Protocol):
    """An event on its way to the engine."""

    @property
    def lost(self) -> bool:
        """Whether the way to the engine broke after it was sent: it may be stored or not."""

    async def receipt(self) -> Receipt:
        """Wait until the engine has answered for every channel. Does not raise."""

    def then(self, tell: Callable[[Receipt], None]) -> None:
        """Call back with the receipt, without a task where that can be."""


class EventLog(Protocol):
    """The retained logs. Each channel's log is ordered and changes in atomic steps."""

    def submit_now(self, event: Event, publisher: Publisher) -> Submission | None:
        """As `submit`, or None where that would have to wait before it sends."""

    async def submit(self, event: Event, publisher: Publisher) -> Submission:
        """Send an event to be stored and published; events submitted in turn keep their order.

        Raises:
            EngineUnavailable: nothing was sent.
            IdempotencyConflict: an id that was used with another payload; nothing was sent.
            Overloaded: too many are in flight; nothing was sent.
        """

    def open(self, channel: str, after: Position | None) -> asyncio.Future[Page] | None:
        """Subscribe to a channel, and read it behind that: in one go, where that can be.

        What is not in the page will be pushed. The page is a small one. None, or a failure: do the
        two one after the other (`Subscriptions.subscribe`, `read`). Either way `unsubscribe` ends
        it.
        """

    async def read(self, channel: str, after: Position | None, limit: int | None = None) -> Page:
        """Read events after a position, or just the tip (None). Creates the log's epoch.

        Raises:
            EngineUnavailable, EngineError
        """

    async def tips(self, channels: Sequence[str]) -> list[Position | None]:
        """The last position of each log; None where nothing is known of it.

        Raises:
            EngineUnavailable, EngineError
        """


class Tickets(Protocol):
    """What opens one stream, once: kept for all nodes until then."""

    async def keep(self, ticket: str, principal: Principal, seconds: float) -> None:
        """Whoever brings `ticket` within `seconds` is `principal`.

        Raises:
            EngineUnavailable, EngineError
        """

    async def take(self, ticket: str) -> Principal | None:
        """Who it is, or None where there is no such ticket, or not any more.

        Raises:
            EngineUnavailable: as a rule nothing was taken, but that is not known.
            EngineError
        """


PushedHandler = Callable[[str, Entry, int], None]
"""channel, entry, when it was accepted (Unix microseconds, the accepting node's clock)."""
RestoredHandler = Callable[[Collection[str]], None]
"""The channels."""


class Subscriptions(Protocol):
    """The engine's pushes: at most once, in order per channel."""

    def on_pushed(self, handler: PushedHandler) -> None:
        """Who gets the pushes."""

    def on_restored(self, handler: RestoredHandler) -> None:
        """Who is told which channels are subscribed again after a loss: pushes are missing."""

    async def subscribe(self, channel: str) -> None:
        """Returns once the engine pushes every event that is published from now on.

        Raises:
            EngineUnavailable: not confirmed in time; `unsubscribe` gives it up.
        """

    def unsubscribe(self, channel: str) -> None:
        """No more pushes of this channel."""


class Health(Protocol):
    """Whether events are delivered."""

    def trouble(self) -> str | None:
        """Why delivery does not work at the moment, or None where it does."""

    def is_away(self) -> bool:
        """Whether that has lasted so long that a newcomer would wait in vain."""


class UserVerifier(Protocol):
    """From a user's token to who it is."""

    def verify_now(self, token: str) -> Principal | None:
        """Who it is, or None where a key must be fetched first: `verify` does.

        Raises:
            Unauthorized: with a text that says why and never the token.
        """

    async def verify(self, token: str) -> Principal:
        """Who it is.

        Raises:
            Unauthorized: as above.
            KeysUnavailable: the issuer's keys cannot be had.
        """


class PublisherVerifier(Protocol):
    """From an Authorization header to who publishes."""

    def verify_now(self, authorization: str | None) -> Publisher | None:
        """Who it is, or None where a key must be fetched first: `verify` does.

        Raises:
            Unauthorized, Forbidden
        """

    async def verify(self, authorization: str | None) -> Publisher:
        """Raises Unauthorized, Forbidden or KeysUnavailable."""


Refused = Literal[
    "token",
    "keys",
    "origin",
    "request",
    "full",
    "user_limit",
    "draining",
    "engine",
    "connect_timeout",
]
"""Why a client was not taken."""
CutOff = Literal[
    "bad_request", "body_slow", "head_large", "head_slow", "no_room", "trailers_large", "unread"
]
"""Why an HTTP connection was ended: what came is no HTTP, or opens a WebSocket before the requests
before it are answered; a limit of `HttpPolicy` or `PublishLimits`; or a newcomer needed the place.
"""


class Instrumentation(Protocol):
    """Numbers. Plain attributes are added to directly: the hot paths pay one addition."""

    deliveries: int
    delivered_bytes: int
    received_messages: int
    acks: int
    pings: int
    events_replayed: int
    pushes: int
    duplicate_pushes: int
    heals: int
    gaps: int
    events_accepted: int
    events_duplicate: int
    events_uncopied: int

    def connected(self) -> None:
        """A connection was admitted."""

    def refused(self, reason: Refused) -> None:
        """A handshake was refused."""

    def cut_off(self, reason: CutOff) -> None:
        """An HTTP connection was ended for what its client did, or did not do."""

    def disconnected(self, code: int) -> None:
        """A connection ended with this close code (1006: without one)."""

    def resumed(self, exact: bool) -> None:
        """A position was held against the log."""

    def publish_refused(self, status: int) -> None:
        """A publish request was answered with an error."""

    def answered(self, seconds: float) -> None:
        """A publish request was answered with 202 so long after it had come."""

    def written(self, seconds: float) -> None:
        """An event was written to its sockets so long after it was accepted."""

    def ponged(self, seconds: float) -> None:
        """A ping was answered after so long."""

    def engine_reconnected(self, link: str) -> None:
        """A lost link is open again."""

    def drained(self, connections: int) -> None:
        """The drain closed so many connections."""

    def loop_was_late(self, seconds: float) -> None:
        """A timer fired so long after its time: everything else was held up as well."""

    def keys_fetched(self, good: bool) -> None:
        """The issuer's keys were asked for, and came or did not."""

    def task_failed(self, name: str) -> None:
        """Something that must never end failed, and begins again."""
