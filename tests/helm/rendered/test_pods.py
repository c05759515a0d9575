"""What the pods are: probes, ports, stopping, security, names that match."""

from __future__ import annotations

import base64
import math
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.app.node import _RESERVED_FILES
from service.settings import Settings
from tests.helm.rendered.chart import (
    CHART,
    ROOT,
    all_of,
    container,
    one,
    pod,
    render,
    settings,
)
from tests.helm.rendered.combinations import COMBINATIONS
from tests.helm.rendered.test_manifests import NAMES, rendered


@pytest.mark.parametrize("name", NAMES)
def test_grace_period_covers_pre_stop_and_drain(name: str, trial_chart: Path) -> None:
    manifests = rendered(name, trial_chart)
    sleep = container(manifests).get("lifecycle", {}).get("preStop", {}).get("sleep", {})
    drain = float(settings(manifests)["HERALD_DRAIN_SECONDS"])
    grace = pod(manifests)["terminationGracePeriodSeconds"]
    assert grace >= sleep.get("seconds", 0) + math.ceil(drain) + 15
    # No longer than needed either: the cluster waits for one that hangs.
    assert grace <= sleep.get("seconds", 0) + math.ceil(drain) + 30


def test_grace_period_follows_the_drain() -> None:
    def grace(config: dict[str, Any], **termination: int) -> int:
        seconds: int = pod(render({"config": config, "termination": termination}))[
            "terminationGracePeriodSeconds"
        ]
        return seconds

    assert grace({}) == 5 + 30 + 15
    assert grace({"drainSeconds": 0}) == 5 + 0 + 15
    assert grace({"drainSeconds": 12.2}) == 5 + 13 + 15
    assert grace({"drainSeconds": 600}, preStopSleepSeconds=20, marginSeconds=60) == 680


def test_pre_stop_needs_no_shell() -> None:
    assert container(render())["lifecycle"] == {"preStop": {"sleep": {"seconds": 5}}}
    assert "lifecycle" not in container(render(COMBINATIONS["no preStop"]))


def test_probes_are_three_and_only_readiness_asks_for_the_engine() -> None:
    of_herald = container(render())
    asked = {
        name: of_herald[name]["httpGet"]
        for name in ("startupProbe", "livenessProbe", "readinessProbe")
    }
    assert asked == {
        "startupProbe": {"path": "/healthz/live", "port": "api"},
        "livenessProbe": {"path": "/healthz/live", "port": "api"},
        "readinessProbe": {"path": "/healthz/ready", "port": "api"},
    }
    startup, liveness = of_herald["startupProbe"], of_herald["livenessProbe"]
    # It has a minute to start, and as much to turn again.
    assert startup["periodSeconds"] * startup["failureThreshold"] >= 60
    assert liveness["periodSeconds"] * liveness["failureThreshold"] >= 60


def test_ports_are_those_that_herald_is_told() -> None:
    manifests = render({"ports": {"clients": 9000, "api": 9001}})
    assert {item["name"]: item["containerPort"] for item in container(manifests)["ports"]} == {
        "clients": int(settings(manifests)["HERALD_PORT"]),
        "api": int(settings(manifests)["HERALD_API_PORT"]),
    }
    assert settings(manifests)["HERALD_PORT"] == "9000"
    assert settings(manifests)["HERALD_HOST"] == "0.0.0.0"


