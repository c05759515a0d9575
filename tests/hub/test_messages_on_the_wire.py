"""Every client message through a real socket: the answers, their order, and the strikes."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
from collections.abc import Callable
from typing import Any

import pytest

from tests.harness.process import PATIENCE, Herald, eventually, mint
from tests.hub.wire import TEXT, Wire, close, frame, handshake, opened, plain, text

BAD: dict[str, tuple[bytes, str]] = {
    "not JSON": (b"{", "invalid_json"),
    "nested deeply": (b'{"type":"ping","x":' + b"[" * 30_000, "invalid_json"),
    "unknown type": (b'{"type":"shout"}', "unknown_type"),
    "no type": (b"{}", "invalid_message"),
    "a list": (b"[]", "invalid_message"),
    "type is a number": (b'{"type":1}', "invalid_message"),
    "subscribe to a number": (b'{"type":"subscribe","topic":1}', "invalid_message"),
    "subscribe to nothing": (b'{"type":"subscribe"}', "invalid_message"),
    "auth without a token": (b'{"type":"auth"}', "invalid_message"),
    "ack without an id": (b'{"type":"ack","channel":"all"}', "invalid_message"),
    "bad topic": (b'{"type":"subscribe","topic":"a b"}', "invalid_topic"),
    "bad topic to leave": (b'{"type":"unsubscribe","topic":""}', "invalid_topic"),
    "bad position": (b'{"type":"subscribe","topic":"t","position":"1"}', "invalid_position"),
    "ack of a bad position": (b'{"type":"ack","channel":"all","id":"x"}', "invalid_position"),
    "ack elsewhere": (b'{"type":"ack","channel":"topic:x","id":"1-1"}', "not_subscribed"),
    "connect again": (b'{"type":"connect"}', "already_connected"),
}


@pytest.mark.parametrize(("message", "code"), BAD.values(), ids=BAD.keys())
async def test_ten_bad_messages_close_with_1008_and_good_ones_forgive(
    herald: Herald, user: str, message: bytes, code: str
) -> None:
    async with plain(herald, user) as wire:
        for _ in range(9):
            await wire.send(frame(TEXT, message))
            assert (await wire.expect("error"))["code"] == code
        await wire.send(text(type="ping"))
        await wire.expect("pong")  # takes one point away
        await wire.send(frame(TEXT, message) * 2)
        for _ in range(2):
            assert (await wire.expect("error"))["code"] == code
        assert await wire.closed() == 1008


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "forbidden": ({"type": "subscribe", "topic": "secret"}, "forbidden"),
    "joined before": ({"type": "subscribe", "topic": "mine"}, "already_subscribed"),
    "leave what was not joined": ({"type": "unsubscribe", "topic": "other"}, "not_subscribed"),
    "bad token": ({"type": "auth", "token": "nonsense"}, "unauthorized"),
}


@pytest.mark.parametrize(("message", "code"), REFUSED.values(), ids=REFUSED.keys())
async def test_a_refusal_is_no_strike(
    herald: Herald, user: str, message: dict[str, Any], code: str
) -> None:
    async with plain(herald, user, topics=["mine"]) as wire:
        for _ in range(25):
            await wire.send(text(**message))
            assert (await wire.expect("error"))["code"] == code
        await wire.send(text(type="ping"))
        await wire.expect("pong")


async def test_a_plain_client_subscribes_up_to_max_topics(
    start: Callable[..., Herald], user: str, new_name: Callable[[], str]
) -> None:
    herald = start(max_topics="2")
    first, second, third = (new_name() for _ in range(3))
    async with plain(herald, user, topics=["*"]) as wire:
        for topic in (first, second):
            await wire.send(text(type="subscribe", topic=topic))
            assert (await wire.expect("subscribed"))["channel"] == f"topic:{topic}"
        await wire.send(text(type="subscribe", topic=third))
        assert (await wire.expect("error"))["code"] == "too_many_subscriptions"
        await wire.send(text(type="unsubscribe", topic=first) + text(type="subscribe", topic=third))
        await wire.expect("unsubscribed")
        await wire.expect("subscribed")
        await asyncio.to_thread(herald.publish, [f"topic:{first}", f"topic:{third}"], "news")
        assert (await wire.expect("event"))["channel"] == f"topic:{third}"


@pytest.mark.parametrize("with_handshake", [False, True])
async def test_what_is_sent_with_connect_in_one_piece_is_answered_after_the_welcome_in_order(
    herald: Herald, user: str, new_name: Callable[[], str], with_handshake: bool
) -> None:
    token, topic = mint(user, topics=["*"]), new_name()
    piece = (
        text(type="connect", token=token)
        + text(type="subscribe", topic=topic)
        + text(type="ping")
        + text(type="auth", token=token)
        + text(type="unsubscribe", topic=topic)
    )
    async with opened(herald) as wire:
        if with_handshake:
            await wire.send(handshake(herald=True) + piece)
        else:
            await wire.send(handshake(herald=True), piece)
        assert await wire.head() == 101
        for kind in ("welcome", "subscribed", "pong", "authenticated", "unsubscribed"):
            await wire.expect(kind)


async def test_a_plain_client_may_speak_together_with_its_handshake(
    herald: Herald, user: str
) -> None:
    async with opened(herald) as wire:
        await wire.send(handshake(mint(user)) + text(type="ping") + close(1000))
        assert await wire.head() == 101
        await wire.expect("welcome")
        await wire.expect("pong")
        assert await wire.closed(answer=False) == 1000


async def test_before_connect_only_ping_is_understood(herald: Herald) -> None:
    async with opened(herald) as wire:
        await wire.send(handshake(herald=True))
        assert await wire.head() == 101
        await wire.send(text(type="ping") + text(type="subscribe", topic="t"))
        await wire.expect("pong")
        assert (await wire.expect("error"))["code"] == "not_connected"


async def test_connect_with_5000_positions_says_which_were_not_joined(
    start: Callable[..., Herald], user: str
) -> None:
    herald = start(max_message_bytes="1MiB")
    positions = {f"topic:t{number}": "1-1" for number in range(5000)}
    async with opened(herald) as wire:
        await wire.send(handshake(herald=True))
        assert await wire.head() == 101
        await wire.send(text(type="connect", token=mint(user), positions=positions))
        await wire.expect("welcome")
        told = [await wire.expect("error") for _ in positions]
        assert {error["code"] for error in told} == {"not_subscribed"}
        assert {error["channel"] for error in told} == set(positions)


async def test_another_users_token_ends_tcp_although_the_close_is_not_answered(
    start: Callable[..., Herald], user: str, new_name: Callable[[], str]
) -> None:
    herald = start(heartbeat_interval="300")
    async with plain(herald, user) as wire:
        await wire.send(text(type="auth", token=mint(new_name())))
        assert await wire.closed(answer=False) == 3003


async def test_the_limit_of_a_user_holds_for_those_that_come_in_the_same_instant(
    start: Callable[..., Herald], user: str
) -> None:
    herald = start(max_connections_per_user="1")
    async with opened(herald) as first, opened(herald) as second, opened(herald) as third:
        wires = [first, second, third]
        for wire in wires:
            await wire.send(handshake(herald=True))
            assert await wire.head() == 101
        herald.signal(signal.SIGSTOP)  # so that it finds all of them in one turn
        for wire in wires:
            await wire.send(text(type="connect", token=mint(user)))
        herald.signal(signal.SIGCONT)
        outcomes = [await _outcome(wire) for wire in wires]
        assert sorted(outcomes) == ["4101", "4101", "welcome"]


async def _outcome(wire: Wire) -> str:
    got = await wire.next()
    return str(json.loads(got.payload)["type"]) if got.opcode == TEXT else str(got.code)


_MOST_OF_THE_BUFFERS = 2_500_000
"""Bytes: of the 3 MB that Linux takes for a socket whose peer reads nothing."""
_LONG = "flood" * 40  # long answers fill the buffers in few steps
FLOODS: dict[str, bytes] = {
    "bad tokens": text(type="auth", token="x"),
    "coming and going": text(type="subscribe", topic=_LONG) + text(type="unsubscribe", topic=_LONG),
}


@pytest.mark.timeout(8 * PATIENCE)
@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS.keys())
async def test_who_asks_and_never_reads_is_cut_off(
    start: Callable[..., Herald], user: str, flood: bytes
) -> None:
    herald = start(
        send_queue_bytes="16384",
        heartbeat_interval="300",
        max_event_bytes=str(2 * _MOST_OF_THE_BUFFERS),
        log_level="info",
    )
    loop = asyncio.get_running_loop()
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)
        await loop.sock_connect(sock, ("127.0.0.1", herald.port))
        await loop.sock_sendall(sock, handshake(mint(user, topics=["*"])))

        await eventually(lambda: herald.metrics()["herald_connections"] == 1, "it is there")
        herald.publish(f"user:{user}", "x" * _MOST_OF_THE_BUFFERS)

        async def speak() -> None:
            while True:
                await loop.sock_sendall(sock, flood * 500)

        speaking = asyncio.create_task(speak())
        code = 'herald_disconnects_total{code="4000"}'
        # Small answers have to fill the rest of the system's buffers first.
        await eventually(lambda: herald.metrics().get(code) == 1, "it was cut off", 6 * PATIENCE)
        speaking.cancel()
        await asyncio.gather(speaking, return_exceptions=True)
