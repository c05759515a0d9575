"""What is around the pods: scaling, networks, ways in, watching."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.helm.rendered.chart import (
    CHART,
    EXAMPLES,
    all_of,
    container,
    example,
    merge,
    notes,
    one,
    render,
    settings,
)
from tests.helm.rendered.combinations import COMBINATIONS
from tests.observability.promql import run_promtool

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


@pytest.mark.parametrize("release", ["herald", "push", "x" * 53])
def test_keda_finds_the_pods_however_long_their_name_is(release: str) -> None:
    manifests = render(_KEDA, release=release)
    query = one(manifests, "ScaledObject")["spec"]["triggers"][0]["metadata"]["query"]
    found = re.search('pod=~"([^"]*)"', query)
    assert found
    # As Kubernetes makes them: the part before the last five letters is cut off at 58.
    replicas = f"{one(manifests, 'Deployment')['metadata']['name']}-7d4f9c8b5d"
    assert re.fullmatch(found[1], f"{replicas}-"[:58] + "x2x2x")
    assert not re.fullmatch(found[1], "herald-eu-6c9b7f5d4-z8z8z")


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
    over = {"networkPolicy": {"clients": {"from": [peer]}}, "helmTest": {"enabled": False}}
    assert _rule(over, "clients")["from"] == [peer]


def test_the_pod_of_helm_test_gets_in_where_it_asks() -> None:
    """Clients' and API's port, whoever else may."""
    peer = {"ipBlock": {"cidr": "10.1.0.0/16"}}
    api = {"ownNamespace": False, "from": [peer]}
    manifests = render({"networkPolicy": {"clients": {"from": [peer]}, "api": api}})
    labels = one(manifests, "Pod")["metadata"]["labels"]
    for rule in one(manifests, "NetworkPolicy")["spec"]["ingress"]:
        assert any(
            labels.items() >= who["podSelector"]["matchLabels"].items()
            for who in rule["from"]
            if "podSelector" in who and "namespaceSelector" not in who
        ), rule["ports"]


def test_what_must_be_reached_is_told_where_little_may_be() -> None:
    over = merge(COMBINATIONS["egress"], {"deletionCost": {"enabled": True}})
    assert "networkPolicy.egress must let the pods reach the Kubernetes API" in notes(over)
    assert "networkPolicy.egress" not in notes({"deletionCost": {"enabled": True}})


@pytest.mark.parametrize(
    "budget",
    [
        {"maxUnavailable": 0},
        {"maxUnavailable": "0%"},
        {"maxUnavailable": None, "minAvailable": 2},
        {"maxUnavailable": None, "minAvailable": 3},
        {"maxUnavailable": None, "minAvailable": "100%"},
        {"maxUnavailable": None, "minAvailable": "80%"},
    ],
)
def test_a_budget_that_lets_no_pod_go_is_told(budget: dict[str, Any]) -> None:
    told = "no node with a pod of this release can be drained"
    assert told in notes({"podDisruptionBudget": budget})
    assert told not in notes({"podDisruptionBudget": budget | {"enabled": False}})


def test_a_budget_that_lets_one_go_is_not_told() -> None:
    for over in (
        {},
        {"replicaCount": 1},
        merge(COMBINATIONS["minAvailable"], {"replicaCount": 5}),
        {
            "autoscaling": {"type": "hpa", "minReplicas": 3},
            "podDisruptionBudget": {"maxUnavailable": None, "minAvailable": 2},
        },
    ):
        assert "can be drained" not in notes(over)


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


def test_services_can_have_addresses_of_both_families() -> None:
    for service in all_of(render(COMBINATIONS["IPv4 and IPv6"]), "Service").values():
        assert service["spec"]["ipFamilyPolicy"] == "PreferDualStack"
    for service in all_of(render(), "Service").values():
        assert "ipFamilyPolicy" not in service["spec"]


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
    files = [path.read_text() for path in sorted((CHART / "rules").glob("*.yaml"))]
    assert files
    rules = [group for text in files for group in yaml.safe_load(text)["groups"]]
    assert [group["name"] for group in groups] == [group["name"] for group in rules]
    ours = 'namespace="push", pod=~"herald-[a-z0-9]+-[a-z0-9]+"'
    recorded = 'namespace="push", herald="herald"'
    for made, group in zip(groups, rules, strict=True):
        for rule, file in zip(made["rules"], group["rules"], strict=True):
            expr = rule.pop("expr").replace(ours, 'namespace=~".*"')
            assert expr.replace(recorded, 'namespace=~".*"') == file.pop("expr")
            assert rule.pop("labels") == {"herald": "herald"} | file.pop("labels", {})
            text = json.dumps(file).replace("RUNBOOK_URL", "https://example.com/run.md")
            assert rule == json.loads(text)
    assert "RUNBOOK_URL" not in json.dumps(groups)
    dashboards = all_of(manifests, "ConfigMap")["herald-dashboards"]
    there = sorted((CHART / "dashboards").glob("*.json"))
    assert there
    assert set(dashboards["data"]) == {path.name for path in there}
    for path in there:
        text = path.read_text().replace("RUNBOOK_URL", "https://example.com/run.md")
        assert json.loads(dashboards["data"][path.name]) == json.loads(text)
    assert dashboards["metadata"]["labels"]["grafana_dashboard"] == "1"


def test_two_releases_in_a_namespace_are_watched_apart(tmp_path: Path) -> None:
    """One wants copies and has them, the other wants none; then one of them is down."""
    files = []
    for release in ("herald", "herald-eu"):
        over = {"metrics": {"prometheusRule": {"enabled": True}}}
        spec = one(render(over, release=release), "PrometheusRule")["spec"]
        path = tmp_path / f"{release}.yaml"
        path.write_text(yaml.safe_dump(spec))
        files.append(str(path))
        done = run_promtool("check", "rules", "--lint=all", "--lint-fatal", str(path))
        assert done.returncode == 0, done.stderr + done.stdout

    def series(metric: str, pod: str, values: str, more: str = "") -> dict[str, str]:
        labels = f'namespace="push", pod="{pod}", instance="{pod}:1"{more}'
        return {"series": f"{metric}{{{labels}}}", "values": values}

    here, there = "herald-7d4f9c8b5-x2x2x", "herald-eu-6c9b7f5d4-z8z8z"
    latency = "herald_publish_to_write_seconds"
    firing = 'count by (alertname, herald) (ALERTS{alertstate="firing"})'
    late = '{alertname="HeraldLatencyFarOverObjective", herald="herald-eu"}'
    document = {
        "rule_files": files,
        "evaluation_interval": "30s",
        "tests": [
            {
                "interval": "30s",
                "input_series": [
                    series("herald_build_info", here, "1x60 stale"),
                    series("herald_build_info", there, "1x80"),
                    series("herald_engine_replicas_needed", here, "1x60 stale"),
                    series("herald_engine_replicas", here, "1x60 stale"),
                    series("herald_engine_replicas_needed", there, "0x80"),
                    series("herald_engine_replicas", there, "0x80"),
                    series(latency + "_bucket", here, "0+100x60 stale", ', le="0.25"'),
                    series(latency + "_count", here, "0+100x60 stale"),
                    series(latency + "_bucket", there, "0+60x80", ', le="0.25"'),
                    series(latency + "_count", there, "0+100x80"),
                ],
                "promql_expr_test": [
                    {
                        "expr": "round(100 * herald:slow_writes:ratio_rate5m)",
                        "eval_time": "10m",
                        "exp_samples": [
                            {"labels": '{namespace="push", herald="herald"}', "value": 0},
                            {"labels": '{namespace="push", herald="herald-eu"}', "value": 40},
                        ],
                    },
                    {
                        "expr": firing,
                        "eval_time": "12m",
                        "exp_samples": [{"labels": late, "value": 1}],
                    },
                    {
                        "expr": 'count by (herald) (ALERTS{alertname="HeraldDown"})',
                        "eval_time": "38m",
                        "exp_samples": [{"labels": '{herald="herald"}', "value": 1}],
                    },
                ],
            }
        ],
    }
    test = tmp_path / "test.yaml"
    test.write_text(yaml.safe_dump(document))
    done = run_promtool("test", "rules", str(test))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_examples_see_a_drain_to_its_end(path: Path, trial_chart: Path) -> None:
    """Endpoints, by which a ServiceMonitor finds its pods, lose one as soon as it is deleted."""
    manifests = example(path, trial_chart if path.name == "trial.yaml" else CHART)
    assert not all_of(manifests, "ServiceMonitor")
    if all_of(manifests, "PrometheusRule"):
        assert all_of(manifests, "PodMonitor")


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_no_example_has_tokens_pass_in_the_clear(path: Path, trial_chart: Path) -> None:
    manifests = example(path, trial_chart if path.name == "trial.yaml" else CHART)
    for service in all_of(manifests, "Service").values():
        if service["spec"].get("type") == "LoadBalancer":
            assert service["spec"]["ports"][0]["port"] == 443
            assert "ssl-cert" in json.dumps(service["metadata"]["annotations"])
    for ingress in all_of(manifests, "Ingress").values():
        annotations = json.dumps(ingress["metadata"].get("annotations", {}))
        assert ingress["spec"].get("tls") or "HTTPS" in annotations
    for route in all_of(manifests, "HTTPRoute").values():
        assert [parent["sectionName"] for parent in route["spec"]["parentRefs"]] == ["https"]


def test_a_target_group_keeps_a_pod_until_it_has_drained() -> None:
    manifests = example(CHART / "examples/alb.yaml")
    annotations = one(manifests, "Ingress")["metadata"]["annotations"]
    group = annotations["alb.ingress.kubernetes.io/target-group-attributes"]
    attributes = dict(item.split("=") for item in group.split(","))
    sleep = container(manifests)["lifecycle"]["preStop"]["sleep"]["seconds"]
    drain = float(settings(manifests)["HERALD_DRAIN_SECONDS"])
    assert float(attributes["deregistration_delay.timeout_seconds"]) >= sleep + drain
    # The fewest connections, not the next in turn.
    assert attributes["load_balancing.algorithm.type"] == "least_outstanding_requests"


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
