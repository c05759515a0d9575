"""The opening of a WebSocket by the rules of RFC 6455, 4.2: first as a table, then on a socket."""

from __future__ import annotations

import json
import socket

import pytest

from service.edge.answers import ProblemError
from service.edge.upgrade import Opening, accept, read_opening
from tests.edge.wire import check_problem, open_socket, read_answer, read_head, request_bytes
from tests.harness.process import KEY as API_KEY
from tests.harness.process import PATIENCE, Herald, eventually, mint

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
"""The RFC's own example (1.3)."""

Fields = list[tuple[bytes, bytes]]
GOOD: Fields = [
    (b"host", b"x"),
    (b"connection", b"Upgrade"),
    (b"upgrade", b"websocket"),
    (b"sec-websocket-version", b"13"),
    (b"sec-websocket-key", KEY.encode()),
]


def with_key(*keys: bytes) -> Fields:
    return [*GOOD[:-1], *((b"sec-websocket-key", key) for key in keys)]


def with_version(*versions: bytes) -> Fields:
    return [*GOOD[:3], *((b"sec-websocket-version", v) for v in versions), GOOD[4]]


def read(fields: Fields = GOOD, method: bytes = b"GET", version: str = "1.1") -> Opening:
    return read_opening(method, version, "/v1/ws", b"a=b", fields)


def test_key_of_the_rfc_is_accepted_with_the_answer_of_the_rfc() -> None:
    opening = read()
    assert opening.key == KEY.encode()
    assert (opening.path, opening.query, opening.subprotocols) == ("/v1/ws", b"a=b", [])
    assert accept(opening, None) == (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + ACCEPT.encode() + b"\r\n\r\n"
    )


def test_chosen_subprotocol_is_named_and_no_other() -> None:
    opening = read([*GOOD, (b"sec-websocket-protocol", b"herald.v1, bearer.token")])
    assert opening.subprotocols == ["herald.v1", "bearer.token"]
    head = accept(opening, "herald.v1")
    assert head.count(b"Sec-WebSocket-Protocol: herald.v1\r\n") == 1
    assert head.endswith(b"\r\n\r\n")
    assert b"bearer" not in head


@pytest.mark.parametrize(
    ("lines", "offered"),
    [
        ([b"a"], ["a"]),
        ([b"a,b", b"c"], ["a", "b", "c"]),
        ([b" a ,\tb ", b"c ,"], ["a", "b", "c"]),
        ([b"", b",,", b"a"], ["a"]),
        ([b"\xe4"], ["\xe4"]),
    ],
)
def test_subprotocols_may_come_in_several_lines(lines: list[bytes], offered: list[str]) -> None:
    fields = [(b"sec-websocket-protocol", line) for line in lines]
    assert read([*GOOD, *fields]).subprotocols == offered


@pytest.mark.parametrize(
    "fields",
    [
        with_key(KEY.encode() + b" "),
        with_key(b"AAAAAAAAAAAAAAAAAAAAAA=="),
        with_version(b" 13 "),
        [*GOOD, (b"content-length", b"0")],
        [*GOOD, (b"sec-websocket-extensions", b"permessage-deflate")],
    ],
)
def test_opening_that_is_a_little_unusual_is_good(fields: Fields) -> None:
    assert b"\r\n\r\n" in accept(read(fields), None)
    assert b"xtensions" not in accept(read(fields), None)


@pytest.mark.parametrize(
    ("fields", "method", "version", "status"),
    [
        (GOOD, b"POST", "1.1", 405),
        (GOOD, b"HEAD", "1.1", 405),
        (GOOD, b"GET", "1.0", 400),
        (GOOD, b"GET", "2.0", 400),
        (with_key(), b"GET", "1.1", 400),
        (with_key(KEY.encode(), KEY.encode()), b"GET", "1.1", 400),
        (with_key(b""), b"GET", "1.1", 400),
        (with_key(b"dGhlIHNhbXBsZSBub24="), b"GET", "1.1", 400),  # 14 bytes
        (with_key(b"dGhlIHNhbXBsZSBub25jZTE="), b"GET", "1.1", 400),  # 17 bytes
        (with_key(KEY.encode().rstrip(b"=")), b"GET", "1.1", 400),
        (with_key(b"!" + KEY.encode()[1:]), b"GET", "1.1", 400),
        (with_key(b"\xff" * 24), b"GET", "1.1", 400),
        (with_version(), b"GET", "1.1", 426),
        (with_version(b"8"), b"GET", "1.1", 426),
        (with_version(b"13, 8"), b"GET", "1.1", 426),
        (with_version(b"013"), b"GET", "1.1", 426),
        ([*GOOD, (b"content-length", b"1")], b"GET", "1.1", 400),
        ([*GOOD, (b"transfer-encoding", b"chunked")], b"GET", "1.1", 400),
    ],
)
def test_opening_that_breaks_a_rule_is_refused(
    fields: Fields, method: bytes, version: str, status: int
) -> None:
    with pytest.raises(ProblemError) as caught:
        read(fields, method, version)
    assert caught.value.status == status
    assert KEY not in str(caught.value)
    answered = dict(caught.value.headers)
    if status == 426:
        assert answered[b"sec-websocket-version"] == b"13"
    if status == 405:
        assert answered[b"allow"] == b"GET"


