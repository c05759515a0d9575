"""The load generator sees what is lost, doubled and out of order, and Herald passes its count."""

from __future__ import annotations

import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from bench.herald import BATCH, HeraldServer, events
from bench.lab import Lab
from bench.load.driver import Load
from bench.peers.peer import Dialect, Expect, Post

needed = [name for name in ("cc", "taskset") if shutil.which(name) is None]
pytestmark = [
    pytest.mark.skipif(bool(needed), reason=f"not installed: {', '.join(needed)}"),
    pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="the benchmark needs two cores"),
]
USERS = [(f"u{number:05}", "-") for number in range(8)]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    lab = Lab(100)
    yield lab
    lab.close()


def _mark(number: int, sent: int) -> bytes:
    return b"@%08d@%021d@@" % (number, sent)


def _frame(payload: bytes) -> bytes:
    return bytes([0x81, len(payload)]) + payload


class Sender(threading.Thread):
    """A server that sends each client the marks it is told to, as it pleases."""

    def __init__(self, numbers: list[int], late: float = 0.0) -> None:
        super().__init__(daemon=True)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._numbers = numbers
        self._late = late
        self._kept: list[socket.socket] = []

    def run(self) -> None:
        for _ in USERS:
            client, _ = self._listener.accept()
            self._kept.append(client)
            head = b""
            while b"\r\n\r\n" not in head:
                head += client.recv(4096)
            client.sendall(b"HTTP/1.1 101 Switching Protocols\r\n\r\n" + _frame(b"hello"))
            sent = time.time_ns() - int(self._late * 1e9)
            data = b"".join(_frame(b'{"m":"%b"}' % _mark(n, sent)) for n in self._numbers)
            for at in range(0, len(data), 7):  # frames and marks come in pieces
                client.sendall(data[at : at + 7])

    def stop(self) -> None:
        self.join(30)
        for client in self._kept:
            client.close()
        self._listener.close()


@pytest.fixture
def load(lab: Lab) -> Iterator[Load]:
    load = lab.load(USERS)
    yield load
    load.close()


@pytest.mark.parametrize(
    ("numbers", "delivered", "skipped", "misordered"),
    [
        ([1, 2, 3, 4], 4, 0, 0),
        ([1, 2, 4], 3, 1, 0),
        ([3], 1, 2, 0),
        ([1, 2, 2, 3], 3, 0, 1),
        ([1, 3, 2], 2, 1, 1),
    ],
    ids=["all", "one lost", "the first two lost", "one doubled", "two changed places"],
)
def test_it_sees_what_is_lost_doubled_and_out_of_order(
    load: Load, numbers: list[int], delivered: int, skipped: int, misordered: int
) -> None:
    sender = Sender(numbers)
    sender.start()
    load.aim(sender.port, sender.port)
    load.speak(Dialect(("GET / HTTP/1.1",), [Expect("hello")]))
    found = load.connect(len(USERS), need=len(numbers))
    sender.stop()
    assert found["delivered"] == delivered * len(USERS)
    assert found["skipped"] == skipped * len(USERS)
    assert found["misordered"] == misordered * len(USERS)


def test_herald_delivers_all_that_is_posted_to_users_and_to_all(lab: Lab) -> None:
    herald = HeraldServer()
    with lab.station(herald, users=64) as station:
        load = station.load
        load.connect(50)
        load.publish(herald.post_to_user())
        for found in (load.closed(4, 60.0, posts=200), load.open(4, 500.0, 0.5)):
            assert found["refused"] == found["misordered"] == found["skipped"] == 0
            assert found["delivered"] >= found["expected"] > 0
        load.reset()
        load.publish(Post(BATCH, events("all", 10)))
        found = load.lockstep(3, patience=60.0)
        assert found["delivered"] == found["expected"] == 3 * 10 * 50
        assert found["misordered"] == found["skipped"] == found["refused"] == 0
        assert found["delivery_ms"]["count"] == 1500
