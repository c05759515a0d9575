"""A model of everything around a feed: the engine's log, its pushes, one node and its clients.

There is no clock and no loop: the world moves in steps that a test chooses, so every order in which
things can happen is within its reach. A read has three moments: it is sent, the engine executes it
(what it answers is fixed then), and the answer is dealt with; a step lies between any two of them.

`Node` does what service/hub/hub.py and service/hub/joining.py do, in the same order, with `yield`
where those have an `await`; decisions are made by the real `Feed`, `assess` and `read_on`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from service.core.errors import EngineUnavailable
from service.core.feed import Feed, Push
from service.core.log import Entry, Gap, Page, Piece, assess, read_on, weigh
from service.core.position import BEGINNING, Position

FIRST_EPOCH = 1_000
KEPT_BYTES = 16 * 1024
"""As `service.hub.joining` has it."""


class Fate(Enum):
    """What became of a published event."""

    KEPT = "kept"
    EXPIRED = "expired"
    TRIMMED = "trimmed"
    LOST = "lost"


class ModelLog:
    """One channel's log, as service/broker/scripts keeps it."""

    def __init__(self, page_size: int) -> None:
        self.page_size = page_size
        self.entries: list[Entry] = []
        self.fates: dict[Position, Fate] = {}
        self.meta: Position | None = None
        self._renewed = True  # the epoch is decided by the next one who reads or writes
        self._next_epoch = FIRST_EPOCH
        self._lowest = FIRST_EPOCH

    def publish(self, size: int) -> Entry:
        tip = self.touch()
        self.meta = Position(tip.epoch, tip.seq + 1)
        entry = Entry(self.meta, str(self.meta).encode().ljust(size))
        self.entries.append(entry)
        self.fates[self.meta] = Fate.KEPT
        return entry

    def touch(self) -> Position:
        """The tip; begins the new epoch if there is to be one."""
        if self._renewed or self.meta is None:
            self.meta = Position(self._next_epoch, 0)
            self._next_epoch += 1
            self._renewed = False
        return self.meta

    def read(self, after: Position | None) -> Page:
        tip = self.touch()
        if after is None or after == tip:
            return Page(tip, None, [], tip, True)
        first = self.entries[0].position if self.entries else None
        later = [entry for entry in self.entries if entry.position > after]
        page = later[: self.page_size]
        end = page[-1].position if len(later) > len(page) else tip
        alive = [entry for entry in page if self.fates[entry.position] is Fate.KEPT]
        return Page(tip, first, alive, end, end == tip)

    def trim(self, count: int) -> None:
        for entry in self.entries[:count]:
            self._end(entry, Fate.TRIMMED)
        del self.entries[:count]

    def expire(self, index: int) -> None:
        if self.entries:
            self.fates[self.entries[index % len(self.entries)].position] = Fate.EXPIRED

    def renew(self, lost: int) -> None:
        """Another engine takes over, without the last `lost` events."""
        for entry in self.entries[len(self.entries) - lost :] if lost else []:
            self._end(entry, Fate.LOST)
            self.entries.remove(entry)
        if lost and self.meta is not None and self.entries:
            self.meta = self.entries[-1].position
        self._renewed = True

    def wipe(self) -> None:
        """An empty engine takes over, whose clock is behind."""
        for entry in self.entries:
            self._end(entry, Fate.LOST)
        self.entries.clear()
        self.meta = None
        self._renewed = True
        self._lowest = self._next_epoch = self._lowest - 20

    def _end(self, entry: Entry, fate: Fate) -> None:
        if self.fates[entry.position] is Fate.KEPT:
            self.fates[entry.position] = fate


class Welcomed(NamedTuple):
    """`since`: what the client asked for. `until`: as in `Start`; the wire does not show it."""

    since: Position | None
    at: Position
    recovered: bool
    until: Position


class Gapped(NamedTuple):
    """`known`: how many events were published by then; the wire does not show it."""

    since: Position
    to: Position
    known: int


class Heard(NamedTuple):
    entry: Entry


