"""Runs the real Helm on the chart, and reads what comes out."""

from __future__ import annotations

import json
import os
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[3]
CHART = ROOT / "helm/herald"
EXAMPLES = sorted((CHART / "examples").glob("*.yaml"))
NAMESPACE = "push"
OLDEST = "1.30"
"""Of Kubernetes, that the chart takes."""
MINIMAL: dict[str, Any] = {
    "image": {"repository": "registry.example.com/herald"},
    "engine": {"existingSecret": {"name": "keys"}},
    "auth": {"jwtSecret": {"existingSecret": {"name": "keys"}}},
    "publishers": {"existingSecret": {"name": "keys"}},
}
"""The least that can be installed, without a secret in it."""

Manifest = dict[str, Any]


class HelmError(Exception):
    """What Helm said when it refused."""


class _Strict(yaml.SafeLoader):
    """Takes no key twice in one map: Helm takes the last one, others (kustomize, so Flux) none."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = {key for key in keys if keys.count(key) > 1}
        assert not twice, f"twice in one map: {twice}"
        return super().construct_mapping(node, deep)


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """As Helm merges values: maps by key, all else as a whole."""
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def helm(*arguments: str | Path, stdin: str = "") -> str:
    """The output of Helm, which must not reach a cluster."""
    done = subprocess.run(
        [os.environ["HELM_BINARY"], *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", "KUBECONFIG": "/nonexistent"},
        timeout=60,
    )
    if done.returncode:
        raise HelmError(done.stdout + done.stderr)
    return done.stdout


def render(
    over: dict[str, Any] | None = None,
    *,
    base: dict[str, Any] = MINIMAL,
    release: str = "herald",
    chart: Path = CHART,
) -> list[Manifest]:
    """All manifests for these values, given to Helm as a file of YAML would be."""
    return _render(json.dumps(merge(base, over or {})), release, chart)


def example(path: Path, chart: Path = CHART) -> list[Manifest]:
    return render(yaml.safe_load(path.read_text()), base={}, chart=chart)


@cache
def _render(values: str, release: str, chart: Path) -> list[Manifest]:
    where = ("--namespace", NAMESPACE, "--kube-version", OLDEST)
    text = helm("template", release, chart, *where, "-f", "-", stdin=values)
    return [manifest for manifest in yaml.load_all(text, _Strict) if manifest]


def notes(over: dict[str, Any] | None = None) -> str:
    """What Helm says after the installation, without a cluster."""
    where = ("--namespace", NAMESPACE, "--dry-run=client")
    values = json.dumps(merge(MINIMAL, over or {}))
    text = helm("install", "herald", CHART, *where, "-f", "-", stdin=values)
    return text.partition("\nNOTES:\n")[2]


def all_of(manifests: list[Manifest], kind: str) -> dict[str, Manifest]:
    """Those of a kind, by name."""
    return {item["metadata"]["name"]: item for item in manifests if item["kind"] == kind}


def one(manifests: list[Manifest], kind: str) -> Manifest:
    """The only one of a kind."""
    found = all_of(manifests, kind)
    assert len(found) == 1, f"{len(found)} of {kind}"
    return next(iter(found.values()))


def pod(manifests: list[Manifest]) -> Manifest:
    """The pods' specification."""
    spec: Manifest = one(manifests, "Deployment")["spec"]["template"]["spec"]
    return spec


def container(manifests: list[Manifest], name: str = "herald") -> Manifest:
    return next(item for item in pod(manifests)["containers"] if item["name"] == name)


def settings(manifests: list[Manifest]) -> dict[str, str]:
    """Herald's environment as Kubernetes would make it, but for what is in Secrets."""
    of_herald = container(manifests)
    environment: dict[str, str] = {}
    for source in of_herald["envFrom"]:
        environment |= all_of(manifests, "ConfigMap")[source["configMapRef"]["name"]]["data"]
    for item in of_herald["env"]:
        environment[item["name"]] = item.get("value", "from a secret")
    return environment


def refusal(over: dict[str, Any], base: dict[str, Any] = MINIMAL) -> str:
    """What Helm says of values that must be refused."""
    try:
        render(over, base=base)
    except HelmError as error:
        return str(error)
    raise AssertionError("these values were taken")
