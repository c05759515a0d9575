"""A Cluster of real engines, formed with the commands an operator uses."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence

import redis

from service.broker.embedded import EmbeddedEngine
from service.broker.topology import SLOTS, slot_of
from tests.harness.process import PATIENCE, free_port

NODE_TIMEOUT = 1000
"""Milliseconds of silence after which a node is held to be away."""


_HOSTNAME = ("--cluster-preferred-endpoint-type", "hostname")


class Node:
    """One engine of a Cluster, on TCP. `known_port` and `host` are what it tells clients."""

    def __init__(self, known_port: int | None = None, host: str = "") -> None:
        self.port = free_port()
        self.known_port = known_port or self.port
        self.bus_port = free_port()
        self.engine = EmbeddedEngine(
            (
                *("--port", str(self.port), "--bind", "127.0.0.1"),
                *("--cluster-enabled", "yes", "--cluster-port", str(self.bus_port)),
                *("--cluster-announce-port", str(self.known_port)),
                *(_HOSTNAME if host else ()),
                *(("--cluster-announce-hostname", host) if host else ()),
                *("--cluster-node-timeout", str(NODE_TIMEOUT)),
                # A primary that has lost its last slot stays one, so that it can be told so.
                *("--cluster-allow-replica-migration", "no"),
                *("--cluster-replica-validity-factor", "0", "--repl-diskless-sync-delay", "0"),
            ),
            binary=os.environ.get("ENGINE_BINARY"),
        )
        self.client = redis.Redis(port=self.port)

    def do(self, *command: str | int) -> object:
        return self.client.execute_command(*command)

    @property
    def id(self) -> str:
        return self.do("CLUSTER", "MYID").decode()  # type: ignore[attr-defined]

    def stop(self) -> None:
        self.client.close()
        self.engine.stop()

    def shard_channels(self) -> set[str]:
        """Channels of events to which somebody listens here."""
        names = self.client.execute_command("PUBSUB", "SHARDCHANNELS", "herald:live:*")
        texts = (name.decode().removeprefix("herald:live:{")[:-1] for name in names)
        return {text for text in texts if not text.startswith("probe:")}


class EngineCluster:
    """Primaries that share all slots, and replicas: number n is of primary number n.

    `small` is how many slots the first primary has, where it is not an equal share. `known_ports`
    and `host` are what the nodes tell clients, where these come another way.
    """

    def __init__(
        self,
        primaries: int = 3,
        replicas: int = 0,
        small: int | None = None,
        known_ports: Sequence[int] = (),
        host: str = "",
    ) -> None:
        self.nodes: list[Node] = []
        try:
            for known_port in known_ports or [None] * (primaries + replicas):
                self.nodes.append(Node(known_port, host))
            self.primaries = self.nodes[:primaries]
            self.replicas = self.nodes[primaries:]
            self._form(small)
        except BaseException:
            self.stop()
            raise

    @property
    def url(self) -> str:
        return self.url_as("")

    def url_as(self, credentials: str) -> str:
        """With `user:password@`. The first of the seeds is away, always."""
        seeds = ",".join(f"127.0.0.1:{node.port}" for node in self.nodes[:2])
        return f"redis+cluster://{credentials}127.0.0.1:{free_port()},{seeds}"

    def owner(self, channel: str) -> Node:
        """The primary that has a channel's slot."""
        slot = slot_of(channel)
        for first, last, primary, *_ in self.nodes[0].do("CLUSTER", "SLOTS"):  # type: ignore[attr-defined]
            if first <= slot <= last:
                return next(node for node in self.nodes if node.known_port == primary[1])
        raise AssertionError(f"nobody has slot {slot}")

    def add(self) -> Node:
        """One more primary, without slots."""
        node = Node()
        self.nodes.append(node)
        self._meet()
        return node

    def migrate(self, slot: int, source: Node, target: Node, pause: float = 0.0) -> None:
        """Move a slot key by key, as redis-cli --cluster reshard does."""
        target.do("CLUSTER", "SETSLOT", slot, "IMPORTING", source.id)
        source.do("CLUSTER", "SETSLOT", slot, "MIGRATING", target.id)
        time.sleep(pause)
        while names := source.client.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 1000):
            # Of a channel, one by one: it is torn for a while. Ids may be thousands.
            few = [[name] for name in names if not name.startswith(b"herald:id:")]
            for group in (*few, [name for name in names if [name] not in few]):
                if group:
                    source.client.execute_command(
                        *("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS"), *group
                    )
                    time.sleep(pause)
        self.assign(slot, source, target)

    def assign(self, slot: int, source: Node, target: Node) -> None:
        """The end of a move: who has the slot now, told to its new owner first."""
        target.do("CLUSTER", "SETSLOT", slot, "NODE", target.id)
        source.do("CLUSTER", "SETSLOT", slot, "NODE", target.id)

    def stop(self) -> None:
        for node in self.nodes:
            node.stop()

    def _form(self, small: int | None) -> None:
        count = len(self.primaries)
        first = SLOTS // count if small is None else small
        bounds = [0, *(first + (SLOTS - first) * n // (count - 1) for n in range(count))]
        for number, node in enumerate(self.nodes):
            node.do("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for number, node in enumerate(self.primaries):
            node.do("CLUSTER", "ADDSLOTSRANGE", bounds[number], bounds[number + 1] - 1)
        self._meet()
        for primary, replica in zip(self.primaries, self.replicas, strict=False):
            _until(lambda p=primary, r=replica: p.id.encode() in _table(r))  # type: ignore[misc]
            replica.do("CLUSTER", "REPLICATE", primary.id)
        _until(lambda: all(_is_up(replica) for replica in self.replicas))
        _until(lambda: all(self._knows_all(node) for node in self.nodes))

    def _meet(self) -> None:
        for node in self.nodes[1:]:
            self.nodes[0].do("CLUSTER", "MEET", "127.0.0.1", node.port, node.bus_port)
        _until(lambda: all(self._knows_all(node) for node in self.nodes))

    def _knows_all(self, node: Node) -> bool:
        info = node.do("CLUSTER", "INFO")
        text = info.decode() if isinstance(info, bytes) else str(info)
        lines = _table(node).splitlines()
        return (
            "cluster_state:ok" in text
            and len(lines) == len(self.nodes)
            and not any(b"handshake" in line or b"noaddr" in line for line in lines)
        )


def _table(node: Node) -> bytes:
    # redis-py would parse it.
    with redis.Redis(port=node.port) as client:
        client.response_callbacks.clear()
        return bytes(client.execute_command("CLUSTER", "NODES"))


def _is_up(replica: Node) -> bool:
    return replica.client.info("replication").get("master_link_status") == "up"


def _until(condition: object) -> None:
    assert callable(condition)
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "the Cluster did not form"
        time.sleep(0.02)


@contextlib.contextmanager
def running_cluster(
    primaries: int = 3, replicas: int = 0, small: int | None = None
) -> Iterator[EngineCluster]:
    """A Cluster that is up, and is gone in the end."""
    cluster = EngineCluster(primaries, replicas, small)
    try:
        yield cluster
    finally:
        cluster.stop()


def channels_of(cluster: EngineCluster, names: Sequence[str]) -> dict[int, list[str]]:
    """The channels that each primary has, by its port."""
    found: dict[int, list[str]] = {}
    for name in names:
        found.setdefault(cluster.owner(name).port, []).append(name)
    return found
