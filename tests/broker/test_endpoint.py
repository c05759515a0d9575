"""The forms of HERALD_REDIS_URL, and the sentences for what is none of them."""

from __future__ import annotations

import ssl

import pytest

from service.broker.endpoint import Endpoint, NoPrimary, Seeds, parse_engine_url
from service.broker.topology import Address
from service.core.errors import EngineUnavailable, InvalidInput
from tests.harness.process import free_port


def _tcp(
    host: str = "h",
    port: int = 6379,
    username: str | None = None,
    password: str | None = None,
    database: int = 0,
) -> Endpoint:
    return Endpoint(host, port, None, username, password, database, None)


def _unix(
    path: str, username: str | None = None, password: str | None = None, database: int = 0
) -> Endpoint:
    return Endpoint("localhost", 6379, path, username, password, database, None)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://h", _tcp()),
        ("redis://h:70", _tcp(port=70)),
        ("redis://h/3", _tcp(database=3)),
        ("redis://h?db=3", _tcp(database=3)),
        ("redis://:pw@h:70/3", _tcp(port=70, password="pw", database=3)),
        ("redis://u:pw@h", _tcp(username="u", password="pw")),
        ("redis://u:p%40%2F%3A@h", _tcp(username="u", password="p@/:")),
        ("redis://[::1]:70", _tcp("::1", 70)),
        ("unix:///run/e.sock", _unix("/run/e.sock")),
        ("unix:///run/e.sock?db=2", _unix("/run/e.sock", database=2)),
        ("unix://u:pw@/run/e.sock", _unix("/run/e.sock", "u", "pw")),
    ],
)
async def test_url_is_understood(url: str, expected: Endpoint) -> None:
    assert await parse_engine_url(url)() == expected


@pytest.mark.parametrize(
    ("query", "verify", "hostname"),
    [
        ("", ssl.CERT_REQUIRED, True),
        ("?ssl_cert_reqs=required", ssl.CERT_REQUIRED, True),
        ("?ssl_check_hostname=false", ssl.CERT_REQUIRED, False),
        ("?ssl_cert_reqs=none", ssl.CERT_NONE, False),
        ("?ssl_cert_reqs=none&ssl_check_hostname=true", ssl.CERT_NONE, False),
    ],
)
async def test_tls_is_verified_unless_told_otherwise(
    query: str, verify: ssl.VerifyMode, hostname: bool
) -> None:
    endpoint = await parse_engine_url(f"rediss://:pw@h:70/3{query}")()
    assert (endpoint.host, endpoint.port, endpoint.database) == ("h", 70, 3)
    assert endpoint.tls is not None
    assert (endpoint.tls.verify_mode, endpoint.tls.check_hostname) == (verify, hostname)
    assert endpoint.tls.minimum_version >= ssl.TLSVersion.TLSv1_2


