"""What one client may say, and what follows from it.

A session is pure: it is given decoded messages and answers with one effect, which the connection
runs before it gives the next message. The table of states and messages is at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from enum import Enum
from typing import NamedTuple

from service.core import messages
from service.core.channel import ALL, parse_channel, topic_channel, user_channel
from service.core.close import CloseCode
from service.core.errors import InvalidChannel, InvalidMessage, InvalidPosition
from service.core.position import Position, parse_position
from service.core.principal import Principal

MAX_STRIKES = 10
"""So many bad messages, less the good ones between them, and the client is closed with 1008."""


class State(Enum):
    """Where a session stands."""

    CONNECTING = "connecting"
    """`herald.v1`, before its `connect` was accepted; nothing is delivered."""
    OPEN = "open"


class Reply(NamedTuple):
    """Send these messages, in order."""

    payloads: list[bytes]


class Admit(NamedTuple):
    """Verify who this is, then join; `token` is None where the handshake brought it."""

    token: str | None
    request: Request


class Reauthenticate(NamedTuple):
    """Verify a new token for the same user."""

    token: str


class Join(NamedTuple):
    """Join a channel after `since`, or from now on."""

    channel: str
    since: Position | None


class Leave(NamedTuple):
    """Leave these channels, then send the payloads."""

    channels: list[str]
    payloads: list[bytes]


class Acked(NamedTuple):
    """The client has dealt with an event."""

    channel: str
    position: Position


class Close(NamedTuple):
    """End the connection; the payloads go out before the close frame."""

    code: CloseCode
    reason: str
    payloads: list[bytes]


Effect = Reply | Admit | Reauthenticate | Join | Leave | Acked | Close


class Request(NamedTuple):
    """What a client asks for at connect, checked in form: topics, and where it left off."""

    topics: tuple[str, ...] = ()
    positions: Mapping[str, Position] = {}


class Plan(NamedTuple):
    """The channels to join at connect, and what is said after the welcome about the rest."""

    joins: dict[str, Position | None]
    refusals: list[bytes]


class Session:
    """One client's rights and subscriptions."""

    __slots__ = ("_joined", "_max_topics", "_strikes", "principal", "state")

    def __init__(self, max_topics: int, principal: Principal | None = None) -> None:
        self.state = State.CONNECTING
        self.principal = principal
        # A set would be 216 bytes for the two channels that most have.
        self._joined: tuple[str, ...] = ()
        self._strikes = 0
        self._max_topics = max_topics

    @property
    def channels(self) -> frozenset[str]:
        """Those that the client listens to, or is on its way to."""
        return frozenset(self._joined)

    def left(self, channels: Collection[str]) -> None:
        """These were left, or could not be joined."""
        self._joined = tuple(name for name in self._joined if name not in channels)

    def receive(self, message: messages.ClientMessage) -> Effect:
        """What follows from a well-formed message."""
        strikes = self._strikes
        effect = _TABLE[self.state, type(message)](self, message)
        if strikes and self._strikes == strikes:
            self._strikes -= 1
        return effect

    def malformed(self, problem: InvalidMessage) -> Effect:
        """What follows from a message that says nothing."""
        return self._strike(problem.code, str(problem))

    def admitted(self, principal: Principal, request: Request) -> Plan:
        """The principal was verified: open the session and say what to join."""
        self.principal = principal
        self.state = State.OPEN
        refusals: list[bytes] = []
        wanted = dict.fromkeys([user_channel(principal.user), ALL])
        for topic in principal.topics.names:
            wanted[topic_channel(topic)] = None
        for topic in request.topics:
            channel = topic_channel(topic)
            if not principal.topics.permits(topic):
                refusals.append(_forbidden(topic, channel))
            else:
                wanted[channel] = None
        kept = list(wanted)[: self._max_topics + 2]
        for channel in list(wanted)[len(kept) :]:
            refusals.append(self._too_many(channel))
        spoken_of = {topic_channel(topic) for topic in request.topics}.union(wanted)
        for channel in request.positions:
            if channel not in spoken_of:
                refusals.append(
                    messages.error(
                        "not_subscribed", "A position for a channel that was not joined.", channel
                    )
                )
        self._joined = tuple(kept)
        return Plan({channel: request.positions.get(channel) for channel in kept}, refusals)

    def reauthenticated(self, principal: Principal) -> Effect:
        """A new token was verified: go on with its rights, or close."""
        if self.principal is not None and principal.user != self.principal.user:
            return Close(CloseCode.FORBIDDEN, "the new token is another user's", [])
        self.principal = principal
        lost = [
            channel
            for channel in self._joined
            if channel.startswith("topic:") and not principal.topics.permits(channel[6:])
        ]
        self.left(lost)
        said = [messages.authenticated(principal.expires)]
        return Leave(lost, said + [messages.unsubscribed(channel) for channel in lost])

    def _strike(self, code: str, text: str, channel: str | None = None) -> Effect:
        self._strikes += 1
        said = [messages.error(code, text, channel)]
        if self._strikes >= MAX_STRIKES:
            return Close(CloseCode.POLICY_VIOLATION, "too many bad messages", said)
        return Reply(said)

    def _too_many(self, channel: str) -> bytes:
        return messages.error(
            "too_many_subscriptions", f"At most {self._max_topics} topics.", channel
        )

    # One method per row of the table.

    def _connect(self, message: messages.Connect) -> Effect:
        try:
            request = parse_request(message.topics, message.positions.items())
        except (InvalidChannel, InvalidPosition) as problem:
            return self._strike("invalid_message", str(problem))
        return Admit(message.token, request)

    def _connect_again(self, message: messages.Connect) -> Effect:
        return self._strike("already_connected", "`connect` is the first message only.")

    def _too_early(self, message: messages.ClientMessage) -> Effect:
        return self._strike("not_connected", "The first message is `connect`.")

    def _auth(self, message: messages.Auth) -> Effect:
        return Reauthenticate(message.token)

    def _subscribe(self, message: messages.Subscribe) -> Effect:
        assert self.principal is not None
        try:
            channel = topic_channel(message.topic)
        except InvalidChannel as problem:
            return self._strike("invalid_topic", str(problem))
        try:
            since = parse_position(message.position) if message.position is not None else None
        except InvalidPosition as problem:
            return self._strike("invalid_position", str(problem), channel)
        if not self.principal.topics.permits(message.topic):
            return Reply([_forbidden(message.topic, channel)])
        if channel in self._joined:
            return Reply([messages.error("already_subscribed", "Already subscribed.", channel)])
        if len(self._joined) >= self._max_topics + 2:
            return Reply([self._too_many(channel)])
        self._joined += (channel,)
        return Join(channel, since)

    def _unsubscribe(self, message: messages.Unsubscribe) -> Effect:
        try:
            channel = topic_channel(message.topic)
        except InvalidChannel as problem:
            return self._strike("invalid_topic", str(problem))
        if channel not in self._joined:
            return Reply([messages.error("not_subscribed", "Not subscribed.", channel)])
        self.left([channel])
        return Leave([channel], [messages.unsubscribed(channel)])

    def _ack(self, message: messages.Ack) -> Effect:
        try:
            position = parse_position(message.id)
        except InvalidPosition as problem:
            return self._strike("invalid_position", str(problem))
        if message.channel not in self._joined:
            return self._strike("not_subscribed", "An ack for a channel that was not joined.")
        return Acked(message.channel, position)

    def _ping(self, message: messages.Ping) -> Effect:
        return Reply([messages.PONG])

    def _pong(self, message: messages.Pong) -> Effect:
        return Reply([])


