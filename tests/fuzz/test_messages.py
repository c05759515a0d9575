"""What a client may say, in any order, on a running server, beside a model of docs/protocol.md.

The model knows what was joined, what is retained and how many points of bad messages there are, and
so all that the server must answer. After each step nothing else may have come.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Verbosity, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from service.broker.embedded import EmbeddedEngine
from tests.contract.checker import problems
from tests.contract.test_descriptions import ASYNCAPI, MESSAGES
from tests.fuzz.amount import SEED, how_to_repeat, inputs
from tests.fuzz.mutation import fragmented
from tests.fuzz.peer import Peer
from tests.fuzz.watch import QUIET, Watch
from tests.harness.process import Herald, mint, running
from tests.hub.wire import CLOSE, PING, PONG, TEXT, Got, frame, handshake

MAX_TOPICS = 3
STRIKES = 10
STEPS = 40
_PART = 5
"""One in so many of the inputs that are asked for: making them costs more than answering."""
TOPICS = ["a.1", "a.2", "b.1", "b.2", "c"]
BAD_TOPICS = ["", "no spaces", "x" * 201, "ü", "a\n", "a*", "\ud800"]
BAD_POSITIONS = ["", "1", "1-", "-1", "01-1", "1-1-1", "1-18446744073709551616", " 1-1", "١-١"]
GRANTS: list[list[str]] = [["a.1", "b.*"], ["*"], [], ["a.1", "a.2", "b.1", "b.2"], ["c", "a.*"]]
_TOPIC = re.compile(r"[A-Za-z0-9._:@/-]{1,200}", re.ASCII)
_POSITION = re.compile(r"(0|[1-9][0-9]{0,19})-(0|[1-9][0-9]{0,19})", re.ASCII)
KINDS: dict[str, tuple[set[str], set[str]]] = {
    "connect": (set(), {"token", "positions", "topics"}),
    "auth": ({"token"}, set()),
    "subscribe": ({"topic"}, {"position"}),
    "unsubscribe": ({"topic"}, set()),
    "ack": ({"channel", "id"}, set()),
    "ping": (set(), set()),
    "pong": (set(), set()),
}
"""What each must have, and may have; all of it is text, or has text in it."""
_names = itertools.count(1)

_FAR = "18446744073709551615-18446744073709551615"
positions = st.sampled_from([*["0-0", "latest", "first", "1-1", _FAR] * 4, *BAD_POSITIONS])
topics = st.sampled_from([*TOPICS * 8, *BAD_TOPICS])
good_topics = st.sampled_from(TOPICS)
numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
scalars = st.none() | st.booleans() | numbers | st.text()
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


class Conversation(RuleBasedStateMachine):
    """One connection and what must come of it. `herald` is set by the test."""

    herald: Herald
    watch: Watch
    answers: Counter[str] = Counter()
    """How often each kind of answer came, over all conversations."""

    def __init__(self) -> None:
        super().__init__()
        self.peer: Peer | None = None
        self.over = False

    @initialize(
        grant=st.sampled_from(GRANTS),
        way=st.sampled_from(["plain", "plain", "plain", "handshake", "connect"]),
    )
    def open(self, grant: list[str], way: str) -> None:
        # Topics of this conversation's own, so that their logs are empty.
        self.prefix = f"t{next(_names)}."
        self.user = f"fuzz-{SEED}-{self.prefix}"
        self.chance = random.Random(0)
        self.strikes = 0
        self.pings = 0
        self.grant = grant
        self.joined: set[str] = set()
        self.retained: dict[str, list[dict[str, Any]]] = {}
        self.with_token = way == "handshake"
        self.connected = way == "plain"
        request = handshake(self.token(grant) if way != "connect" else None, herald=way != "plain")
        self.peer = Peer(self.herald.port, request)
        if self.connected:
            self.admit([], {})
        self.settle()

    @property
    def patience(self) -> bool:
        """Whether nonsense would leave something to say after it; it is closed for often enough."""
        return self.strikes < STRIKES // 2 or self.strikes == STRIKES - 1

    # What is said

    @precondition(lambda self: not self.over)
    @rule(kind=st.sampled_from(["ping", "pong"]), times=st.sampled_from([1, 2, 10]))
    def say_little(self, kind: str, times: int) -> None:
        for _ in range(times):
            self.say({"type": kind})
            self.good()
            if kind == "ping":
                self.expect({"type": "pong"})
        self.settle()

    @precondition(lambda self: not self.over and (self.connected or self.strikes < 2))
    @rule(topic=topics, position=st.none() | positions)
    def subscribe(self, topic: str, position: str | None) -> None:
        name = self.own(topic)
        channel = f"topic:{name}"
        since = None if position is None else self.resolve(channel, position)
        message = {"type": "subscribe", "topic": name}
        self.say(message if since is None else {**message, "position": since})
        if not _is_text(name):
            self.bad("invalid_json")
        elif not self.connected:
            self.bad("not_connected")
        elif not _TOPIC.fullmatch(name):
            self.bad("invalid_topic")
        elif since is not None and not _is_position(since):
            self.bad("invalid_position", channel=channel)
        elif not self.permits(name):
            self.refused("forbidden", channel)
        elif channel in self.joined:
            self.refused("already_subscribed", channel)
        elif len(self.joined) >= MAX_TOPICS + 2:
            self.refused("too_many_subscriptions", channel)
        else:
            self.good()
            self.joined.add(channel)
            exact, following = self.follows(channel, since)
            self.expect({"type": "subscribed", "channel": channel, "recovered": exact})
            self.expect(*following)
        self.settle()

    @precondition(lambda self: not self.over and (self.connected or self.strikes < 2))
    @rule(topic=topics)
    def unsubscribe(self, topic: str) -> None:
        name = self.own(topic)
        channel = f"topic:{name}"
        self.say({"type": "unsubscribe", "topic": name})
        if not _is_text(name):
            self.bad("invalid_json")
        elif not self.connected:
            self.bad("not_connected")
        elif not _TOPIC.fullmatch(name):
            self.bad("invalid_topic")
        elif channel not in self.joined:
            self.refused("not_subscribed", channel)
        else:
            self.good()
            self.joined.discard(channel)
            self.expect({"type": "unsubscribed", "channel": channel})
        self.settle()

    @precondition(lambda self: not self.over and (self.connected or self.strikes < 2))
    @rule(
        channel=st.sampled_from(["all", "user", "topic:nobody", "nonsense", "", *TOPICS]),
        position=positions,
    )
    def ack(self, channel: str, position: str) -> None:
        name = f"user:{self.user}" if channel == "user" else channel
        name = f"topic:{self.own(channel)}" if channel in TOPICS else name
        since = self.resolve(name, position)
        self.say({"type": "ack", "channel": name, "id": since})
        if not self.connected:
            self.bad("not_connected")
        elif not _is_position(since):
            self.bad("invalid_position")
        elif name not in self.joined:
            self.bad("not_subscribed")
        else:
            self.good()
        self.settle()

    @precondition(lambda self: not self.over and (self.connected or self.strikes < 2))
    @rule(grant=st.sampled_from(GRANTS), kind=st.sampled_from(["same", "same", "bad", "expired"]))
    def auth(self, grant: list[str], kind: str) -> None:
        tokens = {
            "same": self.token(grant),
            "bad": self.token(grant)[:-4],
            "expired": mint(self.user, ttl=-3600),
        }
        self.say({"type": "auth", "token": tokens[kind]})
        if not self.connected:
            self.bad("not_connected")
        elif kind != "same":
            self.refused("unauthorized")
        else:
            self.good()
            self.grant = grant
            self.expect({"type": "authenticated"})
            lost = {one for one in self.joined if one.startswith("topic:")}
            lost = {one for one in lost if not self.permits(one.removeprefix("topic:"))}
            self.joined -= lost
            self.expect_in_any_order([{"type": "unsubscribed", "channel": one} for one in lost])
        self.settle()

    @precondition(lambda self: not self.over and self.connected)
    @rule(now=st.sampled_from([False] * 9 + [True]))
    def auth_as_another(self, now: bool) -> None:
        if not now:
            return  # it is the end, so not too often
        self.say({"type": "auth", "token": mint(self.user + "x")})
        self.expect_close(3003)

    @precondition(lambda self: not self.over)
    @rule(
        asked=st.lists(good_topics, max_size=4) | st.lists(topics, max_size=3),
        since=st.dictionaries(st.sampled_from(["user", *TOPICS]), positions, max_size=3),
        grant=st.sampled_from(GRANTS),
        token=st.sampled_from(["good"] * 8 + ["none", "bad"]),
    )
    def connect(
        self, asked: list[str], since: dict[str, str], grant: list[str], token: str
    ) -> None:
        names = list(dict.fromkeys(self.own(topic) for topic in asked))
        wanted: dict[str, str] = {}
        for short, position in since.items():
            channel = f"topic:{self.own(short)}" if short in TOPICS else short
            channel = f"user:{self.user}" if short == "user" else channel
            wanted[channel] = self.resolve(channel, position)
        message: dict[str, Any] = {"type": "connect", "topics": names, "positions": wanted}
        if token != "none":
            message["token"] = self.token(grant) if token == "good" else "nonsense"
        self.say(message)
        if not all(map(_is_text, names)):
            self.bad("invalid_json")
        elif self.connected:
            self.bad("already_connected")
        elif not all(map(_TOPIC.fullmatch, names)) or not all(map(_is_position, wanted.values())):
            self.bad("invalid_message")
        elif token == "bad" or (token == "none" and not self.with_token):
            self.expect_close(3000)
            return
        else:
            self.good()
            self.connected = True
            self.grant = grant if token == "good" else self.grant
            self.admit(names, wanted)
        self.settle()

    @precondition(lambda self: not self.over and self.patience)
    @rule(value=anything)
    def say_anything(self, value: Any) -> None:
        kind = value.get("type") if isinstance(value, dict) else None
        if kind in KINDS:
            return  # the other rules say these
        self.say(value)
        if isinstance(kind, str):
            self.bad("unknown_type")
        else:
            self.bad("invalid_message")
        self.settle()

    @precondition(lambda self: not self.over and self.patience)
    @rule(
        kind=st.sampled_from(sorted(KINDS)),
        keys=st.dictionaries(
            st.sampled_from(["token", "topic", "position", "channel", "id", "topics", "positions"]),
            st.integers() | st.lists(st.integers(), min_size=1) | st.just({"a": 1}),
            max_size=3,
        ),
    )
    def say_what_is_missing_or_wrong(self, kind: str, keys: dict[str, Any]) -> None:
        required, optional = KINDS[kind]
        if not required and not optional & set(keys):
            return  # it is a good message
        self.say({"type": kind, **keys})
        self.bad("invalid_message")
        self.settle()

    @precondition(lambda self: not self.over and self.patience)
    @rule(text=st.text() | st.sampled_from(["{", "[[", '{"type":"ping"}x', '"', "nul", "[" * 3000]))
    def say_no_json(self, text: str) -> None:
        sent = text.encode(errors="ignore")
        with contextlib.suppress(ValueError, RecursionError):
            json.loads(sent.decode())
            return  # it is JSON
        self.send(sent)
        # Its beginning may be of the wrong shape before its end is none.
        self.bad("invalid_json", "invalid_message")
        self.settle()

    @precondition(lambda self: not self.over)
    @rule(topic=st.sampled_from([*TOPICS, "user"]), data=anything)
    def publish(self, topic: str, data: Any) -> None:
        name = self.own(topic)
        channel = f"user:{self.user}" if topic == "user" else f"topic:{name}"
        answer = self.herald.publish(channel, data)
        event = {
            "type": "event",
            "channel": channel,
            "id": answer["positions"][channel],
            "event": "test",
            "data": data,
        }
        self.retained.setdefault(channel, []).append(event)
        if channel in self.joined:
            self.expect(event)
        self.settle()

    @precondition(lambda self: self.over)
    @rule()
    def say_no_more(self) -> None:
        """The connection has ended, and with it the conversation."""

    # The model

    def token(self, grant: list[str]) -> str:
        return mint(self.user, topics=[item if item == "*" else self.own(item) for item in grant])

    def own(self, topic: str) -> str:
        """The topic of this conversation; what is no topic stays as it is."""
        return self.prefix + topic if _TOPIC.fullmatch(topic.rstrip("*")) else topic

    def permits(self, name: str) -> bool:
        for item in self.grant:
            full = item if item == "*" else self.own(item)
            if full == name or (full.endswith("*") and name.startswith(full[:-1])):
                return True
        return False

    def resolve(self, channel: str, position: str) -> str:
        """`latest` and `first` are positions of the channel's retained events."""
        retained = self.retained.get(channel)
        if position in ("latest", "first"):
            if not retained:
                return "0-0"
            return str(retained[-1 if position == "latest" else 0]["id"])
        return position

    def follows(self, channel: str, since: str | None) -> tuple[bool, list[dict[str, Any]]]:
        """Whether `since` is recovered, and what comes of it."""
        retained = self.retained.get(channel, [])
        if since is None:
            return False, []
        if since == "0-0":
            return True, retained
        ids = [event["id"] for event in retained]
        if since in ids:
            return True, retained[ids.index(since) + 1 :]
        return False, [{"type": "gap", "channel": channel, "from": since}, *retained]

    def first_joined(self, grant: list[str], asked: list[str]) -> set[str]:
        named = [self.own(item) for item in grant if not item.endswith("*")]
        named += [name for name in asked if self.permits(name)]
        kept = list(dict.fromkeys(named))[:MAX_TOPICS]
        return {f"user:{self.user}", "all", *(f"topic:{name}" for name in kept)}

    def welcome(self, recovered: dict[str, bool]) -> dict[str, Any]:
        return {
            "type": "welcome",
            "user": self.user,
            "channels": {one: recovered.get(one, False) for one in self.joined},
        }

    def admit(self, names: list[str], wanted: dict[str, str]) -> None:
        self.joined = self.first_joined(self.grant, names)
        recovered: dict[str, bool] = {}
        following: list[dict[str, Any]] = []
        for channel in self.joined & set(wanted):
            recovered[channel], events = self.follows(channel, wanted[channel])
            following += events
        errors = []
        for name in names:
            channel = f"topic:{name}"
            if not self.permits(name):
                errors.append({"type": "error", "code": "forbidden", "channel": channel})
        granted = [self.own(item) for item in self.grant if not item.endswith("*")]
        for name in dict.fromkeys([*granted, *names]):
            channel = f"topic:{name}"
            if self.permits(name) and channel not in self.joined:
                errors.append(
                    {"type": "error", "code": "too_many_subscriptions", "channel": channel}
                )
        spoken = self.joined | {f"topic:{name}" for name in (*granted, *names)}
        errors += [
            {"type": "error", "code": "not_subscribed", "channel": channel}
            for channel in wanted
            if channel not in spoken
        ]
        self.expect(self.welcome(recovered))
        self.expect_in_any_order(errors)
        self.expect_by_channel(following)

    # What must come

    def say(self, message: Any) -> None:
        self.send(json.dumps(message).encode())

    def send(self, text: bytes) -> None:
        assert self.peer is not None
        self.peer.send(fragmented(self.chance, text))

    def good(self) -> None:
        self.strikes = max(0, self.strikes - 1)

    def refused(self, code: str, channel: str | None = None) -> None:
        self.good()
        self.expect_error({code}, channel)

    def bad(self, *codes: str, channel: str | None = None) -> None:
        self.strikes += 1
        self.expect_error(set(codes), channel)
        if self.strikes >= STRIKES:
            self.expect_close(1008)

    def expect_error(self, codes: set[str], channel: str | None) -> None:
        message = self.next()
        assert message["type"] == "error", message
        assert message["code"] in codes, message
        assert message.get("channel") == channel, message

    def next(self) -> dict[str, Any]:
        assert self.peer is not None
        while True:
            got = self.next_frame()
            assert got.opcode == TEXT, got
            message: dict[str, Any] = json.loads(got.payload)
            names = {"pong": "serverPong", "ping": "serverPing"}
            name = names.get(message["type"], message["type"])
            assert problems(ASYNCAPI, MESSAGES[name]["payload"], message) == []
            if message["type"] != "ping":
                self.answers[message.get("code", message["type"])] += 1
                return message

    def next_frame(self) -> Got:
        """The next frame, but for answers to pings between fragments and for pings."""
        assert self.peer is not None
        got = self.peer.next()
        while got.opcode == PING or (got.opcode == PONG and got.payload.startswith(b"between")):
            got = self.peer.next()
        return got

    def expect(self, *expected: dict[str, Any]) -> None:
        for one in expected:
            message = self.next()
            if one["type"] == "welcome":
                joined = message["channels"]
                message["channels"] = {name: joined[name]["recovered"] for name in joined}
            assert {key: message.get(key) for key in one} == one

    def expect_in_any_order(self, expected: list[dict[str, Any]]) -> None:
        left = list(expected)
        for _ in expected:
            message = self.next()
            fitting = [one for one in left if {key: message.get(key) for key in one} == one]
            assert fitting, (message, left)
            left.remove(fitting[0])

    def expect_by_channel(self, expected: list[dict[str, Any]]) -> None:
        """The order is that of each channel, whatever comes between."""
        left = list(expected)
        for _ in expected:
            message = self.next()
            of_channel = [one for one in left if one["channel"] == message.get("channel")]
            assert of_channel, message
            first = of_channel[0]
            assert {key: message.get(key) for key in first} == first
            left.remove(first)

    def expect_close(self, code: int) -> None:
        assert self.peer is not None
        got = self.next_frame()
        assert got.opcode == CLOSE, got
        assert got.code == code
        self.peer.send(frame(CLOSE, got.payload))
        assert self.peer.at_end()
        self.over = True

    def settle(self) -> None:
        """Nothing else was answered."""
        if self.over:
            return
        assert self.peer is not None
        self.pings += 1
        payload = b"settled %d" % self.pings
        self.peer.send(frame(PING, payload))
        got = self.next_frame()
        assert got == (PONG, payload), got

    def teardown(self) -> None:
        if self.peer is not None:
            self.peer.close()
        self.watch.check()


