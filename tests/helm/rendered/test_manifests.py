"""Every manifest is what Kubernetes and the operators take, for all examples and combinations."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest

from tests.helm.rendered.chart import (
    CHART,
    EXAMPLES,
    OLDEST,
    Manifest,
    all_of,
    example,
    helm,
    render,
)
from tests.helm.rendered.combinations import COMBINATIONS

CRDS = Path(__file__).parents[1] / "crds"
VERSIONS = (OLDEST, "1.37")
"""And the newest whose schemas are at hand."""


def rendered(name: str, trial_chart: Path) -> list[Manifest]:
    if name in COMBINATIONS:
        return render(COMBINATIONS[name])
    return example(CHART / "examples" / name, trial_chart if name == "trial.yaml" else CHART)


NAMES = [*COMBINATIONS, *(path.name for path in EXAMPLES)]


@cache
def _schema_of(kind: str) -> Any:
    path = CRDS / f"{kind}.json"
    return json.loads(path.read_text()) if path.exists() else None


def validate(manifest: Manifest) -> None:
    """Raises where a field is unknown, missing or of another type."""
    own = _schema_of(manifest["kind"])
    if own is not None:
        jsonschema.validate(manifest, own)
    else:
        _validate(json.dumps(manifest, sort_keys=True))


@cache
def _validate(text: str) -> None:
    # Most manifests are the same in most combinations, and each reads a large file.
    for version in VERSIONS:
        kubernetes_validate.validate(json.loads(text), version, strict=True)


@pytest.mark.parametrize("name", NAMES)
def test_manifests_are_valid(name: str, trial_chart: Path) -> None:
    manifests = rendered(name, trial_chart)
    assert len(manifests) >= 5
    for manifest in manifests:
        validate(manifest)
        assert "namespace" not in manifest["metadata"]


@pytest.mark.parametrize("name", NAMES)
def test_names_are_unique_and_labels_recommended(name: str, trial_chart: Path) -> None:
    manifests = rendered(name, trial_chart)
    names = [(item["kind"], item["metadata"]["name"]) for item in manifests]
    assert len(set(names)) == len(names)
    for kind, of_object in names:
        if of_object.endswith("-valkey"):
            continue
        labels = all_of(manifests, kind)[of_object]["metadata"]["labels"]
        assert {
            "app.kubernetes.io/name",
            "app.kubernetes.io/instance",
            "app.kubernetes.io/version",
            "app.kubernetes.io/managed-by",
            "helm.sh/chart",
        } <= set(labels)


def test_validation_finds_what_is_wrong() -> None:
    manifests = render(COMBINATIONS["ServiceMonitor"])
    for kind, spoil in (
        ("Deployment", lambda spec: spec["template"]["spec"].update(enableServiceLink=False)),
        ("NetworkPolicy", lambda spec: spec.update(policyType=["Ingress"])),
        ("ServiceMonitor", lambda spec: spec["endpoints"][0].update(targetport=1)),
        ("PrometheusRule", lambda spec: spec["groups"][0].pop("name")),
    ):
        for manifest in all_of(manifests, kind).values():
            spoilt = json.loads(json.dumps(manifest))
            spoil(spoilt["spec"])
            with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError)):
                validate(spoilt)


def test_every_kind_has_a_schema(trial_chart: Path) -> None:
    kinds = {item["kind"] for name in NAMES for item in rendered(name, trial_chart)}
    assert {path.stem for path in CRDS.glob("*.json")} <= kinds
    assert {"Deployment", "HorizontalPodAutoscaler", "Ingress", "Role", "Pod"} <= kinds


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_examples_pass_lint(path: Path, trial_chart: Path) -> None:
    helm("lint", "--strict", trial_chart if path.name == "trial.yaml" else CHART, "-f", path)


@pytest.mark.parametrize("release", ["herald", "push", "my-herald-2", "x" * 53])
def test_any_release_name_fits(release: str) -> None:
    names = [
        item["metadata"]["name"] for item in render(COMBINATIONS["deletion cost"], release=release)
    ]
    assert all(len(name) <= 63 and not name.endswith("-") for name in names)


def test_chart_can_be_packaged(tmp_path: Path) -> None:
    helm("package", CHART, "--destination", tmp_path)
    assert [path.suffix for path in tmp_path.iterdir()] == [".tgz"]
