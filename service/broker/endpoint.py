"""Where the engine is: the forms of `HERALD_REDIS_URL`.

`redis://[user:password@]host:port/db`, `unix:///path?db=0`, and
`redis+sentinel://host:port,host:port/service`, which asks the sentinels for the primary at every
connection. `redis+cluster://[user:password@]host:port,host:port` names some nodes of a Cluster, of
which any one tells all the others.

With `rediss` for `redis` all connections have TLS, those to sentinels too. Its query parameters are
redis-py's: `ssl_ca_certs`, `ssl_certfile`, `ssl_keyfile`, `ssl_cert_reqs`, `ssl_check_hostname`.
"""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

from redis.asyncio.connection import SSLConnection, parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from service.broker.topology import Address
from service.core.errors import EngineUnavailable, InvalidInput


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One server. `path` is a unix socket and goes before `host` and `port`."""

    host: str
    port: int
    path: str | None
    username: str | None
    password: str | None
    database: int
    tls: ssl.SSLContext | None

    @property
    def place(self) -> str:
        """Where it is, without credentials: a path, or host:port."""
        return self.path if self.path is not None else str(Address(self.host, self.port))


class NoPrimary(EngineUnavailable):
    """Nobody says where the primary is; `place` is where that was asked."""

    def __init__(self, reason: str, place: str) -> None:
        super().__init__(reason)
        self.place = place


@dataclass(frozen=True, slots=True)
class Seeds:
    """Some nodes of a Cluster, and how to reach and log in to all of them."""

    addresses: tuple[Address, ...]
    username: str | None
    password: str | None
    tls: ssl.SSLContext | None = None

    def endpoint(self, address: Address) -> Endpoint:
        """A node of the same Cluster."""
        return Endpoint(address.host, address.port, None, self.username, self.password, 0, self.tls)


Locate = Callable[[], Awaitable[Endpoint]]
"""Says where the primary is now. Raises EngineUnavailable where nobody knows."""


_SENTINEL_TIMEOUT = 1.0
"""Seconds for one sentinel, so that the next one is asked before the keeper gives up."""
_SENTINEL_PARAMETERS = ("sentinel_username", "sentinel_password")
_TLS_PARAMETERS = (
    "ssl_ca_certs",
    "ssl_certfile",
    "ssl_keyfile",
    "ssl_cert_reqs",
    "ssl_check_hostname",
)
_UNREADABLE = (
    "it cannot be read; a special character in a name or password is percent-encoded, as %2F for /"
)


def parse_engine_url(url: str) -> Locate | Seeds:
    """Read `HERALD_REDIS_URL`.

    Raises:
        InvalidInput: with what is wrong, never with the URL itself, which may hold a password.
    """
    scheme = url.partition("://")[0]
    kind = scheme.replace("rediss", "redis", 1)
    if scheme in ("redis", "rediss", "unix"):
        endpoint = _single(url)

        async def fixed() -> Endpoint:
            return endpoint

        return fixed
    if kind == "redis+sentinel":
        return _sentinel(url)
    if kind == "redis+cluster":
        return _cluster(url)
    raise InvalidInput(
        "it begins with redis://, unix://, redis+sentinel:// or redis+cluster://, or with rediss "
        "for redis where it has TLS"
    )


def _single(url: str) -> Endpoint:
    try:
        found: dict[str, Any] = dict(parse_url(url))
        parts = urlsplit(url)
        named = parts.hostname is not None
    except ValueError:
        # The error's own text may quote a part of the password.
        raise InvalidInput(_UNREADABLE) from None
    if _is_cut(parts.netloc, parts.path, parts.query, parts.fragment):
        raise InvalidInput(_UNREADABLE)
    if url.startswith("unix:") and (named or "path" not in found):
        raise InvalidInput("it names no socket, as unix:///path does")
    tls = _tls_context(found) if found.get("connection_class") is SSLConnection else None
    return Endpoint(
        host=found.get("host", "localhost"),
        port=int(found.get("port", 6379)),
        path=found.get("path"),
        username=found.get("username"),
        password=found.get("password"),
        database=int(found.get("db", 0)),
        tls=tls,
    )


def _is_cut(netloc: str, path: str, query: str, fragment: str) -> bool:
    """Whether a special character cut the credentials in two.

    What looks like the place is then a part of them, which would be told as the place.
    """
    if "@" in netloc or not netloc:
        return False
    first, at, _ = query.partition("@")
    return "@" in path or "@" in fragment or bool(at and "=" not in first)


def _tls_context(options: Mapping[str, Any]) -> ssl.SSLContext:
    try:
        return _new_context(options)
    except (ValueError, OSError) as error:
        raise InvalidInput(f"its TLS parameters cannot be used: {error}") from None


def _new_context(options: Mapping[str, Any]) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=options.get("ssl_ca_certs"))
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if str(options.get("ssl_check_hostname", "true")).lower() in ("false", "0", "no"):
        context.check_hostname = False
    requirement = str(options.get("ssl_cert_reqs", "required")).lower()
    if requirement == "none":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif requirement != "required":
        raise ValueError("ssl_cert_reqs is required or none")
    if options.get("ssl_certfile"):
        context.load_cert_chain(options["ssl_certfile"], options.get("ssl_keyfile"))
    return context


class _Parts(NamedTuple):
    """Of a URL with several hosts, which `urlsplit` refuses in some versions of Python."""

    netloc: str
    path: str
    query: str


def _split(url: str) -> _Parts:
    rest, _, query = url.partition("://")[2].partition("?")
    netloc, _, path = rest.partition("/")
    credentials, _, hosts = netloc.rpartition("@")
    if (
        "#" in url
        or "@" in path
        or not credentials.isascii()
        or hosts.count("[") != hosts.count("]")
    ):
        raise InvalidInput(_UNREADABLE)
    return _Parts(netloc, path, query)


def _sentinel(url: str) -> Locate:
    parts = _split(url)
    credentials, _, hosts = parts.netloc.rpartition("@")
    username, _, password = credentials.partition(":")
    service, _, database = parts.path.strip("/").partition("/")
    addresses = _addresses(hosts, "sentinels")
    if not service or (database and not database.isdecimal()):
        raise InvalidInput("it ends with /service, or /service/database")
    query, tls = _options(url, parts, _SENTINEL_PARAMETERS)
    secured: dict[str, Any] = {}
    if tls is not None:
        secured = {name: query[name] for name in _TLS_PARAMETERS if name in query}
        secured |= {"ssl": True, "ssl_check_hostname": tls.check_hostname}

    async def ask() -> Endpoint:
        sentinel = Sentinel(  # type: ignore[no-untyped-call]
            addresses,
            sentinel_kwargs={
                "socket_timeout": _SENTINEL_TIMEOUT,
                "socket_connect_timeout": _SENTINEL_TIMEOUT,
                # One that is away is not asked again: the next one is, and the keeper tries again.
                "retry": Retry(NoBackoff(), 0),
                "username": query.get("sentinel_username"),
                "password": query.get("sentinel_password"),
                **secured,
            },
        )
        try:
            host, port = await sentinel.discover_master(service)
        except (RedisError, OSError):
            # redis-py's text is the inside of its client objects.
            raise NoPrimary(
                f"The sentinels cannot be reached or name no primary for {service!r}.",
                ",".join(str(address) for address in addresses),
            ) from None
        finally:
            for client in sentinel.sentinels:
                await client.aclose()
        return Endpoint(
            host=str(host),
            port=int(port),
            path=None,
            username=unquote(username) or None,
            password=unquote(password) or None,
            database=int(database or 0),
            tls=tls,
        )

    return ask


def _cluster(url: str) -> Seeds:
    parts = _split(url)
    credentials, _, hosts = parts.netloc.rpartition("@")
    username, _, password = credentials.partition(":")
    addresses = _addresses(hosts, "nodes")
    if parts.path.strip("/") or "db=" in parts.query:
        raise InvalidInput("no path follows the nodes: a Cluster has no databases")
    _, tls = _options(url, parts, ())
    return Seeds(addresses, unquote(username) or None, unquote(password) or None, tls)


def _options(
    url: str, parts: _Parts, others: Sequence[str]
) -> tuple[dict[str, str], ssl.SSLContext | None]:
    """What follows the `?`, and what it says of TLS where the URL has that.

    An unknown name is not repeated: it may be a part of the password.
    """
    secure = url.startswith("rediss")
    known = (*others, *(_TLS_PARAMETERS if secure else ()))
    found = parse_qs(parts.query, keep_blank_values=True)
    if not found.keys() <= set(known):
        names = ", ".join(known) or "none; with rediss for redis, those of TLS"
        raise InvalidInput(f"it has an unknown parameter; those that there are: {names}")
    query = {name: values[-1] for name, values in found.items()}
    return query, _tls_context(query) if secure else None


def _addresses(hosts: str, what: str) -> tuple[Address, ...]:
    addresses: list[Address] = []
    for item in hosts.split(","):
        host, colon, port = item.rpartition(":")
        if not colon or not _is_port(port) or not host:
            raise InvalidInput(f"it names the {what} as host:port,host:port")
        addresses.append(Address(host.strip("[]"), int(port)))
    return tuple(addresses)


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdecimal() and 0 < int(text) < 65536