# On a socket

FIELDS = [
    ("Connection", "Upgrade"),
    ("Upgrade", "websocket"),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", KEY),
]


def opening(
    *more: tuple[str, str], path: str | None = None, method: str = "GET", **changes: str
) -> bytes:
    fields = [(name, changes.get(name.lower(), value)) for name, value in FIELDS]
    path = f"/v1/ws?token={mint()}" if path is None else path
    return request_bytes(method, path, [*fields, *more])


@pytest.mark.parametrize(
    "request_",
    [
        opening(),
        opening(connection="keep-alive, Upgrade"),
        opening(connection="upgrade"),
        opening(upgrade="WebSocket"),
        opening(("Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits")),
        opening().replace(b"Sec-WebSocket-", b"sEC-wEBsOCKET-").replace(b"Upgrade:", b"UPGRADE:"),
        opening().replace(b"/v1/ws", b"/v1/%77s"),
        opening().replace(b" /v1/ws", b" http://localhost/v1/ws"),
        b"\r\n" + opening(),
    ],
    ids=[
        "as usual",
        "keep-alive too",
        "lower case",
        "WebSocket",
        "extensions",
        "names in any case",
        "escaped path",
        "whole URL",
        "empty line first",
    ],
)
def test_opening_is_answered_with_the_accept_of_its_key(herald: Herald, request_: bytes) -> None:
    with open_socket(herald.port) as sock:
        sock.sendall(request_)
        status, headers, _ = read_head(sock)
        assert status == 101
        assert headers["sec-websocket-accept"] == ACCEPT
        assert headers["upgrade"] == "websocket"
        assert headers["connection"] == "Upgrade"
        assert "sec-websocket-extensions" not in headers
        assert "sec-websocket-protocol" not in headers


@pytest.mark.parametrize("size", [1, 7])
def test_opening_may_come_in_pieces(herald: Herald, size: int) -> None:
    data = opening(path="/v1/ws?token=x")
    with open_socket(herald.port) as sock:
        for begin in range(0, len(data), size):
            sock.sendall(data[begin : begin + size])
        assert read_answer(sock)[0] == 401


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (opening(path="/v1/other"), 404),
        (opening(path="/"), 404),
        (opening(path="*"), 404),
        (opening(path="http://localhost"), 404),
        (opening(path="http://localhost:99999999/v1/ws"), 400),
        (opening(path="/v1/ws/"), 404),
        (opening(path="/v1/%ff"), 404),
        (opening(**{"sec-websocket-version": "8"}), 426),
        (opening(**{"sec-websocket-key": "x"}), 400),
        (opening(method="POST"), 405),
        (opening().replace(b"HTTP/1.1", b"HTTP/1.0"), 400),
    ],
)
def test_opening_that_is_refused_is_a_problem_and_the_end(
    herald: Herald, request_: bytes, status: int
) -> None:
    with open_socket(herald.port) as sock:
        sock.sendall(request_)
        answered, headers, body = read_answer(sock)
        assert answered == status
        assert headers["connection"] == "close"
        assert headers["content-type"] == "application/problem+json"
        assert ("sec-websocket-version" in headers) == (status == 426)
        check_problem(json.loads(body), status)
        assert sock.recv(1) == b""
    assert "Fatal error" not in herald.log()


def test_subprotocols_in_several_lines_are_one_offer(herald: Herald) -> None:
    offers = [("Sec-WebSocket-Protocol", "other"), ("Sec-WebSocket-Protocol", "x , herald.v1")]
    token = ("Sec-WebSocket-Protocol", f"bearer.{mint()}")
    with open_socket(herald.port) as sock:
        sock.sendall(opening(*offers, token, path="/v1/ws"))
        status, headers, _ = read_head(sock)
        assert (status, headers["sec-websocket-protocol"]) == (101, "herald.v1")


