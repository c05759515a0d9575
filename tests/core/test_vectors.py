"""The conformance vectors: their form, and the server's session against them.

The client vectors run against `client_model`, which is the rules of openapi/vectors/README.md and
no more: what fails here is a vector that contradicts them.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from service.core.channel import parse_topic_grant
from service.core.errors import InvalidMessage
from service.core.messages import decode_client_message
from service.core.principal import Principal
from service.core.session import (
    Acked,
    Admit,
    Close,
    Effect,
    Join,
    Leave,
    Reauthenticate,
    Reply,
    Session,
    parse_request,
)
from tests.core.client_model import Client, differences

VECTORS = Path(__file__).parents[2] / "openapi/vectors"
SCHEMA: dict[str, Any] = json.loads((VECTORS / "schema.json").read_text())
FILES = sorted(VECTORS.glob("*/*.json"))

Json = dict[str, Any]


def vectors(kind: str) -> list[Any]:
    """Each vector of `client` or `server`, named by its file and its name."""
    return [
        pytest.param(vector, id=f"{path.stem}: {vector['name']}")
        for path in FILES
        if path.parent.name == kind
        for vector in json.loads(path.read_text())["vectors"]
    ]


# The form of the files


def mismatch(value: Any, schema: Json, at: str = "$") -> str | None:
    """Where `value` is not what `schema` says; the keywords that schema.json uses, no others."""
    for keyword, rule in schema.items():
        if keyword in ANNOTATIONS:
            continue
        if found := KEYWORDS[keyword](value, rule, schema, at):
            return found
    return None


def is_a(value: Any, kind: str) -> bool:
    """JSON's types; in Python a bool is an int as well."""
    if kind in ("number", "integer"):
        return isinstance(value, int if kind == "integer" else int | float) and not is_a(
            value, "boolean"
        )
    return isinstance(value, PYTHON_TYPES[kind])


def says(fits: bool, at: str, complaint: str) -> str | None:
    return None if fits else f"{at}: {complaint}"


def first(found: Any) -> str | None:
    return next((complaint for complaint in found if complaint), None)


def one_of(value: Any, rule: list[Json], _: Json, at: str) -> str | None:
    found = [mismatch(value, schema, at) for schema in rule]
    fits = found.count(None)
    return says(fits == 1, at, f"fits {fits} of {len(rule)}: {[f for f in found if f]}")


def properties(value: Any, rule: Json, _: Json, at: str) -> str | None:
    if not isinstance(value, dict):
        return None
    return first(mismatch(value[key], rule[key], f"{at}.{key}") for key in value if key in rule)


def additional(value: Any, rule: bool | Json, schema: Json, at: str) -> str | None:
    if not isinstance(value, dict):
        return None
    others = [key for key in value if key not in schema.get("properties", {})]
    if isinstance(rule, bool):
        return says(rule or not others, at, f"unknown keys {others}")
    return first(mismatch(value[key], rule, f"{at}.{key}") for key in others)


def items(value: Any, rule: Json, _: Json, at: str) -> str | None:
    if not isinstance(value, list):
        return None
    return first(mismatch(item, rule, f"{at}[{n}]") for n, item in enumerate(value))


def required(value: Any, rule: list[str], _: Json, at: str) -> str | None:
    if not isinstance(value, dict):
        return None
    missing = [key for key in rule if key not in value]
    return says(not missing, at, f"without {missing}")


def dependent(value: Any, rule: dict[str, list[str]], _: Json, at: str) -> str | None:
    return first(
        required(value, needed, {}, f"{at} with {key}")
        for key, needed in rule.items()
        if isinstance(value, dict) and key in value
    )


ANNOTATIONS = {"$schema", "$defs", "title", "description"}
PYTHON_TYPES = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "null": type(None),
}
KEYWORDS: dict[str, Any] = {
    "$ref": lambda v, rule, _, at: mismatch(v, SCHEMA["$defs"][rule.removeprefix("#/$defs/")], at),
    "type": lambda v, rule, _, at: says(
        any(is_a(v, kind) for kind in ([rule] if isinstance(rule, str) else rule)),
        at,
        f"is no {rule}",
    ),
    "const": lambda v, rule, _, at: says(v == rule and type(v) is type(rule), at, f"not {rule!r}"),
    "enum": lambda v, rule, _, at: says(v in rule, at, f"{v!r} is none of {rule}"),
    "pattern": lambda v, rule, _, at: says(
        not isinstance(v, str) or re.search(rule, v) is not None, at, f"{v!r} is not {rule}"
    ),
    "minimum": lambda v, rule, _, at: says(v is None or v >= rule, at, f"{v} is below {rule}"),
    "minItems": lambda v, rule, _, at: says(len(v) >= rule, at, "has too few items"),
    "minLength": lambda v, rule, _, at: says(len(v) >= rule, at, "is too short"),
    "required": required,
    "dependentRequired": dependent,
    "properties": properties,
    "additionalProperties": additional,
    "items": items,
    "oneOf": one_of,
}


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_file_has_the_form_of_the_schema(path: Path) -> None:
    content = json.loads(path.read_text())
    kind = {"client": "client_file", "server": "server_file"}[path.parent.name]
    assert mismatch(content, SCHEMA["$defs"][kind]) is None
    assert mismatch(content, SCHEMA) is None  # the schema tells the two kinds apart by itself
    names = [vector["name"] for vector in content["vectors"]]
    assert len(set(names)) == len(names)


