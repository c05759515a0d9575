"""Settings: environment variables with the prefix `HERALD_`.

`load_settings` reads all of them and refuses the unknown and the bad, each with a sentence that
names it. A secret may come from a file: the same name with `_FILE`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

PREFIX = "HERALD_"
SECRETS = ("redis_url", "jwt_secret", "api_keys")
"""May come from a file."""
OF_CLIENTS = ("url", "api_key")
"""Where Herald is, and the key to publish with: no settings of the service, but of those who talk
to it, which may share an environment with it."""


class SettingsError(Exception):
    """The settings cannot be used; one sentence a problem."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def _split(text: Any) -> Any:
    if isinstance(text, str):
        return [item.strip() for item in re.split("[,\n]", text) if item.strip()]
    return text


def _lower(text: Any) -> Any:
    return text.lower() if isinstance(text, str) else text


_SIZE = re.compile(r"(\d+)\s*(k|ki|m|mi|g|gi)?b?", re.IGNORECASE)
_UNITS = {"k": 1000, "m": 1000**2, "g": 1000**3, "ki": 1024, "mi": 1024**2, "gi": 1024**3}


def _size(text: Any) -> Any:
    if isinstance(text, str) and (match := _SIZE.fullmatch(text.strip())):
        return int(match[1]) * _UNITS.get((match[2] or "").lower(), 1)
    return text


Names = Annotated[tuple[str, ...], BeforeValidator(_split)]
Bytes = Annotated[int, BeforeValidator(_size), Field(ge=1)]
Duration = Annotated[float, Field(gt=0, allow_inf_nan=False)]
HttpDuration = Annotated[Duration, Field(le=3600)]
Port = Annotated[int, Field(ge=0, le=65535)]


