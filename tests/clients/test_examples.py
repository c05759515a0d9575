"""The examples, each run as a user runs it, beside a real Herald."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import pytest
from herald_client import Event, subscribe

from tests.clients.conftest import Fragile, retained
from tests.clients.test_subscribe import no_gap
from tests.harness.process import (
    KEY,
    PATIENCE,
    SECRET,
    Herald,
    clean_environment,
    eventually,
    free_port,
    mint,
)

PASSWORD = "a long password"
EXAMPLES = Path(__file__).parents[2] / "examples"


@contextlib.contextmanager
def program(
    *arguments: str, directory: Path, log: Path, **environment: str
) -> Iterator[subprocess.Popen[bytes]]:
    """A program that runs, and is ended in the end."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-W", "default", *arguments],
            cwd=directory,
            env={**clean_environment(), **environment},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError(f"it did not end: {log.read_text()}") from None


@contextlib.asynccontextmanager
async def backend(
    herald: Herald, log: Path, directory: Path, *arguments: str, **environment: str
) -> AsyncIterator[httpx2.AsyncClient]:
    """A web application that answers; `PORT` in the arguments is its port."""
    port = str(free_port())
    settings = {
        "HERALD_URL": herald.url,
        "HERALD_API_KEY": KEY,
        "HERALD_JWT_SECRET": SECRET,
        "PYTHONASYNCIODEBUG": "",
        **environment,
    }
    command = [argument.replace("PORT", port) for argument in arguments]
    with program(*command, directory=directory, log=log, **settings) as process:
        async with httpx2.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE, trust_env=False
        ) as page:
            async with asyncio.timeout(PATIENCE):
                while True:
                    assert process.poll() is None, log.read_text()
                    with contextlib.suppress(httpx2.TransportError):
                        await page.get("/herald-token")
                        break
                    await asyncio.sleep(0.05)
            yield page


async def _listen(
    herald: Herald, page: httpx2.AsyncClient, topics: list[str], queue: asyncio.Queue[Event]
) -> None:
    """What the user's page does: the token from the backend, events from Herald."""

    async def token() -> str:
        answer = await page.get("/herald-token")
        assert answer.status_code == 200, answer.text
        return str(answer.json()["token"])

    async for event in subscribe(herald.url, token, on_gap=no_gap, topics=topics):
        await queue.put(event)


@contextlib.asynccontextmanager
async def hearing(
    herald: Herald, page: httpx2.AsyncClient, *topics: str
) -> AsyncIterator[asyncio.Queue[Event]]:
    """What the page hears, from when it is connected."""
    queue: asyncio.Queue[Event] = asyncio.Queue()
    before = herald.metrics()["herald_connects_total"]
    listening = asyncio.create_task(_listen(herald, page, list(topics), queue))
    await eventually(lambda: herald.metrics()["herald_connects_total"] > before or listening.done())
    try:
        yield queue
    finally:
        listening.cancel()
        await asyncio.wait([listening])


async def _next(queue: asyncio.Queue[Event]) -> Event:
    return await asyncio.wait_for(queue.get(), PATIENCE)