STEP = {"opened": True, "sends": [{"type": "connect", "token": "t1"}]}


@pytest.mark.parametrize(
    "step",
    [
        {},
        {"opened": False},
        {"opened": 1},
        {"opened": True, "retry": True},
        {"opened": True, "sent": []},
        {"opened": True, "sends": [{"type": "shout"}]},
        {"opened": True, "sends": [{"type": "connect", "toke": "t1"}]},
        {"opened": True, "state": "open"},
        {"opened": True, "why": "done"},
        {"opened": True, "wait": {"least": 0}},
        {"opened": True, "wait": {"least": -1, "most": 1}},
        {"opened": True, "position": "1-1"},
        {"opened": True, "refresh_in": {"least": 1, "most": 1}},
        {"opened": True, "positions": {"all": "1"}},
        {"receive": {"type": "event"}, "events": [{"type": "gap"}]},
        {"lost": {"code": 1006, "lasted": 1}},
        {"lost": {"code": "1006", "reason": "", "lasted": 1}},
    ],
)
def test_the_schema_refuses_a_slip_of_the_pen(step: Json) -> None:
    def file(with_step: Json) -> Json:
        return {"about": "a", "vectors": [{"name": "n", "given": {}, "steps": [with_step]}]}

    assert mismatch(file(STEP), SCHEMA["$defs"]["client_file"]) is None
    assert mismatch(file(step), SCHEMA["$defs"]["client_file"]) is not None


# A client's rules


@pytest.mark.parametrize("vector", vectors("client"))
def test_a_client_vector_agrees_with_the_rules(vector: Json) -> None:
    client = Client(vector["given"])
    for number, step in enumerate(vector["steps"]):
        assert not differences(step, client.take(step)), f"step {number}: {step}"


# The server's session


@pytest.mark.parametrize("vector", vectors("server"))
def test_the_session_answers_a_server_vector(vector: Json) -> None:
    given = vector["given"]
    session = Session(given["max_topics"])
    principal = _principal(given["principal"])
    effect: Effect | None = None
    for number, step in enumerate(vector["steps"]):
        if "admitted" in step:
            asked = step["admitted"]
            request = parse_request(asked.get("topics", ()), asked.get("positions", {}).items())
            if isinstance(effect, Admit):
                assert effect.request == request  # `connect` asked for just this
            plan = session.admitted(principal, request)
            got = {"says": plan.refusals, "joins": plan.joins}
        else:
            effect = _answer(session, step)
            got = _OUTPUTS[type(effect)](effect)
        assert _as_json(got) == _expected(step), f"step {number}: {step}"


def _principal(person: Json) -> Principal:
    topics = parse_topic_grant(person["topics"])
    return Principal(person["user"], person.get("expires", 1_000.0), topics)


def _answer(session: Session, step: Json) -> Effect:
    if "reauthenticated" in step:
        return session.reauthenticated(_principal(step["reauthenticated"]))
    text = step["client_text"] if "client_text" in step else json.dumps(step["client"])
    try:
        message = decode_client_message(text.encode())
    except InvalidMessage as problem:
        return session.malformed(problem)
    return session.receive(message)


_OUTPUTS: dict[type[Effect], Any] = {
    Reply: lambda effect: {"says": effect.payloads},
    Admit: lambda effect: {"verifies": effect.token},
    Reauthenticate: lambda effect: {"verifies": effect.token},
    Join: lambda effect: {"joins": {effect.channel: effect.since}},
    Leave: lambda effect: {"says": effect.payloads, "leaves": effect.channels},
    Acked: lambda effect: {"acks": {"channel": effect.channel, "id": str(effect.position)}},
    Close: lambda effect: {"says": effect.payloads, "closes": int(effect.code)},
}
_NOTHING: Json = {"says": [], "joins": {}, "leaves": []}


def _as_json(got: Json) -> Json:
    """What the session does, as a vector says it."""
    joins = got.get("joins", {})
    return (
        _NOTHING
        | got
        | {"says": [_without_prose(json.loads(payload)) for payload in got.get("says", ())]}
        | {"joins": {name: since and str(since) for name, since in joins.items()}}
    )


def _expected(step: Json) -> Json:
    """The outputs of a step, with those that were left out."""
    outputs = {"says", "joins", "leaves", "acks", "verifies", "closes"}
    expected = _NOTHING | {key: value for key, value in step.items() if key in outputs}
    return expected | {"says": [_without_prose(message) for message in expected["says"]]}


def _without_prose(message: Json) -> Json:
    if message["type"] != "error":
        return message
    assert message["message"], "an error says something to people"
    return {**message, "message": "…"}
