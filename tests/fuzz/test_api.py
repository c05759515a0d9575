"""The HTTP API as openapi.yaml describes it: requests that fit the document, and that almost do.

Whatever is sent, the answer is one that the document has for this operation, and its body fits the
schema there. A request that has everything the document asks for is accepted or refused for what a
schema cannot say, as a channel that is none.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import pytest
import yaml
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from service.broker.embedded import EmbeddedEngine
from tests.contract.checker import problems, resolve
from tests.fuzz.amount import SEED, how_to_repeat, inputs
from tests.fuzz.mutation import JSON_WORDS
from tests.fuzz.watch import QUIET, Watch
from tests.harness.event_stream import EventStreamParser
from tests.harness.process import KEY, PATIENCE, Herald, mint, running

DOCUMENT: dict[str, Any] = yaml.safe_load(
    (Path(__file__).parents[2] / "openapi/openapi.yaml").read_text()
)
STREAM = "text/event-stream"
_PART = 20
"""One in so many of the inputs that are asked for: making them costs more than answering."""
_ANYWHERE = {204, 404, 405, 426}
"""Of no operation: another path or method, or a preflight."""
_SAID_BY_THE_PARSER = {400, 431}
_NOTES = ("examples", "title", "default", "minLength", "maxLength", "minItems", "maxItems")
_NOTES += ("exclusiveMinimum", "minimum", "maximum")


class Operation(NamedTuple):
    method: str
    path: str
    about: dict[str, Any]


OPERATIONS = [
    Operation(method, path, about)
    for path, methods in DOCUMENT["paths"].items()
    for method, about in methods.items()
]


def _without_notes(schema: Any) -> Any:
    """The document with only what the checker checks; it has no bounds of what is answered."""
    if isinstance(schema, list):
        return [_without_notes(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {key: _without_notes(value) for key, value in schema.items() if key not in _NOTES}
    if "properties" in schema:  # whose names may be those of notes
        properties = schema["properties"].items()
        kept["properties"] = {name: _without_notes(value) for name, value in properties}
    return kept


CHECKED = {"components": {"schemas": {
    name: _without_notes(schema) for name, schema in DOCUMENT["components"]["schemas"].items()
}}}  # fmt: skip

numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
anything = st.recursive(
    st.none() | st.booleans() | numbers | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)
_READABLE = st.characters(exclude_categories=["Cs", "Cc"])
channels = st.one_of(
    st.sampled_from(["all", "topic:fuzz", "topic:a.b_c:d@e/f-g", "user:alice", "user:é😀"]),
    st.text(_READABLE, min_size=1, max_size=20).map("user:".__add__),
    st.from_regex(r"topic:[A-Za-z0-9._:@/-]{1,200}", fullmatch=True),
)


def fitting(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Values that fit a schema of the document."""
    if schema.get("$ref", "").endswith("/Channel"):
        return channels | channels | st.text(min_size=3, max_size=30)
    schema = resolve(DOCUMENT, schema)
    if "oneOf" in schema:
        return st.one_of([fitting(one) for one in schema["oneOf"]])
    kinds = schema.get("type")
    kinds = kinds if isinstance(kinds, list) else [kinds]
    return st.one_of([_of_kind(kind, schema) for kind in kinds])


