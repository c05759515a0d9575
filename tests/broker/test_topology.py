"""The slot map: computed as the servers compute it, and read from what they say."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.crc import key_slot as redis_key_slot

from service.broker import keys
from service.broker.topology import (
    SLOTS,
    Address,
    Redirect,
    key_slot,
    owners,
    parse_redirect,
    parse_view,
    probe_for,
    slot_of,
    uncovered,
)
from tests.broker.test_keys import channels

ASKED = Address("seed", 7000)
A, B = Address("a", 1), Address("b", 2)


@given(st.one_of(st.binary(max_size=20), st.text("{}ab", max_size=8).map(str.encode)))
def test_a_key_has_the_slot_that_the_server_computes(key: bytes) -> None:
    assert key_slot(key) == redis_key_slot(key)


@given(channels)
def test_a_channel_has_the_slot_of_its_keys(channel: str) -> None:
    assert slot_of(channel) == key_slot(keys.log_key(channel))
    assert slot_of(channel) == key_slot(keys.idempotency_key(channel, "key", "}{"))
    assert slot_of(channel) == key_slot(keys.live_channel(channel))


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        (b"10.0.0.1", "10.0.0.1"),
        (b"node.example.com", "node.example.com"),
        (b"::1", "::1"),
        (b"", "seed"),
        (b"?", "seed"),
        (None, "seed"),
    ],
)
def test_a_node_without_a_name_is_where_we_asked(host: bytes | None, expected: str) -> None:
    slots = [[5, 9, [host, 7001, b"id", []], [b"replica", 7002, b"id", []]], [0, 3, [b"x", 1]]]
    view = parse_view(b"cluster_state:ok\r\ncluster_current_epoch:12\r\n", slots, ASKED)
    assert view.epoch == 12
    assert view.ranges == ((0, 3, Address("x", 1)), (5, 9, Address(expected, 7001)))


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ("MOVED 3999 127.0.0.1:6381", Redirect(False, Address("127.0.0.1", 6381))),
        ("ASK 3999 node.example.com:6381", Redirect(True, Address("node.example.com", 6381))),
        ("MOVED 3999 ::1:6381", Redirect(False, Address("::1", 6381))),
        ("MOVED 3999 :6381", Redirect(False, Address("seed", 6381))),
        ("MOVED 3999 ?:6381", Redirect(False, Address("seed", 6381))),
        ("TRYAGAIN Multiple keys request during rehashing of slot", None),
        ("CLUSTERDOWN The cluster is down", None),
        ("ERR ASK", None),
    ],
)
def test_redirects_are_understood(error: str, expected: Redirect | None) -> None:
    assert parse_redirect(error, ASKED) == expected


def test_every_slot_has_the_owner_of_its_range() -> None:
    found = owners(((0, 9, A), (10, 10, B), (12, SLOTS - 1, A)))
    assert len(found) == SLOTS
    assert [found[slot] for slot in (0, 9, 10, 11, 12, SLOTS - 1)] == [A, A, B, None, A, A]


@pytest.mark.parametrize(
    ("ranges", "missing"),
    [
        (((0, SLOTS - 1, A),), None),
        (((0, 99, A), (100, SLOTS - 1, B)), None),
        ((), f"0-{SLOTS - 1}"),
        (((1, SLOTS - 1, A),), "0"),
        (((0, 9, A), (11, 20, B), (31, SLOTS - 2, A)), f"10, 21-30, {SLOTS - 1}"),
    ],
)
def test_slots_without_an_owner_are_named(
    ranges: tuple[tuple[int, int, Address], ...], missing: str | None
) -> None:
    expected = None if missing is None else f"no primary has the slots {missing}"
    assert uncovered(ranges) == expected


@pytest.mark.parametrize("first", [0, 8000, SLOTS - 1])
def test_a_probe_is_in_a_slot_of_its_shard(first: int) -> None:
    slots = owners(((0, SLOTS - 1, A), (first, first, B)))
    assert slot_of(keys.probe_channel(probe_for("node", slots, B))) == first
    assert slots[slot_of(keys.probe_channel(probe_for("node", slots, A)))] == A


@pytest.mark.parametrize(
    ("address", "text"), [(Address("h", 1), "h:1"), (Address("::1", 2), "[::1]:2")]
)
def test_addresses_read_as_in_a_url(address: Address, text: str) -> None:
    assert str(address) == text