@pytest.mark.parametrize(
    "arguments",
    [
        ("-m", "uvicorn", "--app-dir", "examples", "fastapi_app:app", "--port", "PORT"),
        ("-m", "flask", "--app", "examples/flask_app.py", "run", "--port", "PORT"),
    ],
    ids=["fastapi", "flask"],
)
async def test_fastapi_and_flask(
    herald: Herald, user: str, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    log = tmp_path / "log"
    async with backend(herald, log, EXAMPLES.parent, *arguments) as page:
        assert (await page.get("/herald-token")).status_code == 401
        assert (await page.post("/orders", json={"product": "tea"})).status_code == 401
        assert (await page.post("/login", json={"user": user})).status_code == 200
        async with hearing(herald, page, "news.orders") as events:
            answer = await page.post("/orders", json={"product": "tea"})
            assert answer.status_code == 201, answer.text + log.read_text()
            event = await _next(events)
            assert (event.channel, event.type) == (f"user:{user}", "order.created")
            assert event.data == {"id": answer.json()["id"], "product": "tea"}
            if "flask" in arguments:
                counted = await _next(events)
                assert (counted.channel, counted.type) == ("topic:news.orders", "order.counted")
        async with hearing(herald, page, "news.orders") as events:
            program = "flask_app.py" if "flask" in arguments else "fastapi_app.py"
            output, answers = await _order(program, page, user, tmp_path)
            assert answers[0] == {"user": user}, output
            assert list(answers[1]) == ["token"]
            event = await _next(events)
            assert event.data == {**answers[2], "product": "tea"}
    assert "Traceback" not in log.read_text()


async def _order(
    program: str, page: httpx2.AsyncClient, user: str, directory: Path
) -> tuple[str, list[Any]]:
    """Orders with the lines that the program's first words give; their output, and its JSON."""
    text = (EXAMPLES / program).read_text().split('"""')[1].partition("in another terminal")[2]
    lines = [line[4:] for line in text.splitlines() if line.startswith("    ")]
    assert any("/orders" in line for line in lines)
    script = "\n".join(lines).replace("http://127.0.0.1:8080", str(page.base_url).rstrip("/"))
    done = await asyncio.to_thread(
        subprocess.run,
        ["sh", "-c", f"set -e\n{script.replace('alice', user)}".replace("curl ", "curl -sS ")],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    answers = re.findall(r"\{[^{}]*\}", done.stdout)
    return done.stdout, [json.loads(answer) for answer in answers]


class Shop(NamedTuple):
    """A database with one user."""

    environment: dict[str, str]
    user: str


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    user = f"shopper-{os.getpid()}"
    database = tmp_path_factory.mktemp("shop") / "shop.sqlite3"
    environment = {"SHOP_DATABASE": str(database), "DJANGO_SECRET_KEY": SECRET}
    secret = {
        "HERALD_URL": "http://x",
        "HERALD_API_KEY": KEY,
        "DJANGO_SUPERUSER_PASSWORD": PASSWORD,
    }
    for command in (
        ["migrate", "--verbosity", "0"],
        ["createsuperuser", "--noinput", "--username", user, "--email", "a@example.com"],
    ):
        done = subprocess.run(
            [sys.executable, "manage.py", *command],
            cwd=EXAMPLES / "django_shop",
            env={**clean_environment(), **environment, **secret},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    return Shop(environment, user)


@pytest.mark.parametrize("server", ["runserver", "asgi"])
async def test_django(herald: Herald, shop: Shop, tmp_path: Path, server: str) -> None:
    log = tmp_path / "log"
    channel = f"user:{shop.user}"
    ordered = retained(herald, channel)
    arguments = (
        ["manage.py", "runserver", "--noreload", "PORT"]
        if server == "runserver"
        else ["-m", "uvicorn", "shop.asgi:application", "--port", "PORT", "--lifespan", "off"]
    )
    directory = EXAMPLES / "django_shop"
    async with backend(herald, log, directory, *arguments, **shop.environment) as page:
        assert (await page.get("/herald-token")).status_code == 401
        await page.get("/login")  # brings the CSRF cookie

        async def post(path: str, body: dict[str, Any]) -> httpx2.Response:
            headers = {"X-CSRFToken": page.cookies["csrftoken"]}
            return await page.post(path, json=body, headers=headers)

        credentials = {"username": shop.user, "password": PASSWORD}
        assert (await post("/login", credentials)).status_code == 200
        async with hearing(herald, page) as events:
            refused = await post("/orders", {"product": "a yacht", "price": 5000})
            assert refused.status_code == 402, refused.text
            taken = await post("/orders", {"product": "tea", "price": 3})
            assert taken.status_code == 201, taken.text + log.read_text()
            event = await _next(events)
            assert event.type == "order.created"
            event_of_order = event.data
            assert event_of_order == {"id": taken.json()["id"], "product": "tea", "price": 3}
            for text in ("closed on Monday", "and on Tuesday"):
                told = await post("/announcements", {"text": text})
                assert told.status_code == 202, told.text + log.read_text()
                event = await _next(events)
                assert (event.channel, event.data) == ("all", text)
        assert retained(herald, channel) == [*ordered, event_of_order], "and no yacht"
        async with hearing(herald, page) as events:
            output, answers = await _order("django_shop/manage.py", page, shop.user, tmp_path)
            assert answers[:2] == [{"user": ""}, {"user": shop.user}], output
            assert list(answers[2]) == ["token"]
            heard = [(await _next(events)).data for _ in range(2)]  # the order is queued
            assert {**answers[3], "product": "tea", "price": 3} in heard
            assert "closed on Monday" in heard
    assert "Traceback" not in log.read_text()


async def test_plain_websockets_waits_for_hours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long its server is away, it never waits for more than a moment, nor gives up."""
    monkeypatch.syspath_prepend(EXAMPLES)
    listen = importlib.import_module("listen")
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 1_100:
            raise LookupError

    async def listen_once() -> None:
        raise OSError

    listener = listen.Listener("ws://127.0.0.1:1", "t", tmp_path / "positions.json", [])
    monkeypatch.setattr(listener, "listen_once", listen_once)
    monkeypatch.setattr(asyncio, "sleep", sleep)
    with pytest.raises(LookupError):
        await listener.listen()
    assert max(waits) <= 15.0


@pytest.mark.parametrize(
    "arguments", [(), ("ws://127.0.0.1:1/v1/ws",), ("http://127.0.0.1:1/v1/ws", "token", "file")]
)
def test_plain_websockets_says_how_it_is_called(arguments: tuple[str, ...], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "listen.py"), *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith(
        "Usage: python examples/listen.py ws://127.0.0.1:8000/v1/ws TOKEN"
    )
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_plain_websockets_says_what_is_wrong_with_its_url_or_token(
    herald: Herald, tmp_path: Path
) -> None:
    for url, token, words in (
        (herald.ws_url.removesuffix("/v1/ws"), mint(), "refused: 404"),
        (f"{herald.ws_url.removesuffix('/v1/ws')}/v1/ws", KEY, "refused: 401"),
    ):
        done = subprocess.run(
            [sys.executable, str(EXAMPLES / "listen.py"), url, token, "positions.json"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert (done.returncode, done.stderr[: len(words)]) == (1, words)


@pytest.mark.parametrize(
    ("program", "client"),
    [
        ("fastapi_app.py", "./clients/python"),
        ("flask_app.py", "./clients/python"),
        ("django_shop/manage.py", "../../clients/python"),
    ],
)
def test_client_is_installed_from_where_it_is(program: str, client: str) -> None:
    """It is in no registry: its name alone would fail, or be somebody else's one day."""
    (line,) = re.findall(r"pip install (.*)", (EXAMPLES / program).read_text())
    assert client in line.split()
    assert "herald-client" not in line
    folder = EXAMPLES / "django_shop" if "django" in program else EXAMPLES.parent
    assert (folder / client / "pyproject.toml").is_file()


async def test_plain_websockets(fragile: Fragile, user: str, tmp_path: Path) -> None:
    """Killed itself, and its server killed: it goes on where it was, and misses nothing."""
    herald = fragile.herald
    channel = f"user:{user}"
    log = tmp_path / "log"
    arguments = [
        str(EXAMPLES / "listen.py"),
        herald.ws_url,
        mint(user, topics=["news.*"]),
        str(tmp_path / "positions.json"),
        "news.art",
    ]

    def told() -> list[Any]:
        messages = [json.loads(line) for line in log.read_text().splitlines() if line[:1] == "{"]
        return [message.get("data", message["type"]) for message in messages]

    with program(*arguments, directory=tmp_path, log=log) as process:
        await eventually((tmp_path / "positions.json").exists, "it is connected")
        herald.publish(channel, 1)
        herald.publish("topic:news.art", 2)
        await eventually(lambda: told() == [1, 2])
        process.kill()
        process.wait()
    herald.publish(channel, 3)
    with program(*arguments, directory=tmp_path, log=log):
        await eventually(lambda: told() == [1, 2, 3])
        herald.publish(channel, 4)
        herald.kill()
        await asyncio.to_thread(herald.restart)
        herald.publish(channel, 5)
        await eventually(lambda: told()[-1:] == [5], "it came back")
    assert told() == [1, 2, 3, 4, 5]
