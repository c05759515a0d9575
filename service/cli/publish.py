"""`herald publish`."""

from __future__ import annotations

import json
import urllib.request
from typing import Annotated

import typer

from service.cli.asking import ask
from service.cli.environment import api_key, base_url


def publish(
    to: Annotated[
        list[str],
        typer.Option(metavar="CHANNEL", help="user:<id>, topic:<name> or all; repeatable."),
    ],
    type: Annotated[str, typer.Option(metavar="TEXT", help="The event's type, as order.shipped.")],
    data: Annotated[str, typer.Option(metavar="JSON", help="Its data, as JSON.")] = "null",
    id: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Makes it idempotent for 5 minutes.")
    ] = None,
    ttl: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="Seconds after which it is no longer delivered."),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="Where Herald's API is; unset: HERALD_URL, or the settings."
        ),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(
            metavar="KEY",
            help="An API key; unset: HERALD_API_KEY, or the first of HERALD_API_KEYS.",
        ),
    ] = None,
) -> None:
    """Publish one event and print the answer."""
    try:
        json.loads(data)
    except ValueError as error:
        raise typer.BadParameter(
            f"--data is not JSON: {error}. A text has quotes of its own: '\"hello\"'"
        ) from None
    # Put together as text: the data is sent as it was given.
    parts = [f'"to":{json.dumps(to if len(to) > 1 else to[0])}', f'"type":{json.dumps(type)}']
    parts.append(f'"data":{data}')
    if id is not None:
        parts.append(f'"id":{json.dumps(id)}')
    if ttl is not None:
        parts.append(f'"ttl":{json.dumps(ttl)}')
    request = urllib.request.Request(
        base_url(url, api=True) + "/v1/events",
        data=("{" + ",".join(parts) + "}").encode(),
        headers={"Content-Type": "application/json"},
    )
    typer.echo(ask(request, api_key(key)).decode())