def _of_kind(kind: str | None, schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    match kind:
        case None:
            return anything
        case "null":
            return st.none()
        case "string" if "pattern" in schema:
            return st.from_regex(
                schema["pattern"], fullmatch=True, alphabet=st.characters(codec="ascii")
            )
        case "string":
            size = {"min_size": schema.get("minLength", 0), "max_size": schema.get("maxLength", 60)}
            # A schema cannot say that control characters are refused.
            return st.text(_READABLE, **size) | st.text(_READABLE, **size) | st.text(**size)
        case "integer":
            return st.integers(schema.get("minimum"), schema.get("maximum"))
        case "number":
            least = schema.get("exclusiveMinimum", schema.get("minimum"))
            return st.floats(least, schema.get("maximum"), exclude_min=True) | st.integers(
                1, schema.get("maximum")
            )
        case "array":
            items = fitting(schema["items"])
            return st.lists(items, min_size=schema.get("minItems", 0), max_size=5)
        case "object":
            known = {name: fitting(one) for name, one in schema["properties"].items()}
            required = {name: known.pop(name) for name in schema.get("required", ())}
            return st.fixed_dictionaries(required, optional=known)
    raise AssertionError(f"no values of {kind}")


def _once_in(draw: st.DrawFn, times: int) -> bool:
    return draw(st.sampled_from([False] * (times - 1) + [True]))


@st.composite
def almost(draw: st.DrawFn, values: st.SearchStrategy[Any]) -> Any:
    """A value with something in it replaced, taken away or added."""
    value = draw(values)
    for _ in range(draw(st.integers(1, 3))):
        value = _change(draw, value)
    return value


def _change(draw: st.DrawFn, value: Any) -> Any:
    if isinstance(value, dict) and value and draw(st.integers(0, 3)):
        key = draw(st.sampled_from(sorted(value)))
        changed = dict(value)
        match draw(st.integers(0, 3)):
            case 0:
                del changed[key]
            case 1:
                changed[draw(st.text(max_size=8))] = draw(anything)
            case _:
                changed[key] = _change(draw, value[key])
        return changed
    if isinstance(value, list) and value and draw(st.integers(0, 3)):
        at = draw(st.integers(0, len(value) - 1))
        return [*value[:at], _change(draw, value[at]), *value[at + 1 :]]
    return draw(anything)


@st.composite
def bodies(draw: st.DrawFn, about: dict[str, Any]) -> tuple[bytes, str]:
    """A body and its content type."""
    content = about["requestBody"]["content"]
    kind = draw(st.sampled_from(sorted(content)))
    if kind.endswith("ndjson"):
        events = fitting({"$ref": "#/components/schemas/Event"})
        lines = draw(st.lists(events | almost(events), max_size=5))
        body = b"\n".join(json.dumps(line).encode() for line in lines)
    else:
        values = fitting(content[kind]["schema"])
        body = json.dumps(draw(values | almost(values))).encode()
    for _ in range(draw(st.sampled_from([0, 0, 0, 0, 1, 3]))):
        at = draw(st.integers(0, len(body)))
        word = draw(st.sampled_from(JSON_WORDS) | st.binary(max_size=8))
        body = body[:at] + word + body[at + draw(st.integers(0, 4)) :]
    return body, draw(
        st.sampled_from([kind] * 8 + [kind + "; charset=utf-8", "text/plain", "", "é"])
    )


header_text = st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=60)
strange_credentials = st.one_of(
    st.sampled_from(["", "Bearer", "Bearer x", "Basic YTpi", f"bearer  {KEY} "]),
    st.sampled_from([f"Bearer {mint()}", f"Bearer {mint(scope='publish')}"]),
    st.sampled_from(["Bearer " + base64.b64encode(b'{"alg":1}').decode() + ".e30.", "Bearer ..."]),
    header_text,
    header_text.map("Bearer ".__add__),
)
_PLAIN = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=30)


@st.composite
def requests(draw: st.DrawFn) -> tuple[Operation, str, str, dict[str, str], bytes]:
    """An operation, the method and target that are sent, headers and a body."""
    operation = draw(st.sampled_from(OPERATIONS))
    parameters = operation.about.get("parameters", [])
    target = operation.path
    query: list[str] = []
    headers = {"authorization": f"Bearer {KEY}"}
    if {"user": []} in operation.about.get("security", ()):
        headers["authorization"] = f"Bearer {mint(topics=['*'])}"
    if _once_in(draw, 5):
        headers["authorization"] = draw(strange_credentials)
    for one in parameters:
        name = one["name"]
        if one["in"] == "path":
            value = draw(channels).encode()
            if _once_in(draw, 4):
                value = draw(st.text(max_size=20).map(str.encode) | st.binary(max_size=20))
            in_path = draw(_PLAIN) if _once_in(draw, 10) else quote(value, safe="")
            target = target.replace("{" + name + "}", in_path)
        elif draw(st.booleans()):
            values = fitting(one["schema"]).map(str)
            if _once_in(draw, 3):
                values = st.text(max_size=20) | st.integers().map(str) | st.just("")
            value_text = draw(values)
            if one["in"] == "query":
                query.append(f"{name}={quote(value_text)}")
            else:
                headers[name] = value_text.encode().decode("latin-1")
    if query and _once_in(draw, 10):
        query.append(draw(_PLAIN))
    body = b""
    if "requestBody" in operation.about:
        body, kind = draw(bodies(operation.about))
        headers["content-type"] = kind
    method = operation.method.upper()
    if _once_in(draw, 20):
        method = draw(st.sampled_from(["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"]))
    if query:
        target += "?" + "&".join(query)
    target = re.sub(r"[^\x21-\x7e]", "", target)
    headers = {name: re.sub(r"[\r\n\0]", "", value) for name, value in headers.items() if value}
    return operation, method, target, headers, body


