"""The `herald` command, as a person in a plain shell uses it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from websockets.utils import accept_key

from service.broker.embedded import EmbeddedEngine
from tests.harness.process import (
    KEY,
    PATIENCE,
    SECRET,
    Herald,
    clean_environment,
    eventually,
    free_port,
    mint,
    open_plain,
)
from tests.harness.servers import end_of


def run(
    *arguments: str, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "service", *arguments],
        env=clean_environment() if environment is None else environment,
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE,
        check=False,
    )


class Background:
    """A command that goes on; its output is in a file, so that nothing blocks it."""

    def __init__(self, output: Path, *arguments: str, environment: dict[str, str]) -> None:
        self.output = output
        with output.open("wb") as file:
            self.process = subprocess.Popen(
                arguments, env=environment, stdout=file, stderr=subprocess.STDOUT
            )

    def text(self) -> str:
        return self.output.read_text()

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)

    def events(self) -> list[dict[str, object]]:
        """The whole lines of JSON that were printed."""
        lines = self.text().rpartition("\n")[0].splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]


@pytest.fixture
def background(tmp_path: Path) -> Iterator[Callable[..., Background]]:
    started: list[Background] = []

    def start(*arguments: str, **settings: str) -> Background:
        output = tmp_path / f"output-{len(started)}"
        started.append(Background(output, *arguments, environment=clean_environment(**settings)))
        return started[-1]

    yield start
    for item in started:
        if item.process.poll() is None:
            item.process.kill()
            item.process.wait()


def herald_command() -> str:
    return str(Path(sys.executable).parent / "herald")


async def test_dev_prints_commands_that_work_as_printed_in_a_plain_shell(
    background: Callable[..., Background], tmp_path: Path
) -> None:
    dev = background(herald_command(), "dev", port=str(free_port()))
    await eventually(lambda: "Stop with Ctrl-C" in dev.text(), "dev is ready")
    text = dev.text()
    listen = re.search(r"^  (\S+ listen .*)$", text, re.MULTILINE)
    publish = re.search(r"^  (\S+ publish .*)$", text, re.MULTILINE)
    curl = re.search(r"^  (curl .*)$", text, re.MULTILINE)
    assert listen
    assert publish
    assert curl
    # A shell without this environment: no PATH to the venv, another folder.
    plain = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(tmp_path)}
    listener = Background(
        tmp_path / "listen", "sh", "-c", f"cd / && exec {listen[1]}", environment=plain
    )
    try:
        await eventually(lambda: "connected as alice" in listener.text(), "it listens")
        for command in (publish[1], curl[1]):
            done = subprocess.run(
                ["sh", "-c", f"cd / && {command}"],
                env=plain,
                capture_output=True,
                text=True,
                timeout=PATIENCE,
                check=False,
            )
            assert done.returncode == 0, done.stderr
            assert "positions" in done.stdout
        await eventually(lambda: len(listener.events()) == 2, "both events")
        assert [event["data"] for event in listener.events()] == [{"order": 17}] * 2
    finally:
        listener.process.kill()
        listener.process.wait()
    assert dev.stop() == 0


async def test_dev_counts_every_setting(background: Callable[..., Background]) -> None:
    dev = background(
        herald_command(), "dev", port=str(free_port()), jwt_secret=SECRET, api_keys=KEY
    )
    await eventually(lambda: "Stop with Ctrl-C" in dev.text(), "dev is ready")
    assert "HERALD_JWT_SECRET=" not in dev.text()
    assert f"--key {KEY}" in dev.text()
    assert dev.stop() == 0


async def test_the_embedded_engine_dies_with_a_killed_dev(
    background: Callable[..., Background],
) -> None:
    dev = background(herald_command(), "dev", port=str(free_port()))
    await eventually(lambda: "Stop with Ctrl-C" in dev.text(), "dev is ready")
    found = re.search(r"HERALD_REDIS_URL=unix://(\S+)", dev.text())
    assert found
    engines = [
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and found[1] in _command_line(entry)
    ]
    assert len(engines) == 1
    dev.process.kill()
    dev.process.wait()
    await eventually(lambda: not _is_alive(engines[0]), "the engine is gone")


def _command_line(process: Path) -> str:
    try:
        return (process / "cmdline").read_text()
    except OSError:
        return ""


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("missing", ["HERALD_REDIS_URL", "HERALD_JWT_SECRET", "HERALD_API_KEYS"])
def test_serve_refuses_to_start_and_names_what_is_missing(missing: str) -> None:
    environment = clean_environment(
        redis_url="redis://127.0.0.1:1", jwt_secret=SECRET, api_keys=KEY, port=str(free_port())
    )
    del environment[missing]
    done = run("serve", environment=environment)
    assert done.returncode == 2
    assert missing in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"prot": "1"}, "HERALD_PROT"),
        ({"port": "eighty"}, "HERALD_PORT"),
        ({"port": "70000"}, "HERALD_PORT"),
        ({"heartbeat_interval": "0"}, "HERALD_HEARTBEAT_INTERVAL"),
        ({"heartbeat_interval": "inf"}, "HERALD_HEARTBEAT_INTERVAL"),
        ({"head_timeout": "0"}, "HERALD_HEAD_TIMEOUT"),
        ({"max_head_bytes": "8191"}, "HERALD_MAX_HEAD_BYTES"),
        ({"max_head_bytes": "17MiB"}, "HERALD_MAX_HEAD_BYTES"),
        ({"body_timeout": "inf"}, "HERALD_BODY_TIMEOUT"),
        ({"unread_timeout": "3601"}, "HERALD_UNREAD_TIMEOUT"),
        ({"log_level": "loud"}, "HERALD_LOG_LEVEL"),
        ({"allowed_origins": "app.example.com"}, "HERALD_ALLOWED_ORIGINS"),
        ({"redis_url": "http://x"}, "HERALD_REDIS_URL"),
        ({"redis_url": "redis+cluster://h"}, "HERALD_REDIS_URL"),
        ({"api_keys": "sha256:abc"}, "HERALD_API_KEYS"),
        ({"jwt_algorithms": "RS256"}, "HERALD_JWT_SECRET"),
        ({"jwt_jwks_url": "https://issuer/keys"}, "HERALD_JWT_JWKS_URL"),
        ({"jwt_secret_file": "/nowhere"}, "HERALD_JWT_SECRET_FILE"),
        ({"host": "no such host"}, "HERALD_HOST"),
        ({"min_replicas": "17"}, "HERALD_MIN_REPLICAS"),
        ({"min_replicas": "1", "engine_timeout": "1.9"}, "HERALD_REPLICA_TIMEOUT"),
        ({"service_host": "10.0.0.1"}, "enableServiceLinks"),
        ({"port": "tcp://10.0.0.1:8000"}, "enableServiceLinks"),
    ],
)
def test_a_bad_setting_stops_the_start_with_a_sentence_that_names_it(
    settings: dict[str, str], named: str
) -> None:
    base = {
        "redis_url": "redis://127.0.0.1:1",
        "jwt_secret": SECRET,
        "api_keys": KEY,
        "port": str(free_port()),
    }
    done = run("serve", environment=clean_environment(**{**base, **settings}))
    assert done.returncode == 2
    assert named in done.stderr
    assert "Traceback" not in done.stderr
    assert SECRET not in done.stderr


def test_a_port_in_use_is_told(herald: Herald, engine: EmbeddedEngine) -> None:
    environment = clean_environment(
        redis_url=engine.url, jwt_secret=SECRET, api_keys=KEY, port=str(herald.port)
    )
    done = run("serve", environment=environment)
    assert done.returncode == 2
    assert f"Port {herald.port}" in done.stderr


def test_secrets_may_come_from_files(
    start: Callable[..., Herald], tmp_path: Path, user: str
) -> None:
    secret, keys = tmp_path / "secret", tmp_path / "keys"
    secret.write_text(SECRET + "\n")
    keys.write_text(f"{KEY}\nanother\n")
    environment = clean_environment(
        jwt_secret_file=str(secret), api_keys_file=str(keys), port=str(free_port())
    )
    done = run("token", "--user", user, environment=environment)
    assert done.returncode == 0
    assert done.stdout.count(".") == 2


def test_check_says_what_is_wrong_and_what_is_good(engine: EmbeddedEngine) -> None:
    good = clean_environment(redis_url=engine.url, jwt_secret=SECRET, api_keys=KEY)
    done = run("check", environment=good)
    assert (done.returncode, done.stdout.count("good")) == (0, 1), done.stderr
    away = clean_environment(
        redis_url="redis://127.0.0.1:1", jwt_secret=SECRET, api_keys=KEY, engine_timeout="1"
    )
    done = run("check", environment=away)
    assert done.returncode == 1
    assert "engine" in done.stderr
    alone = run("check", environment={**good, "HERALD_MIN_REPLICAS": "1"})
    assert alone.returncode == 1
    assert "HERALD_MIN_REPLICAS" in alone.stderr


def test_token_publish_and_listen_work_together(herald: Herald, user: str) -> None:
    environment = clean_environment(jwt_secret=SECRET, api_keys=KEY, port=str(herald.port))
    token = run("token", "--user", user, environment=environment).stdout.strip()
    for number in range(2):
        done = run(
            *("publish", "--to", f"user:{user}", "--type", "t", "--data", str(number)),
            environment=environment,
        )
        assert done.returncode == 0, done.stderr
    since = ("--since", f"user:{user}@0-0", "--count", "2")
    for who in (("--token", token), ("--user", user)):
        heard = run("listen", *who, *since, environment=environment)
        assert heard.returncode == 0, heard.stderr
        assert [json.loads(line)["data"] for line in heard.stdout.splitlines()] == [0, 1]


def test_publish_tells_a_refusal(herald: Herald) -> None:
    environment = clean_environment(api_keys="wrong", port=str(herald.port))
    done = run("publish", "--to", "all", "--type", "t", environment=environment)
    assert done.returncode == 1
    assert '"status":401' in done.stderr


async def test_listen_reconnects_and_resumes_without_loss_or_duplicate(
    start: Callable[..., Herald], background: Callable[..., Background], user: str
) -> None:
    herald = start()
    listener = background(herald_command(), "listen", "--url", herald.url, "--token", mint(user))
    await eventually(lambda: "connected as" in listener.text(), "it listens")
    for number in range(3):
        herald.publish(f"user:{user}", number)
        await eventually(lambda: len(listener.events()) == number + 1, "an event")  # noqa: B023
        herald.kill()
        herald.restart()
    herald.publish(f"user:{user}", 3)
    await eventually(lambda: len(listener.events()) == 4, "the last event")
    assert [event["data"] for event in listener.events()] == [0, 1, 2, 3]


async def test_listen_gives_up_on_a_bad_token(
    herald: Herald, background: Callable[..., Background]
) -> None:
    listener = background(herald_command(), "listen", "--url", herald.url, "--token", "bad")
    await eventually(lambda: listener.process.poll() is not None, "it ends")
    assert listener.process.returncode == 1
    assert "3000" in listener.text()


@pytest.mark.parametrize(
    "command", ["", "dev", "serve", "token", "publish", "listen", "inspect", "check", "openapi"]
)
def test_every_command_has_help_for_a_person(command: str) -> None:
    done = run(*([command] if command else []), "--help")
    assert done.returncode == 0
    assert "Usage:" in done.stdout
    if command == "serve":
        assert "HERALD_HEARTBEAT_INTERVAL [25]" in done.stdout


def test_openapi_is_printed() -> None:
    document = json.loads(run("openapi").stdout)
    assert "/v1/events" in document["paths"]


@pytest.mark.filterwarnings("ignore:The HMAC key is")
async def test_a_short_secret_is_warned_of_once(start: Callable[..., Herald], user: str) -> None:
    herald = start(jwt_secret="short")
    for _ in range(2):
        client = await open_plain(herald, token=mint(user, secret="short"))
        await client.expect("welcome")
        await client.close()
    assert herald.log().count("HERALD_JWT_SECRET is short") == 1
    assert "InsecureKeyLength" not in herald.log()


async def test_several_workers_share_a_port_and_tell_their_metrics_together(
    start: Callable[..., Herald], user: str, new_name: Callable[[], str]
) -> None:
    herald = start(workers="2", drain_seconds="2")
    clients = []

    def shares() -> list[float]:
        metrics = herald.metrics()
        return [metrics.get(f'herald_connections{{worker="{n}"}}', 0.0) for n in (0, 1)]

    # The second worker may begin to listen later than the first.
    while len(clients) < 40 or (not all(shares()) and len(clients) < 1000):
        clients.append(await open_plain(herald, token=mint(new_name())))
        await clients[-1].expect("welcome")
    mark = new_name()
    herald.publish("all", mark)
    for client in clients:
        while (await client.expect("event"))["data"] != mark:
            pass
    assert sum(shares()) == len(clients)
    assert all(shares())
    herald.signal(signal.SIGTERM)
    for client in clients:
        assert await client.closed() == 1012
    assert await asyncio.to_thread(herald.process.wait, PATIENCE) == 0


async def test_a_dead_worker_is_replaced_and_all_die_with_their_parent(
    start: Callable[..., Herald],
) -> None:
    herald = start(workers="2")

    def workers() -> list[int]:
        children = Path(f"/proc/{herald.process.pid}/task/{herald.process.pid}/children")
        return [int(pid) for pid in children.read_text().split()]

    assert len(workers()) == 2
    victim = workers()[0]
    os.kill(victim, signal.SIGKILL)
    await eventually(lambda: len(workers()) == 2 and victim not in workers(), "a new worker")
    await eventually(herald.is_ready, "readiness")
    left = workers()
    herald.kill()
    deadline = time.monotonic() + PATIENCE
    while any(_is_alive(pid) for pid in left):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


def test_workers_do_not_share_a_port_with_another_herald(
    start: Callable[..., Herald], engine: EmbeddedEngine
) -> None:
    herald = start(workers="2")
    environment = clean_environment(
        redis_url=engine.url,
        jwt_secret=SECRET,
        api_keys=KEY,
        port=str(herald.port),
        workers="2",
    )
    done = run("serve", environment=environment)
    assert done.returncode == 2
    assert f"Port {herald.port}" in done.stderr


def test_what_clients_call_by_name_may_stand_beside_the_settings(herald: Herald, user: str) -> None:
    environment = clean_environment(url=herald.url, api_key=KEY)
    done = run("publish", "--to", f"user:{user}", "--type", "t", environment=environment)
    assert done.returncode == 0, done.stderr
    assert f"user:{user}" in done.stdout
    checked = run("check", environment=environment)
    assert checked.returncode == 2  # for want of an engine, among others
    assert "HERALD_REDIS_URL" in checked.stderr
    assert "HERALD_URL" not in checked.stderr


class Closer:
    """A server of herald.v1 that closes before it is sent anything, as one whose engine is away."""

    def __init__(self, code: int, times: int) -> None:
        self._code = code
        self._left = times
        self.served = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        found = re.search(rb"(?i)sec-websocket-key: (\S+)", head)
        assert found
        self.served += 1
        code = self._code if self.served <= self._left else 3003
        # In one piece, so that the client has read the close before it can send.
        writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
            b"sec-websocket-protocol: herald.v1\r\nsec-websocket-accept: %b\r\n\r\n\x88\x02%b"
            % (accept_key(found[1].decode()).encode(), code.to_bytes(2))
        )
        await reader.read(1000)
        writer.close()


@pytest.mark.parametrize(("code", "tries"), [(1013, 2), (1012, 2), (4000, 2), (3000, 1), (4101, 1)])
async def test_listen_takes_a_close_before_connect_as_any_other(
    background: Callable[..., Background], code: int, tries: int
) -> None:
    closer = Closer(code, tries)
    server = await asyncio.start_server(closer.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    listener = background(herald_command(), "listen", "--url", url, "--token", "t")
    await eventually(lambda: listener.process.poll() is not None, "it ends")
    await end_of(server)
    assert listener.process.returncode == 1
    assert listener.text().count(f"closed: {code}") == tries
    assert "Traceback" not in listener.text()
    assert closer.served == (1 if tries == 1 else tries + 1)


async def test_listen_waits_for_the_engine(
    start: Callable[..., Herald],
    background: Callable[..., Background],
    own_engine: EmbeddedEngine,
    user: str,
) -> None:
    herald = start(own_engine.url, engine_timeout="0.5")
    own_engine.kill()
    await eventually(lambda: not herald.is_ready(), "the loss")
    listener = background(herald_command(), "listen", "--url", herald.url, "--token", mint(user))
    await eventually(lambda: "closed: 1013" in listener.text(), "the refusal")
    own_engine.restart()
    await eventually(lambda: "connected as" in listener.text(), "it listens")
    assert "Traceback" not in listener.text()


TRY = {
    "publish": ("publish", "--to", "all", "--type", "t"),
    "inspect": ("inspect", "all"),
    "listen": ("listen", "--token", "t"),
}


@pytest.mark.parametrize("command", TRY)
@pytest.mark.parametrize(
    "url",
    ["http://h:port", "http://h:99999", "http://", "http://no such host", "http://[::1", "h:8000"],
)
def test_an_address_that_is_none_is_told_as_that(command: str, url: str) -> None:
    done = run(*TRY[command], "--url", url, environment=clean_environment(api_keys=KEY))
    assert done.returncode == 2
    assert "--url" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("key", ["a\nb", "key→"])
@pytest.mark.parametrize("command", ["publish", "inspect"])
def test_a_key_that_no_header_can_carry_is_told_as_that(command: str, key: str) -> None:
    done = run(*TRY[command], "--key", key)
    assert done.returncode == 2
    assert "the API key has characters" in done.stderr
    assert key not in done.stderr


@pytest.mark.parametrize("command", ["publish", "inspect"])
async def test_a_server_that_speaks_no_http_is_told_as_that(command: str) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(b"-ERR unknown command\r\n")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    environment = clean_environment(api_keys=KEY)
    done = await asyncio.to_thread(run, *TRY[command], "--url", url, environment=environment)
    await end_of(server)
    assert done.returncode == 1
    assert url in done.stderr
    assert "does not speak HTTP" in done.stderr
    assert "Traceback" not in done.stderr


def test_tls_to_a_server_without_it_is_told_as_that(herald: Herald) -> None:
    url = herald.url.replace("http:", "https:")
    done = run(*TRY["publish"], "--url", url, "--key", KEY)
    assert done.returncode == 1
    assert "it does not speak TLS; is it http://?" in done.stderr


def test_publish_takes_the_address_that_curl_takes(herald: Herald) -> None:
    done = run(*TRY["publish"], "--url", herald.url + "/v1/events", "--key", KEY)
    assert done.returncode == 0, done.stderr


def test_data_without_quotes_is_told_how_to_quote() -> None:
    done = run(*TRY["publish"], "--data", "hello")
    assert done.returncode == 2
    assert """'"hello"'""" in done.stderr


def test_since_without_a_channel_is_told_its_form() -> None:
    done = run(*TRY["listen"], "--since", "user:alice")
    assert done.returncode == 2
    assert "--since is CHANNEL@POSITION" in done.stderr


async def test_listen_tells_why_a_server_refuses_in_its_words(
    start: Callable[..., Herald], background: Callable[..., Background], user: str
) -> None:
    herald = start(api_port=str(free_port()))
    listener = background(herald_command(), "listen", "--url", herald.url, "--token", mint(user))
    await eventually(lambda: "(HERALD_PORT)" in listener.text(), "the reason")
    assert f"cannot connect to ws://127.0.0.1:{herald.api_port}/v1/ws: HTTP 404" in listener.text()


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("redis://:hush@nowhere.invalid:70", "nowhere.invalid:70: "),
        ("unix://:hush@/nowhere/engine.sock", "/nowhere/engine.sock: "),
        ("redis+sentinel://:hush@127.0.0.1:1/main", "127.0.0.1:1: The sentinels"),
        ("redis+cluster://:hush@127.0.0.1:1", "127.0.0.1:1: "),
    ],
)
def test_check_says_where_the_engine_is_not(url: str, place: str) -> None:
    environment = clean_environment(
        redis_url=url, jwt_secret=SECRET, api_keys=KEY, engine_timeout="1"
    )
    done = run("check", environment=environment)
    assert done.returncode == 1
    assert (
        f"herald: the engine: {'the Cluster: ' if 'cluster' in url else ''}{place}" in done.stderr
    )
    assert "hush" not in done.stderr


def test_check_refuses_origins_that_serve_refuses(engine: EmbeddedEngine) -> None:
    environment = clean_environment(
        redis_url=engine.url, jwt_secret=SECRET, api_keys=KEY, allowed_origins="app.example.com"
    )
    done = run("check", environment=environment)
    assert done.returncode == 2
    assert "HERALD_ALLOWED_ORIGINS" in done.stderr


@pytest.mark.parametrize("command", ["publish", "listen", "inspect"])
def test_help_says_what_counts_where_an_option_is_not_given(command: str) -> None:
    text = " ".join(run(command, "--help").stdout.split())
    assert "unset: HERALD_URL, or the settings." in text
    if command != "listen":
        assert "unset: HERALD_API_KEY, or the first of HERALD_API_KEYS." in text
