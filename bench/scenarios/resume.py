"""(e) Resume storm: everyone is dropped at once, misses ten events, and comes back for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench.herald import BATCH, HeraldServer, event
from bench.lab import Lab, Station, settle
from bench.load.driver import BenchError, Result
from bench.peers.peer import Dialect, Expect, Peer, Post, Say
from bench.progress import Progress
from bench.scenarios.rounds import Measurement, Record, measure, per_second

NAME = "resume"
CONNECTIONS = 10_000
MISSED = 10
_USERS_A_BATCH = 10
WINDOW = 256

_CAPTURES = ('"user:{user}":{"position":"', '"id":"')
"""What stands before a position in a welcome and in an event."""

_COMING_BACK = {
    "herald": Dialect(
        (
            "GET /v1/ws?since=user:{user}@{position} HTTP/1.1",
            "Authorization: Bearer {token}",
        ),
        [Expect('"welcome"')],
    ),
    "herald.v1": Dialect(
        ("GET /v1/ws HTTP/1.1", "Sec-WebSocket-Protocol: herald.v1"),
        [
            Say(
                '{"type":"connect","token":"{token}","positions":{"user:{user}":"{position}"}}',
            ),
            Expect('"welcome"'),
        ],
        ping='{"type":"ping"}',
        pong='{"type":"pong"}',
    ),
}


def seconds(systems: int, rounds: int, quick: bool) -> float:
    """About how long it takes."""
    return rounds * 2 * (8 if quick else 18)


def run(
    lab: Lab, peers: Sequence[Peer], rounds: int, quick: bool, progress: Progress
) -> dict[str, Any]:
    record = Record(progress)
    connections = min(2000 if quick else CONNECTIONS, lab.most_connections)
    connections -= connections % _USERS_A_BATCH
    herald = [peer for peer in peers if isinstance(peer, HeraldServer)]
    if not herald:
        record.note(
            "only Herald is measured here: no other system of the table resumes by position"
        )
        return record.result(connections=connections, missed=MISSED)

    def storm(system: HeraldServer, number: int) -> Measurement:
        # As many users as connections: each one misses its ten.
        with lab.station(system, connections) as station:
            row = drop_and_resume(station, system, connections)
        progress.saw(
            f"fresh {row['fresh']['rate']:,.0f}/s; all exact again after "
            f"{row['resumed']['seconds']:.2f} s: {row['resumed']['rate']:,.0f}/s"
        )
        return row

    record.run([*herald, HeraldServer(plain=False)], rounds, storm)
    return record.result(connections=connections, missed=MISSED)


def drop_and_resume(station: Station, system: HeraldServer, connections: int) -> Measurement:
    """Fresh connects, then the storm.

    Raises:
        BenchError: not all came back, or not with all that they missed.
    """
    load = station.load
    load.speak(system.dialect(), _CAPTURES[:1])
    fresh = measure(station, lambda: load.connect(connections, window=WINDOW))
    fresh["rate"] = per_second(connections, fresh["seconds"])
    load.drop()
    settle(2)

    one = event("user:{user}"), event("user:{same}")
    batch = ",".join(([one[0]] + [one[1]] * (MISSED - 1)) * _USERS_A_BATCH)
    load.publish(Post(BATCH, f'{{"events":[{batch}]}}'))
    missed = load.closed(1, 60, connections // _USERS_A_BATCH)  # one publisher: user after user
    if missed["refused"] or missed["events"] != connections * MISSED:
        raise BenchError(f"what the clients were to miss was not published: {missed}")

    load.speak(_COMING_BACK[system.name], _CAPTURES)

    def come_back() -> Result:
        result = load.connect(connections, window=WINDOW, need=MISSED)
        return {**result, "expected": connections * MISSED}

    resumed = measure(station, come_back)
    resumed["rate"] = per_second(connections, resumed["seconds"])
    resumed["published_per_second"] = per_second(missed["events"], missed["seconds"])
    return {"fresh": fresh, "resumed": resumed}
