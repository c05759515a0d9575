"""Measures what one of everything costs: `python -m bench.costs --measure`.

CPU is the process's own time as the kernel counts it, so a busy machine disturbs it little. Memory
is what grows when 10,000 of it are added. Takes about three minutes.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import hiredis
import redis
import uvloop

from bench.herald import BATCH, DATA, HeraldServer, event
from bench.lab import Lab, Station, settle
from bench.load.driver import BenchError
from bench.machine import cpu_seconds, rss_kb
from bench.peers.peer import MARK, SERVER_CPU, Post
from bench.progress import Progress
from bench.scenarios.publish import USERS
from bench.scenarios.resume import MISSED, drop_and_resume
from bench.scenarios.scaleout import Nodes
from bench.simulation.storms import AUDIT_BATCH
from service.broker import keys, scripts
from service.broker.broker import Broker
from service.broker.endpoint import parse_engine_url
from service.broker.event_log import Commands, LogPolicy
from service.broker.topology import SLOTS
from service.core.event import Event, encode_fragment
from service.core.principal import Publisher
from tests.harness.cluster import Node, running_cluster
from tests.harness.process import running

CONNECTIONS = 10_000
LISTENERS = (0, 64)
"""Subscribed links to one channel: what each costs the engine is the slope."""
SHARDS = (3, 15)
"""Primaries of two Clusters: what one more costs a node is the slope."""
PROBING = 200
_QUIET = 31.0
"""Seconds of idling: a ping and a comparison of positions for each connection."""
_RATE, _RATE_SECONDS = 2000, 4.0
_CACHES = "/proc/slabinfo"


def measure(lab: Lab, progress: Progress) -> dict[str, float]:
    """Every cost that can be measured here, by the name it has in `bench.costs.Costs`."""
    progress.plan(4)
    count = min(CONNECTIONS, lab.most_connections) // 100 * 100
    found: dict[str, float] = {}
    for text, part in (
        (f"one node, {count:,} connections", lambda: _one_node(lab, count)),
        ("two nodes: one publishes, the other delivers", lambda: _two_nodes(lab, count // 2)),
        ("the engine alone", lambda: _engine(lab)),
        ("a node of a Cluster", lambda: _more_shards() | _audit_in_pod()),
    ):
        progress.step(text)
        part_found = part()
        for name, value in part_found.items():
            progress.saw(f"{name} {value:.2f}")
        found |= part_found
    found["push_us"] = found.pop("push_and_delivery_us") - found["delivery_us"]
    # What each shard more costs, of which a node without a Cluster has one.
    found["node_us"] -= found["shard_us"]
    return found


def _one_node(lab: Lab, count: int) -> dict[str, float]:
    herald = HeraldServer()
    with lab.station(herald, count) as station, _engine_of(station) as engine:
        settle(4)
        node_us = _busy_us(station.running.pids[0])
        link_bytes = _link_bytes(engine)
        before_rss, before_engine = station.rss_kb(), _used(engine)
        before_kernel, before_sockets = _kernel_bytes(), _sockets()
        server, driver = _spent(station, lambda: station.load.connect(count))
        settle()
        found = {
            "process_mb": before_rss / 1024,
            "connection_kb": (station.rss_kb() - before_rss) / count,
            "connect_us": 1e6 * server / count,
            "engine_connect_us": 1e6 * driver / count,
            "node_us": node_us,
            "link_kb": link_bytes / 1024,
        }
        kernel = _kernel_bytes() - before_kernel
        if kernel > 0:
            found["socket_kb"] = kernel / 1024 / max(1, _sockets() - before_sockets)
        listened = (_used(engine) - before_engine) / count
        server, _ = _spent(station, lambda: station.load.idle(_QUIET))
        found["idle_us"] = (1e6 * server / _QUIET - node_us) / count

        one = herald.post_to_all()
        assert one is not None
        station.load.publish(one)
        station.load.lockstep(5)
        station.load.reset()
        rounds: dict[str, Any] = {}
        server, _ = _spent(station, lambda: rounds.update(station.load.lockstep(40)))
        found["delivery_us"] = 1e6 * server / rounds["delivered"]
        found["frame_bytes"] = rounds["received_bytes"] / rounds["delivered"]

        station.load.drop()
        settle(3)
        found["channel_bytes"] = (_used(engine) - before_engine) / count
        found["subscription_bytes"] = listened - found["channel_bytes"]
        station.load.publish(_batch())
        posts = count // 100
        server, _ = _spent(station, lambda: station.load.closed(1, 60, posts))
        found["publish_batched_us"] = 1e6 * server / (100 * posts)
    with lab.station(herald, count) as station:
        row = drop_and_resume(station, herald, count)
        resumed = row["resumed"]
        found["resume_us"] = 1e6 * resumed["server_cpu"] / count
        found["engine_resume_us"] = 1e6 * resumed["engine_cpu"] / count
        if resumed["delivered"] != count * MISSED:
            raise BenchError("not all came back with what they had missed")
    return found


def _two_nodes(lab: Lab, count: int) -> dict[str, float]:
    """Clients at the second node, publishers at the first: each has its own work only."""
    nodes = Nodes(2, 1)
    with lab.station(nodes, count, (SERVER_CPU,)) as station:
        publishing, delivering = station.running.pids
        station.load.aim(nodes.ports[1], nodes.ports[0])
        station.load.speak(nodes.dialect())
        station.load.connect(count)
        station.load.publish(nodes.post_to_user())
        station.load.open(64, _RATE, 1.0)
        station.load.reset()
        settle(0.5)
        pids = ([publishing], [delivering])
        before = [cpu_seconds(pid) for pid in pids]
        result = station.load.open(64, _RATE, _RATE_SECONDS)
        spent = [cpu_seconds(pid) - one for pid, one in zip(pids, before, strict=True)]
    if result["delivered"] != result["events"]:
        raise BenchError(f"{result['delivered']} of {result['events']} events arrived")
    return {
        "publish_us": 1e6 * spent[0] / result["events"],
        "push_and_delivery_us": 1e6 * spent[1] / result["events"],
    }


def _engine(lab: Lab) -> dict[str, float]:
    found: dict[str, float] = {}
    with lab.engine(SERVER_CPU) as (engine, port), redis.Redis(port=port) as client:
        client.execute_command("SCRIPT", "LOAD", scripts.PUBLISH.source)
        many = [_publish_command(f"user:u{number:05}") for number in range(USERS)]
        found["script_us"] = _script_us(lab, engine.pid, port, many)
        found |= _stored(client, port)

        names = [keys.meta_key(f"user:u{number:05}") for number in range(USERS)]
        batches = [names[at : at + 500] for at in range(0, USERS, 500)]
        found["audit_us"] = _each_us(
            engine.pid, USERS, lambda: [client.mget(batch) for batch in batches]
        )
        found["audit_get_us"] = _each_us(
            engine.pid, USERS, lambda: [_gets(client, batch) for batch in batches]
        )

        one = [_publish_command("all")] * 3200
        for name, depth in (("engine_push_us", 1), ("engine_push_gathered_us", 32)):
            costs = []
            for listeners in LISTENERS:
                with _listening(port, listeners):
                    costs.append(_script_us(lab, engine.pid, port, one, depth))
            found[name] = (costs[1] - costs[0]) / (LISTENERS[1] - LISTENERS[0])
        found["engine_probe_us"] = _probe_us(engine.pid, port)
    return found


def _probe_us(pid: int, port: int) -> float:
    """What a node asks of a shard each second, among many nodes: a probe to itself, and on each of
    its three links whether this is still a primary.
    """
    role = bytes(hiredis.pack_command(("ROLE",)))
    with contextlib.ExitStack() as ends:
        nodes = []
        for number in range(PROBING):
            name = keys.live_channel(f"probe:{number:016x}")
            links = [
                ends.enter_context(socket.create_connection(("127.0.0.1", port), 5))
                for _ in range(3)
            ]
            links[0].sendall(bytes(hiredis.pack_command(("SSUBSCRIBE", name))))
            links[0].recv(4096)
            nodes.append((links, bytes(hiredis.pack_command(("SPUBLISH", name, "0-0 0 ")))))

        def ask_all() -> None:
            for links, probe in nodes:
                links[1].sendall(probe)
            for links, _ in nodes:
                links[1].recv(4096)
                links[0].recv(4096)
            for links, _ in nodes:
                for link in links:
                    link.sendall(role)
            for links, _ in nodes:
                for link in links:
                    link.recv(4096)

        return _each_us(pid, PROBING, ask_all, times=50)


def _stored(client: Any, port: int) -> dict[str, float]:
    """Engine memory of a log with one event, and of each event in one that is full and trimmed."""
    key, found = keys.log_key("user:full"), {}
    command = _publish_command("user:full")
    with socket.create_connection(("127.0.0.1", port), 5) as link:
        for number in range(1, 251):
            link.sendall(command)
            link.recv(4096)
            if number == 1:
                found["first_event_bytes"] = float(client.memory_usage(key, samples=0))
    found["event_bytes"] = client.memory_usage(key, samples=0) / client.xlen(key)
    return found


def _more_shards() -> dict[str, float]:
    """What a shard more costs a node that is idle: a probe a second, and three links."""
    busy, sizes = [], []
    for primaries in SHARDS:
        with (
            running_cluster(primaries) as cluster,
            TemporaryDirectory() as directory,
            running(cluster.url, Path(directory), log_level="warning", drain_seconds="1") as herald,
        ):
            settle(4)
            busy.append(_busy_us(herald.process.pid))
            sizes.append(rss_kb([herald.process.pid]))
    more = SHARDS[1] - SHARDS[0]
    return {"shard_us": (busy[1] - busy[0]) / more, "shard_kb": (sizes[1] - sizes[0]) / more}


def _audit_in_pod() -> dict[str, float]:
    """A node's own work to compare positions with a Cluster's, one GET each."""
    node = Node()
    try:
        node.do("CLUSTER", "ADDSLOTSRANGE", 0, SLOTS - 1)
        settle(2)
        return {"pod_audit_get_us": uvloop.run(_tips(f"redis+cluster://127.0.0.1:{node.port}"))}
    finally:
        node.stop()


async def _tips(url: str, batches: int = 15) -> float:
    names = [f"user:u{number:05}" for number in range(AUDIT_BATCH)]
    broker = Broker(parse_engine_url(url), "bench", LogPolicy(100, 86400), 5.0, lambda _: None)
    broker.start()
    try:
        await broker.wait_open(30)
        await broker.log.tips(names)
        before = time.process_time()
        for _ in range(batches):
            await broker.log.tips(names)
        return 1e6 * (time.process_time() - before) / (batches * AUDIT_BATCH)
    finally:
        await broker.close()


def _busy_us(pid: int, seconds: float = 8.0) -> float:
    """CPU a second of a process that is left alone."""
    before = cpu_seconds([pid])
    time.sleep(seconds)
    return 1e6 * (cpu_seconds([pid]) - before) / seconds


def _gets(client: Any, names: list[bytes]) -> None:
    with client.pipeline(transaction=False) as pipeline:
        for name in names:
            pipeline.get(name)
        pipeline.execute()


def _each_us(pid: int, count: int, work: Callable[[], Any], times: int = 5) -> float:
    before = cpu_seconds([pid])
    for _ in range(times):
        work()
    return 1e6 * (cpu_seconds([pid]) - before) / (count * times)


def _script_us(lab: Lab, pid: int, port: int, commands: list[bytes], depth: int = 32) -> float:
    """CPU of one publish script, so many in flight."""
    load = lab.load([("u00000", "-")])
    try:
        load.aim(port, port)
        load.engine_alone(commands, depth, 0.3)
        before = cpu_seconds([pid])
        result = load.engine_alone(commands, depth, 1.5)
        return 1e6 * (cpu_seconds([pid]) - before) / result["replies"]
    finally:
        load.close()


@contextlib.contextmanager
def _listening(port: int, count: int) -> Iterator[None]:
    """Links that are subscribed to `all` and read what comes."""
    links = [socket.create_connection(("127.0.0.1", port), 5) for _ in range(count)]
    subscribe = bytes(hiredis.pack_command(("SSUBSCRIBE", keys.live_channel("all"))))
    over = threading.Event()

    def drain() -> None:
        import select

        waiting = select.epoll()
        for link in links:
            waiting.register(link.fileno(), select.EPOLLIN)
        by_number = {link.fileno(): link for link in links}
        while not over.is_set():
            for number, _ in waiting.poll(0.05):
                by_number[number].recv(1 << 20)
        waiting.close()

    for link in links:
        link.sendall(subscribe)
    thread = threading.Thread(target=drain, daemon=True)
    thread.start()
    settle(0.3)
    try:
        yield
    finally:
        over.set()
        thread.join(5)
        for link in links:
            link.close()


def _publish_command(channel: str) -> bytes:
    """As Herald sends it, of events as in the whole benchmark."""
    data = DATA.replace("{mark}", "@" * MARK)
    single = Event((channel,), "order.shipped", data.encode(), None, None)
    now = time.time()
    commands = Commands(LogPolicy(100, 86400)).publish(
        single,
        Publisher("bench"),
        encode_fragment(single, int(now * 1000)),
        b"%d" % (now * 1e6),
        None,
    )
    return bytes(hiredis.pack_command(commands[0]))  # type: ignore[arg-type]


def _batch() -> Post:
    return Post(BATCH, '{{"events":[{}]}}'.format(",".join([event("user:{user}")] * 100)))


def _spent(station: Station, work: Callable[[], Any]) -> tuple[float, float]:
    """CPU seconds of the server and the engine while `work` is done."""
    server, engine = station.cpu_seconds(), station.engine_cpu_seconds()
    work()
    return station.cpu_seconds() - server, station.engine_cpu_seconds() - engine


@contextlib.contextmanager
def _engine_of(station: Station) -> Iterator[Any]:
    """A client of the station's engine, whose process is titled `… 127.0.0.1:PORT`."""
    title = Path(f"/proc/{station.engine_pid}/cmdline").read_text().strip("\0 ")
    with redis.Redis(port=int(title.rpartition(":")[2].split()[0])) as client:
        yield client


def _used(engine: Any) -> int:
    return int(engine.info("memory")["used_memory"])


def _link_bytes(engine: Any) -> float:
    """What the engine keeps for one of a node's idle links."""
    sizes = [int(one["tot-mem"]) for one in engine.client_list() if one["cmd"] != "client|list"]
    return sum(sizes) / max(1, len(sizes))


def _kernel_bytes() -> int:
    """All of the kernel's objects, and the pages of TCP's buffers; 0 where only root may see it."""
    try:
        lines = Path(_CACHES).read_text().splitlines()[2:]
    except OSError:
        return 0
    objects = sum(int(fields[1]) * int(fields[3]) for fields in map(str.split, lines))
    return objects + 4096 * _of_tcp("mem")


def _sockets() -> int:
    return _of_tcp("alloc")


def _of_tcp(name: str) -> int:
    """A figure of /proc/net/sockstat's line about TCP. Both ends of loopback count."""
    for line in Path("/proc/net/sockstat").read_text().splitlines():
        fields = line.split()
        if fields[0] == "TCP:":
            return int(fields[fields.index(name) + 1])
    return 0
