"""Values that cannot work are refused before anything is installed, in words that help."""

from __future__ import annotations

from typing import Any

import pytest

from tests.helm.rendered.chart import MINIMAL, HelmError, merge, refusal, render
from tests.helm.rendered.combinations import COMBINATIONS


def test_all_that_is_missing_is_told_at_once() -> None:
    said = refusal({}, base={})
    for words in (
        "image.repository is not set",
        "there is no engine: set engine.url",
        "nothing verifies users' tokens",
        "nobody may publish",
    ):
        assert words in said


@pytest.mark.parametrize(
    ("over", "words"),
    [
        ({"engine": {"url": "redis://a:1"}}, "there are several engines"),
        ({"engine": {"passwordSecret": {"name": "x"}}}, "has no $(ENGINE_PASSWORD)"),
        (
            {"engine": {"url": "redis://$(PASSWORD)@a", "existingSecret": {"name": ""}}},
            "engine.passwordSecret.name is not set",
        ),
        ({"auth": {"jwksUrl": "https://a"}}, "several things verify users' tokens"),
        ({"publishers": {"apiKeys": ["a"]}}, "are both set: set one"),
        ({"ports": {"api": 8000}}, "ports.clients and ports.api are the same"),
        ({"resources": {"limits": {"memory": "128Mi"}}}, "leaves no room for connections"),
        ({"resources": {"limits": {"memory": "lots"}}}, "is no size: write it as 512Mi"),
        (
            {"config": {"minReplicas": 1, "replicaTimeout": 3}},
            "more than half of config.engineTimeout",
        ),
        (
            {"autoscaling": {"type": "hpa", "minReplicas": 9, "maxReplicas": 3}},
            "autoscaling.minReplicas is more than autoscaling.maxReplicas",
        ),
        (
            {"autoscaling": {"type": "hpa", "connectionsPerPod": 20481}},
            "more than a pod takes (20480)",
        ),
        ({"autoscaling": {"type": "keda"}}, "Prometheus's address, is not set"),
        ({"podDisruptionBudget": {"minAvailable": 1}}, "set one of minAvailable"),
        ({"podDisruptionBudget": {"maxUnavailable": None}}, "set one of minAvailable"),
        ({"httpRoute": {"enabled": True}}, "httpRoute.parentRefs, the Gateway, is not"),
        (
            {"metrics": {"serviceMonitor": {"enabled": True}, "podMonitor": {"enabled": True}}},
            "everything would be counted twice",
        ),
        (
            {"deletionCost": {"enabled": True}, "serviceAccount": {"create": False}},
            "needs a service account of its own",
        ),
        (
            {"extraEnv": [{"name": "HERALD_HISTORY_SIZE", "value": "7"}]},
            "Herald's settings belong in config",
        ),
        (
            {"resources": {"limits": {"memory": "1Gi"}}, "config": {"workers": 6}},
            "for each of 6 workers",
        ),
        ({"service": {"nodePort": 30080}}, "service.nodePort needs service.type NodePort or"),
        (
            {"service": {"externalTrafficPolicy": "Local"}},
            "service.externalTrafficPolicy needs service.type NodePort or LoadBalancer",
        ),
        (
            {"service": {"type": "NodePort", "loadBalancerClass": "service.k8s.aws/nlb"}},
            "service.loadBalancerClass needs service.type LoadBalancer",
        ),
        (
            {"service": {"loadBalancerSourceRanges": ["10.0.0.0/8"]}},
            "service.loadBalancerSourceRanges needs service.type LoadBalancer",
        ),
        (
            {"service": {"ipFamilyPolicy": "PreferDualStack"}},
            'takes IPv4 alone: set config.host to "::"',
        ),
        (
            {"metrics": {"podMonitor": {"enabled": True, "interval": "5s"}}},
            "metrics.podMonitor.scrapeTimeout (10s) is more than its interval (5s)",
        ),
        (
            {
                "metrics": {
                    "serviceMonitor": {
                        "enabled": True,
                        "interval": "1m",
                        "scrapeTimeout": "1m500ms",
                    }
                }
            },
            "metrics.serviceMonitor.scrapeTimeout (1m500ms) is more than its interval (1m)",
        ),
        ({"fullnameOverride": "1st"}, "is no name of a Service"),
        (
            {"trial": {"enabled": True}, "engine": {"existingSecret": {"name": ""}}},
            "helm dependency update helm/herald/charts/trial",
        ),
    ],
    ids=lambda given: given if isinstance(given, str) else "",
)
def test_contradictions(over: dict[str, Any], words: str) -> None:
    said = refusal(over)
    assert "Herald cannot be installed so:" in said
    assert words in said


