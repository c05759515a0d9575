"""What is around the pods: scaling, networks, ways in, watching."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from tests.helm.rendered.chart import (
    CHART,
    EXAMPLES,
    all_of,
    example,
    one,
    render,
    settings,
)
from tests.helm.rendered.combinations import COMBINATIONS

_KEDA = COMBINATIONS["KEDA"]


# Scaling


@pytest.mark.parametrize("kind", ["none", "hpa", "keda"])
def test_scalers_exclude_each_other(kind: str) -> None:
    values = _KEDA if kind == "keda" else {"autoscaling": {"type": kind}}
    manifests = render(values)
    assert len(all_of(manifests, "HorizontalPodAutoscaler")) == (kind == "hpa")
    assert len(all_of(manifests, "ScaledObject")) == (kind == "keda")
    # Who scales is not overruled by each upgrade.
    assert ("replicas" in one(manifests, "Deployment")["spec"]) == (kind == "none")


def test_hpa_scales_by_connections_up_at_once_and_down_slowly() -> None:
    spec = one(render(COMBINATIONS["HPA"]), "HorizontalPodAutoscaler")["spec"]
    assert spec["metrics"] == [
        {
            "type": "Pods",
            "pods": {
                "metric": {"name": "herald_connections"},
                # Half of the 20,480 that a pod takes.
                "target": {"type": "AverageValue", "averageValue": "10240"},
            },
        }
    ]
    assert (spec["minReplicas"], spec["maxReplicas"]) == (2, 10)
    up, down = spec["behavior"]["scaleUp"], spec["behavior"]["scaleDown"]
    assert up["stabilizationWindowSeconds"] == 0
    assert down["stabilizationWindowSeconds"] >= 1800
    assert down["policies"] == [{"type": "Pods", "value": 1, "periodSeconds": 300}]


def test_keda_asks_for_this_release_and_does_not_take_silence_for_zero() -> None:
    spec = one(render(_KEDA), "ScaledObject")["spec"]
    metadata = spec["triggers"][0]["metadata"]
    assert metadata["query"] == (
        'sum(herald_connections{namespace="push", pod=~"herald-[a-z0-9]+-[a-z0-9]+"})'
    )
    assert metadata["ignoreNullValues"] == "false"
    assert metadata["threshold"] == "10240"
    assert spec["fallback"]["behavior"] == "currentReplicasIfHigher"
    assert spec["fallback"]["replicas"] == spec["minReplicaCount"] == 2
    behavior = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    assert behavior["scaleDown"]["stabilizationWindowSeconds"] >= 1800


def test_a_pod_is_never_asked_to_take_more_than_it_can() -> None:
    for path in EXAMPLES:
        if path.name == "trial.yaml":
            continue
        manifests = example(path)
        room = int(settings(manifests)["HERALD_MAX_CONNECTIONS"])
        for item in all_of(manifests, "ScaledObject").values():
            assert int(item["spec"]["triggers"][0]["metadata"]["threshold"]) < room
        for item in all_of(manifests, "HorizontalPodAutoscaler").values():
            metric = item["spec"]["metrics"][0]["pods"]["target"]["averageValue"]
            assert int(metric) < room


def test_disruption_budget() -> None:
    assert one(render(), "PodDisruptionBudget")["spec"]["maxUnavailable"] == 1
    spec = one(render(COMBINATIONS["minAvailable"]), "PodDisruptionBudget")["spec"]
    assert spec["minAvailable"] == "80%"
    assert "maxUnavailable" not in spec


# Networks


def _rule(over: dict[str, Any], port: str) -> dict[str, Any]:
    rules = one(render(over), "NetworkPolicy")["spec"]["ingress"]
    found: dict[str, Any] = next(item for item in rules if item["ports"][0]["port"] == port)
    return found


def test_api_is_open_to_chosen_namespaces_alone() -> None:
    test = {
        "podSelector": {
            "matchLabels": {
                "app.kubernetes.io/name": "herald",
                "app.kubernetes.io/instance": "herald",
                "app.kubernetes.io/component": "test",
            }
        }
    }
    assert _rule({}, "api")["from"] == [test, {"podSelector": {}}]
    peer = {"ipBlock": {"cidr": "10.1.0.0/16"}}
    api = {"ownNamespace": False, "namespaces": ["shop", "monitoring"], "from": [peer]}
    assert _rule({"networkPolicy": {"api": api}}, "api")["from"] == [
        test,
        {
            "namespaceSelector": {
                "matchExpressions": [
                    {
                        "key": "kubernetes.io/metadata.name",
                        "operator": "In",
                        "values": ["shop", "monitoring"],
                    }
                ]
            }
        },
        peer,
    ]


def test_api_is_closed_where_nobody_is_chosen() -> None:
    # An empty `from` would open it to everyone.
    over = {"networkPolicy": {"api": {"ownNamespace": False}}, "helmTest": {"enabled": False}}
    rules = one(render(over), "NetworkPolicy")["spec"]["ingress"]
    assert [rule["ports"][0]["port"] for rule in rules if not rule.get("from")] == ["clients"]


def test_clients_come_from_everywhere_unless_said_otherwise() -> None:
    assert "from" not in _rule({}, "clients")
    peer = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "gateways"}}}
    over = {"networkPolicy": {"clients": {"from": [peer]}}}
    assert _rule(over, "clients")["from"] == [peer]


def test_egress_has_names_resolved() -> None:
    spec = one(render(COMBINATIONS["egress"]), "NetworkPolicy")["spec"]
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    assert {(item["port"], item["protocol"]) for item in spec["egress"][0]["ports"]} == {
        (53, "UDP"),
        (53, "TCP"),
    }
    assert spec["egress"][1]["ports"] == [{"port": 6379, "protocol": "TCP"}]
    assert one(render(), "NetworkPolicy")["spec"]["policyTypes"] == ["Ingress"]


# Ways in


def test_api_never_leaves_the_cluster() -> None:
    for over in (COMBINATIONS["LoadBalancer"], COMBINATIONS["NodePort"]):
        services = all_of(render(over), "Service")
        assert services["herald"]["spec"]["type"] == over["service"]["type"]
        assert services["herald-api"]["spec"]["type"] == "ClusterIP"
    for path in EXAMPLES:
        if path.name != "trial.yaml":
            ways = [item for item in example(path) if item["kind"] in ("Ingress", "HTTPRoute")]
            assert "herald-api" not in json.dumps(ways)


def test_ingress_lets_clients_in_and_nothing_else() -> None:
    over = {"ingress": {"enabled": True, "hosts": ["a.example.com", "b.example.com"]}}
    rules = one(render(over), "Ingress")["spec"]["rules"]
    assert [rule["host"] for rule in rules] == ["a.example.com", "b.example.com"]
    for rule in rules:
        assert [(path["path"], path["pathType"]) for path in rule["http"]["paths"]] == [
            ("/v1/ws", "Exact"),
            ("/v1/stream", "Exact"),
        ]
        for path in rule["http"]["paths"]:
            assert path["backend"]["service"] == {"name": "herald", "port": {"name": "http"}}
    everyone = one(render(COMBINATIONS["an Ingress for every host"]), "Ingress")["spec"]["rules"]
    assert len(everyone) == 1
    assert "host" not in everyone[0]


def test_http_route_has_no_timeouts_unless_asked() -> None:
    # GKE's Gateways refuse the field.
    rule = one(example(CHART / "examples/gateway-api.yaml"), "HTTPRoute")["spec"]["rules"][0]
    assert "timeouts" not in rule
    assert rule["backendRefs"] == [{"name": "herald", "port": 80}]
    rule = one(render(COMBINATIONS["HTTPRoute"]), "HTTPRoute")["spec"]["rules"][0]
    assert rule["timeouts"] == {"request": "0s", "backendRequest": "0s"}


# Watching


def test_rules_and_dashboards_are_the_files() -> None:
    manifests = render(
        {
            "metrics": {
                "prometheusRule": {"enabled": True, "runbookUrl": "https://example.com/run.md"},
                "dashboard": {"enabled": True},
            }
        }
    )
    groups = one(manifests, "PrometheusRule")["spec"]["groups"]
    files = [
        text.replace("RUNBOOK_URL", "https://example.com/run.md").replace(
            'namespace=~".*"', 'namespace="push"'
        )
        for text in (path.read_text() for path in sorted((CHART / "rules").glob("*.yaml")))
    ]
    assert files
    assert groups == [group for text in files for group in yaml.safe_load(text)["groups"]]
    assert "RUNBOOK_URL" not in json.dumps(groups)
    dashboards = all_of(manifests, "ConfigMap")["herald-dashboards"]
    there = sorted((CHART / "dashboards").glob("*.json"))
    assert there
    assert set(dashboards["data"]) == {path.name for path in there}
    for path in there:
        text = path.read_text().replace("RUNBOOK_URL", "https://example.com/run.md")
        assert json.loads(dashboards["data"][path.name]) == json.loads(text)
    assert dashboards["metadata"]["labels"]["grafana_dashboard"] == "1"


def test_nothing_of_an_operator_without_being_asked() -> None:
    assert {item["apiVersion"] for item in render()} == {
        "v1",
        "apps/v1",
        "policy/v1",
        "networking.k8s.io/v1",
    }


def test_helm_test_asks_both_services() -> None:
    manifests = render({"service": {"port": 8080}, "apiService": {"port": 8081}})
    test = one(manifests, "Pod")
    assert test["metadata"]["annotations"]["helm.sh/hook"] == "test"
    asked = {item["name"]: item["value"] for item in test["spec"]["containers"][0]["env"]}
    assert asked == {"CLIENTS_URL": "http://herald:8080", "API_URL": "http://herald-api:8081"}
