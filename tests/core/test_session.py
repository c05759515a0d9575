"""What a client may say, in every state, and what follows."""

from __future__ import annotations

import json
from typing import Any

import pytest

from service.core import messages, session
from service.core.channel import TopicGrant
from service.core.close import CloseCode
from service.core.errors import InvalidChannel, InvalidMessage, InvalidPosition
from service.core.position import Position
from service.core.principal import Principal
from service.core.session import (
    MAX_STRIKES,
    Acked,
    Admit,
    Close,
    Join,
    Leave,
    Reauthenticate,
    Reply,
    Request,
    Session,
    State,
    parse_request,
)

ALICE = Principal("alice", 1_000.0, TopicGrant(("orders", "news.sport"), ("chat.",)))
JOINED = {"user:alice", "all", "topic:orders", "topic:news.sport"}
BAD_POSITION = messages.Ack("all", "nonsense")


def open_session(principal: Principal = ALICE, max_topics: int = 10) -> Session:
    opened = Session(max_topics)
    opened.admitted(principal, Request())
    return opened


def said(effect: Any) -> list[dict[str, Any]]:
    return [json.loads(payload) for payload in effect.payloads]


def word(effect: Any) -> str:
    """The code of the one error that is answered."""
    (answer,) = said(effect)
    assert answer["type"] == "error"
    assert answer["message"]
    return str(answer["code"])


def test_every_message_has_a_row_in_every_state() -> None:
    kinds = messages.ClientMessage.__args__
    assert set(session._TABLE) == {(state, kind) for state in State for kind in kinds}


TOKEN, TOPIC = "t", "chat.1"
SAYINGS = [
    messages.Connect(TOKEN, {"all": "1-2"}, ["orders"]),
    messages.Auth(TOKEN),
    messages.Subscribe(TOPIC, "1-2"),
    messages.Unsubscribe("orders"),
    messages.Ack("all", "1-2"),
    messages.Ping(),
    messages.Pong(),
]


@pytest.mark.parametrize(
    ("message", "expected"),
    list(
        zip(
            SAYINGS,
            [
                Admit(TOKEN, Request(("orders",), {"all": Position(1, 2)})),
                "not_connected",
                "not_connected",
                "not_connected",
                "not_connected",
                Reply([messages.PONG]),
                Reply([]),
            ],
            strict=True,
        )
    ),
)
def test_before_connect(message: messages.ClientMessage, expected: object) -> None:
    waiting = Session(10)
    effect = waiting.receive(message)
    assert (word(effect) if isinstance(expected, str) else effect) == expected
    assert waiting.state is State.CONNECTING
    assert waiting.channels == set()


@pytest.mark.parametrize(
    ("message", "expected"),
    list(
        zip(
            SAYINGS,
            [
                "already_connected",
                Reauthenticate(TOKEN),
                Join("topic:chat.1", Position(1, 2)),
                Leave(["topic:orders"], [messages.unsubscribed("topic:orders")]),
                Acked("all", Position(1, 2)),
                Reply([messages.PONG]),
                Reply([]),
            ],
            strict=True,
        )
    ),
)
def test_when_open(message: messages.ClientMessage, expected: object) -> None:
    effect = open_session().receive(message)
    assert (word(effect) if isinstance(expected, str) else effect) == expected


# Connect


def test_connect_joins_the_user_all_and_the_named_topics() -> None:
    opened = Session(10)
    plan = opened.admitted(ALICE, Request())
    assert plan.joins == dict.fromkeys(JOINED)
    assert plan.refusals == []
    assert opened.state is State.OPEN
    assert opened.channels == JOINED
    assert opened.principal is ALICE


def test_connect_joins_what_is_asked_for_and_permitted_after_its_positions() -> None:
    positions = {"topic:chat.1": Position(1, 2), "user:alice": Position(3, 4)}
    plan = Session(10).admitted(ALICE, Request(("chat.1", "orders"), positions))
    assert plan.joins == {**dict.fromkeys(JOINED), **positions}
    assert plan.refusals == []


def test_connect_refuses_each_forbidden_topic_and_goes_on() -> None:
    plan = Session(10).admitted(
        ALICE, Request(("secret", "chat.1"), {"topic:secret": Position(1, 2)})
    )
    assert set(plan.joins) == JOINED | {"topic:chat.1"}
    assert [(r["code"], r["channel"]) for r in map(json.loads, plan.refusals)] == [
        ("forbidden", "topic:secret")
    ]


def test_connect_names_positions_of_channels_that_are_not_joined() -> None:
    request = Request((), {"user:bob": Position(1, 2), "topic:chat.1": Position(1, 2)})
    plan = Session(10).admitted(ALICE, request)
    assert set(plan.joins) == JOINED
    assert [(r["code"], r["channel"]) for r in map(json.loads, plan.refusals)] == [
        ("not_subscribed", "user:bob"),
        ("not_subscribed", "topic:chat.1"),
    ]


def test_connect_joins_no_more_topics_than_the_limit() -> None:
    limited = Session(3)
    plan = limited.admitted(ALICE, Request(("chat.1", "chat.2")))
    assert set(plan.joins) == JOINED | {"topic:chat.1"} == limited.channels
    assert [(r["code"], r["channel"]) for r in map(json.loads, plan.refusals)] == [
        ("too_many_subscriptions", "topic:chat.2")
    ]


