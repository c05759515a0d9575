"""`herald inspect`: what became of a channel's events, asked of one or more nodes."""

from __future__ import annotations

import json
import urllib.request
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any
from urllib.parse import quote, urlencode

import typer

from service.cli.asking import ask
from service.cli.environment import api_key, base_url
from service.core.channel import parse_channel
from service.core.errors import InvalidChannel, InvalidPosition
from service.core.position import Position, parse_position

_TRIES = 16
"""Times the workers: the kernel chooses which one gets a connection."""

State = dict[str, Any]


def inspect(
    channel: Annotated[str, typer.Argument(help="user:<id>, topic:<name> or all.")],
    position: Annotated[
        str | None,
        typer.Option(metavar="POSITION", help="An event's: say what became of it."),
    ] = None,
    last: Annotated[
        int, typer.Option(min=0, metavar="N", help="Print the last N retained events as well.")
    ] = 0,
    url: Annotated[
        list[str],
        typer.Option(
            metavar="URL",
            help="Where a node's API is; repeatable, for several nodes; unset: HERALD_URL, or the "
            "settings.",
        ),
    ] = [],  # noqa: B006
    key: Annotated[
        str | None,
        typer.Option(
            metavar="KEY",
            help="An API key; unset: HERALD_API_KEY, or the first of HERALD_API_KEYS.",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="The answers as they came, one a line.")
    ] = False,
) -> None:
    """Tell what a channel retains, and which connections of these nodes listen to it.

    A node knows its own connections only: name all nodes with --url, or run it on each.
    """
    try:
        name = parse_channel(channel)
        asked = None if position is None else parse_position(position)
    except (InvalidChannel, InvalidPosition) as error:
        raise typer.BadParameter(str(error)) from None
    addresses: list[str | None] = [*url] or [None]
    nodes = [_Node(base_url(one, api=True), api_key(key), name) for one in addresses]
    states = [state for node in nodes for state in node.states()]
    if as_json:
        for state in states:
            typer.echo(json.dumps(state, ensure_ascii=False))
    else:
        for line in describe(states):
            typer.echo(line)
    if last:
        for event in nodes[0].last_events(states[0], last):
            typer.echo(json.dumps(event, ensure_ascii=False))
    if asked is not None:
        for line in judge(asked, nodes[0].event_at(asked), states):
            typer.echo(line)


@dataclass
class _Node:
    """One address to ask."""

    url: str
    key: str
    channel: str

    def states(self) -> list[State]:
        """The state as each of its workers tells it."""
        first = self._ask("state")
        workers = first["here"]["workers"]
        found = {first["here"]["worker"]: first}
        for _ in range(_TRIES * (workers - 1)):
            if len(found) == workers:
                break
            state = self._ask("state")  # over a connection of its own
            found[state["here"]["worker"]] = state
        if len(found) < workers:
            typer.echo(
                f"herald: only {len(found)} of {workers} workers of {self.url} answered", err=True
            )
        return [found[worker] for worker in sorted(found)]

    def event_at(self, position: Position) -> dict[str, Any] | None:
        """The event with this position, if it is still retained."""
        if not position.seq:
            return None
        events = self._ask("events", after=str(position.before()), limit="1")["events"]
        return events[0] if events and events[0]["id"] == str(position) else None

    def last_events(self, state: State, count: int) -> list[dict[str, Any]]:
        """The last events that are retained."""
        if state["first"] is None:
            return []
        first, tip = parse_position(state["first"]), parse_position(state["position"])
        after = "0-0"
        if first.epoch == tip.epoch:
            after = str(Position(tip.epoch, max(first.seq - 1, tip.seq - count)))
        events: deque[dict[str, Any]] = deque(maxlen=count)
        following: str | None = after
        while following is not None:
            page = self._ask("events", after=following, limit="1000")
            events.extend(page["events"])
            following = page["next"]
        return list(events)

    def _ask(self, what: str, **query: str) -> Any:
        address = f"{self.url}/v1/channels/{quote(self.channel, safe=':')}/{what}"
        request = urllib.request.Request(address + ("?" + urlencode(query) if query else ""))
        return json.loads(ask(request, self.key))


def describe(states: list[State]) -> Iterator[str]:
    """The state for a person; each node's and worker's connections."""
    state = states[0]
    last = state["last"]
    yield state["channel"]
    yield f"  position  {state['position']}" + (
        f", {last['event']} of {last['time']}" if last else ""
    )
    if state["first"] is None:
        yield "  retained  nothing"
    else:
        count = "many" if state["retained"] is None else state["retained"]
        yield f"  retained  {count}, from {state['first']} on"
    for one in states:
        here = one["here"]
        worker = f", worker {here['worker']}" if here["workers"] > 1 else ""
        yield f"node {here['node']}{worker}"
        joining = f", {here['joining']} more on their way" if here["joining"] else ""
        sent = f", sent everything up to {here['position']}" if here["position"] else ""
        yield f"  connections  {here['connections']}{sent}{joining}"
        for listener in here["listeners"]:
            yield "    " + _line(listener)
        if (more := here["connections"] - len(here["listeners"])) > 0:
            yield f"    and {more} more"


def _line(listener: dict[str, Any]) -> str:
    acked = listener["acked"] or "nothing"
    return (
        f"{listener['connection']}  {listener['transport']}, connected {listener['age']:.1f} s "
        f"ago, last sign of life {listener['silent']:.1f} s ago, {listener['waiting']} bytes "
        f"waiting, acknowledged {acked}"
    )


def judge(position: Position, event: dict[str, Any] | None, states: list[State]) -> Iterator[str]:
    """What became of an event, as far as these processes know."""
    state = states[0]
    tip = parse_position(state["position"])
    if event is not None:
        yield f"{position} is retained: {event['event']} of {event['time']}"
    elif position > tip:
        yield f"{position} was never given out, or was lost with its engine"
        return
    else:
        yield f"{position} is not retained: trimmed, expired, or lost with its engine"
    for one in states:
        here = one["here"]
        if here["position"] is not None and parse_position(here["position"]) < position:
            yield f"node {here['node']} has not passed it on yet"
            continue
        for listener in here["listeners"]:
            connected = _time(here["time"]) - timedelta(seconds=listener["age"])
            verdict = _verdict(position, event, listener, connected)
            yield f"  {listener['connection']}  {verdict}"
    if not any(one["here"]["connections"] for one in states):
        yield "  nobody listens on the nodes that were asked"


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _verdict(
    position: Position,
    event: dict[str, Any] | None,
    listener: dict[str, Any],
    connected: datetime,
) -> str:
    if listener["acked"] is not None:
        acked = parse_position(listener["acked"])
        if acked.epoch == position.epoch and acked.seq >= position.seq:
            return "has acknowledged it, or a later one"
    if event is None:
        return "not known"
    if _time(event["time"]) < connected:
        return "connected later: was sent it if it resumed from a position before it"
    if listener["waiting"]:
        return f"sent; {listener['waiting']} bytes of all its channels are still on their way"
    return "sent, and taken by its system"
