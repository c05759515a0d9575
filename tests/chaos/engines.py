"""Engines to break, listening on TCP: one alone, one with replicas and sentinels, a Cluster."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import redis

from service.broker.embedded import EmbeddedEngine, find_engine
from tests.harness.cluster import EngineCluster, Node
from tests.harness.process import PATIENCE, free_port

_BINARY = os.environ.get("ENGINE_BINARY")
DURABLE = ("--appendonly", "yes", "--appendfsync", "always")


class Server:
    """One engine process."""

    def __init__(self, *arguments: str) -> None:
        self.port = self.known_port = free_port()
        """`known_port` is where others look for it."""
        self.process = EmbeddedEngine(
            (
                *("--port", str(self.port), "--bind", "127.0.0.1"),
                *("--repl-diskless-sync-delay", "0", "--enable-debug-command", "yes"),
                *arguments,
            ),
            binary=_BINARY,
        )
        self.admin = redis.Redis(port=self.port)

    def do(self, *command: str | int) -> object:
        return self.admin.execute_command(*command)  # type: ignore[no-untyped-call]

    def stop(self) -> None:
        self.admin.close()
        self.process.stop()


class Single:
    """One engine."""

    def __init__(self, *arguments: str) -> None:
        self.server = Server(*arguments)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.server.port}"

    def stop(self) -> None:
        self.server.stop()


class Durable(Single):
    """One engine that has every write on disk before it answers."""

    def __init__(self) -> None:
        super().__init__(*DURABLE)


class SentinelSet:
    """A primary, two replicas and three sentinels, which elect."""

    def __init__(self) -> None:
        self.servers: list[Server] = []
        self.sentinels: list[subprocess.Popen[bytes]] = []
        self.sentinel_ports: list[int] = []
        self._directory = Path(tempfile.mkdtemp(prefix="herald-sentinels-"))
        try:
            first = self.start_server()
            self.servers.append(first)
            of = ("--replicaof", "127.0.0.1", str(first.known_port))
            for _ in range(2):
                self.servers.append(self.start_server(*of))
            until(lambda: first.admin.info("replication")["connected_slaves"] == 2)
            for number in range(3):
                self._start_sentinel(number, first.known_port)
            until(self._know_each_other)
        except BaseException:
            self.stop()
            raise

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{port}" for port in self.sentinel_ports)
        return f"redis+sentinel://{hosts}/main"

    def start_server(self, *arguments: str) -> Server:
        """One more engine; `arguments` say what it is at first."""
        return Server(*arguments)

    def primary(self) -> Server:
        """As most sentinels say; the one that they agree on."""
        votes = [self._primary_port(port) for port in self.sentinel_ports]
        port = max(set(votes), key=votes.count)
        for server in self.servers:
            if server.known_port == port:
                return server
        raise redis.ConnectionError("the sentinels know no primary")

    def wait_for_another(self, old: Server) -> None:
        """Until a replica was promoted."""
        until(lambda: self.primary() is not old)

    def wait_whole(self) -> None:
        """Until the primary has both replicas, and the sentinels see them."""
        until(
            lambda: (
                self.primary().admin.info("replication").get("connected_slaves") == 2
                and self._know_each_other()
            )
        )

    def stop(self) -> None:
        for sentinel in self.sentinels:
            sentinel.kill()
            sentinel.wait()
        for server in self.servers:
            server.stop()
        shutil.rmtree(self._directory, ignore_errors=True)

    def _start_sentinel(self, number: int, primary: int) -> None:
        port = free_port()
        config = self._directory / f"{number}.conf"
        config.write_text(
            f"port {port}\nbind 127.0.0.1\ndir {self._directory}\n"
            f"sentinel monitor main 127.0.0.1 {primary} 2\n"
            "sentinel down-after-milliseconds main 1000\n"
            "sentinel failover-timeout main 5000\nsentinel parallel-syncs main 2\n"
        )
        with (self._directory / f"{number}.log").open("wb") as output:
            self.sentinels.append(
                subprocess.Popen(
                    [_BINARY or find_engine(), str(config), "--sentinel"],
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )
            )
        self.sentinel_ports.append(port)
        # Who comes back as a primary is asked who it is every 10 s, and made a replica after four
        # times of 2 s; discoveries take as long. Tests need not.
        shorter = ("INFO-PERIOD", "500", "PUBLISH-PERIOD", "250")
        until(lambda: self._ask(port, "DEBUG", *shorter) is not None)

    def _ask(self, port: int, *command: str) -> Any:
        with redis.Redis(port=port, decode_responses=True) as sentinel:
            sentinel.response_callbacks.clear()
            return sentinel.execute_command("SENTINEL", *command)

    def _primary_port(self, port: int) -> int:
        with contextlib.suppress(redis.ConnectionError):
            return int(str(self._ask(port, "GET-MASTER-ADDR-BY-NAME", "main")[1]))
        return 0

    def _know_each_other(self) -> bool:
        with contextlib.suppress(redis.ConnectionError):
            return all(
                len(self._ask(port, "SENTINELS", "main")) == 2
                and len(self._ask(port, "REPLICAS", "main")) == 2
                for port in self.sentinel_ports
            )
        return False


class ReplicatedCluster:
    """Three primaries, each with a replica."""

    def __init__(self) -> None:
        self.cluster = EngineCluster(3, 3)

    @property
    def url(self) -> str:
        return self.cluster.url

    def primary_of(self, channel: str) -> Node:
        return self.cluster.owner(channel)

    def primaries(self) -> list[Node]:
        """Those that have slots, as a live node sees it."""
        for node in self.cluster.nodes:
            with contextlib.suppress(redis.ConnectionError):
                slots = node.do("CLUSTER", "SLOTS")
                ports = {entry[2][1] for entry in slots}  # type: ignore[attr-defined]
                return [node for node in self.cluster.nodes if node.port in ports]
        raise AssertionError("no node of the Cluster answers")

    def wait_for_another(self, old: Node) -> None:
        """Until the replica of a dead primary has its slots."""

        def promoted() -> bool:
            primaries = self.primaries()
            return old not in primaries and len(primaries) == 3

        until(promoted)

    def stop(self) -> None:
        self.cluster.stop()


Engine = Single | SentinelSet | ReplicatedCluster


def until(condition: object) -> None:
    """Wait in a thread of one's own; a node that is down says nothing yet."""
    assert callable(condition)
    deadline = time.monotonic() + PATIENCE
    while True:
        with contextlib.suppress(redis.ConnectionError, redis.TimeoutError):
            if condition():
                return
        assert time.monotonic() < deadline, "the engines did not get there"
        time.sleep(0.05)