@pytest.mark.parametrize(
    "message",
    [
        messages.Connect(topics=["no spaces"]),
        messages.Connect(positions={"room:1": "1-2"}),
        messages.Connect(positions={"all": "12"}),
    ],
)
def test_connect_of_the_wrong_form_can_be_repeated(message: messages.Connect) -> None:
    waiting = Session(10)
    assert word(waiting.receive(message)) == "invalid_message"
    assert isinstance(waiting.receive(messages.Connect()), Admit)


def test_a_request_names_each_topic_once() -> None:
    assert parse_request(["a", "b", "a"], []) == Request(("a", "b"), {})


@pytest.mark.parametrize(
    ("topics", "positions", "error"),
    [
        ([""], [], InvalidChannel),
        ([], [("topic:", "1-2")], InvalidChannel),
        ([], [("all", "")], InvalidPosition),
    ],
)
def test_a_request_is_checked_in_form(
    topics: list[str], positions: list[tuple[str, str]], error: type[Exception]
) -> None:
    with pytest.raises(error):
        parse_request(topics, positions)


# Subscribe, unsubscribe, ack


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (messages.Subscribe("secret"), "forbidden"),
        (messages.Subscribe("chat"), "forbidden"),
        (messages.Subscribe("orders.1"), "forbidden"),
        (messages.Subscribe("no spaces"), "invalid_topic"),
        (messages.Subscribe("chat.1", "12"), "invalid_position"),
        (messages.Subscribe("orders"), "already_subscribed"),
        (messages.Unsubscribe("chat.1"), "not_subscribed"),
        (messages.Unsubscribe("no spaces"), "invalid_topic"),
        (messages.Ack("all", "12"), "invalid_position"),
        (messages.Ack("topic:chat.1", "1-2"), "not_subscribed"),
    ],
)
def test_refusals_change_nothing(message: messages.ClientMessage, expected: str) -> None:
    opened = open_session()
    assert word(opened.receive(message)) == expected
    assert opened.channels == JOINED


def test_a_topic_can_be_left_and_joined_again() -> None:
    opened = open_session()
    opened.receive(messages.Unsubscribe("orders"))
    assert "topic:orders" not in opened.channels
    assert opened.receive(messages.Subscribe("orders")) == Join("topic:orders", None)
    assert "topic:orders" in opened.channels


def test_subscriptions_are_limited_beside_the_user_and_all() -> None:
    opened = open_session(max_topics=3)
    assert isinstance(opened.receive(messages.Subscribe("chat.1")), Join)
    assert word(opened.receive(messages.Subscribe("chat.2"))) == "too_many_subscriptions"
    opened.receive(messages.Unsubscribe("chat.1"))
    assert isinstance(opened.receive(messages.Subscribe("chat.2")), Join)


# A new token


def test_a_new_token_counts_from_now_on() -> None:
    opened = open_session()
    renewed = Principal("alice", 2_000.0, TopicGrant((), ("orders", "x.")))
    effect = opened.reauthenticated(renewed)
    assert isinstance(effect, Leave)
    assert effect.channels == ["topic:news.sport"]
    assert said(effect) == [
        {"type": "authenticated", "expires": 2_000},
        {"type": "unsubscribed", "channel": "topic:news.sport"},
    ]
    assert opened.channels == JOINED - {"topic:news.sport"}
    assert word(opened.receive(messages.Subscribe("chat.1"))) == "forbidden"
    assert isinstance(opened.receive(messages.Subscribe("x.1")), Join)


def test_another_users_token_closes() -> None:
    opened = open_session()
    effect = opened.reauthenticated(ALICE._replace(user="bob"))
    assert isinstance(effect, Close)
    assert effect.code is CloseCode.FORBIDDEN
    assert opened.principal is ALICE


# Strikes

NONSENSE = InvalidMessage("invalid_json", "Not JSON.")


@pytest.mark.parametrize(
    "message",
    [
        None,
        messages.Connect(),
        messages.Subscribe("no spaces"),
        messages.Subscribe("chat.1", "12"),
        messages.Unsubscribe("no spaces"),
        BAD_POSITION,
        messages.Ack("topic:chat.1", "1-2"),
    ],
)
def test_a_client_that_keeps_on_is_closed(message: messages.ClientMessage | None) -> None:
    opened = open_session()
    effects = [
        opened.malformed(NONSENSE) if message is None else opened.receive(message)
        for _ in range(MAX_STRIKES)
    ]
    assert all(isinstance(effect, Reply) for effect in effects[:-1])
    last = effects[-1]
    assert isinstance(last, Close)
    assert last.code is CloseCode.POLICY_VIOLATION
    assert said(last) == said(effects[0])  # answered as well


def test_a_client_that_never_connects_is_closed_if_it_keeps_talking() -> None:
    waiting = Session(10)
    effects = [waiting.receive(messages.Subscribe("orders")) for _ in range(MAX_STRIKES)]
    assert isinstance(effects[-1], Close)


def test_good_messages_make_up_for_bad_ones() -> None:
    opened = open_session()
    for _ in range(10 * MAX_STRIKES):
        assert isinstance(opened.malformed(NONSENSE), Reply)
        assert isinstance(opened.receive(BAD_POSITION), Reply)
        opened.receive(messages.Ping())
        opened.receive(messages.Pong())


@pytest.mark.parametrize("topic", ["secret", "orders"])
def test_a_refusal_is_no_strike(topic: str) -> None:
    opened = open_session()
    for _ in range(10 * MAX_STRIKES):
        assert isinstance(opened.receive(messages.Subscribe(topic)), Reply)
