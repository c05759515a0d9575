"""The playground's server side: who is served what, and what its deeds do. Its page: tests/page."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import subprocess
import sys
import zipfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from service.broker.embedded import EmbeddedEngine
from service.edge.answers import ProblemError
from service.edge.playground.visitors import check_host
from tests.edge.wire import exchange, problem, request_bytes
from tests.harness.process import (
    KEY,
    PATIENCE,
    Client,
    Herald,
    clean_environment,
    free_port,
    open_herald,
    open_plain,
)

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "service" / "edge" / "playground"
ASSETS = sorted(file.name for file in FOLDER.iterdir() if file.suffix in (".css", ".js", ".svg"))


class Dev(Herald):
    """A running `herald dev`."""

    def _start(self) -> subprocess.Popen[bytes]:
        with self.log_file.open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "service", "dev"],
                env=clean_environment(**self.settings),
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(self, deed: str, body: Any = None, /, **headers: str | None) -> httpx2.Response:
        """What the page asks for, as a browser sends it; a header that is None is not sent."""
        given: dict[str, str | None] = {
            "content-type": "application/json",
            "origin": self.origin,
            "sec-fetch-site": "same-origin",
            **{name.replace("_", "-"): text for name, text in headers.items()},
        }
        sent = {name: text for name, text in given.items() if text is not None}
        content = body if isinstance(body, bytes) else json.dumps(body or {}).encode()
        return self.http.post(f"{self.origin}/dev/{deed}", content=content, headers=sent)

    def told(self, deed: str, body: Any = None) -> dict[str, Any]:
        answer = self.ask(deed, body)
        assert answer.status_code == 200, answer.text
        assert answer.headers["cache-control"] == "no-store"
        return dict(answer.json())


@pytest.fixture(scope="module")
def dev(engine: EmbeddedEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dev]:
    dev = Dev(engine.url, tmp_path_factory.mktemp("dev"))
    try:
        dev.wait_ready()
        yield dev
    finally:
        dev.stop()


@pytest.fixture
def start_dev(engine: EmbeddedEngine, tmp_path: Path) -> Iterator[Callable[..., Dev]]:
    started: list[Dev] = []

    def start(**settings: str | None) -> Dev:
        started.append(Dev(engine.url, tmp_path, **settings))
        started[-1].wait_ready()
        return started[-1]

    yield start
    for one in started:
        one.stop()


# The page


def test_production_has_neither_page_nor_deeds(herald: Herald) -> None:
    for path in ("/", "/index.html", "/playground/page.js", "/dev/about"):
        problem(herald.get(path), 404)
    for path in ("/", "/dev/about", "/dev/drain", "/dev/api/v1/events"):
        problem(herald.post(path, {}), 404)


@pytest.mark.parametrize("path", ["/", *(f"/playground/{name}" for name in ASSETS)])
def test_each_file_has_its_type_and_goes_out_with_a_strict_policy(dev: Dev, path: str) -> None:
    answer = dev.http.get(path)
    assert answer.status_code == 200
    kinds = {"": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
    kind = answer.headers["content-type"]
    assert kind.partition(";")[0] == kinds[path.rpartition(".")[2] if "." in path else ""]
    assert kind.endswith("charset=utf-8") or kind == "image/svg+xml"
    directives = dict(
        directive.strip().split(" ", 1)
        for directive in answer.headers["content-security-policy"].split(";")
    )
    assert directives == {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "img-src": "'self'",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"
    assert "access-control-allow-origin" not in answer.headers
    head = dev.http.head(path)
    assert head.status_code == 200
    assert head.content == b""
    assert head.headers["content-length"] == str(len(answer.content))


def test_page_has_no_script_or_style_of_its_own_and_names_files_that_are_there(dev: Dev) -> None:
    page = dev.http.get("/").text
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=|javascript:", page)
    assert all("src=" in tag for tag in re.findall(r"<script[^>]*>", page))
    for path in re.findall(r'(?:src|href)="([^"#]+)"', page):
        assert dev.http.get(path).status_code == 200, path
    for name in ASSETS:
        for imported in re.findall(r'from "\./([^"]+)"', (FOLDER / name).read_text()):
            assert imported in ASSETS, (name, imported)


def test_nothing_is_named_that_lies_on_another_host() -> None:
    for file in (FOLDER / "index.html", *(FOLDER / name for name in ASSETS)):
        # The client's comments may link to documents; it fetches what it is given.
        if file.name != "herald-client.js":
            urls = set(re.findall(r"\b(?:https?|wss?)://[^\s\"'`)]+", file.read_text()))
            assert urls <= {"http://www.w3.org/2000/svg"}, (file.name, urls)


def test_code_to_copy_reads_tokens_as_the_examples_answer_them() -> None:
    snippets = (FOLDER / "snippets.js").read_text()
    assert ".json()).token" in snippets
    assert ".text()" not in snippets
    assert "response.ok" in snippets


@pytest.mark.parametrize(
    "path",
    [
        "/playground/",
        "/playground/deeds.py",
        "/playground/../deeds.py",
        "/playground/..%2fdeeds.py",
        "/playground/index.html",
        "/index.html",
    ],
)
def test_what_is_no_file_of_the_page_is_not_found(dev: Dev, path: str) -> None:
    status, _, body = exchange(dev.port, request_bytes("GET", path, {}))
    assert status == 404
    assert json.loads(body)["status"] == 404


def test_page_takes_no_posts_and_deeds_no_gets(dev: Dev) -> None:
    answer = dev.http.post("/", content=b"")
    problem(answer, 405)
    assert answer.headers["allow"] == "GET, HEAD"
    answer = dev.http.get("/dev/about", headers={"origin": dev.origin})
    problem(answer, 405)
    assert answer.headers["allow"] == "POST"
    problem(dev.ask("nothing"), 404)


def test_everything_else_is_served_as_without_the_page(dev: Dev) -> None:
    assert dev.http.get("/healthz/ready").status_code == 200
    assert dev.publish("topic:beside-the-page")["duplicate"] is False
    assert dev.http.get("/v1/ws").status_code == 426
    problem(dev.http.get("/elsewhere"), 404)


def test_what_dev_prints_ends_with_the_pages_address(dev: Dev) -> None:
    assert f"Or see it all on a page:\n  {dev.origin}/\n\nStop with Ctrl-C.\n" in dev.log()


def test_wheel_has_the_page_and_serves_it_from_there(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory"]
    subprocess.run([*build, str(tmp_path)], cwd=ROOT, check=True, capture_output=True, timeout=100)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {name.rpartition("/")[2] for name in archive.namelist() if "/playground/" in name}
        archive.extractall(tmp_path / "installed")
    assert {"index.html", *ASSETS} <= names
    code = (
        "import service; from service.edge.playground.files import Files; "
        "print(service.__file__, len(Files().find('/').body))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path / "installed")},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    where, _, size = done.stdout.strip().rpartition(" ")
    assert where.startswith(str(tmp_path))
    assert int(size) == (FOLDER / "index.html").stat().st_size


# Who may ask


FOREIGN: dict[str, dict[str, str | None]] = {
    "another site": {"origin": "https://evil.example", "sec-fetch-site": "cross-site"},
    "another site, old browser": {"origin": "https://evil.example", "sec-fetch-site": None},
    "another port of this machine": {
        "origin": "http://127.0.0.1:3000",
        "sec-fetch-site": "same-site",
    },
    "that, old browser": {"origin": "http://127.0.0.1:3000", "sec-fetch-site": None},
    "a sandboxed frame": {"origin": "null", "sec-fetch-site": "cross-site"},
    "a link from elsewhere": {"origin": None, "sec-fetch-site": "cross-site"},
    "typed in": {"origin": None, "sec-fetch-site": "none"},
    "no page": {"origin": None, "sec-fetch-site": None},
    "origin that lies": {"sec-fetch-site": "cross-site"},
    "this machine's name": {"origin": "http://localhost:{port}", "sec-fetch-site": None},
    "no URL": {"origin": "http://[", "sec-fetch-site": None},
}


@pytest.mark.parametrize("deed", ["about", "token", "cut", "drain", "connections", "api/v1/events"])
@pytest.mark.parametrize("page", FOREIGN)
def test_deeds_are_for_the_servers_own_page(dev: Dev, page: str, deed: str) -> None:
    headers = {
        name.replace("-", "_"): text and text.replace("{port}", str(dev.port))
        for name, text in FOREIGN[page].items()
    }
    answer = dev.ask(deed, {"user": "alice"}, authorization=f"Bearer {KEY}", **headers)
    assert problem(answer, 403)["detail"] == "Only the playground's own page may ask for this."
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", None])
def test_what_a_form_can_send_is_not_taken(dev: Dev, kind: str | None) -> None:
    problem(dev.ask("about", {}, content_type=kind), 415)


def test_preflights_are_not_answered_well(dev: Dev) -> None:
    headers = {"origin": "https://evil.example", "access-control-request-method": "POST"}
    answer = dev.http.request("OPTIONS", "/dev/token", headers=headers)
    problem(answer, 405)
    assert not any(name.startswith("access-control") for name in answer.headers)


@pytest.mark.parametrize("path", ["/", "/playground/page.js", "/dev/about", "/dev/api/v1/events"])
@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:{port}",
        "127.0.0.1.evil.example",
        "192.168.1.5:{port}",
        "",
        "[::1",
    ],
)
def test_name_that_others_made_to_lead_here_is_refused(dev: Dev, path: str, host: str) -> None:
    named = host.replace("{port}", str(dev.port))
    headers = {"host": named, "origin": f"http://{named}", "sec-fetch-site": "same-origin"}
    method = "POST" if path.startswith("/dev") else "GET"
    lines = [f"{method} {path} HTTP/1.1", *(f"{k}: {v}" for k, v in headers.items())]
    lines += ["content-type: application/json", "content-length: 2"] if method == "POST" else []
    data = "\r\n".join(lines).encode() + b"\r\n\r\n" + (b"{}" if method == "POST" else b"")
    status, _, body = exchange(dev.port, data)
    assert status == 403
    assert "this machine" in json.loads(body)["detail"]


@pytest.mark.parametrize("name", ["localhost", "LOCALHOST", "127.0.0.1", "127.8.9.1", "[::1]"])
def test_names_of_this_machine_are_good(dev: Dev, name: str) -> None:
    host = f"{name}:{dev.port}"
    assert dev.http.get("/", headers={"host": host}).status_code == 200
    assert dev.ask("about", {}, host=host, origin=f"http://{host}").status_code == 200


GOOD_HOSTS = [
    ("192.168.1.5:8000", "192.168.1.5"),
    ("box.local:8000", "box.local"),
    ("[fe80::1]:8000", "fe80::1"),
    ("192.168.1.5:8000", "0.0.0.0"),
    ("[2001:db8::5]", "::"),
    ("localhost", "0.0.0.0"),
]
BAD_HOSTS = [
    ("192.168.1.6:8000", "192.168.1.5"),
    ("box.local:8000", "0.0.0.0"),
    ("evil.example", "::"),
    ("localhost.evil.example", "127.0.0.1"),
    ("user@localhost", "127.0.0.1"),
    ("localhost:8000 evil", "127.0.0.1"),
]


@pytest.mark.parametrize(("host", "configured"), GOOD_HOSTS)
def test_addresses_that_are_listened_on_are_good(host: str, configured: str) -> None:
    check_host([(b"host", host.encode())], configured)


@pytest.mark.parametrize(("host", "configured"), BAD_HOSTS)
def test_other_addresses_are_not(host: str, configured: str) -> None:
    with pytest.raises(ProblemError):
        check_host([(b"host", host.encode())], configured)


# What is done


def test_about_tells_what_the_page_shows(dev: Dev) -> None:
    about = dev.told("about")
    assert about["key"] == KEY
    assert about["mint"] is True
    assert (about["api_port"], about["workers"], about["history_size"]) == (None, 1, 100)
    assert about["command"] == str(Path(sys.executable).parent / "herald")
    assert about["allowed_origins"] == []


async def test_token_is_the_users_and_lasts_as_long_as_asked(dev: Dev, user: str) -> None:
    body = {"user": user, "topics": ["news", "chat.*"], "ttl": 60}
    client = await open_herald(dev, token=dev.told("token", body)["token"])
    welcome = await client.expect("welcome")
    assert welcome["user"] == user
    assert set(welcome["channels"]) == {f"user:{user}", "all", "topic:news"}
    await client.send(type="subscribe", topic="chat.1")
    assert (await client.next())["type"] == "subscribed"
    await client.close()


async def test_token_that_is_to_expire_soon_does(start_dev: Callable[..., Dev], user: str) -> None:
    dev = start_dev(jwt_leeway="0")
    client = await open_herald(dev, token=dev.told("token", {"user": user, "ttl": 1})["token"])
    assert await client.closed() == 3000


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"user": ""},
        {"user": "a\nb"},
        {"user": "a", "ttl": 0},
        {"user": "a", "ttl": 1e9},
        {"user": "a", "topics": ["no topic"]},
        {"user": "a", "more": 1},
        {"user": 1},
        [],
        b"{",
        b"[" * 5000,
        b"\xff",
        b'{"user":"\xff"}',
    ],
)
def test_token_for_nobody_is_not_made(dev: Dev, body: Any) -> None:
    problem(dev.ask("token", body if isinstance(body, bytes) else json.dumps(body).encode()), 400)


def test_deed_that_is_too_large_is_not_read(dev: Dev) -> None:
    problem(dev.ask("token", b" " * 20_000), 413)


async def test_cut_line_ends_without_a_word_and_no_other(dev: Dev, user: str) -> None:
    token = dev.told("token", {"user": user})["token"]
    victim, other = await open_plain(dev, token=token), await open_plain(dev, token=token)
    connection = (await victim.expect("welcome"))["connection"]
    await other.expect("welcome")
    dev.told("cut", {"connection": connection})
    assert await victim.closed() == 1006
    dev.publish(f"user:{user}", 1)
    assert (await other.expect("event"))["data"] == 1
    await other.close()
    problem(dev.ask("cut", {"connection": connection}), 404)


async def test_drain_sends_everyone_away_and_the_node_goes_on(dev: Dev, user: str) -> None:
    token = dev.told("token", {"user": user})["token"]
    plain, herald = await open_plain(dev, token=token), await open_herald(dev, token=token)
    position = (await plain.expect("welcome"))["channels"][f"user:{user}"]["position"]
    await herald.expect("welcome")
    async with _stream(dev, token) as stream:
        assert dev.told("drain")["dismissed"] == 3
        for client in (plain, herald):
            assert 0 <= (await client.expect("reconnect"))["after_ms"] < 1000
            assert await client.closed() == 1012
        said = (await asyncio.wait_for(stream.read(), PATIENCE)).decode()
    assert '"type":"reconnect"' in said
    assert '"type":"close","code":1012' in said
    assert dev.is_ready()
    dev.publish(f"user:{user}", "meanwhile")
    client = await open_plain(dev, f"since=user:{user}@{position}", token)
    await client.expect("welcome")
    assert (await client.expect("event"))["data"] == "meanwhile"
    await client.close()


async def test_connections_show_what_waits_for_a_reader(
    start_dev: Callable[..., Dev], user: str
) -> None:
    dev = start_dev()
    token = dev.told("token", {"user": user})["token"]
    client: Client = await open_plain(dev, token=token)
    name = (await client.expect("welcome"))["connection"]
    event = {"to": f"user:{user}", "type": "large", "data": "x" * 60_000}
    most, code = 0, 0
    async with _stream(dev, token) as reader:
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        shown = {one["transport"]: one for one in dev.told("connections")["connections"]}
        assert shown["websocket"] == {
            "connection": name,
            "user": user,
            "transport": "websocket",
            "waiting": 0,
            "closing": 0,
        }
        for _ in range(200):
            assert dev.post("/v1/events/batch", {"events": [event] * 8}).status_code == 200
            streams = [c for c in dev.told("connections")["connections"] if c["transport"] == "sse"]
            most = max([most, *(one["waiting"] for one in streams)])
            code = streams[0]["closing"] if streams else code
            if code or not streams:
                break
    assert code == 4000
    assert most > 0
    await client.close()


async def test_api_on_its_own_port_is_passed_on_to(start_dev: Callable[..., Dev]) -> None:
    dev = start_dev(api_port=str(free_port()))
    assert dev.told("about")["api_port"] == dev.api_port
    assert dev.http.get(f"{dev.origin}/").status_code == 200
    problem(dev.http.get("/"), 404)  # nothing of it on the API's port
    event = {"to": "topic:apart", "type": "t", "data": 1}
    answer = dev.ask("api/v1/events", event, authorization=f"Bearer {KEY}")
    assert answer.status_code == 202, answer.text
    many = dev.ask("api/v1/events/batch", {"events": [event] * 3}, authorization=f"Bearer {KEY}")
    assert [list(one["positions"]) for one in many.json()["results"]] == [["topic:apart"]] * 3
    problem(dev.ask("api/v1/events", event), 401)
    assert "Or see it all on a page:" in dev.log()


def test_without_a_secret_or_a_plain_key_it_says_so(
    start_dev: Callable[..., Dev], tmp_path: Path
) -> None:
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    file = tmp_path / "key.pem"
    file.write_bytes(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    dev = start_dev(
        jwt_secret=None,
        jwt_public_key_file=str(file),
        api_keys=f"sha256:{'0' * 64}",
        allowed_origins="https://app.example.com",
    )
    about = dev.told("about")
    assert about["mint"] is False
    assert about["key"] is None
    assert about["allowed_origins"] == ["https://app.example.com"]
    assert "HERALD_JWT_SECRET" in problem(dev.ask("token", {"user": "alice"}), 409)["detail"]


@contextlib.asynccontextmanager
async def _stream(dev: Dev, token: str) -> AsyncIterator[asyncio.StreamReader]:
    """A stream, read up to its `welcome`."""
    reader, writer = await asyncio.open_connection("127.0.0.1", dev.port)
    try:
        writer.write(
            f"GET /v1/stream HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
        )
        async with asyncio.timeout(PATIENCE):
            await reader.readuntil(b'"type":"welcome"')
        yield reader
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
