"""What must hold whatever comes: no crash, no hang, no error in the log, no growth of memory."""

from __future__ import annotations

import hashlib
import itertools
import json
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.fuzz.peer import Peer
from tests.harness.process import PATIENCE, Herald, mint
from tests.hub.wire import PING, PONG, TEXT, frame, handshake

QUIET = {"log_level": "info", "heartbeat_interval": "600"}
"""Settings: a line for each connection would be most of a long run's log, and the witness, which is
asked only now and then, must not be taken for dead in between."""
FOUND = Path(__file__).parent / "found"
GROWTH = 48 << 20
"""Bytes by which memory may have grown after the warm-up: an interpreter's heap is never quite
still, and a leak of 100 bytes for each of a million inputs is seen."""
_BAD_LEVELS = ("error", "critical")


class Witness:
    """A client that keeps to the protocol, beside those that do not."""

    def __init__(self, herald: Herald, user: str) -> None:
        self.channel = f"user:{user}"
        self._peer = Peer(herald.port, handshake(mint(user, ttl=86400.0)))
        # Before that it has joined nothing, and what is published is not for it.
        assert b'"welcome"' in self._peer.next().payload

    def close(self) -> None:
        self._peer.close()

    def hears(self, data: Any) -> None:
        """The event with this data comes, and a ping is answered."""
        self._peer.send(frame(PING, b"well?"))
        awaited = {"event", "pong"}
        while awaited:
            got = self._peer.next()
            if got.opcode == PONG:
                awaited.discard("pong")
            elif got.opcode == TEXT:
                message = json.loads(got.payload)
                # Some input may be an event to everyone.
                if message["type"] == "event" and message["channel"] == self.channel:
                    assert message["data"] == data, message
                    awaited.discard("event")
            else:
                assert got.opcode == PING, got


class Watch:
    """One server under fuzz."""

    _numbers = itertools.count(1)

    def __init__(self, herald: Herald, user: str) -> None:
        self.herald = herald
        self.witness = Witness(herald, user)
        self._read_of_log = 0
        self._of_late: deque[Sequence[bytes]] = deque(maxlen=3)
        self._warm = 0
        self.most = 0

    def check(self) -> None:
        """Everything that can be seen while inputs go on."""
        assert self.herald.process.poll() is None, self.herald.log()[-5000:]
        self._check_log()
        number = next(self._numbers)
        answer = self.herald.publish(self.witness.channel, number)
        try:
            self.witness.hears(number)
        except TimeoutError:
            retained = self.herald.get(f"/v1/channels/{self.witness.channel}/events").text
            raise AssertionError(
                f"{number} was not heard, published as {answer}; retained: {retained}; "
                f"{self.herald.metrics()}; {self.herald.log()[-2000:]}"
            ) from None
        self.most = max(self.most, self._memory())

    def after(self, kind: str, sent: Sequence[bytes]) -> None:
        """The log after some inputs: they and those before them are saved where it has an error."""
        self._of_late.append(sent)
        try:
            self._check_log()
        except AssertionError as error:
            paths = [str(save(kind, one)) for some in self._of_late for one in some]
            raise AssertionError(f"{error}\nfor one of {paths}") from None

    def warm_once(self) -> None:
        """From here on memory must not grow; what is called later changes nothing."""
        self._warm = self._warm or self._memory()

    def settle(self) -> None:
        """At the end: only the witness is left, and memory is what it was."""
        self.check()
        self._until_only("herald_connections", 1)
        self._until_only("herald_channels", 2)
        self.witness.close()
        self._until_only("herald_connections", 0)
        self._until_only("herald_channels", 0)
        grown = self._memory() - self._warm if self._warm else 0
        assert grown < GROWTH, f"memory grew by {grown >> 10} KiB"

    def close(self) -> None:
        self.witness.close()

    @property
    def memory_report(self) -> str:
        return f"{self._warm >> 20} MiB when warm, at most {self.most >> 20} MiB"

    def _until_only(self, metric: str, value: int) -> None:
        deadline = time.monotonic() + PATIENCE
        while (now := self.herald.metrics()[metric]) != value:
            assert time.monotonic() < deadline, f"{metric} is {now}, not {value}"
            time.sleep(0.02)

    def _check_log(self) -> None:
        with self.herald.log_file.open("rb") as file:
            file.seek(self._read_of_log)
            new = file.read()
        end = new.rfind(b"\n") + 1
        self._read_of_log += end
        for line in new[:end].decode(errors="replace").splitlines():
            assert "Traceback" not in line, line
            # What is no JSON is not from the logger: the interpreter's own complaint.
            assert json.loads(line)["level"] not in _BAD_LEVELS, line

    def _memory(self) -> int:
        """Resident bytes; 0 where the system does not tell."""
        try:
            text = Path(f"/proc/{self.herald.process.pid}/status").read_text()
        except OSError:
            return 0
        return int(text.split("VmRSS:")[1].split()[0]) << 10


def save(kind: str, data: bytes) -> Path:
    """Keep an input that failed, as a file for the corpus."""
    FOUND.mkdir(exist_ok=True)
    path = FOUND / f"{kind}-{hashlib.sha256(data).hexdigest()[:10]}.bin"
    path.write_bytes(data)
    return path