class Settings(BaseModel):
    """All settings; the field `port` is `HERALD_PORT`, and so on. Durations are seconds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: Annotated[str, Field(min_length=1, description="Address to listen on.")] = "127.0.0.1"
    port: Annotated[
        Port, Field(description="Client edge; also the API where API_PORT is unset. 0: any free.")
    ] = 8000
    api_port: Annotated[
        Port | None, Field(description="Publish API, metrics and health on a port of their own.")
    ] = None
    workers: Annotated[int, Field(ge=1, le=256, description="Processes.")] = 1
    redis_url: Annotated[
        str | None,
        Field(
            description="The engine: redis://, unix://, redis+sentinel:// or redis+cluster://, and "
            "with rediss for redis over TLS.",
        ),
    ] = None
    jwt_secret: Annotated[
        str | None, Field(min_length=1, description="Verifies HMAC-signed tokens.")
    ] = None
    jwt_public_key_file: Annotated[
        str | None, Field(description="A PEM public key that verifies tokens.")
    ] = None
    jwt_jwks_url: Annotated[str | None, Field(description="The issuer's JWKS document.")] = None
    jwt_algorithms: Annotated[
        Names,
        Field(
            description="Allowed algorithms. Unset: HS256 for a secret; RS256, ES256 and EdDSA, "
            "as the key is, for keys and JWKS."
        ),
    ] = ()
    jwt_audience: Annotated[str | None, Field(description="Required `aud`.")] = None
    jwt_issuer: Annotated[str | None, Field(description="Required `iss`.")] = None
    jwt_leeway: Annotated[
        float, Field(ge=0, le=3600, description="Seconds by which clocks may differ.")
    ] = 5.0
    api_keys: Annotated[
        Names, Field(description="Keys of publishers, plain or as sha256:<hex digest>.")
    ] = ()
    allowed_origins: Annotated[
        Names, Field(description="Web origins that may connect, as https://app.example.com.")
    ] = ()
    heartbeat_interval: Annotated[
        Duration, Field(description="The longest silence before a client is pinged.")
    ] = 25.0
    heartbeat_timeout: Annotated[
        Duration, Field(description="Further silence after which it is closed.")
    ] = 10.0
    history_size: Annotated[
        int, Field(ge=1, le=1_000_000, description="Events retained per channel.")
    ] = 100
    history_ttl: Annotated[
        Duration, Field(description="How long they are retained after the last one.")
    ] = 86400.0
    max_event_bytes: Annotated[
        Bytes, Field(description="Request body of one event; each event of a batch.")
    ] = 65536
    max_batch_bytes: Annotated[Bytes, Field(description="Request body of a batch.")] = 16 * 1024**2
    head_timeout: Annotated[
        HttpDuration,
        Field(description="Time for the head of a request, and for a new connection's first."),
    ] = 10.0
    max_head_bytes: Annotated[
        Bytes,
        Field(
            ge=8192,
            le=16 * 1024**2,
            description="Head of a request; its trailers may have as much again.",
        ),
    ] = 65536
    body_timeout: Annotated[
        HttpDuration,
        Field(
            description="How long a request's body is waited for: for its next byte, and in all, "
            "beyond a second for each 500 bytes of it."
        ),
    ] = 30.0
    unread_timeout: Annotated[
        HttpDuration,
        Field(
            description="How long answers wait for a client that reads less than 500 bytes a "
            "second of them."
        ),
    ] = 30.0
    max_connections: Annotated[
        int | None,
        Field(
            ge=1,
            description="Per process. Unset: what the limit of open files allows.",
        ),
    ] = None
    max_connections_per_user: Annotated[
        int | None, Field(ge=1, description="Per process and user. Unset: no limit.")
    ] = None
    max_topics: Annotated[int, Field(ge=0, description="Topics of one connection.")] = 100
    max_message_bytes: Annotated[Bytes, Field(description="One message from a client.")] = 65536
    max_pending_events: Annotated[
        int, Field(ge=1, description="Events on their way to the engine; more get 429.")
    ] = 20000
    max_pending_bytes: Annotated[
        Bytes, Field(description="Bytes of them on their way; more get 429.")
    ] = 64 * 1024**2
    send_queue_bytes: Annotated[
        Bytes, Field(description="What may wait for one slow client; more closes it with 4000.")
    ] = 1024**2
    connect_timeout: Annotated[
        Duration, Field(description="Time for the `connect` message of herald.v1.")
    ] = 5.0
    ticket_ttl: Annotated[
        Duration, Field(le=3600, description="How long a ticket for a stream may wait to be used.")
    ] = 30.0
    drain_seconds: Annotated[
        float, Field(ge=0, le=86400, description="Time to move clients away on SIGTERM.")
    ] = 30.0
    engine_timeout: Annotated[
        Duration, Field(description="An engine silent for so long is connected to anew.")
    ] = 5.0
    min_replicas: Annotated[
        int,
        Field(ge=0, le=16, description="Replicas that must have an event before it is answered."),
    ] = 0
    replica_timeout: Annotated[
        Duration, Field(description="How long they are waited for; then publishers get 503.")
    ] = 1.0
    position_check_interval: Annotated[
        Duration, Field(description="How often positions are compared with the log.")
    ] = 30.0
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        BeforeValidator(_lower),
        Field(description="debug, info, warning or error."),
    ] = "info"
    log_format: Annotated[
        Literal["console", "json"], BeforeValidator(_lower), Field(description="console or json.")
    ] = "console"


def load_settings(environment: Mapping[str, str]) -> Settings:
    """Read the settings from environment variables.

    Raises:
        SettingsError: for an unknown name, a bad value or an unreadable file.
    """
    problems: list[str] = []
    values: dict[str, Any] = {}
    for name, text in environment.items():
        if not name.startswith(PREFIX):
            continue
        field = name.removeprefix(PREFIX).lower()
        if field in OF_CLIENTS:
            continue
        if field in Settings.model_fields:
            values[field] = text
        elif field.removesuffix("_file") in SECRETS:
            secret = field.removesuffix("_file")
            if PREFIX + secret.upper() in environment:
                problems.append(f"{PREFIX}{secret.upper()} and {name} are both set; set one.")
                continue
            try:
                values[secret] = Path(text).read_text().strip()
            except (OSError, UnicodeDecodeError):
                problems.append(f"{name} names a file that cannot be read.")
        else:
            problems.append(_unknown(name))
    try:
        settings = Settings(**values)
    except ValidationError as error:
        # Never the value: it may be a secret.
        for detail in error.errors(include_input=False, include_url=False):
            where = PREFIX + str(detail["loc"][0]).upper()
            value = environment.get(where)
            reason = _reason(str(detail["loc"][0]), detail["type"], detail["msg"], value)
            problems.append(f"{where} has a bad value: {reason}.{_hint(value)}")
        raise SettingsError(problems) from None
    if settings.port and settings.port == settings.api_port:
        problems.append(
            "HERALD_API_PORT is HERALD_PORT; set it to another port, or leave it unset."
        )
    if settings.min_replicas and settings.replica_timeout > settings.engine_timeout / 2:
        problems.append(
            "HERALD_REPLICA_TIMEOUT is more than half of HERALD_ENGINE_TIMEOUT: an engine that "
            "waits for replicas could be taken for a dead one."
        )
    if problems:
        raise SettingsError(problems)
    return settings


_KUBERNETES = " If Kubernetes put it there for a Service, set enableServiceLinks: false in the pod."


def _reason(field: str, kind: str, text: str, value: str | None) -> str:
    """What a value must be, in words for the one who wrote it; the library speaks of parsing."""
    if value is not None and not value.strip():
        return "it is empty; set it, or leave it unset"
    if kind.startswith("float_"):
        return "it is a number of seconds, as 25 or 0.5"
    if kind.startswith("int_"):
        of_bytes = any(
            isinstance(item, BeforeValidator) and item.func is _size
            for item in Settings.model_fields[field].metadata
        )
        return "it is a number of bytes, as 65536 or 64KiB" if of_bytes else "it is a whole number"
    return text[0].lower() + text[1:]


def _hint(value: str | None) -> str:
    return _KUBERNETES if value is not None and value.startswith("tcp://") else ""


def _unknown(name: str) -> str:
    sentence = f"{name} is not a setting of Herald; `herald serve --help` lists them."
    if re.search(r"_SERVICE_(HOST|PORT)|_PORT_\d+_TCP", name):
        return sentence + _KUBERNETES
    known = [*Settings.model_fields, *(f"{secret}_file" for secret in SECRETS), *OF_CLIENTS]
    meant = difflib.get_close_matches(name.removeprefix(PREFIX).lower(), known, n=1, cutoff=0.75)
    return sentence + "".join(f" Did you mean {PREFIX}{field.upper()}?" for field in meant)