SECRETS = ("hunter2", "hunter", "hunt", "two")


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("", "begins with redis://"),
        ("h:6379", "begins with redis://"),
        ("http://:hunter2@h", "begins with redis://"),
        ("hunter2", "begins with redis://"),
        ("redis+cluster://", "the nodes as host:port,host:port"),
        ("redis+cluster://:hunter2@h:1,h", "the nodes as host:port,host:port"),
        ("redis+cluster://:hunt/two@h:1", "percent-encoded"),
        ("redis+cluster://:hunter2@[::1", "percent-encoded"),
        ("redis+cluster://:hunter2@h:1/1", "no databases"),
        ("redis+cluster://:hunter2@h:1?db=1", "no databases"),
        ("redis+cluster://:hunter2@h:1?ssl_cert_reqs=none", "with rediss for redis"),
        ("rediss+cluster://:hunter2@h:1?ssl_cert_reqs=optional", "required or none"),
        ("rediss+cluster://:hunter2@h:1?ssl_ca_certs=/no/such/file", "No such file"),
        ("rediss+cluster://:hunter2@h:1?hunter=2", "those that there are: ssl_ca_certs"),
        ("rediss+unix:///x", "begins with redis://"),
        ("redis://:hunt/two@h:1", "percent-encoded"),
        ("redis://:hunt?two@h:1", "percent-encoded"),
        ("redis://:hunt#two@h:1", "percent-encoded"),
        ("redis://u:hunt[two@h:1", "percent-encoded"),
        ("redis://:hunter2\u2100@h", "percent-encoded"),
        ("redis://:hunter2@h:port", "cannot be read"),
        ("redis://:hunter2@h:99999", "cannot be read"),
        ("redis://:hunter2@h?db=two", "cannot be read"),
        ("unix://", "names no socket"),
        ("unix://:hunter2@", "names no socket"),
        ("unix://run/e.sock", "names no socket"),
        ("rediss://:hunter2@h?ssl_cert_reqs=optional", "ssl_cert_reqs is required or none"),
        ("rediss://:hunter2@h?ssl_ca_certs=/no/such/file", "No such file"),
        ("rediss://:hunter2@h?ssl_certfile=/no/such/file", "No such file"),
        ("redis+sentinel://", "host:port,host:port"),
        ("redis+sentinel://:hunter2@h/main", "host:port,host:port"),
        ("redis+sentinel://:hunter2@h:1,h/main", "host:port,host:port"),
        ("redis+sentinel://:hunter2@h:1,/main", "host:port,host:port"),
        ("redis+sentinel://:hunter2@h:two/main", "host:port,host:port"),
        ("redis+sentinel://:hunter2@h:99999/main", "host:port,host:port"),
        ("redis+sentinel://:hunter2@h:\u00b2/main", "host:port,host:port"),
        ("redis+sentinel://:hunt/two@h:1/main", "percent-encoded"),
        ("redis+sentinel://:hunter2@[::1/main", "cannot be read"),
        ("redis+sentinel://:hunter2\u2100@h:1/main", "percent-encoded"),
        ("redis+sentinel://:hunter2@h:1", "ends with /service"),
        ("redis+sentinel://:hunter2@h:1/main/two", "ends with /service"),
        ("redis+sentinel://:hunter2@h:1/main?ssl_cert_reqs=none", "unknown parameter"),
        ("redis+sentinel://:hunter2@h:1/main?hunter=2", "those that there are: sentinel_username"),
        ("rediss+sentinel://:hunter2@h:1/main?ssl_ca_certs=/no/such/file", "No such file"),
    ],
)
def test_bad_url_is_explained_without_the_password(url: str, sentence: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_engine_url(url)
    assert sentence in str(caught.value)
    assert not [secret for secret in SECRETS if secret in str(caught.value)]
    # A traceback in a log would show what it came from.
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_seeds_of_a_cluster_are_understood() -> None:
    url = "redis+cluster://us%65r:p%2Fw@h:1,[::1]:2"
    seeds = Seeds((Address("h", 1), Address("::1", 2)), "user", "p/w")
    assert parse_engine_url(url) == seeds
    assert seeds.endpoint(Address("x", 3)) == Endpoint("x", 3, None, "user", "p/w", 0, None)


def test_a_cluster_over_tls_is_verified_unless_told_otherwise() -> None:
    seeds = parse_engine_url("rediss+cluster://h:1?ssl_check_hostname=false")
    assert isinstance(seeds, Seeds)
    tls = seeds.endpoint(Address("x", 3)).tls
    assert tls is not None
    assert (tls.verify_mode, tls.check_hostname) == (ssl.CERT_REQUIRED, False)


async def test_sentinels_that_are_away_are_named_by_service_only() -> None:
    url = f"redis+sentinel://u:hunter2@127.0.0.1:{free_port()}/main?sentinel_password=hunter"
    with pytest.raises(EngineUnavailable) as caught:
        await parse_engine_url(url)()
    assert str(caught.value) == "The sentinels cannot be reached or name no primary for 'main'."


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("redis://user:hush@h:70/3", "h:70"),
        ("redis://:hush@[::1]", "[::1]:6379"),
        ("unix://user:hush@/run/e.sock?db=2", "/run/e.sock"),
        ("unix:///run/a@b.sock", "/run/a@b.sock"),
    ],
)
async def test_place_has_no_credentials(url: str, place: str) -> None:
    locate = parse_engine_url(url)
    assert not isinstance(locate, Seeds)
    assert (await locate()).place == place


async def test_sentinels_that_do_not_answer_are_the_place() -> None:
    port = free_port()
    locate = parse_engine_url(f"redis+sentinel://user:hush@127.0.0.1:{port}/main")
    assert not isinstance(locate, Seeds)
    with pytest.raises(NoPrimary) as caught:
        await locate()
    assert caught.value.place == f"127.0.0.1:{port}"
    assert str(port) not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "redis://:12?3@h:6379",
        "redis://:12/3@h:6379",
        "redis://:12#3@h:6379",
        "redis://user:12/3@h:6379",
        "unix://:p/w@/run/e.sock",
        "redis+sentinel://a:12/3@h:2",
    ],
)
def test_password_that_a_special_character_cuts_is_not_taken_for_the_place(url: str) -> None:
    with pytest.raises(InvalidInput, match="percent-encoded") as caught:
        parse_engine_url(url)
    assert "12" not in str(caught.value)
