"""`herald token`."""

from __future__ import annotations

from typing import Annotated

import typer

from service.app.credentials import mint_token
from service.cli.environment import settings
from service.core.channel import parse_topic_grant, user_channel
from service.core.errors import InvalidChannel
from service.settings import Settings, SettingsError


def token(
    user: Annotated[str, typer.Option(metavar="ID", help="The user's id, the token's `sub`.")],
    topic: Annotated[
        list[str],
        typer.Option(metavar="NAME", help="A topic to join, or a pattern as news.*; repeatable."),
    ] = [],  # noqa: B006 (typer's way to say: none)
    ttl: Annotated[
        float, typer.Option(min=1, metavar="SECONDS", help="Seconds until it expires.")
    ] = 3600.0,
) -> None:
    """Make a user's token from HERALD_JWT_SECRET and print it."""
    typer.echo(mint(settings(), user, topic, ttl))


def mint(here: Settings, user: str, topics: list[str], ttl: float) -> str:
    """A token by the configured secret.

    Raises:
        SettingsError: where there is none.
    """
    if here.jwt_secret is None:
        raise SettingsError(
            ["HERALD_JWT_SECRET is not set: tokens are made only from a shared secret."]
        )
    try:
        user_channel(user)
        parse_topic_grant(topics)
    except InvalidChannel as error:
        raise typer.BadParameter(str(error)) from None
    return mint_token(here, user, topics, ttl)
