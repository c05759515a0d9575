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
    MINIMAL,
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


def test_the_nearest_of_several_labels_counts_but_never_where_pods_are_found_by_it() -> None:
    manifests = render(COMBINATIONS["the same label at several places"])

    def labels(kind: str, name: str = "herald") -> dict[str, str]:
        found: dict[str, str] = all_of(manifests, kind)[name]["metadata"]["labels"]
        return found

    assert labels("ConfigMap")["team"] == "all"
    assert labels("Service")["team"] == "clients"
    assert labels("Service")["app.kubernetes.io/component"] == "clients"
    assert labels("Service", "herald-api")["team"] == "api"
    assert labels("HTTPRoute")["team"] == "route"
    # What an operator selects by may be any label.
    assert labels("ServiceMonitor")["app.kubernetes.io/instance"] == "prometheus"
    assert labels("PrometheusRule")["team"] == "watch"
    assert labels("ConfigMap", "herald-dashboards")["team"] == "watch"
    template = all_of(manifests, "Deployment")["herald"]["spec"]["template"]["metadata"]
    assert template["labels"]["team"] == "pods"
    assert template["labels"]["app.kubernetes.io/part-of"] == "shop"
    assert template["annotations"]["kubectl.kubernetes.io/default-container"] == "proxy"


def test_labels_that_selectors_need_cannot_be_changed() -> None:
    mine = {"app.kubernetes.io/name": "mine", "app.kubernetes.io/instance": "mine"}
    for manifest in render({"commonLabels": mine, "podLabels": mine}):
        assert manifest["metadata"]["labels"]["app.kubernetes.io/name"] == "herald"
        assert manifest["metadata"]["labels"]["app.kubernetes.io/instance"] == "herald"
    template = all_of(render({"podLabels": mine}), "Deployment")["herald"]["spec"]["template"]
    assert template["metadata"]["labels"]["app.kubernetes.io/name"] == "herald"


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_examples_pass_lint(path: Path, trial_chart: Path) -> None:
    helm("lint", "--strict", trial_chart if path.name == "trial.yaml" else CHART, "-f", path)


@pytest.mark.parametrize("release", ["herald", "push", "my-herald-2", "x" * 53, "true", "on"])
def test_any_release_name_fits(release: str) -> None:
    manifests = render(COMBINATIONS["deletion cost"], release=release)
    for manifest in manifests:
        validate(manifest)
        assert manifest["metadata"]["labels"]["app.kubernetes.io/instance"] == release
    names = [item["metadata"]["name"] for item in manifests]
    assert all(len(name) <= 63 and not name.endswith("-") for name in names)


def test_the_test_of_one_release_does_not_delete_what_is_anothers() -> None:
    """Its objects are deleted before each run by name, whoever owns them."""
    hooks = [
        item["metadata"]["name"]
        for item in render()
        if "helm.sh/hook" in item["metadata"].get("annotations", {})
    ]
    assert hooks
    for other in ("herald-test", "herald-api", "herald-tests"):
        theirs = {item["metadata"]["name"] for item in render(release=other)}
        assert not theirs & set(hooks)


def test_it_can_be_a_part_of_another_chart(tmp_path: Path) -> None:
    (tmp_path / "charts").mkdir()
    (tmp_path / "charts/herald").symlink_to(CHART)
    part = {"name": "herald", "version": "0.1.0", "alias": "push"}
    chart = {"apiVersion": "v2", "name": "shop", "version": "1.0.0", "dependencies": [part]}
    (tmp_path / "Chart.yaml").write_text(json.dumps(chart))
    values = {"push": MINIMAL, "global": {"imageRegistry": "registry.example.com"}}
    manifests = render(values, base={}, chart=tmp_path)
    assert set(all_of(manifests, "Deployment")) == {"herald-push"}
    for manifest in manifests:
        validate(manifest)


def test_chart_can_be_packaged(tmp_path: Path) -> None:
    helm("package", CHART, "--destination", tmp_path)
    assert [path.suffix for path in tmp_path.iterdir()] == [".tgz"]
