"""`herald dev`, `herald serve` and `herald check`."""

from __future__ import annotations

import asyncio
import os
import secrets
import shlex
import sys
import textwrap
from pathlib import Path
from typing import get_args

import typer

from service.app.credentials import build_verifiers, check_for_production, mint_token, plain_key
from service.app.node import Node, allowed_origins, log_policy
from service.app.playground import open_playground
from service.app.run import run
from service.app.server import Sockets
from service.broker.broker import Broker
from service.broker.embedded import EmbeddedEngine
from service.broker.endpoint import parse_engine_url
from service.core.errors import EngineError, EngineUnavailable, InvalidInput
from service.settings import PREFIX, SECRETS, Settings, SettingsError, load_settings
from service.telemetry.logs import configure_logging

_DEV_TOKEN_SECONDS = 7 * 86400
_INDENT = " " * 6


def serve() -> None:
    """Run in production. All settings are environment variables, listed below.

    It refuses to start without an engine, a way to verify user tokens and a publisher's key.
    """
    settings = load_settings(os.environ)
    check_for_production(settings)
    raise typer.Exit(run(settings))


def dev() -> None:
    """Run on this machine with an engine of its own, and print how to try it.

    Every setting counts; what is not set is made up and printed.
    """
    settings = load_settings(os.environ)
    made_up: dict[str, object] = {}
    if not (settings.jwt_secret or settings.jwt_public_key_file or settings.jwt_jwks_url):
        made_up["jwt_secret"] = secrets.token_urlsafe(32)
    if not settings.api_keys:
        made_up["api_keys"] = (secrets.token_urlsafe(24),)
    engine = None
    if settings.redis_url is None:
        try:
            engine = EmbeddedEngine()
        except EngineUnavailable as error:
            raise SettingsError([str(error)]) from None
        made_up["redis_url"] = engine.url
    settings = settings.model_copy(update=made_up)
    parent = os.getpid()

    async def announce(settings: Settings, sockets: Sockets, node: Node) -> None:
        try:
            await node.broker.wait_open(30.0)
        except EngineUnavailable as error:
            print(f"herald: the engine cannot be reached: {error}", file=sys.stderr, flush=True)
            await node.broker.wait_open(1e9)
        while node.broker.trouble() is not None:
            await asyncio.sleep(0.01)
        print(_how_to_try(settings, sockets, made_up), flush=True)

    def prepare(settings: Settings, sockets: Sockets, node: Node) -> None:
        open_playground(settings, sockets, node, _command())

    try:
        status = run(settings, announce, prepare)
    finally:
        if engine is not None and os.getpid() == parent:
            engine.stop()
    raise typer.Exit(status)


def check() -> None:
    """Check the settings and the engine, and say what is wrong."""
    settings = load_settings(os.environ)
    configure_logging(settings.log_level, settings.log_format)
    check_for_production(settings)
    build_verifiers(settings)
    allowed_origins(settings)
    # Of the engine one sentence at the end says it all.
    configure_logging("error", settings.log_format)
    trouble = asyncio.run(_engine_trouble(settings))
    if trouble is not None:
        typer.echo(f"herald: the engine: {trouble}", err=True)
        raise typer.Exit(1)
    typer.echo("The settings are good, and the engine stores and delivers.")


async def _engine_trouble(settings: Settings) -> str | None:
    assert settings.redis_url is not None
    try:
        locate = parse_engine_url(settings.redis_url)
    except InvalidInput as error:
        raise SettingsError([f"HERALD_REDIS_URL cannot be used: {error}."]) from None
    broker = Broker(
        locate, "check", log_policy(settings), settings.engine_timeout, lambda link: None
    )
    broker.start()
    try:
        await broker.wait_open(settings.engine_timeout)
        async with asyncio.timeout(settings.engine_timeout):
            while (trouble := broker.trouble()) is not None:
                await asyncio.sleep(0.02)
            trouble = "its replicas could not be counted in time"
            while (attached := broker.replicas()) is None:
                await asyncio.sleep(0.02)
        if attached < settings.min_replicas:
            return f"{attached} replicas are attached; HERALD_MIN_REPLICAS is more"
        await broker.log.read("topic:herald-check", None)
    except (EngineUnavailable, EngineError) as error:
        return str(error)
    except TimeoutError:
        return trouble
    finally:
        await broker.close()
    return None


def settings_help() -> str:
    """Every setting with its default, for `herald serve --help`."""
    lines = ["\b", "Settings (durations in seconds; KiB, MiB and GiB may be written out):"]
    for field, info in Settings.model_fields.items():
        name = PREFIX + field.upper()
        default = info.default
        if default is None or default == ():
            shown = "unset"
        elif isinstance(default, float):
            shown = f"{default:g}"
        else:
            shown = str(default)
        also = f"; or {name}_FILE" if field in SECRETS else ""
        lines.append(f"  {name} [{shown}{also}]")
        text = info.description or _description(info.annotation)
        lines += textwrap.wrap(text, 78, initial_indent=_INDENT, subsequent_indent=_INDENT)
    return "\n".join(lines)


def _description(annotation: object) -> str:
    for item in get_args(annotation):
        text = getattr(item, "description", None)
        if text:
            return str(text)
    return ""


def _how_to_try(settings: Settings, sockets: Sockets, made_up: dict[str, object]) -> str:
    host = "127.0.0.1" if settings.host in ("0.0.0.0", "::") else settings.host
    host = f"[{host}]" if ":" in host else host
    base = f"http://{host}:{sockets.port}"
    api = f"http://{host}:{sockets.api_port}"
    herald = _command()
    lines = [f"Herald is ready on {base}", ""]
    if sockets.api is not None:
        lines += [f"The API is on {api}", ""]
    for field, value in made_up.items():
        shown = ",".join(value) if isinstance(value, tuple) else str(value)
        lines.append(f"  made up: {PREFIX}{field.upper()}={shown}")
    if settings.jwt_secret is not None:
        token = mint_token(settings, "alice", (), _DEV_TOKEN_SECONDS)
        lines += [
            "",
            "A token for the user alice (7 days):",
            f"  {token}",
            "",
            "Listen, in one terminal:",
            f"  {herald} listen --url {base} --token {token}",
        ]
    key = plain_key(settings)
    if key is not None:
        body = '{"to":"user:alice","type":"order.shipped","data":{"order":17}}'
        lines += [
            "",
            "Publish, in another:",
            f"  {herald} publish --url {api} --key {shlex.quote(key)} --to user:alice"
            " --type order.shipped --data '{\"order\":17}'",
            "or:",
            f"  curl -H 'Authorization: Bearer {key}' -H 'Content-Type: application/json'"
            f" -d '{body}' {api}/v1/events",
        ]
    lines += ["", "Or see it all on a page:", f"  {base}/"]
    if settings.host not in ("127.0.0.1", "::1", "localhost"):
        lines.append("  It shows the API key and makes tokens, to whoever reaches this port.")
    return "\n".join([*lines, "", "Stop with Ctrl-C.", ""])


def _command() -> str:
    """The `herald` command with its whole path: it works without an activated environment."""
    return shlex.quote(str(Path(sys.executable).parent / "herald"))
