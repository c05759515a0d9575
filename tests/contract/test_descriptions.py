"""openapi.yaml and asyncapi.yaml say what the code does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from service.app.describe import openapi_document
from service.cli import app
from service.cli.describe import yaml_lines
from service.core import messages
from service.core.close import ADVICE, CloseCode
from service.core.position import Position
from tests.contract.checker import problems, resolve
from tests.contract.facts import error_codes, server_types

ROOT = Path(__file__).parents[2]
ASYNCAPI: dict[str, Any] = yaml.safe_load((ROOT / "openapi/asyncapi.yaml").read_text())
MESSAGES: dict[str, Any] = ASYNCAPI["components"]["messages"]
AT, LATER = Position(1763790000000, 17), Position(1763790000000, 18)

SAID = {
    "welcome": [messages.welcome("n-1", "alice", 25.0, 1.5, {"all": messages.Joined(AT, True)})],
    "event": [
        messages.event_prefix("topic:a")
        + str(AT).encode()
        + b'","event":"t","data":null,"time":"2026-11-23T06:28:00.123Z"}'
    ],
    "gap": [messages.gap("user:alice", AT, LATER)],
    "subscribed": [messages.subscribed("topic:a", messages.Joined(AT, False))],
    "unsubscribed": [messages.unsubscribed("topic:a")],
    "authenticated": [messages.authenticated(1.5)],
    "reconnect": [messages.reconnect(640)],
    "close": [messages.close(CloseCode.RESTART, "the server restarts")],
    "error": [
        messages.error("forbidden", "No."),
        messages.error("forbidden", "No.", "topic:a"),
    ],
    "serverPing": [messages.PING],
    "serverPong": [messages.PONG],
}


def _directed(operation: str) -> dict[str, dict[str, Any]]:
    """The messages of one operation, by their name in the document."""
    refs = [item["$ref"] for item in ASYNCAPI["operations"][operation]["messages"]]
    return {ref.rpartition("/")[2]: resolve(ASYNCAPI, {"$ref": ref}) for ref in refs}


def _examples(operation: str) -> list[tuple[str, dict[str, Any]]]:
    return [
        (name, example["payload"])
        for name, message in _directed(operation).items()
        for example in message["examples"]
    ]


def _types(operation: str) -> set[str]:
    return {
        resolve(ASYNCAPI, message["payload"])["properties"]["type"]["const"]
        for message in _directed(operation).values()
    }


def test_openapi_yaml_is_what_the_code_generates() -> None:
    written = yaml.safe_load((ROOT / "openapi/openapi.yaml").read_text())
    assert written == openapi_document(), "run `make documents`"


def test_openapi_command_writes_the_same_as_yaml_and_as_json() -> None:
    as_yaml = CliRunner().invoke(app, ["openapi", "--yaml"])
    as_json = CliRunner().invoke(app, ["openapi"])
    assert yaml.safe_load(as_yaml.output) == json.loads(as_json.output) == openapi_document()
    assert as_yaml.output == (ROOT / "openapi/openapi.yaml").read_text(), "run `make documents`"


@pytest.mark.parametrize(
    "value",
    [
        {"yes": "no", "1": 1, "a: b": "#", "": None, "~": True, "- a": -1.5, "null": "null"},
        {"list": [[], {}, [1, [2]], {"a": [{"b": "c"}], "d": {}}]},
        {"text": 'line\n"quoted" \\ \t \u00e9 \U0001f600 : - #', "$ref": "#/a", "200": {"x": "1"}},
        [],
        "alone",
    ],
)
def test_yaml_says_what_json_says(value: Any) -> None:
    assert yaml.safe_load("\n".join(yaml_lines(value))) == value


def test_asyncapi_has_the_message_types_of_the_code() -> None:
    assert _types("hear") == set(messages.CLIENT_TYPES)
    assert _types("say") == server_types()
    assert set(MESSAGES) == set(_directed("hear")) | set(_directed("say"))


@pytest.mark.parametrize(("name", "payload"), _examples("hear"))
def test_example_of_a_client_message_is_understood(name: str, payload: dict[str, Any]) -> None:
    decoded = messages.decode_client_message(json.dumps(payload).encode())
    assert type(decoded).__name__.lower() == payload["type"]
    assert problems(ASYNCAPI, MESSAGES[name]["payload"], payload) == []


@pytest.mark.parametrize(("name", "payload"), _examples("say"))
def test_example_of_a_server_message_fits_its_schema(name: str, payload: dict[str, Any]) -> None:
    assert problems(ASYNCAPI, MESSAGES[name]["payload"], payload) == []


@pytest.mark.parametrize(("name", "said"), [(name, said) for name in SAID for said in SAID[name]])
def test_what_the_server_builds_fits_its_schema(name: str, said: bytes) -> None:
    assert problems(ASYNCAPI, MESSAGES[name]["payload"], json.loads(said)) == []


def test_every_server_message_is_built_here() -> None:
    assert set(SAID) == set(_directed("say"))


def test_asyncapi_has_the_error_codes_of_the_code() -> None:
    assert set(MESSAGES["error"]["payload"]["properties"]["code"]["enum"]) == error_codes()


def test_asyncapi_has_the_close_codes_with_their_advice() -> None:
    table = ASYNCAPI["channels"]["socket"]["x-close-codes"]
    said = {code: row["advice"] for code, row in table.items()}
    words = {int(code): advice.name.lower().replace("_", " ") for code, advice in ADVICE.items()}
    words[3000] = "reconnect with a new token"
    assert said == words
