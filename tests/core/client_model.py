"""A client's protocol core as openapi/vectors/README.md has it, rule by rule.

It proves that the vectors agree with the rules, independently of the client libraries. A rule is
written here as plainly as it can be; nothing is optimised.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

STAY_AWAY = {1000, 1002, 1003, 1007, 1008, 1009, 3003, *range(4100, 4200)}
RECONNECT_NOW = range(4000, 4100)
UNAUTHORIZED = 3000
NETWORK = 1006
STABLE_SECONDS = 5
MAX_REFUSALS = 3
LOSES_THE_TOPIC = {"forbidden", "too_many_subscriptions", "invalid_topic"}

Message = dict[str, Any]
Step = dict[str, Any]
EMPTY: Step = {
    "sends": [],
    "events": [],
    "gaps": [],
    "errors": [],
    "asks_token": False,
    "drops": False,
}


def numbers(position: str) -> tuple[int, int]:
    """A position as what it is compared by."""
    epoch, seq = position.split("-")
    return int(epoch), int(seq)


def topic_of(channel: str) -> str | None:
    """The topic whose channel this is."""
    return channel.removeprefix("topic:") if channel.startswith("topic:") else None


class Client:
    """Takes the steps of a vector, and says what the client must do in each."""

    def __init__(self, given: dict[str, Any]) -> None:
        self.wanted = list(given.get("topics", ()))
        self.positions: dict[str, str] = dict(given.get("positions", {}))
        self.state = "connecting"
        self.why: str | None = None
        self.token = "t1"
        self.failures = 0
        self.refusals = 0
        self.token_needed = False  # before the next attempt
        self.refreshing = False  # a token was asked for while live, and has not come
        self.after = 0.0  # seconds that `reconnect` adds to the next wait
        self.forget_the_connection()

    def forget_the_connection(self) -> None:
        """What is known of one connection only."""
        self.named: list[str] | None = None  # the topics that `connect` named
        self.leaving: Counter[str] = Counter()  # `unsubscribe`s without an answer
        self.postponed: list[str] = []  # topics to subscribe once more
        self.heartbeat = 0.0
        self.expires = 0.0

    def take(self, step: Step) -> Step:
        """The outputs of a step, all of them."""
        self.now = step.get("now", 0)
        self.out: Step = {name: list(v) if v == [] else v for name, v in EMPTY.items()}
        if self.state != "closed":
            (kind,) = step.keys() & INPUTS.keys()
            INPUTS[kind](self, step)
        self.out |= {"state": self.state, "positions": dict(self.positions)}
        if self.why:
            self.out["why"] = self.why
        return self.out

    # What happened

    def on_opened(self, _: Step) -> None:
        connect: Message = {"type": "connect", "token": self.token}
        if self.positions:
            connect["positions"] = dict(self.positions)
        if self.wanted:
            connect["topics"] = list(self.wanted)
        self.named = list(self.wanted)
        self.send(connect)

    def on_receive(self, step: Step) -> None:
        message = step["receive"]
        handle = MESSAGES.get(message.get("type"))
        if handle:
            handle(self, message)

    def on_lost(self, step: Step) -> None:
        self.lose(step["lost"]["code"], step["lost"]["lasted"])

    def on_silent(self, step: Step) -> None:
        if self.state == "live" and step["silent_for"] >= 2 * self.heartbeat:
            self.out["drops"] = True
            self.lose(NETWORK, step["silent_for"])

    def on_retry(self, _: Step) -> None:
        if self.state == "waiting":
            self.state = "connecting"
        elif self.state == "live":
            for topic in self.postponed:
                self.send_subscribe(topic)
            self.postponed = []

    def on_token(self, step: Step) -> None:
        if step["token"] is None:
            self.close("logged_out")
            return
        self.token = step["token"]
        self.token_needed = False
        if self.refreshing and self.state == "live":
            self.send({"type": "auth", "token": self.token})
        self.refreshing = False

    def on_token_failed(self, _: Step) -> None:
        if self.token_needed:
            self.ask_before_the_next_attempt()
            self.wait(self.bound())
        elif self.state == "live":
            self.plan_refresh(0.5)
        self.refreshing = False

    def on_refresh_due(self, _: Step) -> None:
        if self.state == "live":
            self.refreshing = self.out["asks_token"] = True

    def on_subscribe(self, step: Step) -> None:
        topic = step["subscribe"]
        if topic not in self.wanted:
            self.wanted.append(topic)
        if "position" in step:
            self.positions["topic:" + topic] = step["position"]
        if self.state == "live":
            self.send_subscribe(topic)

    def on_unsubscribe(self, step: Step) -> None:
        topic = step["unsubscribe"]
        self.remove(topic)
        if self.state == "live":
            self.send_unsubscribe(topic)
        else:
            self.positions.pop("topic:" + topic, None)

    def on_close(self, _: Step) -> None:
        self.close("done")

    # What the server says

    def hear_welcome(self, message: Message) -> None:
        self.state = "live"
        self.refusals = 0
        self.heartbeat = message["heartbeat"]
        for channel, joined in message["channels"].items():
            self.join(channel, joined["position"])
        named = self.named or []
        for topic in named:
            if topic not in self.wanted:
                self.send_unsubscribe(topic)
        for topic in self.wanted:
            if topic not in named and "topic:" + topic not in message["channels"]:
                self.send_subscribe(topic)
        self.hear_authenticated(message)

    def hear_authenticated(self, message: Message) -> None:
        if "expires" in message:
            self.expires = message["expires"]
            self.plan_refresh(0.9)

    def hear_event(self, message: Message) -> None:
        held = self.positions.get(message["channel"])
        if held is None or numbers(message["id"]) > numbers(held):
            self.out["events"].append(message)
            self.positions[message["channel"]] = message["id"]

    def hear_gap(self, message: Message) -> None:
        self.out["gaps"].append(message)
        self.positions[message["channel"]] = message["to"]

    def hear_subscribed(self, message: Message) -> None:
        self.join(message["channel"], message["position"])

    def join(self, channel: str, position: str) -> None:
        if self.positions.get(channel, "0-0") == "0-0":
            self.positions[channel] = position

    def hear_unsubscribed(self, message: Message) -> None:
        channel = message["channel"]
        self.positions.pop(channel, None)
        if self.leaving[channel]:
            self.leaving[channel] -= 1
        else:
            self.remove(topic_of(channel))

    def hear_ping(self, _: Message) -> None:
        self.send({"type": "pong"})

    def hear_reconnect(self, message: Message) -> None:
        self.after = message["after_ms"] / 1000

    def hear_error(self, message: Message) -> None:
        code, channel = message["code"], message.get("channel")
        if code == "unauthorized" or (code == "unavailable" and channel is None):
            self.plan_refresh(0.5)
            return
        self.out["errors"].append(message)
        topic = None if channel is None else topic_of(channel)
        if code in LOSES_THE_TOPIC and topic is not None:
            self.remove(topic)
            self.positions.pop(channel, None)
        elif code == "not_subscribed" and channel is not None:
            self.positions.pop(channel, None)
            self.leaving[channel] = max(0, self.leaving[channel] - 1)
        elif code == "unavailable" and topic in self.wanted:
            self.postponed.append(topic)
            self.out["wait"] = {"least": 0, "most": 0.25}

    # What follows

    def send(self, message: Message) -> None:
        self.out["sends"].append(message)

    def send_subscribe(self, topic: str) -> None:
        message = {"type": "subscribe", "topic": topic}
        if held := self.positions.get("topic:" + topic):
            message["position"] = held
        self.send(message)

    def send_unsubscribe(self, topic: str) -> None:
        self.leaving["topic:" + topic] += 1
        self.send({"type": "unsubscribe", "topic": topic})

    def remove(self, topic: str | None) -> None:
        """The topic is no longer wanted."""
        self.wanted = [other for other in self.wanted if other != topic]
        self.postponed = [other for other in self.postponed if other != topic]

    def plan_refresh(self, part: float) -> None:
        seconds = max(1, part * (self.expires - self.now))
        self.out["refresh_in"] = {"least": seconds, "most": seconds}

    def lose(self, code: int, lasted: float) -> None:
        for channel, unanswered in self.leaving.items():
            if unanswered and topic_of(channel) not in self.wanted:
                self.positions.pop(channel, None)
        self.forget_the_connection()
        if lasted >= STABLE_SECONDS:
            self.failures = 0
        if code in STAY_AWAY:
            self.close("refused")
        elif code == UNAUTHORIZED:
            self.refusals += 1
            if self.refusals == MAX_REFUSALS:
                self.close("unauthorized")
            else:
                self.ask_before_the_next_attempt()
                self.wait(0 if self.refusals == 1 else self.bound())
        elif code in RECONNECT_NOW and self.failures == 0:
            self.wait(0)
        else:
            self.wait(self.bound())

    def ask_before_the_next_attempt(self) -> None:
        self.token_needed = self.out["asks_token"] = True

    def bound(self) -> float:
        return 15 if self.failures > 6 else min(15, 0.25 * 2**self.failures)

    def wait(self, most: float) -> None:
        self.state = "waiting"
        self.out["wait"] = {"least": self.after, "most": self.after + most}
        self.failures += 1
        self.after = 0.0

    def close(self, why: str) -> None:
        self.state, self.why = "closed", why


INPUTS = {
    "opened": Client.on_opened,
    "receive": Client.on_receive,
    "lost": Client.on_lost,
    "retry": Client.on_retry,
    "token": Client.on_token,
    "token_failed": Client.on_token_failed,
    "refresh_due": Client.on_refresh_due,
    "silent_for": Client.on_silent,
    "subscribe": Client.on_subscribe,
    "unsubscribe": Client.on_unsubscribe,
    "close": Client.on_close,
}

MESSAGES = {
    "welcome": Client.hear_welcome,
    "authenticated": Client.hear_authenticated,
    "event": Client.hear_event,
    "gap": Client.hear_gap,
    "subscribed": Client.hear_subscribed,
    "unsubscribed": Client.hear_unsubscribed,
    "ping": Client.hear_ping,
    "reconnect": Client.hear_reconnect,
    "error": Client.hear_error,
}


def differences(step: Step, out: Step) -> list[str]:
    """In what the outputs differ from what the step expects."""
    expected = EMPTY | {
        name: value
        for name, value in step.items()
        if name not in INPUTS and name not in ("now", "position")
    }
    found = []
    for name, value in expected.items():
        got = out.get(name)
        if name in ("refresh_in", "wait") and got is not None:
            slack = 1e-9 if name == "wait" else 0
            fits = (
                value["least"] <= got["least"] and got["most"] <= value["most"]
                if name == "refresh_in"
                else all(abs(value[end] - got[end]) <= slack for end in ("least", "most"))
            )
        else:
            fits = got == value
        if not fits:
            found.append(f"{name}: expected {value!r}, got {got!r}")
    return found