@dataclass(eq=False)
class Client:
    """A client, with all that it was told."""

    since: Position | None
    story: list[Welcomed | Gapped | Heard] = field(default_factory=list)
    following: Start | None = None
    full: bool = False
    gone: bool = False
    refused: bool = False

    @property
    def position(self) -> Position | None:
        """What it would store."""
        for said in reversed(self.story):
            if isinstance(said, Heard):
                return said.entry.position
            if isinstance(said, Gapped):
                return said.to
            return said.at if said.since is None else said.since
        return None


class Start(NamedTuple):
    """`service.hub.joining.Start`."""

    live: Live
    feed: Feed
    at: Position
    recovered: bool
    gap_from: Position | None
    page: Page | None
    asked: Position | None
    until: Position


class Opening:
    """The task that subscribes to a channel and reads it."""

    page: Page | None = None
    failed = False


class Live:
    """`service.hub.live.LiveChannel`."""

    def __init__(self) -> None:
        self.feed: Feed | None = None
        self.members: list[Client] = []
        self.holds = 0
        self.healing = False
        self.opening: Opening | None = None
        self.early: list[Entry] = []


class Read:
    """A read on its way."""

    def __init__(self, after: Position | None) -> None:
        self.after = after
        self.page: Page | None = None


Work = Generator[Read | None, Page | None, None]


class Task:
    """Something that waits: for a read, or just for its next turn."""

    def __init__(self, work: Work, client: Client | None) -> None:
        self.work = work
        self.client = client
        self.waits: Read | None = None


