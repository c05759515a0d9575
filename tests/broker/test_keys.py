"""Key names: one slot per channel, and never a key of two channels."""

from __future__ import annotations

import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from redis.crc import key_slot

from service.broker import keys
from service.core.channel import parse_channel
from service.core.errors import InvalidChannel
from tests.broker.support import client_of, running_engine

NASTY = [
    "all",
    "topic:a",
    "user:{",
    "user:}",
    "user:{}",
    "user:}{",
    "user:{a}{b}",
    "user:a}:b",
    "user:}:" + "0" * 32,
    "user:{herald:log:{x}}",
    "user:ünïcödé {☃}",
    "user:" + "}" * 255,
]


def _all_keys(channel: str, publisher: str = "key", event_id: str = "1") -> list[bytes]:
    return [
        keys.meta_key(channel),
        keys.log_key(channel),
        keys.idempotency_key(channel, publisher, event_id),
        keys.live_channel(channel),
    ]


def _is_channel(text: str) -> bool:
    try:
        parse_channel(text)
    except InvalidChannel:
        return False
    return True


# Few letters, so that braces meet and names nearly collide.
_users = st.one_of(st.text("{}:a0", min_size=1, max_size=12), st.text(min_size=1, max_size=40)).map(
    "user:{}".format
)
_topics = st.text("ab:/-0", min_size=1, max_size=12).map("topic:{}".format)
channels = st.one_of(st.just("all"), _users, _topics).filter(_is_channel)


@given(channels)
def test_all_keys_of_a_channel_are_in_one_slot(channel: str) -> None:
    assert len({key_slot(key) for key in _all_keys(channel)}) == 1


def test_slots_are_what_the_engine_says() -> None:
    with (
        running_engine("--cluster-enabled", "yes") as engine,
        client_of(engine.url) as client,
    ):
        for channel in NASTY:
            slots = {client.execute_command("CLUSTER KEYSLOT", key) for key in _all_keys(channel)}
            assert slots == {key_slot(keys.meta_key(channel))}, channel


def test_channels_are_spread_over_slots() -> None:
    slots = {key_slot(keys.log_key(f"user:{number}")) for number in range(1000)}
    assert len(slots) > 900


@given(channels, channels, st.sampled_from(["key", "jwt:a", "jwt:{a}"]), st.text(max_size=20))
def test_no_two_channels_share_a_key(one: str, other: str, publisher: str, event_id: str) -> None:
    assume(one != other)
    mine = _all_keys(one, publisher, event_id)
    theirs = _all_keys(other, publisher, event_id)
    assert len({*mine, *theirs}) == len(mine) + len(theirs)


@pytest.mark.parametrize("one", NASTY)
def test_nasty_names_share_no_key(one: str) -> None:
    others = [key for other in NASTY if other != one for key in _all_keys(other)]
    assert not set(_all_keys(one)) & set(others)


publishers = st.sampled_from(["key", "jwt:a", "jwt:a1", "jwt:", "1:"])


@given(st.tuples(publishers, st.text("a1:", max_size=6)), st.tuples(publishers, st.text("a1:")))
def test_no_two_publishers_or_ids_share_an_idempotency_key(
    one: tuple[str, str], other: tuple[str, str]
) -> None:
    assume(one != other)
    assert keys.idempotency_key("all", *one) != keys.idempotency_key("all", *other)


@given(channels)
def test_live_channel_gives_the_channel_back(channel: str) -> None:
    assert keys.channel_of(keys.live_channel(channel)) == channel


@given(st.from_regex(re.compile("[0-9a-f]{12}", re.ASCII), fullmatch=True))
def test_a_probe_is_no_channel(node: str) -> None:
    assert not _is_channel(keys.probe_channel(node))


def test_everything_in_the_engine_has_the_prefix() -> None:
    # An ACL rule of two patterns holds everything; see test_acl.
    for channel in NASTY:
        assert all(key.startswith(b"herald:") for key in _all_keys(channel))
        assert keys.live_channel(channel).startswith(b"herald:live:")