@pytest.mark.parametrize("name", NAMES)
def test_selectors_find_the_pods_and_ports_exist(name: str, trial_chart: Path) -> None:
    manifests = rendered(name, trial_chart)
    deployment = one(manifests, "Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    ports = {item["name"] for item in container(manifests)["ports"]}

    def selects(selector: dict[str, str], those: dict[str, str]) -> bool:
        return bool(selector) and selector.items() <= those.items()

    assert selects(deployment["spec"]["selector"]["matchLabels"], labels)
    services = {
        name: item for name, item in all_of(manifests, "Service").items() if "valkey" not in name
    }
    assert len(services) == 2
    for service in services.values():
        assert selects(service["spec"]["selector"], labels)
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports
    for kind in ("PodDisruptionBudget", "PodMonitor"):
        for item in all_of(manifests, kind).values():
            assert selects(item["spec"]["selector"]["matchLabels"], labels)
    for item in all_of(manifests, "NetworkPolicy").values():
        assert selects(item["spec"]["podSelector"]["matchLabels"], labels)
        asked = {port["port"] for rule in item["spec"]["ingress"] for port in rule["ports"]}
        assert asked == ports
    for item in all_of(manifests, "ServiceMonitor").values():
        found = [
            service
            for service in services.values()
            if selects(item["spec"]["selector"]["matchLabels"], service["metadata"]["labels"])
        ]
        assert [service["metadata"]["name"] for service in found] == [
            deployment["metadata"]["name"] + "-api"
        ]
        assert item["spec"]["endpoints"][0]["port"] == found[0]["spec"]["ports"][0]["name"]
    for item in all_of(manifests, "PodMonitor").values():
        assert item["spec"]["podMetricsEndpoints"][0]["port"] in ports
    for item in (
        *all_of(manifests, "HorizontalPodAutoscaler").values(),
        *all_of(manifests, "ScaledObject").values(),
    ):
        assert item["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    # The pod of `helm test` gets no clients, and is no target of anything.
    for test in all_of(manifests, "Pod").values():
        assert not selects(
            deployment["spec"]["selector"]["matchLabels"], test["metadata"]["labels"]
        )


@pytest.mark.parametrize("name", NAMES)
def test_pods_are_restricted(name: str, trial_chart: Path) -> None:
    """What the Pod Security Standard `restricted` demands, and some more."""
    manifests = rendered(name, trial_chart)
    specs = [pod(manifests), *(item["spec"] for item in all_of(manifests, "Pod").values())]
    for spec in specs:
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] == 65532
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False
        assert spec["enableServiceLinks"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
        kinds = {next(key for key in volume if key != "name") for volume in spec["volumes"]}
        assert kinds <= {"projected", "secret", "configMap", "emptyDir"}
        for item in spec["containers"]:
            if item["name"] == "proxy":  # the tests' own
                continue
            assert item["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
                "readOnlyRootFilesystem": True,
            }
            assert not any("hostPort" in port for port in item.get("ports", []))
            writable = [mount for mount in item["volumeMounts"] if not mount.get("readOnly")]
            assert {mount["mountPath"] for mount in writable} <= {"/tmp"}


@pytest.mark.parametrize("name", NAMES)
def test_every_mount_has_its_volume(name: str, trial_chart: Path) -> None:
    manifests = rendered(name, trial_chart)
    for spec in [pod(manifests), *(item["spec"] for item in all_of(manifests, "Pod").values())]:
        volumes = [item["name"] for item in spec["volumes"]]
        assert len(set(volumes)) == len(volumes)
        mounted = {
            mount["name"] for item in spec["containers"] for mount in item.get("volumeMounts", [])
        }
        assert mounted == set(volumes)


def _spec(over: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = one(render(over), "Deployment")["spec"]
    return spec


@pytest.mark.parametrize("name", NAMES)
def test_a_drain_is_over_before_the_next_pod_goes(name: str, trial_chart: Path) -> None:
    """A Deployment does not wait for pods that end; it waits for new ones to be available."""
    manifests = rendered(name, trial_chart)
    spec = one(manifests, "Deployment")["spec"]
    sleep = container(manifests).get("lifecycle", {}).get("preStop", {}).get("sleep", {})
    drain = float(settings(manifests)["HERALD_DRAIN_SECONDS"])
    assert spec["minReadySeconds"] >= sleep.get("seconds", 0) + drain
    # Kubernetes refuses a deadline that is not later, and a pod needs time to become ready.
    assert spec["progressDeadlineSeconds"] >= spec["minReadySeconds"] + 300


def test_how_long_a_pod_must_be_ready_can_be_set() -> None:
    assert _spec({})["minReadySeconds"] == 5 + 30
    assert _spec({"config": {"drainSeconds": 600}})["minReadySeconds"] == 605
    spec = _spec({"rollout": {"minReadySeconds": 0, "progressDeadlineSeconds": 100}})
    assert (spec["minReadySeconds"], spec["progressDeadlineSeconds"]) == (0, 100)
    spec = _spec({"rollout": {"minReadySeconds": 900}})
    assert (spec["minReadySeconds"], spec["progressDeadlineSeconds"]) == (900, 1500)


@pytest.mark.parametrize("name", NAMES)
def test_no_volume_keeps_the_cluster_autoscaler_from_a_node(name: str, trial_chart: Path) -> None:
    """It removes no node with a local volume that is not named as expendable."""
    manifests = rendered(name, trial_chart)
    local = {item["name"] for item in pod(manifests)["volumes"] if "emptyDir" in item}
    assert local == {"tmp"}
    annotations = one(manifests, "Deployment")["spec"]["template"]["metadata"]["annotations"]
    named = annotations["cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes"]
    assert set(named.split(",")) == local


def test_no_pod_goes_before_another_is_ready() -> None:
    spec = one(render({"rollout": {"maxSurge": 2, "minReadySeconds": 30}}), "Deployment")["spec"]
    assert spec["strategy"] == {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxSurge": 2, "maxUnavailable": 0},
    }
    assert spec["minReadySeconds"] == 30
    assert spec["replicas"] == 2


def test_what_moves_clients_and_what_does_not() -> None:
    def template(over: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = one(render(over), "Deployment")["spec"]["template"]
        return found

    before = template({})
    # A changed setting, key or public key restarts the pods.
    assert template({"config": {"historySize": 7}}) != before
    inline = COMBINATIONS["secrets of the chart"]
    other = {**inline, "publishers": {**inline["publishers"], "apiKeys": ["another"]}}
    assert template(inline) != template(other)
    # What does not concern them leaves them alone.
    for over in (
        {"ingress": {"enabled": True}},
        {"replicaCount": 7},
        {"autoscaling": {"type": "hpa"}},
        {"networkPolicy": {"api": {"namespaces": ["shop"]}}},
        {"metrics": {"podMonitor": {"enabled": True}}},
    ):
        assert template(over) == before, over


def test_topology_spread_by_default_over_zones_and_nodes() -> None:
    spread = pod(render())["topologySpreadConstraints"]
    assert [item["topologyKey"] for item in spread] == [
        "topology.kubernetes.io/zone",
        "kubernetes.io/hostname",
    ]
    labels = one(render(), "Deployment")["spec"]["template"]["metadata"]["labels"]
    assert all(item["labelSelector"]["matchLabels"].items() <= labels.items() for item in spread)
    assert "topologySpreadConstraints" not in pod(render(COMBINATIONS["every list"]))


def test_image_by_tag_and_by_digest() -> None:
    digest = "sha256:" + "ab" * 32
    name = "registry.example.com/herald"
    assert container(render())["image"] == f"{name}:0.1.0"
    assert container(render({"image": {"tag": "1.2.3"}}))["image"] == f"{name}:1.2.3"
    assert container(render({"image": {"digest": digest}}))["image"] == f"{name}@{digest}"


def _limit(memory: str | None, **over: Any) -> str | None:
    limits = {"memory": memory}
    return settings(render({"resources": {"limits": limits}, **over})).get("HERALD_MAX_CONNECTIONS")


def test_connections_are_what_the_memory_allows() -> None:
    readme = (CHART / "README.md").read_text()
    for memory, connections in (("256Mi", "4,096"), ("512Mi", "20,480"), ("1Gi", "25,000")):
        assert _limit(memory) == connections.replace(",", "")
        assert f"| {connections}" in readme
    assert _limit("268435456") == "4096"
    assert _limit("0.25Gi") == "4096"
    assert _limit("300M") == str((300_000_000 - 192 * 2**20) // 16384)
    assert _limit("8Gi") == "25000"
    assert _limit("8Gi", capacity={"ceiling": 1_000_000}) == str((8192 - 192) * 2**20 // 16384)
    assert _limit("8Gi", config={"workers": 4}) == "6250"
    # Each process needs its own room before the first connection.
    assert _limit("1Gi", config={"workers": 4}) == str((1024 - 4 * 192) * 2**20 // 16384 // 4)
    assert _limit("512Mi", config={"maxConnections": 1_000_000}) == "1000000"
    assert _limit(None) is None
    without = render({"resources": None})
    assert "HERALD_MAX_CONNECTIONS" not in settings(without)
    assert "resources" not in container(without)


def test_memory_for_one_connection_covers_what_was_measured() -> None:
    table = (ROOT / "docs/scaling.md").read_text()

    def measured(what: str) -> float:
        row = re.search(rf"^\| memory \| {what} \| ([\d.]+) (KB|MB) \|", table, re.MULTILINE)
        assert row is not None, what
        return float(row[1]) * {"KB": 1e3, "MB": 1e6}[row[2]]

    each = measured("an idle connection, the process's RSS")
    each += measured("its TCP socket, in the kernel")
    alone = measured("a process without connections")
    capacity = yaml.safe_load((CHART / "values.yaml").read_text())["capacity"]
    assert capacity["bytesPerConnection"] >= 2 * each
    assert capacity["reserve"] == "192Mi"
    assert alone + Settings.model_fields["max_pending_bytes"].default <= 192 * 2**20
    # Full of idle connections, a pod uses half of what it may.
    assert 2 * (alone + 20_480 * each) <= 512 * 2**20


def test_notes_and_check_speak_of_the_files_that_herald_keeps_for_itself() -> None:
    assert _RESERVED_FILES == 128
    assert "(int64 .) 128" in (CHART / "templates/NOTES.txt").read_text()
    assert "RESERVED_FILES = 128" in (CHART / "files/check.py").read_text()


def test_deletion_cost_has_a_token_and_herald_none() -> None:
    manifests = render(COMBINATIONS["deletion cost"])
    sidecar = container(manifests, "deletion-cost")
    where = "/var/run/secrets/kubernetes.io/serviceaccount"
    assert where in {mount["mountPath"] for mount in sidecar["volumeMounts"]}
    assert where not in {mount["mountPath"] for mount in container(manifests)["volumeMounts"]}
    assert one(manifests, "Role")["rules"] == [
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["patch"]}
    ]
    binding = one(manifests, "RoleBinding")
    assert binding["subjects"][0]["name"] == pod(manifests)["serviceAccountName"]
    assert binding["subjects"][0]["namespace"] == "push"
    assert binding["roleRef"]["name"] == one(manifests, "Role")["metadata"]["name"]
    script = all_of(manifests, "ConfigMap")["herald-scripts"]["data"]["deletion_cost.py"]
    assert script == (CHART / "files/deletion_cost.py").read_text()
    assert not all_of(render(), "Role")


def test_trial_brings_an_engine_and_makes_up_the_keys(trial_chart: Path) -> None:
    base = {"image": {"repository": "herald"}, "trial": {"enabled": True}}
    for release, service in (("try", "try-valkey"), ("valkey-try", "valkey-try")):
        manifests = render(base=base, chart=trial_chart, release=release)
        assert service in all_of(manifests, "Service")
        data = one(manifests, "Secret")["data"]
        assert set(data) == {"redis-url", "jwt-secret", "api-keys"}
    assert base64.b64decode(data["redis-url"]).decode() == f"redis://{service}:6379/0"
    assert len(base64.b64decode(data["jwt-secret"])) == 40
    # Off, it leaves no trace.
    assert len(all_of(render(chart=trial_chart), "Service")) == 2
