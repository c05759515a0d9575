"""Publishing that counts only once replicas have it: `WAIT` behind the commands (docs/adr/0012)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from service.broker import scripts
from service.broker.link import Argument, Link, PushHandler, RefusalHandler
from service.core.errors import EngineError, EngineUnavailable

logger = logging.getLogger("herald.engine")

UNCOPIED = b"uncopied"
"""The status of an event that the primary has, and fewer replicas than were asked for."""


class Copies(NamedTuple):
    """How many replicas must have an event, and for how many seconds they are waited for."""

    least: int
    timeout: float


class _Write(NamedTuple):
    """An event that was sent: what the engine replies, and what its caller gets."""

    reply: asyncio.Future[Any]
    outcome: asyncio.Future[Any]


class CopyingLink(Link):
    """The publishing script's reply is given out when enough replicas have all that it wrote.

    Where they do not have it in time, the reply's status is `uncopied` instead of `stored` or
    `duplicate`. All other commands are answered as ever, though they may find the engine waiting.

    One WAIT is under way at a time, and stands for all events sent before it. The engine does
    nothing else on this connection until it is answered, which keeps the order, and what is sent
    meanwhile gathers for the next one.
    """

    def __init__(
        self,
        copies: Copies,
        on_push: PushHandler | None = None,
        on_refused: RefusalHandler | None = None,
    ) -> None:
        super().__init__(on_push, on_refused)
        self._least = copies.least
        self._wait = ("WAIT", copies.least, max(1, round(copies.timeout * 1000)))
        self._gathered: list[_Write] = []  # no WAIT stands behind them yet
        self._asked: list[_Write] = []  # one does, and is not answered
        self._short = False

    @property
    def in_flight(self) -> int:
        """See `Link.in_flight`; what waits for its copies counts."""
        return max(len(self._pending), len(self._asked) + len(self._gathered))

    def call(self, *command: Argument) -> asyncio.Future[Any]:
        """See `Link.call`."""
        reply = super().call(*command)
        if command[0] != b"EVALSHA" or command[1] != scripts.PUBLISH.sha or reply.done():
            return reply
        outcome: asyncio.Future[Any] = self._loop.create_future()
        self._gathered.append(_Write(reply, outcome))
        return outcome

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        lost = [*self._asked, *self._gathered]
        self._asked, self._gathered = [], []
        for reply, outcome in lost:
            error = reply.exception() or EngineUnavailable(self.loss)
            if not outcome.done():
                outcome.set_exception(error)

    def _flush(self) -> None:
        # The last moment: everything of this turn is in, and the WAIT leaves in the same write.
        if self._gathered and not self._asked:
            self._asked, self._gathered = self._gathered, []
            super().call(*self._wait).add_done_callback(self._answered)
        super()._flush()

    def _answered(self, answer: asyncio.Future[Any]) -> None:
        error = answer.exception()
        if error is not None:
            # A replica by now, or a user who may not wait: nothing that is sent here counts.
            if isinstance(error, EngineError):
                self._fault = f" It did not wait for replicas: {error}"
                self.abort()
            return
        copied = answer.result() >= self._least
        self._tell(copied, answer.result())
        # What was put off, for want of its script, was not written before the WAIT.
        writes = [write for write in self._asked if write.reply.done()]
        self._gathered[:0] = [write for write in self._asked if not write.reply.done()]
        self._asked = []
        for reply, outcome in writes:
            refusal = reply.exception()
            if outcome.done():
                continue  # its caller has given up
            if refusal is not None:
                outcome.set_exception(refusal)
            else:
                outcome.set_result(reply.result() if copied else _uncopied(reply.result()))
        if self._gathered:
            self._loop.call_soon(self._flush)

    def _tell(self, copied: bool, count: int) -> None:
        """Log where it begins and where it ends, not each time."""
        if self._short is copied:
            self._short = not copied
            text = "enough replicas confirm again" if copied else "too few replicas confirm"
            logger.warning(text, extra={"confirmed": count, "asked": self._least})


def publish_link(copies: Copies | None) -> Callable[..., Link]:
    """What makes the link that events are published on; arguments as `Link`'s."""
    return Link if copies is None else partial(CopyingLink, copies)


def _uncopied(reply: list[Any]) -> list[Any]:
    """The publish script's reply where copies are missing; a conflict stays what it is."""
    return reply if reply[0] == b"conflict" else [UNCOPIED, *reply[1:]]
