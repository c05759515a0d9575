"""The package as its users get it: what its README says is true, its snippets run, it is typed."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
import zipfile
from dataclasses import fields
from pathlib import Path

import herald_client
import pytest
from herald_client import HeraldError, Publisher, QueueOptions, SubscribeOptions, errors

from tests.clients.conftest import retained
from tests.harness.process import KEY, PATIENCE, Herald, clean_environment, eventually, mint

PACKAGE = Path(__file__).parents[2] / "clients/python"
README = (PACKAGE / "README.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def _names(table: str) -> set[str]:
    """What is in backticks in the first column of the table with this head."""
    rows = README.split(f"\n| {table}")[1].split("\n\n")[0].splitlines()[2:]
    return {name for row in rows for name in re.findall(r"`(\w+)`", row.split(" | ")[0])}


def test_every_option_is_in_its_table_and_no_other() -> None:
    publisher = set(inspect.signature(Publisher.__init__).parameters) - {"self"}
    assert _names("`Publisher`, ") == publisher
    assert _names("`QueueOptions`") == {field.name for field in fields(QueueOptions)}
    subscription = {"url", "token", "on_gap", *SubscribeOptions.__annotations__}
    assert _names("`subscribe`, ") == subscription


def test_defaults_are_true() -> None:
    for name, said in re.findall(r"\n\| `(\w+)` \| ([\d.]+) \|", README):
        signature = inspect.signature(Publisher.__init__).parameters
        true = {field.name: field.default for field in fields(QueueOptions)}
        true |= {key: parameter.default for key, parameter in signature.items()}
        true |= {"open_timeout": 10}
        assert float(true[name]) == float(said), name


def test_every_exception_is_in_the_table_and_in_the_tree() -> None:
    raised = {
        name
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, HeraldError)
    }
    assert _names("| when |") == raised
    assert raised <= set(herald_client.__all__)
    assert errors.__doc__ is not None
    drawn = re.findall(r"(?:──|^ {4})(?: )?([A-Z]\w+)", errors.__doc__, re.MULTILINE)
    assert set(drawn) == raised
    assert sorted(herald_client.__all__) == herald_client.__all__


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
async def test_snippet_runs(herald: Herald, user: str, tmp_path: Path, number: int) -> None:
    token = mint(user, topics=["news.*"])
    snippet = SNIPPETS[number]
    for said, true in (
        ("http://127.0.0.1:8000", herald.url),
        ("ws://127.0.0.1:8000", herald.ws_url),
        ("the API key", KEY),
        ("alice's token", token),
        ("user:alice", f"user:{user}"),
        ("note-1", f"note-{user}"),
    ):
        snippet = snippet.replace(said, true)
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-W", "error", "-u", "-c", snippet],
            cwd=tmp_path,
            env=clean_environment(url=herald.url, api_key=KEY),
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    channel = f"user:{user}"
    try:
        if "subscribe" in snippet:
            # It begins at some moment; from then on it says what it hears.
            def heard() -> bool:
                assert process.poll() is None, log.read_text()
                herald.publish(channel, {"order": 17}, type="order.shipped")
                return "order.shipped {'order': 17}" in log.read_text()

            await eventually(heard, "it heard the event")
        else:
            await eventually(lambda: process.poll() is not None, "it ends")
            assert process.returncode == 0, log.read_text()
            assert retained(herald, channel) in ([{"order": 17}], ["hello"])
    finally:
        process.terminate()
        process.wait(PATIENCE)


def test_the_snippets_are_well_typed(tmp_path: Path) -> None:
    """Strictly, with the package's own types, as a user's mypy sees them."""
    for number, snippet in enumerate(SNIPPETS):
        (tmp_path / f"snippet_{number}.py").write_text(snippet)
    (tmp_path / "use.py").write_text(
        "from herald_client import FailedEvent, Published, Publisher\n"
        "def publish(publisher: Publisher, failed: FailedEvent, tolerant: bool) -> None:\n"
        "    done: list[Published] = publisher.publish_many([], return_errors=False)\n"
        "    publisher.publish_many([failed.fields], return_errors=tolerant)\n"
        "    publisher.enqueue(**failed.fields)\n"
    )
    (tmp_path / "misuse.py").write_text(
        "from herald_client import Event, Gap, subscribe\n"
        "async def main() -> None:\n"
        "    async for event in subscribe('', '', on_gap='yield'):\n"
        "        event.data  # a Gap has none\n"
        "    subscribe('', '')\n"
        "    subscribe('', '', on_gap=print, topic=['x'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), "."],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    complaints = re.findall(r"^(\w+\.py:\d+): error:", done.stdout, re.MULTILINE)
    assert set(complaints) == {"misuse.py:4", "misuse.py:5", "misuse.py:6"}, done.stdout


def test_the_wheel_has_everything(tmp_path: Path) -> None:
    """`pip install ./clients/python`, as far as it goes without an index."""
    command = ["wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "pip", *command, str(PACKAGE)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    modules = {f"herald_client/{path.name}" for path in (PACKAGE / "herald_client").glob("*.py")}
    assert modules | {"herald_client/py.typed"} <= names
    assert not [name for name in names if "tests" in name or name.startswith("service")]
