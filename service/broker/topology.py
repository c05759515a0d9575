"""Which primary of a Cluster has which slot: pure arithmetic on what its nodes say."""

from __future__ import annotations

import itertools
from binascii import crc_hqx
from typing import Any, NamedTuple

from service.broker import keys

SLOTS = 16384


class Address(NamedTuple):
    """Where a node listens."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


Range = tuple[int, int, Address]
"""First slot, last slot, their primary."""


class View(NamedTuple):
    """What one node says of the whole Cluster.

    Attributes:
        epoch: grows with every failover and move of a slot: a view of a lower one is stale.
        ranges: in the order of their slots.
    """

    epoch: int
    ranges: tuple[Range, ...]


class Redirect(NamedTuple):
    """A node's word that another one has the slot: for good, or for this one command (ASK)."""

    ask: bool
    address: Address


def key_slot(key: bytes) -> int:
    """The slot of a key or live channel, by the server's rule.

    Hashed is what stands between the first `{` and the first `}` behind it, where that is
    anything; the whole key otherwise.
    """
    _, opened, rest = key.partition(b"{")
    tag, closed, _ = rest.partition(b"}")
    return crc_hqx(tag if opened and closed and tag else key, 0) % SLOTS


def slot_of(channel: str) -> int:
    """The slot of everything that belongs to a channel.

    A channel's name may hold a `}`, at which the server's tag ends. It never begins with one.
    """
    return crc_hqx(channel.encode().partition(b"}")[0], 0) % SLOTS


def parse_view(info: bytes | str, slots: list[Any], asked: Address) -> View:
    """Read a node's answers to CLUSTER INFO and CLUSTER SLOTS."""
    text = info if isinstance(info, str) else info.decode()
    facts = dict(line.strip().partition(":")[::2] for line in text.splitlines())
    ranges = [
        (int(first), int(last), _address(primary[0], int(primary[1]), asked))
        for first, last, primary, *_ in slots
    ]
    return View(int(facts.get("cluster_current_epoch", 0)), tuple(sorted(ranges)))


def parse_redirect(error: str, asked: Address) -> Redirect | None:
    """Read `MOVED <slot> <host>:<port>` or `ASK …`; None where it is another error."""
    kind, _, rest = error.partition(" ")
    if kind not in ("MOVED", "ASK"):
        return None
    host, _, port = rest.partition(" ")[2].rpartition(":")
    return Redirect(kind == "ASK", _address(host, int(port), asked))


def owners(ranges: tuple[Range, ...]) -> list[Address | None]:
    """The primary of each slot."""
    found: list[Address | None] = [None] * SLOTS
    for first, last, address in ranges:
        found[first : last + 1] = [address] * (last + 1 - first)
    return found


def uncovered(ranges: tuple[Range, ...]) -> str | None:
    """Names the slots that no primary has, or None."""
    missing: list[str] = []
    at = 0
    for first, last, _ in (*ranges, (SLOTS, SLOTS, None)):
        if first > at:
            missing.append(f"{at}-{first - 1}" if first - 1 > at else str(at))
        at = max(at, last + 1)
    return "no primary has the slots " + ", ".join(missing[:10]) if missing else None


def probe_for(node: str, slots: list[Address | None], address: Address) -> str:
    """The node's channel for hearing itself through this primary, which must have some slot."""
    for number in itertools.count():
        name = f"{node}:{number}"
        if slots[slot_of(keys.probe_channel(name))] == address:
            return name
    raise AssertionError


def _address(host: bytes | str | None, port: int, asked: Address) -> Address:
    """A node that does not know its own name is where we asked, on its port."""
    name = host.decode() if isinstance(host, bytes) else host
    return Address(asked.host if name in (None, "", "?") else name.strip("[]"), port)