class Line:
    """One connection that is kept, and opened again where it was closed."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)

    def ask(
        self, method: str, target: str, headers: dict[str, str], body: bytes
    ) -> tuple[int, str, bytes, dict[str, str]]:
        connection = self._connection
        connection.putrequest(method, target, skip_accept_encoding=True)
        for name, value in headers.items():
            connection.putheader(name, value.encode("latin-1", "replace"))
        if body or method in ("POST", "PUT", "PATCH"):
            connection.putheader("content-length", str(len(body)))
        connection.endheaders(body or None)
        answer = connection.getresponse()
        fields = {name.lower(): value for name, value in answer.getheaders()}
        if fields.get("content-type") == STREAM and "content-length" not in fields:
            text = b""  # without an end: its first message is enough
            while b"\ndata: " not in text or not text.endswith(b"\n\n"):
                text += answer.read1(1 << 20)
            answer.close()
            connection.close()
        else:
            text = answer.read()
        return answer.status, fields.get("content-type", ""), text, fields

    def close(self) -> None:
        self._connection.close()


def judge(
    operation: Operation, method: str, status: int, kind: str, text: bytes, fields: dict[str, str]
) -> None:
    responses = operation.about["responses"]
    known = {int(code) for code in responses} | _ANYWHERE | _SAID_BY_THE_PARSER
    assert status in known, (status, text[:300])
    assert status < 500, (status, text[:300])  # the engine is there
    if method == "HEAD":
        return
    if status == 429:
        assert fields["retry-after"].isdigit()
    if status >= 400:
        assert kind == "application/problem+json", (kind, text[:300])
        document = json.loads(text)
        assert document["status"] == status
        schema = {"$ref": "#/components/schemas/Problem"}
    elif method.lower() != operation.method:
        return
    else:
        content = responses[str(status)]["content"]
        assert kind.partition(";")[0] in content, kind
        if kind == STREAM:
            parser = EventStreamParser()
            first = json.loads(parser.feed(text)[0].data)
            assert first["type"] in ("welcome", "close"), first
            assert parser.oddities == []
        if not kind.startswith("application/json"):
            return
        document = json.loads(text)
        schema = _without_notes(content["application/json"]["schema"])
    assert problems(CHECKED, schema, document) == [], document


@pytest.fixture(scope="module")
def fuzzed(engine: EmbeddedEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Herald]:
    with running(engine.url, tmp_path_factory.mktemp("api"), **QUIET) as herald:
        yield herald


@pytest.mark.timeout(900)  # a failure is made shorter first
def test_requests(fuzzed: Herald, new_name: Callable[[], str]) -> None:
    total = inputs(600 * _PART)
    print("to repeat:", how_to_repeat("tests/fuzz/test_api.py", total))
    count = 0
    seen: Counter[int] = Counter()
    with (
        contextlib.closing(Watch(fuzzed, new_name())) as watch,
        contextlib.closing(Line(fuzzed.port)) as line,
    ):

        @seed(SEED)
        @settings(
            max_examples=max(1, total // _PART),
            deadline=None,
            database=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        )
        @given(requests())
        def ask(request: tuple[Operation, str, str, dict[str, str], bytes]) -> None:
            nonlocal count
            operation, method, target, headers, body = request
            status, kind, text, fields = line.ask(method, target, headers, body)
            judge(operation, method, status, kind, text, fields)
            seen[status] += 1
            count += 1
            if count % 200 == 0:
                watch.check()

        ask()
        watch.settle()
    assert {200, 202, 400, 401} <= set(seen), "the inputs no longer reach every kind of answer"
    print(f"{count} requests; statuses: {sorted(seen.items())}")
