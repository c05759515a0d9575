"""The promise to clients, in every order of events: no loss without a gap, no doubles, no disorder.

Each test plays a sequence of steps in the world of tests/core/world.py: events are published,
trimmed, expired and lost with their engine; pushes come late or not at all; reads answer late or
fail; clients come, with all kinds of positions, stop to read, leave, and come again.
"""

from __future__ import annotations

from hypothesis import given, note, settings
from hypothesis import strategies as st

from service.core.position import BEGINNING, Position
from tests.core.world import FIRST_EPOCH, Client, Fate, Gapped, Node, Welcomed

LARGE = 400_000
"""Bytes: a feed keeps two such events for those who come, not three."""

Step = tuple[str, int]
COMMON: list[Step] = [
    ("rest", 0),
    *[("publish", 0)] * 8,
    *[("deliver", 0)] * 8,
    *[("turn", index) for index in range(6)] * 4,
    *[("drop", 0)] * 3,
    *[("join", index) for index in range(8)],
    ("trim", 1),
    ("trim", 3),
    *[("expire", index) for index in range(4)],
    *[("leave", index) for index in range(3)],
    *[("fill", index) for index in range(3)],
    ("publish", LARGE),
    ("fail", 0),
    ("restore", 0),
    ("audit", 0),
]
RENEWALS: list[Step] = [("renew", 0), ("renew", 0), ("renew", 1), ("renew", 3)]


def play(node: Node, step: Step) -> None:
    name, number = step
    match name:
        case "publish":
            node.publish(number)
        case "deliver":
            node.deliver()
        case "drop":
            node.drop()
        case "turn":
            node.turn(number)
        case "fail":
            node.fail(number)
        case "join":
            node.join(choose_position(node, number))
        case "leave":
            node.leave(number)
        case "fill":
            node.fill(number)
        case "trim":
            node.log.trim(number)
        case "expire":
            node.log.expire(number)
        case "renew":
            node.log.renew(number)
        case "wipe":
            node.log.wipe()
        case "restore":
            node.restore()
        case "audit":
            node.audit()


def choose_position(node: Node, number: int) -> Position | None:
    """What a client may come with: nothing, the beginning, what it or another had, nonsense."""
    published = list(node.log.fates)
    left = [client.position for client in node.clients if client.gone and client.position]
    match number:
        case 0 | 1:
            return None
        case 2:
            return BEGINNING
        case 3 | 4 if left:
            return left[-1]
        case 5 if published:
            return published[len(published) // 2]
        case 6 if published:
            return published[-1]
        case 7:
            return Position(FIRST_EPOCH + 1_000, 7)
    return Position(FIRST_EPOCH - 100, 3)


def finish(node: Node) -> None:
    """Pushes stop; one comparison with the log, and whatever follows from it."""
    node.pushes.clear()
    node.log.touch()
    node.settle()
    node.audit()
    node.settle()


def run(steps: list[Step], page_size: int) -> Node:
    node = Node(page_size)
    for step in steps:
        play(node, step)
    finish(node)
    note(f"log: first {node.log.entries[:1]} tip {node.log.meta}")
    for client in node.clients:
        note(f"client since {client.since} gone={client.gone}: {client.story}")
    return node


def check_order(node: Node, client: Client, *, wiped: bool = False) -> None:
    """All that this client was told, one after the other.

    It must follow from what the client was told before: each event is the next one that it can be
    given, and where something may be missing a gap stands exactly there. `own` is the position that
    the client would store; `at` differs from it only where the client asked for what is retained,
    and says where that begins.

    `wiped`: a clock may have gone back, so that a lower position can be a later one.
    """
    fates = node.log.fates
    own = at = until = BEGINNING
    due = False
    for number, said in enumerate(client.story):
        if isinstance(said, Welcomed):
            assert number == 0
            at, until = said.at, said.until
            own = said.at if said.since is None else said.since
            due = said.since is not None and not said.recovered
            if due and said.at != own:
                gap = client.story[1]
                assert isinstance(gap, Gapped)
                assert (gap.since, gap.to) == (own, said.at)
                at = own
            elif said.since != BEGINNING:
                assert said.at == own
        elif isinstance(said, Gapped):
            # It begins at what the client has; what lies between cannot be had.
            if said.since != own:
                assert at <= said.since
                check_skipped(fates, at, said.since, until)
            # And it ends where something follows: nothing in between is still to be had. A place
            # that the log never gave out (it lies after `to`) gets all there is.
            since = said.since if said.since < said.to else BEGINNING
            assert since == said.since or wiped or (number == 1 and said.since not in fates)
            between = [p for p in list(fates)[: said.known] if since < p <= said.to]
            assert wiped or all(fates[p] is not Fate.KEPT for p in between)
            # Who asked for what was retained is told of what may have been trimmed meanwhile.
            trimmed = {said.since, *between} & fates.keys() - {e.position for e in node.log.entries}
            assert said.to > until or wiped or any(fates[p] is not Fate.LOST for p in trimmed)
            own = at = said.to
            due = False
        else:
            assert said.entry.fragment.split() == [str(said.entry.position).encode()]
            assert at < said.entry.position
            check_skipped(fates, at, said.entry.position, until)
            own = at = said.entry.position
    if not client.gone:
        assert client.story
        assert node.live is not None
        assert client in node.live.members
        assert not due
        tip = node.log.touch()
        check_skipped(fates, at, Position(tip.epoch, tip.seq + 1), until)


def check_skipped(
    fates: dict[Position, Fate], at: Position, then: Position, until: Position
) -> None:
    """`then` came after `at`: was it the next one that a client can be given?

    Who asked for what was retained `until` a place is not told where an epoch ended before it.
    """
    assert at.epoch == then.epoch or then.epoch <= until.epoch
    for position, fate in fates.items():
        if at < position < then and fate is not Fate.EXPIRED:
            assert fate is Fate.LOST
            assert position.epoch < then.epoch


def check_rest(node: Node) -> None:
    """All is mended: everyone stands at the tip, and nothing is kept for nobody."""
    assert not node.tasks
    if node.live is not None:
        feed = node.live.feed
        assert feed is not None
        assert feed.position == node.log.touch()
        assert not node.live.healing
        assert feed._watchers == 0
        assert not feed._recent
        assert node.live.holds == len(node.live.members)


@settings(deadline=None, max_examples=250)
@given(
    st.lists(st.sampled_from(COMMON + RENEWALS), min_size=40, max_size=250),
    st.sampled_from([1, 2, 5]),
)
def test_every_event_comes_once_and_in_order_or_a_gap_is_told_first(
    steps: list[Step], page_size: int
) -> None:
    node = run(steps, page_size)
    for client in node.clients:
        check_order(node, client)
    check_rest(node)
    assert node.spurious == []


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.sampled_from([*COMMON, *RENEWALS, ("wipe", 0)]), min_size=40, max_size=250),
    st.sampled_from([1, 2, 5]),
)
def test_it_is_so_too_where_an_engine_with_a_slow_clock_begins_the_log_anew(
    steps: list[Step], page_size: int
) -> None:
    node = run(steps, page_size)
    for client in node.clients:
        check_order(node, client, wiped=True)
    check_rest(node)
