"""The two scripts that the chart brings into its pods."""

from __future__ import annotations

import http.server
import json
import os
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.harness.certificates import Authority
from tests.harness.process import PATIENCE, Herald, free_port

FILES = Path(__file__).parents[2] / "helm/herald/files"


def _run(script: str, **environment: str) -> subprocess.Popen[str]:
    # As in the image: nothing of ours can be imported.
    return subprocess.Popen(
        [sys.executable, "-I", "-S", FILES / script],
        env={"PATH": os.environ["PATH"], **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


# The test of `helm test`


def _check(herald: Herald, **environment: str) -> subprocess.Popen[str]:
    api = f"http://127.0.0.1:{herald.api_port}"
    clients = f"http://127.0.0.1:{herald.port}"
    return _run(
        "check.py",
        **{"API_URL": api, "CLIENTS_URL": clients, "PATIENCE_SECONDS": "5"} | environment,
    )


def test_check_passes_where_all_is_well(start: Callable[..., Herald]) -> None:
    herald = start(api_port=str(free_port()), max_connections="100")
    done = _check(herald)
    said, wrong = done.communicate(timeout=PATIENCE)
    assert (done.returncode, wrong) == (0, ""), said
    assert "needed: 228" in said


def test_check_tells_of_too_few_open_files(start: Callable[..., Herald]) -> None:
    done = _check(start(api_port=str(free_port()), max_connections="2000000000"))
    _, wrong = done.communicate(timeout=PATIENCE)
    assert done.returncode == 1
    assert "needs 2000000128 for its connections" in wrong


def test_check_tells_of_an_api_that_clients_can_reach(herald: Herald) -> None:
    done = _check(herald, PATIENCE_SECONDS="0")
    _, wrong = done.communicate(timeout=PATIENCE)
    assert done.returncode == 1
    assert "/metrics: 200 instead of 404" in wrong


def test_check_tells_of_a_release_that_does_not_answer() -> None:
    nothing = f"http://127.0.0.1:{free_port()}"
    done = _run("check.py", API_URL=nothing, CLIENTS_URL=nothing, PATIENCE_SECONDS="0")
    _, wrong = done.communicate(timeout=PATIENCE)
    assert done.returncode == 1
    assert "/healthz/ready: 0 instead of 200" in wrong


# The deletion cost


class _Cluster:
    """A pod's metrics, and the part of the Kubernetes API that is asked."""

    def __init__(self) -> None:
        self.connections: dict[str, int] = {"": 0}
        self.patches: list[tuple[str, str, str | None, Any]] = []
        self.status = 200


@contextmanager
def _cluster(context: ssl.SSLContext) -> Iterator[tuple[_Cluster, str, str]]:
    cluster = _Cluster()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            lines = [
                "# TYPE herald_connections gauge",
                *(f"herald_connections{labels} {n}.0" for labels, n in cluster.connections.items()),
                "herald_connections_limit 20480.0",
            ]
            self._answer(200, "\n".join(lines).encode() + b"\n")

        def do_PATCH(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            kind = self.headers["Content-Type"]
            who = self.headers["Authorization"]
            cluster.patches.append((self.path, kind, who, json.loads(body)))
            self._answer(cluster.status, b"{}")

        def _answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    pod = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    api = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    api.socket = context.wrap_socket(api.socket, server_side=True)
    for server in (pod, api):
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield (
            cluster,
            f"http://127.0.0.1:{pod.server_port}/metrics",
            f"https://127.0.0.1:{api.server_port}",
        )
    finally:
        for server in (pod, api):
            server.shutdown()
            server.server_close()


def _until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_deletion_cost_follows_the_connections(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.certify("api")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    (tmp_path / "token").write_text("the-token\n")
    (tmp_path / "namespace").write_text("push")
    (tmp_path / "ca.crt").write_bytes(authority.ca.read_bytes())
    with _cluster(context) as (cluster, metrics, api):
        cluster.connections = {'{worker="0"}': 10_400, '{worker="1"}': 32}
        sidecar = _run(
            "deletion_cost.py",
            METRICS_URL=metrics,
            KUBERNETES_API=api,
            ACCOUNT=str(tmp_path),
            POD_NAME="herald-7d4-x",
            INTERVAL_SECONDS="0.02",
        )
        try:
            _until(lambda: len(cluster.patches) == 1)
            assert cluster.patches[0] == (
                "/api/v1/namespaces/push/pods/herald-7d4-x",
                "application/merge-patch+json",
                "Bearer the-token",
                {
                    "metadata": {
                        "annotations": {"controller.kubernetes.io/pod-deletion-cost": "10000"}
                    }
                },
            )
            # A few more are no reason to write.
            cluster.connections = {"": 10_390}
            time.sleep(0.2)
            assert len(cluster.patches) == 1
            # What fails is tried again, with the token of that moment.
            cluster.status = 500
            cluster.connections = {"": 17}
            _until(lambda: len(cluster.patches) >= 3)
            (tmp_path / "token").write_text("another")
            cluster.status = 200
            _until(lambda: cluster.patches[-1][2] == "Bearer another")
            cost = cluster.patches[-1][3]["metadata"]["annotations"]
            assert cost == {"controller.kubernetes.io/pod-deletion-cost": "17"}
            count = len(cluster.patches)
            time.sleep(0.2)
            assert len(cluster.patches) == count
        finally:
            sidecar.send_signal(signal.SIGTERM)
            said, wrong = sidecar.communicate(timeout=PATIENCE)
    assert sidecar.returncode == 0
    assert said == "deletion cost: 10000\ndeletion cost: 17\n"
    assert "HTTP Error 500" in wrong
