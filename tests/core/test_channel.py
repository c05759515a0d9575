"""Channel names, and which topics a token permits."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.core.channel import (
    TopicGrant,
    parse_channel,
    parse_topic_grant,
    topic_channel,
    user_channel,
)
from service.core.errors import InvalidChannel

TOPIC_CHARACTERS = string.ascii_letters + string.digits + "._:@/-"
topics = st.text(TOPIC_CHARACTERS, min_size=1, max_size=200)
users = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=63)


@given(users)
def test_any_text_without_control_characters_is_a_user(user: str) -> None:
    assert user_channel(user) == parse_channel(f"user:{user}") == f"user:{user}"


@given(topics)
def test_topics_are_made_of_their_alphabet(topic: str) -> None:
    assert topic_channel(topic) == parse_channel(f"topic:{topic}") == f"topic:{topic}"


@given(topics, st.characters(exclude_categories=["Cs"]).filter(lambda c: c not in TOPIC_CHARACTERS))
def test_no_other_character_is_in_a_topic(topic: str, other: str) -> None:
    for name in (other + topic[1:], topic[:-1] + other):
        with pytest.raises(InvalidChannel):
            topic_channel(name)


def test_all_is_a_channel() -> None:
    assert parse_channel("all") == "all"


@pytest.mark.parametrize("size", [1, 254, 255])
def test_a_user_id_has_up_to_255_bytes(size: int) -> None:
    assert user_channel("u" * size) == "user:" + "u" * size


@pytest.mark.parametrize(
    "text",
    [
        "",
        "user",
        "user:",
        "topic",
        "topic:",
        "ALL",
        "all:",
        "all ",
        "User:alice",
        "room:1",
        ":alice",
        "user:" + "u" * 256,
        "user:" + "é" * 128,
        "user:a\x00",
        "user:\n",
        "user:\x7f",
        "user:\x85",
        "user:\ud800",
        "topic:" + "t" * 201,
        "topic:news.*",
        "topic:a b",
        "topic:a\n",
        "topic:é",
        "topic:１",
    ],
)
def test_other_text_is_no_channel(text: str) -> None:
    with pytest.raises(InvalidChannel) as refusal:
        parse_channel(text)
    str(refusal.value).encode()  # can be sent, whatever came
    assert len(str(refusal.value)) < 500


@given(topics, topics)
def test_a_name_permits_itself_only(name: str, other: str) -> None:
    grant = parse_topic_grant([name])
    assert grant.names == (name,)
    assert grant.permits(other) == (name == other)


@given(st.text(TOPIC_CHARACTERS, max_size=20), topics)
def test_a_pattern_permits_what_begins_with_its_prefix(prefix: str, topic: str) -> None:
    grant = parse_topic_grant([prefix + "*"])
    assert grant.names == ()
    assert grant.permits(topic) == topic.startswith(prefix)
    assert grant.permits(prefix + topic)


def test_no_grant_permits_nothing() -> None:
    assert not TopicGrant().permits("news")


def test_a_grant_keeps_names_and_patterns_apart_and_once() -> None:
    assert parse_topic_grant(["a", "b.*", "a", "b.*", "*"]) == TopicGrant(("a",), ("b.", ""))


@pytest.mark.parametrize("item", ["", "a b*", "a*b", "**", "*a", "é", "a" * 201, "a" * 201 + "*"])
def test_a_grant_refuses_what_is_neither(item: str) -> None:
    with pytest.raises(InvalidChannel):
        parse_topic_grant([item])
