"""One pipelined connection to the engine, over hiredis.

Commands of one turn of the event loop go out in one write; replies come back in order. This costs
about a fifth of redis-py's CPU per command, and a twentieth per pushed message (docs/adr/0003).

An engine that was told to forget its scripts refuses those that are called, while later ones may
find them loaded again. So that commands keep their order, nothing more is sent from the first such
refusal until all that is in flight is answered. Then the scripts are loaded, what was refused goes
out again in its order, and what was called meanwhile follows.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, cast

import hiredis

from service.broker.endpoint import Endpoint
from service.core.errors import EngineError, EngineUnavailable
from service.supervision import fail_stop

PushHandler = Callable[[list[Any]], None]


Argument = bytes | str | int
# hiredis types its argument as a tuple of one.
_pack = cast("Callable[[tuple[Argument, ...]], bytes]", hiredis.pack_command)
_PING = _pack(("PING",))


_Call = tuple["asyncio.Future[Any]", bytes]


RefusalHandler = Callable[[tuple[bytes, ...], str], bool]
"""The channels of a refused SSUBSCRIBE, or none for a SUNSUBSCRIBE, and the engine's reason.

Says whether that is dealt with; otherwise the link is dropped.
"""


class _Subscription:
    """Stands in the line of awaited answers for a subscription command.

    An SSUBSCRIBE is answered by one push per channel. The push that answers a SUNSUBSCRIBE looks
    like the one that a Cluster's node sends unasked when a slot leaves it, so that a PING goes
    behind the command, and its answer counts.
    """

    __slots__ = ("channels", "left", "parting")

    def __init__(self, channels: tuple[bytes, ...], parting: bool) -> None:
        self.channels = channels
        self.left = len(channels)
        self.parting = parting


class Link(asyncio.Protocol):
    """Send commands with `call`; `on_push` gets what the engine sends unasked (RESP3 pushes)."""

    def __init__(
        self, on_push: PushHandler | None = None, on_refused: RefusalHandler | None = None
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader()
        self._pending: deque[tuple[asyncio.Future[Any] | _Subscription, float, bytes]] = deque()
        self._outgoing: list[bytes] = []
        self._transport: asyncio.Transport | None = None
        self._on_push = on_push
        self._on_refused = on_refused
        self._fault = ""
        self._loads: list[bytes] = []
        self._refused_calls: list[_Call] = []  # for want of their scripts
        self._held: list[_Call] = []  # called since then
        self._repeated: set[asyncio.Future[Any]] = set()
        self.in_flight_bytes = 0
        """Of commands without an answer."""
        self.closed: asyncio.Future[None] = self._loop.create_future()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass

    def data_received(self, data: bytes) -> None:
        reader = self._reader
        reader.feed(data)
        pending = self._pending
        try:
            while (reply := reader.gets()) is not False:
                if type(reply) is hiredis.PushNotification:
                    if reply[0] == b"ssubscribe":
                        self._confirmed()
                    if self._on_push is not None:
                        self._on_push(reply)
                    continue
                waiting, sent, packed = pending.popleft()
                self.in_flight_bytes -= len(packed)
                if isinstance(waiting, _Subscription):
                    if not isinstance(reply, hiredis.HiredisError):
                        continue  # the PING behind a SUNSUBSCRIBE
                    if not self._refused(waiting, str(reply)):
                        self._fault = f" It refused a subscription: {reply}"
                        self.abort()
                        return
                    if waiting.parting:
                        pending.appendleft((waiting, sent, packed))  # its PING is still in wait
                    continue
                if waiting.done():
                    continue
                try:
                    if not isinstance(reply, hiredis.HiredisError):
                        waiting.set_result(reply)
                    elif not self._is_put_off(waiting, packed, str(reply)):
                        waiting.set_exception(EngineError(str(reply)))
                except MemoryError:
                    # Who waits for it may never be woken.
                    fail_stop(b"herald: out of memory at an engine's answer; ending\n")
        except (hiredis.ProtocolError, IndexError):
            self._fault = " What answers there does not speak the protocol of Redis."
            self.abort()
        if self._refused_calls and not pending:
            self._repeat()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        for waiting, _, _ in self._pending:
            if not isinstance(waiting, _Subscription) and not waiting.done():
                waiting.set_exception(EngineUnavailable(self.loss))
        for future, _ in (*self._refused_calls, *self._held):
            if not future.done():
                future.set_exception(EngineUnavailable(self.loss))
        self._pending.clear()
        self._outgoing.clear()
        self._refused_calls.clear()
        self._held.clear()
        if not self.closed.done():
            self.closed.set_result(None)

    # For its owner

    @property
    def in_flight(self) -> int:
        """Commands without an answer."""
        return len(self._pending) + len(self._refused_calls) + len(self._held)

    def call(self, *command: Argument) -> asyncio.Future[Any]:
        """Send one command; the future gets its reply.

        The future raises EngineError for an error reply and EngineUnavailable where the
        connection is lost before the reply: the command may or may not have been carried out.
        """
        future: asyncio.Future[Any] = self._loop.create_future()
        if self._transport is None:
            future.set_exception(EngineUnavailable(self.loss))
            return future
        packed = _pack(command)
        bytes_then = self.in_flight_bytes + len(packed)
        if self._refused_calls:
            self._held.append((future, packed))
        else:
            self._enqueue(future, packed)
        self.in_flight_bytes = bytes_then
        return future

    async def learn(self, scripts: Sequence[bytes]) -> None:
        """Have the engine load these scripts, now and whenever it has forgotten them.

        Raises:
            EngineError, EngineUnavailable
        """
        await asyncio.gather(*(self.call("SCRIPT", "LOAD", source) for source in scripts))
        self._loads = [_pack(("SCRIPT", "LOAD", source)) for source in scripts]

    def send_subscription(self, command: str, *channels: bytes) -> None:
        """Send SSUBSCRIBE or SUNSUBSCRIBE.

        A refusal (an ACL) drops the connection, as nothing can be relied on then, unless
        `on_refused` deals with it.
        """
        if self._transport is None:
            return
        parting = command == "SUNSUBSCRIBE"
        packed = _pack((command, *channels))
        waiting = _Subscription(channels, parting)
        self._enqueue(waiting, packed + _PING if parting else packed, counted=b"")

    def waiting_since(self) -> float | None:
        """When the oldest command without an answer was sent (loop time), or None."""
        return self._pending[0][1] if self._pending else None

    def abort(self) -> None:
        """Drop the connection; what is in flight fails with EngineUnavailable."""
        if self._transport is not None:
            self._transport.abort()

    @property
    def loss(self) -> str:
        """A sentence on why the connection is gone."""
        return "The engine's connection was lost." + self._fault

    def _enqueue(
        self,
        waiting: asyncio.Future[Any] | _Subscription,
        packed: bytes,
        counted: bytes | None = None,
    ) -> None:
        """Send at the end of this turn. `counted`: what `in_flight_bytes` has of it, if not all."""
        if not self._outgoing:
            self._loop.call_soon(self._flush)
        self._outgoing.append(packed)
        try:
            entry = (waiting, self._loop.time(), packed if counted is None else counted)
            self._pending.append(entry)
        except MemoryError:
            self._outgoing.pop()  # answers belong to whoever is next in line
            raise

    def _is_put_off(self, future: asyncio.Future[Any], packed: bytes, error: str) -> bool:
        """Whether a command that was refused is sent again, for it was for want of its script."""
        if not (self._loads and error.startswith("NOSCRIPT")) or future in self._repeated:
            return False
        self.in_flight_bytes += len(packed)
        self._refused_calls.append((future, packed))
        return True

    def _repeat(self) -> None:
        calls = [*self._refused_calls, *self._held]
        self._repeated = {future for future, _ in self._refused_calls}
        for load in self._loads:
            loaded: asyncio.Future[Any] = self._loop.create_future()
            loaded.add_done_callback(asyncio.Future.exception)  # shows in the calls behind it
            self._enqueue(loaded, load, counted=b"")
        for future, packed in calls:
            self._enqueue(future, packed)
        self._refused_calls.clear()
        self._held.clear()

    def _confirmed(self) -> None:
        # Answers come in order, so the subscription that is confirmed is the oldest in wait.
        if self._pending and isinstance(waiting := self._pending[0][0], _Subscription):
            waiting.left -= 1
            if not waiting.left:
                self._pending.popleft()

    def _refused(self, subscription: _Subscription, reason: str) -> bool:
        channels = () if subscription.parting else subscription.channels
        return self._on_refused is not None and self._on_refused(channels, reason)

    def _flush(self) -> None:
        if self._transport is not None and self._outgoing:
            try:
                self._transport.write(b"".join(self._outgoing))
            except MemoryError:
                self._fault = " There was no memory to send a command."
                self.abort()
        self._outgoing.clear()


async def open_link(
    endpoint: Endpoint,
    on_push: PushHandler | None = None,
    on_refused: RefusalHandler | None = None,
    *,
    replica: bool = False,
    make: Callable[..., Link] = Link,
) -> Link:
    """Connect, speak RESP3, log in, select the database, and make sure it is a primary.

    With `replica` it may be one. `make` is `Link` or makes another one of it.

    Raises:
        EngineUnavailable: it cannot be reached, or is a replica.
        EngineError: it refuses the credentials or the database.
        OSError: from the socket.
    """
    loop = asyncio.get_running_loop()

    def factory() -> Link:
        return make(on_push, on_refused)

    if endpoint.path is not None:
        _, link = await loop.create_unix_connection(factory, endpoint.path)
    else:
        _, link = await loop.create_connection(
            factory, endpoint.host, endpoint.port, ssl=endpoint.tls
        )
    try:
        hello: list[Argument] = ["HELLO", "3"]
        if endpoint.password is not None:
            hello += ["AUTH", endpoint.username or "default", endpoint.password]
        await link.call(*hello, "SETNAME", "herald")
        if endpoint.database:
            await link.call("SELECT", endpoint.database)
        if not replica and not is_primary(await link.call("ROLE")):
            raise EngineUnavailable("The engine is a replica; waiting for a primary.")
    except BaseException:
        link.abort()
        raise
    return link


def is_primary(role: list[Any]) -> bool:
    """Whether the reply to ROLE is a primary's."""
    return role[0] in (b"master", b"primary")
