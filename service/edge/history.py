"""`GET /v1/channels/{channel}/events`: a channel's retained events."""

from __future__ import annotations

import msgspec

from service.core.channel import parse_channel
from service.core.errors import HeraldError
from service.core.log import Entry, assess, weigh
from service.core.position import BEGINNING, Position, parse_position
from service.edge.answers import JSON, Answer, ProblemError, problem_of
from service.ports import EventLog, PublisherVerifier

MAX_LIMIT = 1000
_MAX_BYTES = 4 << 20
"""JSON after which an answer ends before its limit; `next` goes on from there."""

_encode = msgspec.json.Encoder().encode


class History:
    """The endpoint, from its parameters to an `Answer`."""

    def __init__(self, log: EventLog, publishers: PublisherVerifier) -> None:
        self._log = log
        self._publishers = publishers

    async def read(
        self, authorization: str | None, channel: str, after: str | None, limit: str | None
    ) -> Answer:
        """One page, oldest first. Errors are answers too."""
        try:
            await self._publishers.verify(authorization)
            name = parse_channel(channel)
            since = BEGINNING if after is None else parse_position(after)
            return await self._page(name, since, _limit(limit))
        except HeraldError as error:
            return problem_of(error).answer()

    async def _page(self, channel: str, since: Position, limit: int) -> Answer:
        page = await self._log.read(channel, since, limit)
        resumption = assess(since, page.tip, page.first)
        if resumption.start < since:
            # A position that this log never gave out: everything retained follows it.
            page = await self._log.read(channel, resumption.start, limit)
        entries: list[Entry] = list(page.entries)
        # A page also ends by its bytes.
        size = weigh(entries)
        while not page.complete and len(entries) < limit and size < _MAX_BYTES:
            page = await self._log.read(channel, page.end, limit - len(entries))
            entries += page.entries
            size += weigh(page.entries)
        events = b",".join(
            b'{"id":"%b",%b' % (str(entry.position).encode(), entry.fragment) for entry in entries
        )
        following = b"null" if page.complete else b'"%b"' % str(page.end).encode()
        gap = b"" if resumption.exact else b',"gap":true'
        return Answer(200, JSON, b'{"events":[%b],"next":%b%b}' % (events, following, gap))


def _limit(text: str | None) -> int:
    if text is None:
        return 100
    if text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= MAX_LIMIT:
        return int(text[:9])
    raise ProblemError(400, f"`limit` is a number from 1 to {MAX_LIMIT}.")
