"""Keeps one link to the engine open, whatever happens to the engine."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable

from service.broker.endpoint import Locate, NoPrimary
from service.broker.link import Link, PushHandler, RefusalHandler, open_link
from service.core.backoff import full_jitter
from service.core.errors import EngineUnavailable
from service.supervision import supervise

logger = logging.getLogger("herald.engine")


class LinkKeeper:
    """Opens a link, prepares it, watches it, and opens the next one when it is lost.

    Args:
        name: for logs and metrics.
        timeout: a command without an answer for so many seconds drops the link: a stopped engine
            does not close its sockets.
        prepare: run on every new link before anyone may use it; sees to its own timeouts.
        reopened: told of every link after the first.
        make: see `open_link`.
    """

    def __init__(
        self,
        name: str,
        locate: Locate,
        timeout: float,
        prepare: Callable[[Link], Awaitable[None]],
        reopened: Callable[[str], None],
        on_push: PushHandler | None = None,
        on_refused: RefusalHandler | None = None,
        make: Callable[..., Link] = Link,
    ) -> None:
        self.name = name
        self._locate = locate
        self._timeout = timeout
        self._prepare = prepare
        self._reopened = reopened
        self._on_push = on_push
        self._on_refused = on_refused
        self._make = make
        self._link: Link | None = None
        self._open = asyncio.Event()
        self._opened_before = False
        self.trouble: str | None = "not connected yet"
        self.place: str | None = None
        """Where the engine was looked for. For operators: `trouble` is shown to whoever asks for
        readiness, and does without."""

    @property
    def link(self) -> Link | None:
        """The link, where one is open and prepared."""
        return self._link

    async def wait_open(self, patience: float) -> Link:
        """The link, waiting up to `patience` seconds for one.

        Raises:
            EngineUnavailable
        """
        if self._link is None:
            try:
                async with asyncio.timeout(patience):
                    await self._open.wait()
            except TimeoutError:
                pass
        if self._link is None:
            raise EngineUnavailable("The engine is away.")
        return self._link

    async def run(self) -> None:
        """Keep a link open until cancelled, whatever fails: nobody else takes a new one."""
        await supervise(self._keep, self._keeping_failed)

    def _keeping_failed(self, error: Exception) -> None:
        self._give_up()
        self.trouble = f"its keeper failed: {type(error).__name__}"
        logger.error("a link's keeper failed", exc_info=error, extra={"link": self.name})

    async def _keep(self) -> None:
        attempt = 0
        while True:
            link: Link | None = None
            try:
                async with asyncio.timeout(self._timeout):
                    endpoint = await self._locate()
                    self.place = endpoint.place
                    link = await open_link(
                        endpoint, self._on_push, self._on_refused, make=self._make
                    )
                await self._prepare(link)
            # Whatever it is: libraries raise errors of their own, and nobody else tries again.
            except Exception as error:
                if link is not None:
                    link.abort()
                self._failed(error, attempt)
                await asyncio.sleep(full_jitter(attempt, random.random()))
                attempt += 1
                continue
            attempt = 0
            self._link = link
            self._open.set()
            self.trouble = None
            if self._opened_before:
                logger.warning("engine link restored", extra={"link": self.name})
                self._reopened(self.name)
            self._opened_before = True
            try:
                await self._watch(link)
            finally:
                self._give_up()
            self.trouble = link.loss
            logger.warning("engine link lost", extra={"link": self.name})

    def drop(self, reason: str) -> None:
        """Give the open link up and take a new one."""
        if self._link is not None:
            logger.warning("engine link dropped", extra={"link": self.name, "reason": reason})
            self._link.abort()

    def _give_up(self) -> None:
        link, self._link = self._link, None
        self._open.clear()
        if link is not None:
            link.abort()

    def _failed(self, error: Exception, attempt: int) -> None:
        # A TimeoutError (an OSError) has no text of its own.
        self.trouble = str(error) or "no answer in time"
        if isinstance(error, NoPrimary):
            self.place = error.place
        if attempt in (0, 5) or attempt % 50 == 0:
            logger.warning(
                "engine not reachable",
                extra={"link": self.name, "reason": self.trouble, "engine": self.place},
            )

    async def _watch(self, link: Link) -> None:
        loop = asyncio.get_running_loop()
        while not link.closed.done():
            await asyncio.wait([link.closed], timeout=min(1.0, self._timeout / 4))
            since = link.waiting_since()
            if since is not None and loop.time() - since > self._timeout:
                self.drop("no answer in time")