def _is_text(name: str) -> bool:
    """Whether JSON's reader takes it: half a surrogate pair is no text."""
    return not any("\ud800" <= character <= "\udfff" for character in name)


def _is_position(text: str) -> bool:
    match = _POSITION.fullmatch(text)
    return match is not None and all(int(number) < 2**64 for number in match.groups())


@pytest.fixture(scope="module")
def fuzzed(engine: EmbeddedEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Herald]:
    limits = {"max_topics": str(MAX_TOPICS), "connect_timeout": "600"}
    with running(engine.url, tmp_path_factory.mktemp("messages"), **QUIET, **limits) as herald:
        yield herald


@pytest.mark.timeout(900)  # a failure is made shorter first
def test_conversations(fuzzed: Herald, new_name: Callable[[], str]) -> None:
    total = inputs(60 * STEPS * _PART)
    print("to repeat:", how_to_repeat("tests/fuzz/test_messages.py", total))
    Conversation.herald = fuzzed
    Conversation.watch = Watch(fuzzed, new_name())
    try:
        run_state_machine_as_test(  # type: ignore[no-untyped-call]
            seed(SEED)(Conversation),
            settings=settings(
                max_examples=max(1, total // _PART // STEPS),
                stateful_step_count=STEPS,
                deadline=None,
                database=None,
                print_blob=True,
                verbosity=Verbosity.normal,
                suppress_health_check=list(HealthCheck),
            ),
        )
        Conversation.watch.settle()
        print(f"answers: {Conversation.answers.most_common()}")
    finally:
        Conversation.watch.close()