class Node:
    """The log, the pushes in flight, and the process that listens."""

    def __init__(self, page_size: int) -> None:
        self.log = ModelLog(page_size)
        self.pushes: deque[Entry] = deque()
        self.subscribed = False
        self.live: Live | None = None
        self.clients: list[Client] = []
        self.tasks: list[Task] = []
        self.spurious: list[Gap] = []

    # What a test lets happen

    def publish(self, size: int = 0) -> None:
        entry = self.log.publish(size)
        if self.subscribed:
            self.pushes.append(entry)

    def deliver(self) -> None:
        if self.pushes:
            self._pushed(self.pushes.popleft())

    def drop(self) -> None:
        if self.pushes:
            self.pushes.popleft()

    def turn(self, index: int) -> None:
        """One of those who wait gets one moment further."""
        if not self.tasks:
            return
        task = self.tasks[index % len(self.tasks)]
        if task.waits is not None and task.waits.page is None:
            task.waits.page = self.log.read(task.waits.after)
        elif task.waits is not None:
            page = task.waits.page
            self._resume(task, lambda: task.work.send(page))
        else:
            self._resume(task, lambda: next(task.work))

    def fail(self, index: int) -> None:
        """One of those who wait for a read gets none."""
        reading = [task for task in self.tasks if task.waits is not None]
        if reading:
            task = reading[index % len(reading)]
            self._resume(task, lambda: task.work.throw(EngineUnavailable()))

    def join(self, since: Position | None) -> None:
        client = Client(since)
        self.clients.append(client)
        self._run(self._join(client), client)

    def leave(self, index: int) -> None:
        here = [client for client in self.clients if not client.gone]
        if here:
            self._close(here[index % len(here)])

    def fill(self, index: int) -> None:
        """A client stops to read, or begins again."""
        here = [client for client in self.clients if not client.gone]
        if here:
            client = here[index % len(here)]
            client.full = not client.full

    def restore(self) -> None:
        """The link of the pushes was lost and is there again."""
        self.pushes.clear()
        if self.live is not None and self.live.feed is not None:
            self._heal(self.live)

    def audit(self) -> None:
        if self.live is not None and self.live.feed is not None:
            self._run(self._audit(self.live, self.live.feed), None)

    def settle(self) -> None:
        """Nothing new happens, and everyone reads: let all that wait come to their ends."""
        for client in self.clients:
            client.full = False
        for _ in range(2_000):
            if not self.tasks:
                return
            for index in reversed(range(len(self.tasks))):
                self.turn(index)
        raise AssertionError("something goes on for ever")

    # Tasks

    def _run(self, work: Work, client: Client | None) -> None:
        task = Task(work, client)
        self.tasks.append(task)
        self._resume(task, lambda: next(work))

    def _resume(self, task: Task, step: Callable[[], Read | None]) -> None:
        try:
            task.waits = step()
        except StopIteration:
            if task in self.tasks:
                self.tasks.remove(task)

    def _close(self, client: Client) -> None:
        """`Connection.close`: whatever it was about to do ends here."""
        client.gone = True
        live = self.live
        if live is not None and client in live.members:
            live.members.remove(client)
            self._release(live)
        elif client.following is not None:
            self._release(client.following.live)
            client.following = None
            for task in [task for task in self.tasks if task.client is client]:
                self.tasks.remove(task)
                task.work.close()

    # service/hub/hub.py

    def _hold(self, since: Position | None) -> tuple[Live, bool]:
        if self.live is None:
            self.live = Live()
        live = self.live
        opens = live.feed is None and live.opening is None
        live.holds += 1
        if opens:
            live.opening = Opening()
            self._run(self._open(live, live.opening, since), None)
        return live, opens

    def _open(self, live: Live, opening: Opening, since: Position | None) -> Work:
        yield None
        if live is not self.live:
            return  # cancelled
        self.subscribed = True
        try:
            page = yield Read(since)
        except EngineUnavailable:
            live.opening = None
            opening.failed = True
            return
        opening.page = page

    def _opened(self, live: Live) -> Generator[None, Page | None, tuple[Feed, Page | None]]:
        page = None
        if live.opening is not None:
            opening = live.opening
            while opening.page is None:
                if opening.failed:
                    raise EngineUnavailable
                yield None
            page = opening.page
        if live.feed is not None:
            live.feed.watch()
            return live.feed, page
        if page is None:
            raise EngineUnavailable
        feed = live.feed = Feed(page.tip)
        live.opening = None
        feed.watch()
        early, live.early = live.early, []
        for entry in early:
            self._pushed(entry)
        return feed, page

    def _release(self, live: Live) -> None:
        live.holds -= 1
        if live.holds == 0:
            assert live is self.live
            self.live = None
            self.subscribed = False

    def _pushed(self, entry: Entry) -> None:
        live = self.live
        if live is None:
            return
        if live.feed is None:
            live.early.append(entry)
            return
        verdict = live.feed.pushed(entry)
        if verdict is Push.HOLE:
            self._heal(live)
        elif verdict is Push.NEXT:
            for member in list(live.members):
                if member.full:
                    self._close(member)  # a slow consumer
                else:
                    member.story.append(Heard(entry))

    def _heal(self, live: Live) -> None:
        if not live.healing:
            live.healing = True
            self._run(self._mend(live), None)

    def _mend(self, live: Live) -> Work:
        feed = live.feed
        assert feed is not None
        feed.watch()
        again = True
        while again and live.holds:
            since = feed.position
            try:
                page = yield Read(since)
            except EngineUnavailable:
                yield None
                continue
            assert page is not None
            again = self._pass_on(live, since, page)
            if again:
                feed.forget_ahead()
            if again and feed.position == since:
                yield None
        live.healing = False
        feed.unwatch()

    def _pass_on(self, live: Live, since: Position, page: Page) -> bool:
        feed = live.feed
        assert feed is not None
        before = feed.position
        caught = feed.caught_up(since, page)
        if caught.pieces:
            for member in list(live.members):
                if member.full:
                    live.members.remove(member)
                    feed.watch()
                    start = Start(live, feed, before, True, None, None, None, BEGINNING)
                    self._go_on(member, start, before)
                else:
                    self._tell(member, caught.pieces, page)
        return caught.again

    def _audit(self, live: Live, feed: Feed) -> Work:
        tip = self.log.meta
        if tip == feed.position:
            return
        yield None
        if live.holds and (tip is None or tip > feed.position or tip.epoch < feed.position.epoch):
            self._heal(live)

    # service/hub/joining.py

    def _join(self, client: Client) -> Work:
        live, first = self._hold(client.since)
        try:
            feed, page = yield from self._opened(live)
        except EngineUnavailable:
            client.gone = client.refused = True
            self._release(live)
            return
        try:
            start = yield from self._judge(live, feed, client.since, page if first else None)
        except EngineUnavailable:
            client.gone = client.refused = True
            feed.unwatch()
            self._release(live)
            return
        yield None  # other channels are not ready yet
        if client.gone:
            feed.unwatch()
            self._release(live)
            return
        client.story.append(Welcomed(client.since, start.at, start.recovered, start.until))
        if start.gap_from is not None:
            client.story.append(Gapped(start.gap_from, start.at, len(self.log.fates)))
        if client.full:
            self._go_on(client, start._replace(page=None, asked=None), start.at)
            return
        at = self._write(client, start.at, start.page, start.until)
        if self._arrive(client, live, at, start.page, start.asked, start.until):
            feed.unwatch()
            return
        self._go_on(client, start, at)

    def _judge(
        self, live: Live, feed: Feed, since: Position | None, page: Page | None
    ) -> Generator[Read | None, Page | None, Start]:
        if since is None:
            return Start(live, feed, feed.position, False, None, None, None, BEGINNING)
        if page is None and since == feed.position and not live.healing:
            return Start(live, feed, since, True, None, None, None, BEGINNING)
        asked = since
        if page is None:
            asked = min(since, feed.position)
            page = yield Read(asked)
            assert page is not None
        if since > page.tip:
            asked = BEGINNING
            page = yield Read(asked)
            assert page is not None
        exact, at = assess(since, page.tip, page.first)
        gap_from = None
        if not exact:
            first = next(iter(read_on(since, page).pieces), None)
            gap_from, at = first if isinstance(first, Gap) else (None, since)
        until = page.tip if since == BEGINNING else BEGINNING
        if weigh(page.entries) > KEPT_BYTES:
            return Start(live, feed, at, exact, gap_from, None, None, until)
        return Start(live, feed, at, exact, gap_from, page, asked, until)

    def _go_on(self, client: Client, start: Start, at: Position) -> None:
        client.following = start
        self._run(self._follow(client, start, at), client)

    def _follow(self, client: Client, start: Start, at: Position) -> Work:
        live, feed, until = start.live, start.feed, start.until
        went_back = False
        try:
            while True:
                yield None
                while client.full:
                    yield None
                if self._arrive(client, live, at, None, None, until):
                    client.following = None
                    return
                asked = BEGINNING if went_back else min(at, feed.position)
                try:
                    page = yield Read(asked)
                except EngineUnavailable:
                    continue
                assert page is not None
                if at > page.tip and not went_back:
                    went_back = True
                    continue
                went_back = False
                if page.tip < until:
                    until = BEGINNING
                at = self._write(client, at, page, until)
                if self._arrive(client, live, at, page, asked, until):
                    client.following = None
                    return
        finally:
            feed.unwatch()

    def _tell(self, client: Client, pieces: Iterable[Piece], page: Page) -> None:
        for piece in pieces:
            if isinstance(piece, Gap):
                client.story.append(Gapped(piece.since, piece.to, len(self.log.fates)))
                if piece.to <= piece.since <= page.tip:
                    self.spurious.append(piece)
            else:
                client.story.append(Heard(piece))

    def _write(self, client: Client, at: Position, page: Page | None, until: Position) -> Position:
        if page is None:
            return at
        reading = read_on(at, page, until)
        self._tell(client, reading.pieces, page)
        return reading.at

    def _arrive(
        self,
        client: Client,
        live: Live,
        at: Position,
        page: Page | None,
        asked: Position | None,
        until: Position,
    ) -> bool:
        feed = live.feed
        assert feed is not None
        if page is not None and page.tip.epoch < feed.position.epoch:
            self._heal(live)
        ahead = page is not None and asked is not None and asked <= feed.position < at
        if page and asked and ahead and self._pass_on(live, asked, page):
            self._heal(live)
        if page is not None and not page.complete:
            return False
        if at < until:
            return False
        if at < feed.position and not client.full:
            tail = feed.tail(at)
            if tail is None:
                return False
            client.story += [Heard(entry) for entry in tail]
            at = feed.position
        if at != feed.position or client.full:
            return False
        live.members.append(client)
        return True