@pytest.mark.parametrize("release", ["2nd-try", "my.herald"])
def test_a_release_after_which_no_service_can_be_named(release: str) -> None:
    with pytest.raises(HelmError, match="is no name of a Service: set fullnameOverride"):
        render(release=release)
    assert render({"fullnameOverride": "push"}, release=release)


@pytest.mark.parametrize(
    ("over", "where", "words"),
    [
        ({"replicas": 3}, "", "additional properties 'replicas' not allowed"),
        ({"replicaCount": "3"}, "/replicaCount", "got string, want integer"),
        ({"replicaCount": -1}, "/replicaCount", "minimum: got -1, want 0"),
        ({"config": {"histroySize": 7}}, "/config", "'histroySize' not allowed"),
        ({"config": {"redisUrl": "redis://a"}}, "/config", "'redisUrl' not allowed"),
        ({"config": {"historySize": 0}}, "/config/historySize", "minimum: got 0, want 1"),
        ({"config": {"historySize": 1.5}}, "/config/historySize", "want integer"),
        ({"config": {"drainSeconds": -1}}, "/config/drainSeconds", "minimum"),
        ({"config": {"drainSeconds": "30s"}}, "/config/drainSeconds", "want number"),
        ({"config": {"heartbeatInterval": 0}}, "/config/heartbeatInterval", "exclusiveMinimum"),
        ({"config": {"headTimeout": 9999}}, "/config/headTimeout", "maximum"),
        ({"config": {"logLevel": "loud"}}, "/config/logLevel", "one of 'debug', 'info'"),
        ({"config": {"maxEventBytes": "64 bytes"}}, "/config/maxEventBytes", "anyOf"),
        ({"config": {"maxHeadBytes": 100}}, "/config/maxHeadBytes", "got 100, want 8,192"),
        ({"config": {"allowedOrigins": "https://a"}}, "/config/allowedOrigins", "want array"),
        ({"engine": {"url": "http://a"}}, "/engine/url", "does not match pattern"),
        ({"auth": {"jwtSecret": {"value": "short"}}}, "/auth/jwtSecret/value", "anyOf"),
        ({"publishers": {"apiKeys": ["a,b"]}}, "/publishers/apiKeys/0", "pattern"),
        ({"image": {"digest": "sha256:1"}}, "/image/digest", "pattern"),
        ({"autoscaling": {"type": "cpu"}}, "/autoscaling/type", "one of 'none', 'hpa', 'keda'"),
        ({"termination": {"marginSeconds": 5}}, "/termination/marginSeconds", "minimum"),
        ({"rollout": {"maxUnavailable": 1}}, "/rollout", "'maxUnavailable' not allowed"),
        ({"rollout": {"maxSurge": 0}}, "/rollout/maxSurge", "anyOf"),
        ({"ingress": {"paths": []}}, "/ingress/paths", "minItems"),
        ({"probes": {"liveness": {"path": "/"}}}, "/probes/liveness", "'path' not allowed"),
        (
            {"probes": {"liveness": {"successThreshold": 2}}},
            "/probes/liveness/successThreshold",
            "max",
        ),
        (
            {"probes": {"startup": {"successThreshold": 2}}},
            "/probes/startup/successThreshold",
            "max",
        ),
        ({"apiService": {"type": "LoadBalancer"}}, "/apiService", "'type' not allowed"),
    ],
    ids=lambda given: given if isinstance(given, str) else "",
)
def test_schema_names_the_value_and_what_is_wrong(
    over: dict[str, Any], where: str, words: str
) -> None:
    said = refusal(over)
    assert "values don't meet the specifications of the schema" in said
    assert f"at '{where}'" in said
    assert words in said


def test_combinations_are_more_than_the_minimum() -> None:
    for name, over in COMBINATIONS.items():
        if name != "nothing more":
            assert merge(MINIMAL, over) != MINIMAL
    assert render()