_TABLE: dict[tuple[State, type[messages.ClientMessage]], Callable[..., Effect]] = {
    (State.CONNECTING, messages.Connect): Session._connect,
    (State.CONNECTING, messages.Auth): Session._too_early,
    (State.CONNECTING, messages.Subscribe): Session._too_early,
    (State.CONNECTING, messages.Unsubscribe): Session._too_early,
    (State.CONNECTING, messages.Ack): Session._too_early,
    (State.CONNECTING, messages.Ping): Session._ping,
    (State.CONNECTING, messages.Pong): Session._pong,
    (State.OPEN, messages.Connect): Session._connect_again,
    (State.OPEN, messages.Auth): Session._auth,
    (State.OPEN, messages.Subscribe): Session._subscribe,
    (State.OPEN, messages.Unsubscribe): Session._unsubscribe,
    (State.OPEN, messages.Ack): Session._ack,
    (State.OPEN, messages.Ping): Session._ping,
    (State.OPEN, messages.Pong): Session._pong,
}


def parse_request(topics: Iterable[str], positions: Iterable[tuple[str, str]]) -> Request:
    """Check the form of what a client asks for at connect.

    Raises:
        InvalidChannel, InvalidPosition
    """
    for topic in (names := tuple(dict.fromkeys(topics))):
        topic_channel(topic)
    return Request(
        names, {parse_channel(channel): parse_position(text) for channel, text in positions}
    )


def _forbidden(topic: str, channel: str) -> bytes:
    return messages.error("forbidden", f"The token does not permit the topic {topic!r}.", channel)
