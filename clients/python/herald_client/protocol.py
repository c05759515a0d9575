"""What a WebSocket client of Herald decides, without I/O.

docs/protocol.md says what the messages mean, openapi/vectors/README.md what a client does; the
numbers of its rules stand in the comments.

A `ClientProtocol` is told what happened (`opened`, `receive`, `lost`, …) and answers with
`Actions`. It knows no clock, socket or chance: times come in as arguments, waits go out as ranges.

    | from       | what happened                      | to         |
    |------------|------------------------------------|------------|
    | connecting | opened, then `welcome` received    | live       |
    | connecting | lost, token_failed                 | waiting    |
    | live       | lost, silent_for                   | waiting    |
    | waiting    | retry                              | connecting |
    | any        | close; no token; a loss that says  | closed     |
    |            | stay away; three refusals in a row |            |
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from herald_client.position import BEGINNING, parse_position

Message = dict[str, Any]

PONG: Message = {"type": "pong"}
TOPIC = "topic:"
_FIRST_WAIT, _LONGEST_WAIT = 0.25, 15.0
_STABLE_SECONDS = 5.0
_MAX_REFUSALS = 3
_DEFAULT_HEARTBEAT = 25.0
_STAY_AWAY = frozenset((1000, 1002, 1003, 1007, 1008, 1009, 3003))
_UNAUTHORIZED = 3000
_NO_CLOSE_FRAME = 1006


class State(StrEnum):
    """Where a client stands."""

    CONNECTING = "connecting"
    LIVE = "live"
    WAITING = "waiting"
    CLOSED = "closed"


class Why(StrEnum):
    """Why it is closed."""

    DONE = "done"
    """The application closed it."""
    LOGGED_OUT = "logged_out"
    """The application has no token."""
    UNAUTHORIZED = "unauthorized"
    """Refused again and again."""
    REFUSED = "refused"
    """The close code says: stay away."""


@dataclass(slots=True)
class Actions:
    """What is to be done.

    Attributes:
        sends: messages to the server, in order.
        events: messages `event` for the application.
        gaps: messages `gap` for the application.
        errors: messages `error` for the application.
        joined: positions that are held from now on without an event or a gap.
        left: channels whose position was forgotten.
        wait: seconds (least, most) until `retry`, to be drawn evenly between.
        asks_token: ask for a token: beside a `wait` when that is over, else now.
        drops: the connection is dead; it has counted as `lost` already.
        refresh_in: seconds until `refresh_due`.
    """

    sends: Sequence[Message] = ()
    events: Sequence[Message] = ()
    gaps: Sequence[Message] = ()
    errors: Sequence[Message] = ()
    joined: Mapping[str, str] = field(default_factory=dict)
    left: Sequence[str] = ()
    wait: tuple[float, float] | None = None
    asks_token: bool = False
    drops: bool = False
    refresh_in: float | None = None


class ClientProtocol:
    """One client. Not safe in threads.

    Args:
        token: the first one, or None to ask for it with `token_wanted`.
        topics: wanted from the beginning.
        positions: where the application left off, by channel.

    Raises:
        ValueError: where one of `positions` is none.
    """

    def __init__(
        self,
        token: str | None = None,
        topics: Iterable[str] = (),
        positions: Mapping[str, str] | None = None,
    ) -> None:
        self.state = State.CONNECTING
        self.why: Why | None = None
        self.code = _NO_CLOSE_FRAME
        """Of the last loss."""
        self.reason = ""
        """Of the last loss."""
        self.heartbeat = _DEFAULT_HEARTBEAT
        self.token_wanted = token is None
        """The next attempt needs a token first."""
        self.positions = dict(positions or {})
        self._places = {name: parse_position(text) for name, text in self.positions.items()}
        self._topics = dict.fromkeys(topics)
        self._token = token
        self._sent_token: str | None = None
        self._failures = 0
        self._refusals = 0
        self._after = 0.0
        self._open = False
        self._expires: float | None = None
        # This connection's: topics that the server was asked for, answers to `unsubscribe` that are
        # due by channel, and topics that it could not join just then.
        self._asked: set[str] = set()
        self._leaving: dict[str, int] = {}
        self._unavailable: dict[str, None] = {}

    # The connection

    def opened(self) -> Actions:
        """The WebSocket is open. Rule 1."""
        if self.state is State.CLOSED:
            return Actions()
        self._open = True
        self._asked = set(self._topics)
        self._sent_token = self._token
        connect: Message = {"type": "connect", "token": self._token}
        if self.positions:
            connect["positions"] = dict(self.positions)
        if self._topics:
            connect["topics"] = list(self._topics)
        return Actions(sends=[connect])

    def receive(self, message: Message, now: float) -> Actions:
        """The server sent this, at `now` (Unix seconds).

        Raises:
            KeyError, TypeError, ValueError: it is not what docs/protocol.md says.
        """
        if self.state is State.CLOSED:
            return Actions()
        match message.get("type"):
            case "event":
                return self._receive_event(message)
            case "gap":
                return self._receive_gap(message)
            case "welcome":
                return self._receive_welcome(message, now)
            case "subscribed":
                return self._receive_subscribed(message)
            case "unsubscribed":
                return self._receive_unsubscribed(message)
            case "authenticated":
                return self._receive_authenticated(message, now)
            case "ping":
                return Actions(sends=[PONG])
            case "reconnect":
                return self._receive_reconnect(message)
            case "error":
                return self._receive_error(message, now)
        return Actions()  # rule 3

    def lost(self, code: int, reason: str, lasted: float) -> Actions:
        """The connection ended, or could not be opened; it was live for `lasted` seconds."""
        if self.state is State.CLOSED:
            return Actions()
        self.code, self.reason = code, reason
        left = self._disconnected()
        if lasted >= _STABLE_SECONDS:
            self._failures = 0
        if code == _UNAUTHORIZED:
            return self._refused(left)
        if code in _STAY_AWAY or 4100 <= code <= 4199:
            return self._end(Why.REFUSED)
        at_once = 4000 <= code <= 4099 and not self._failures
        return self._wait(left, at_once=at_once, asks_token=self.token_wanted)

    def retry(self) -> Actions:
        """The wait is over."""
        if self.state is State.WAITING:
            self.state = State.CONNECTING
        elif self.state is State.LIVE:
            topics, self._unavailable = self._unavailable, {}
            return Actions(sends=[self._subscribe(name) for name in topics if name in self._topics])
        return Actions()

    def silent_for(self, seconds: float) -> Actions:
        """Nothing was heard for so long. Rule 9."""
        if not self._open or self.state is State.CLOSED or seconds < 2 * self.heartbeat:
            return Actions()
        lasted = seconds if self.state is State.LIVE else 0.0
        actions = self.lost(_NO_CLOSE_FRAME, f"nothing was heard for {seconds:.1f} seconds", lasted)
        actions.drops = True
        return actions

    # The token

    def token(self, token: str | None) -> Actions:
        """The application gave a token that was asked for, or has none. Rules 6 to 8."""
        if self.state is State.CLOSED:
            return Actions()
        if token is None:
            return self._end(Why.LOGGED_OUT)
        self._token = token
        self.token_wanted = False
        if self.state is State.LIVE:
            return Actions(sends=[self._authenticate()])
        return Actions()

    def token_failed(self, now: float) -> Actions:
        """Asking for a token failed. Rules 7 and 8."""
        if self.state is State.CLOSED:
            return Actions()
        if self.state is State.LIVE:
            return Actions(refresh_in=self._next_refresh(now, 0.5))
        if not self.token_wanted:
            return Actions()  # it was to be refreshed, and the old one will be tried
        return self._wait([], asks_token=True)

    def refresh_due(self) -> Actions:
        """The time of `refresh_in` has passed. Rule 8."""
        return Actions(asks_token=self.state is State.LIVE)

    # The application

    def subscribe(self, topic: str, position: str | None = None) -> Actions:
        """A topic is wanted, after `position` where one is given. Rule 10.

        Where this connection `knows` the topic, a position counts on another one only.

        Raises:
            ValueError: `position` is none.
        """
        if self.state is State.CLOSED:
            return Actions()
        joined: dict[str, str] = {}
        if position is not None:
            self._hold(TOPIC + topic, position)
            joined[TOPIC + topic] = position
        if topic in self._topics:
            return Actions(joined=joined)
        self._topics[topic] = None
        if self.state is State.LIVE:
            return Actions(sends=[self._subscribe(topic)], joined=joined)
        return Actions(joined=joined)

    def knows(self, topic: str) -> bool:
        """Whether the server was asked for a topic on this connection, or is about to be left."""
        channel = TOPIC + topic
        is_joined = self.state is State.LIVE and channel in self._places
        return topic in self._asked or bool(self._leaving.get(channel)) or is_joined

    def unsubscribe(self, topic: str) -> Actions:
        """A topic is not wanted any more. Rule 10."""
        if self.state is State.CLOSED or topic not in self._topics:
            return Actions()
        del self._topics[topic]
        if self.state is State.LIVE:
            return Actions(sends=[self._unsubscribe(topic)])
        return Actions(left=self._forget(TOPIC + topic))

    def close(self) -> Actions:
        """The application is done. Rule 12."""
        if self.state is not State.CLOSED:
            self._end(Why.DONE)
        return Actions()

    # What the server says

    def _receive_welcome(self, message: Message, now: float) -> Actions:
        joined: dict[str, str] = {}
        for channel, answer in message["channels"].items():
            joined |= self._join(channel, answer["position"])
        self.state = State.LIVE
        self._refusals = 0
        self.heartbeat = float(message.get("heartbeat", _DEFAULT_HEARTBEAT))
        sends: list[Message] = []
        if self._token is not None and self._token != self._sent_token:
            sends.append(self._authenticate())
        sends += [self._unsubscribe(name) for name in list(self._asked) if name not in self._topics]
        sends += [self._subscribe(name) for name in self._topics if name not in self._asked]
        return Actions(sends=sends, joined=joined, refresh_in=self._plan_refresh(message, now))

    def _receive_event(self, message: Message) -> Actions:
        channel, position = message["channel"], message["id"]
        place = parse_position(position)
        held = self._places.get(channel)
        if held is not None and place <= held:
            return Actions()
        self.positions[channel] = position
        self._places[channel] = place
        return Actions(events=[message])

    def _receive_gap(self, message: Message) -> Actions:
        self._hold(message["channel"], message["to"])
        return Actions(gaps=[message])

    def _receive_subscribed(self, message: Message) -> Actions:
        return Actions(joined=self._join(message["channel"], message["position"]))

    def _receive_unsubscribed(self, message: Message) -> Actions:
        channel = message["channel"]
        topic = channel.removeprefix(TOPIC)
        if not self._answered_leaving(channel):
            # Rule 11: a new token permits less.
            self._topics.pop(topic, None)
        return Actions(left=self._forget(channel))

    def _receive_authenticated(self, message: Message, now: float) -> Actions:
        return Actions(refresh_in=self._plan_refresh(message, now))

    def _receive_reconnect(self, message: Message) -> Actions:
        self._after = max(0.0, float(message["after_ms"]) / 1000)
        return Actions()

    def _receive_error(self, message: Message, now: float) -> Actions:
        code, channel = message["code"], message.get("channel")
        if code == "unauthorized" or (code == "unavailable" and channel is None):
            # Rule 8: the answer to `auth`; the old token counts on.
            return Actions(refresh_in=self._next_refresh(now, 0.5))
        actions = Actions(errors=[message])
        if not isinstance(channel, str):
            return actions
        topic = channel.removeprefix(TOPIC) if channel.startswith(TOPIC) else None
        match code:
            case "forbidden" | "too_many_subscriptions" | "invalid_topic" if topic is not None:
                self._topics.pop(topic, None)
                actions.left = self._forget(channel)
            case "not_subscribed":
                self._answered_leaving(channel)
                actions.left = self._forget(channel)
            case "unavailable" if topic is not None:
                self._unavailable[topic] = None
                actions.wait = (0.0, _FIRST_WAIT)
        return actions

    # Positions

    def _hold(self, channel: str, position: str) -> None:
        self._places[channel] = parse_position(position)
        self.positions[channel] = position

    def _join(self, channel: str, position: str) -> dict[str, str]:
        if self.positions.get(channel, BEGINNING) != BEGINNING:
            return {}  # confirmed, or a gap follows
        self._hold(channel, position)
        return {channel: position}

    def _forget(self, channel: str) -> list[str]:
        self._places.pop(channel, None)
        return [channel] if self.positions.pop(channel, None) is not None else []

    # Topics

    def _subscribe(self, topic: str) -> Message:
        self._asked.add(topic)
        message: Message = {"type": "subscribe", "topic": topic}
        if (position := self.positions.get(TOPIC + topic)) is not None:
            message["position"] = position
        return message

    def _unsubscribe(self, topic: str) -> Message:
        self._asked.discard(topic)
        channel = TOPIC + topic
        self._leaving[channel] = self._leaving.get(channel, 0) + 1
        return {"type": "unsubscribe", "topic": topic}

    def _answered_leaving(self, channel: str) -> bool:
        """Whether this answers one of our own `unsubscribe`."""
        due = self._leaving.pop(channel, 0)
        if due > 1:
            self._leaving[channel] = due - 1
        return due > 0

    # The token

    def _authenticate(self) -> Message:
        self._sent_token = self._token
        return {"type": "auth", "token": self._token}

    def _plan_refresh(self, message: Message, now: float) -> float | None:
        """Rule 8: after nine tenths of the time left."""
        expires = message.get("expires")
        self._expires = None if expires is None else float(expires)
        return self._next_refresh(now, 0.9)

    def _next_refresh(self, now: float, part: float) -> float | None:
        return None if self._expires is None else max(1.0, part * (self._expires - now))

    # Ends

    def _disconnected(self) -> list[str]:
        """Nothing of this connection counts any more; gives back what was forgotten."""
        self._open = False
        left = [
            name
            for channel in self._leaving
            if channel.removeprefix(TOPIC) not in self._topics
            for name in self._forget(channel)
        ]
        self._leaving.clear()
        self._unavailable.clear()
        self._asked.clear()
        return left

    def _refused(self, left: list[str]) -> Actions:
        """Rule 6."""
        self._refusals += 1
        if self._refusals >= _MAX_REFUSALS:
            return self._end(Why.UNAUTHORIZED)
        self.token_wanted = True
        return self._wait(left, at_once=self._refusals == 1, asks_token=True)

    def _wait(self, left: list[str], *, at_once: bool = False, asks_token: bool = False) -> Actions:
        """Rule 5."""
        bound = 0.0 if at_once else min(_LONGEST_WAIT, _FIRST_WAIT * 2.0 ** min(self._failures, 30))
        after, self._after = self._after, 0.0
        self._failures += 1
        self.state = State.WAITING
        return Actions(left=left, wait=(after, after + bound), asks_token=asks_token)

    def _end(self, why: Why) -> Actions:
        self.state = State.CLOSED
        self.why = why
        return Actions()
