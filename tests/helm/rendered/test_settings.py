"""Herald takes what the chart tells it, and no secret is where it can be read."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from helm.generate import ELSEWHERE, camel
from service.app.credentials import build_verifiers, check_for_production
from service.broker.endpoint import parse_engine_url
from service.settings import SECRETS, Settings, load_settings
from tests.helm.rendered.chart import (
    CHART,
    Manifest,
    all_of,
    container,
    pod,
    render,
    settings,
)
from tests.helm.rendered.combinations import COMBINATIONS, PEM
from tests.helm.rendered.test_manifests import NAMES, rendered

_CONTENTS = {
    "redis-url": "redis://valkey:6379/0",
    "jwt-secret": "x" * 32,
    "api-keys": "one,two",
    "jwt-public-key.pem": PEM,
}
"""What users' own Secrets hold."""


def _environment(manifests: list[Manifest], directory: Path) -> dict[str, str]:
    """As the pod has it: files are written as the `keys` volume would be."""
    environment = settings(manifests)
    files = {}
    for volume in pod(manifests)["volumes"]:
        if volume["name"] == "keys":
            for source in volume["projected"]["sources"]:
                kind = "secret" if "secret" in source else "configMap"
                own = all_of(manifests, {"secret": "Secret", "configMap": "ConfigMap"}[kind])
                for item in source[kind]["items"]:
                    data = own.get(source[kind]["name"], {}).get("data", {})
                    if kind == "secret":
                        data = {key: base64.b64decode(text).decode() for key, text in data.items()}
                    text = data.get(item["key"], _CONTENTS[item["path"]])
                    files[f"/etc/herald/keys/{item['path']}"] = text
    for name, value in environment.items():
        if value in files:
            path = directory / Path(value).name
            path.write_text(files[value])
            environment[name] = str(path)
        environment[name] = environment[name].replace("$(ENGINE_PASSWORD)", "password")
    return environment


@pytest.mark.parametrize("name", NAMES)
def test_herald_takes_its_settings(name: str, trial_chart: Path, tmp_path: Path) -> None:
    manifests = rendered(name, trial_chart)
    environment = _environment(manifests, tmp_path)
    known = {f"HERALD_{field.upper()}" for field in Settings.model_fields}
    known |= {f"HERALD_{secret.upper()}_FILE" for secret in SECRETS}
    assert {key for key in environment if key.startswith("HERALD_")} <= known
    loaded = load_settings(environment)
    check_for_production(loaded)
    build_verifiers(loaded)
    assert loaded.redis_url is not None
    parse_engine_url(loaded.redis_url)
    assert loaded.api_port != loaded.port


def test_every_setting_arrives_as_it_was_given(tmp_path: Path) -> None:
    given = COMBINATIONS["every setting"]["config"]
    config = json.loads((CHART / "values.schema.json").read_text())["properties"]["config"]
    assert set(given) == set(config["properties"]), "the combination lacks a setting"
    loaded = load_settings(_environment(render({"config": given}), tmp_path))
    sizes = {"64KiB": 65536, "1MB": 1_000_000, "2 MiB": 2 * 2**20}
    for field in Settings.model_fields:
        if field in ELSEWHERE:
            continue
        value = given[camel(field)]
        if isinstance(value, str) and value in sizes:
            value = sizes[value]
        arrived = getattr(loaded, field)
        assert (list(arrived) if isinstance(arrived, tuple) else arrived) == value, field


def _without_secrets(manifests: list[Manifest]) -> str:
    return json.dumps([item for item in manifests if item["kind"] != "Secret"])


def test_secrets_are_in_secrets_alone() -> None:
    given = COMBINATIONS["secrets of the chart"]
    words = [given["engine"]["url"], given["auth"]["jwtSecret"]["value"], "sha256:" + "0" * 64]
    manifests = render(given)
    for word in words:
        assert word not in _without_secrets(manifests)
        assert base64.b64encode(word.encode()).decode() not in _without_secrets(manifests)
    data = all_of(manifests, "Secret")["herald"]["data"]
    assert base64.b64decode(data["redis-url"]).decode() == words[0]
    assert base64.b64decode(data["jwt-secret"]).decode() == words[1]
    assert base64.b64decode(data["api-keys"]).decode().split() == ["one", words[2]]


@pytest.mark.parametrize("name", NAMES)
def test_no_secret_is_an_environment_variable_or_in_a_config_map(
    name: str, trial_chart: Path
) -> None:
    manifests = rendered(name, trial_chart)
    secret = {f"HERALD_{field.upper()}" for field in SECRETS}
    for config in all_of(manifests, "ConfigMap").values():
        assert not secret & set(config["data"])
    for item in container(manifests)["env"]:
        if item["name"] == "HERALD_REDIS_URL":
            assert "$(ENGINE_PASSWORD)" in item["value"]
        else:
            assert item["name"] not in secret
    # Files, for the pod's group alone.
    for volume in pod(manifests)["volumes"]:
        if volume["name"] in ("keys", "kubernetes"):
            assert volume["projected"]["defaultMode"] == 0o440


def test_secrets_of_the_user_make_the_chart_make_none() -> None:
    assert not all_of(render(), "Secret")
    files = {item["name"]: item["value"] for item in container(render())["env"] if "value" in item}
    assert files == {
        "HERALD_REDIS_URL_FILE": "/etc/herald/keys/redis-url",
        "HERALD_JWT_SECRET_FILE": "/etc/herald/keys/jwt-secret",
        "HERALD_API_KEYS_FILE": "/etc/herald/keys/api-keys",
    }
    keys = next(item for item in pod(render())["volumes"] if item["name"] == "keys")
    assert [source["secret"]["name"] for source in keys["projected"]["sources"]] == ["keys"] * 3


def test_keys_of_a_secret_can_be_named() -> None:
    over: dict[str, Any] = {"engine": {"existingSecret": {"name": "valkey", "key": "url"}}}
    keys = next(item for item in pod(render(over))["volumes"] if item["name"] == "keys")
    assert keys["projected"]["sources"][0] == {
        "secret": {"name": "valkey", "items": [{"key": "url", "path": "redis-url"}]}
    }


def test_password_of_a_secret_is_known_before_the_url_that_has_it() -> None:
    env = container(render(COMBINATIONS["the password alone"]))["env"]
    names = [item["name"] for item in env]
    assert names.index("ENGINE_PASSWORD") < names.index("HERALD_REDIS_URL")
    password = env[names.index("ENGINE_PASSWORD")]
    assert password["valueFrom"]["secretKeyRef"] == {
        "name": "valkey-auth",
        "key": "valkey-password",
    }
    assert "HERALD_REDIS_URL_FILE" not in names


def test_public_key_is_a_file_as_it_was_given() -> None:
    manifests = render(COMBINATIONS["a public key"])
    data = all_of(manifests, "ConfigMap")["herald-public-key"]["data"]
    assert data == {"jwt-public-key.pem": PEM}
    assert settings(manifests)["HERALD_JWT_PUBLIC_KEY_FILE"] == (
        "/etc/herald/keys/jwt-public-key.pem"
    )
