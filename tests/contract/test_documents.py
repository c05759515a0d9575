"""What the documents for people say is true and complete."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import httpx2
import pytest

from service.broker.embedded import EmbeddedEngine
from service.core import messages
from service.core.close import ADVICE, Advice
from service.ports import CutOff
from service.settings import OF_CLIENTS, PREFIX, SECRETS, Settings
from tests.contract.facts import SERVICE, error_codes, server_types
from tests.harness.process import Herald, mint, open_plain

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
PROTOCOL = (ROOT / "docs/protocol.md").read_text()
OPERATIONS = (ROOT / "docs/operations.md").read_text()
ADVICE_WORDS = {
    Advice.STAY_AWAY: "stay away",
    Advice.RECONNECT_NOW: "reconnect now",
    Advice.RECONNECT_WITH_BACKOFF: "reconnect with backoff",
    Advice.RECONNECT_WITH_NEW_TOKEN: "reconnect with a new token",
}


def _rows(text: str) -> dict[str, list[str]]:
    """The rows of all tables, by their first cell without backticks."""
    rows: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.startswith("| "):
            cells = [cell.strip() for cell in line.strip("|").split(" | ")]
            cells = [re.sub("^`([^`]*)`$", r"\1", cell) for cell in cells]
            rows[cells[0]] = cells[1:]
    return rows


def _section(text: str, title: str) -> str:
    return text.split(f"\n## {title}\n")[1].split("\n## ")[0]


@pytest.mark.parametrize("title", ["What the client says", "What the server says"])
def test_protocol_has_an_example_of_every_message(title: str) -> None:
    blocks = re.findall(r"```json\n(.*?)```", _section(PROTOCOL, title), re.DOTALL)
    examples = [json.loads(line) for block in blocks for line in block.splitlines()]
    if title == "What the client says":
        assert {example["type"] for example in examples} == set(messages.CLIENT_TYPES)
        for example in examples:
            messages.decode_client_message(json.dumps(example).encode())
    else:
        # `ping` and `pong` look the same from both sides.
        assert {example["type"] for example in examples} == server_types() - {"ping", "pong"}


def test_protocol_has_every_error_code_and_no_other() -> None:
    rows = _rows(_section(PROTOCOL, "What the server says"))
    assert set(rows) - {"code", "---|---|---"} == error_codes()


def test_protocol_has_every_close_code_with_its_advice() -> None:
    rows = _rows(_section(PROTOCOL, "Close codes"))
    said = {int(code): cells[-1].strip(" |") for code, cells in rows.items() if code.isdigit()}
    assert set(said) == {int(code) for code in ADVICE}
    for code, advice in ADVICE.items():
        assert said[code].startswith(ADVICE_WORDS[advice]), code


def test_operations_has_every_setting_with_its_default() -> None:
    rows = _rows(_section(OPERATIONS, "Settings"))
    said = {name: cells[0] for name, cells in rows.items() if name.startswith(PREFIX)}
    true = {}
    for field, info in Settings.model_fields.items():
        default = info.default
        if isinstance(default, float):
            default = f"{default:g}"
        true[PREFIX + field.upper()] = "unset" if default in (None, ()) else str(default)
    assert said == true
    for secret in SECRETS:
        assert f"`{PREFIX}{secret.upper()}`" in OPERATIONS.split("_FILE")[0]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_documents_name_no_setting_that_is_none(path: Path) -> None:
    known = {PREFIX + field.upper() for field in (*Settings.model_fields, *OF_CLIENTS)}
    for name in re.findall(r"HERALD_[A-Z_]*[A-Z]", path.read_text()):
        assert name in known or name == "HERALD_JWT", name


async def test_operations_has_every_metric_of_a_live_node(herald: Herald, user: str) -> None:
    client = await open_plain(herald, token=mint(user))
    await client.expect("welcome")
    text = httpx2.get(herald.url + "/metrics").text
    await client.close()
    live = set(re.findall(r"^# TYPE (herald_\w+) \w+$", text, re.MULTILINE))
    kinds = dict(re.findall(r"^# TYPE (herald_\w+) (\w+)$", text, re.MULTILINE))
    rows = _rows(_section(OPERATIONS, "Metrics"))
    said = {name: cells[0] for name, cells in rows.items() if name.startswith("herald_")}
    # With an issuer's keys only: tests/observability.
    assert said.pop("herald_jwks_age_seconds") == "gauge"
    assert set(said) == live
    assert said == kinds


def test_operations_has_every_reason_of_a_refusal() -> None:
    source = "".join(
        path.read_text() for path in (*SERVICE.glob("edge/*.py"), *SERVICE.glob("hub/*.py"))
    )
    reasons = set(re.findall(r'(?:stats\.refused\(|\bRefusal\(\s*)"(\w+)"', source))
    assert len(reasons) >= 8
    said = _rows(_section(OPERATIONS, "Metrics"))["herald_refusals_total"][1]
    assert set(re.findall(r"`(\w+)`", said)) - {"reason"} == reasons


def test_operations_has_every_reason_of_a_cut_off() -> None:
    said = _rows(_section(OPERATIONS, "Metrics"))["herald_http_cut_off_total"][1]
    assert set(re.findall(r"`(\w+)`", said)) - {"reason"} == set(get_args(CutOff))


def test_operations_has_the_access_rules_that_are_tested() -> None:
    from tests.broker.test_acl import RULES

    line = next(line for line in OPERATIONS.splitlines() if "ACL SETUSER" in line)
    assert set(line.split(">password ")[1].split()) == set(RULES)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_relative_link_leads_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if not target.startswith(("http://", "https://", "#")):
            assert (path.parent / target.partition("#")[0]).exists(), target


def test_decisions_are_numbered_dated_and_short() -> None:
    paths = sorted((ROOT / "docs/adr").glob("*.md"))
    assert [int(path.name[:4]) for path in paths] == list(range(1, len(paths) + 1))
    for path in paths:
        text = path.read_text()
        assert len(text.splitlines()) <= 40, path.name
        assert text.startswith(f"# {int(path.name[:4])}. ")
        assert re.search(r"^Date: \d{4}-\d\d-\d\d\. Status: \w+", text, re.MULTILINE), path.name
        assert re.findall(r"^## (.*)$", text, re.MULTILINE) == [
            "Context",
            "Decision",
            "Consequences",
        ]


def test_decisions_that_the_code_names_exist() -> None:
    source = "".join(path.read_text() for path in SERVICE.rglob("*.py"))
    for number in re.findall(r"docs/adr/(\d{4})", source):
        assert list((ROOT / "docs/adr").glob(f"{number}-*.md")), number


def test_commands_of_the_readme_run_as_written(
    own_engine: EmbeddedEngine, start: Callable[..., Herald]
) -> None:
    """The block `Publish and listen`, with a server of this test: its user is everybody's alice."""
    herald = start(own_engine.url)
    readme = (ROOT / "README.md").read_text()
    block = re.findall(r"```sh\n(.*?)```", _section(readme, "Publish and listen"), re.DOTALL)[1]
    script = (
        block.replace("a-secret-of-at-least-32-characters", f"'{herald.settings['jwt_secret']}'")
        .replace("demo-key", herald.settings["api_keys"])
        .replace("http://127.0.0.1:8000", herald.url)
        .replace(".venv/bin/herald", f"{sys.executable} -m service")
        .replace("curl ", "curl -fsS -w '\\n' ")
    )
    environment = {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HERALD_PORT": str(herald.port),
    }
    done = subprocess.run(
        ["bash", "-euc", script],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    listened = [json.loads(line) for line in done.stdout.splitlines()[-2:]]
    assert [event["data"] for event in listened] == [{"order": 17}, "hello"]