def test_what_is_sent_early_is_not_lost(herald: Herald) -> None:
    # A masked text frame, {"type":"ping"}, in one write with the opening; the mask is zero.
    text = b'{"type":"ping"}'
    frame = bytes([0x81, 0x80 | len(text), 0, 0, 0, 0]) + text
    with open_socket(herald.port) as sock:
        sock.sendall(opening() + frame)
        status, _, data = read_head(sock)
        assert status == 101
        while b'"pong"' not in data:
            chunk = sock.recv(65536)
            assert chunk, data
            data += chunk


def test_websocket_after_answered_requests_is_welcome(herald: Herald) -> None:
    with open_socket(herald.port) as sock:
        for _ in range(2):
            sock.sendall(request_bytes("GET", "/healthz/live", {}))
            assert read_answer(sock)[0] == 200
        sock.sendall(opening())
        assert read_head(sock)[0] == 101


H2C = [("Connection", "Upgrade, HTTP2-Settings"), ("Upgrade", "h2c"), ("HTTP2-Settings", "AAMA")]


def test_upgrade_to_another_protocol_is_answered_as_an_ordinary_request(herald: Herald) -> None:
    with open_socket(herald.port) as sock:
        for _ in range(2):  # and the connection goes on
            sock.sendall(request_bytes("GET", "/healthz/live", H2C))
            status, headers, body = read_answer(sock)
            assert (status, json.loads(body)) == (200, {"status": "live"})
            assert "upgrade" not in headers
        sock.sendall(request_bytes("GET", "/v1/ws", H2C))
        assert read_answer(sock)[0] == 426


@pytest.mark.parametrize("pieces", [1, 2])
def test_body_of_a_request_that_asks_for_another_protocol_is_not_lost(
    herald: Herald, user: str, pieces: int
) -> None:
    """As Java's client and `curl --http2` send it."""
    body = json.dumps({"to": f"user:{user}", "type": "t", "data": 1}).encode()
    fields = [
        *H2C,
        ("authorization", f"Bearer {API_KEY}"),
        ("content-type", "application/json"),
        ("content-length", str(len(body))),
    ]
    data = request_bytes("POST", "/v1/events", fields, body)
    with open_socket(herald.port) as sock:
        if pieces == 2:
            sock.sendall(data[:-5])
            sock.sendall(data[-5:])
        else:
            sock.sendall(data + request_bytes("GET", "/healthz/live", H2C))
        assert read_answer(sock)[0] == 202
    events = herald.get(f"/v1/channels/user:{user}/events").json()["events"]
    assert [event["data"] for event in events] == [1]


async def test_no_opening_leaves_a_connection_behind(herald: Herald) -> None:
    await eventually(lambda: herald.metrics()["herald_connections"] == 0, "all have gone")


_REFUSED = 'herald_http_cut_off_total{reason="bad_request"}'


async def test_one_that_comes_behind_an_answer_that_is_not_read_is_refused(
    herald: Herald, user: str
) -> None:
    # What is written to it would wait without a limit: nobody tells that nothing is read.
    for _ in range(60):
        herald.publish(f"user:{user}", "x" * 60_000)
    headers = {"authorization": f"Bearer {API_KEY}"}
    asked = request_bytes("GET", f"/v1/channels/user:{user}/events?limit=60", headers)
    opening = {
        "connection": "Upgrade",
        "upgrade": "websocket",
        "sec-websocket-version": "13",
        "sec-websocket-key": KEY,
        "authorization": f"Bearer {mint(user)}",
    }
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.settimeout(PATIENCE)
        sock.connect(("127.0.0.1", herald.port))
        sock.sendall(asked)
        assert sock.recv(1) == b"H"  # it is being answered, and far more of it than fits waits
        refused = herald.metrics()[_REFUSED]
        sock.sendall(request_bytes("GET", f"/v1/ws?since=user:{user}@0-0", opening))
        # Whoever reads before it is looked at has the answer read.
        await eventually(lambda: herald.metrics()[_REFUSED] > refused, "the refusal")
        received = b""
        while chunk := sock.recv(1 << 20):
            received += chunk
            assert b" 101 " not in received[3_600_000:]
        assert received[3_600_000:].count(b"HTTP/1.1 400 Bad Request") == 1
