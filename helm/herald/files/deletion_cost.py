"""Keeps a pod's deletion cost at its number of connections. Needs Python alone.

A ReplicaSet that has too many pods ends those of the lowest cost first, so few clients must move.
Each write goes to the Kubernetes API, so the cost is rounded and written only where it changes.
"""

import json
import os
import re
import signal
import ssl
import sys
import threading
import urllib.request
from pathlib import Path

ACCOUNT = Path(os.environ.get("ACCOUNT", "/var/run/secrets/kubernetes.io/serviceaccount"))
HOST = os.environ.get("KUBERNETES_SERVICE_HOST", "kubernetes.default.svc")
API = os.environ.get(
    "KUBERNETES_API",
    f"https://{f'[{HOST}]' if ':' in HOST else HOST}:"
    + os.environ.get("KUBERNETES_SERVICE_PORT", "443"),
)
INTERVAL = float(os.environ["INTERVAL_SECONDS"])
ANNOTATION = "controller.kubernetes.io/pod-deletion-cost"


def connections() -> int:
    """Of all workers of this pod."""
    with urllib.request.urlopen(os.environ["METRICS_URL"], timeout=5) as answer:
        text = answer.read().decode()
    found = re.findall(r"^herald_connections(?:\{[^}]*\})? (\S+)$", text, re.MULTILINE)
    return round(sum(map(float, found)))


def rounded(count: int) -> int:
    """To two digits: a pod with 10,432 connections and one with 10,398 are the same."""
    digits = max(len(str(count)) - 2, 0)
    return round(count, -digits)


def write(cost: int) -> None:
    """To this pod's annotation."""
    # Read anew each time: tokens are renewed.
    token = (ACCOUNT / "token").read_text().strip()
    namespace = (ACCOUNT / "namespace").read_text().strip()
    request = urllib.request.Request(
        f"{API}/api/v1/namespaces/{namespace}/pods/{os.environ['POD_NAME']}",
        data=json.dumps({"metadata": {"annotations": {ANNOTATION: str(cost)}}}).encode(),
        headers={
            "Authorization": f"Bearer {token}",
            "Content-Type": "application/merge-patch+json",
        },
        method="PATCH",
    )
    context = None
    if API.startswith("https:"):
        context = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
    with urllib.request.urlopen(request, timeout=10, context=context):
        pass


def main() -> None:
    """Look and write until told to stop."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    written = None
    while not stop.is_set():
        try:
            cost = rounded(connections())
            if cost != written:
                write(cost)
                written = cost
                print(f"deletion cost: {cost}", flush=True)
        except (OSError, ValueError) as error:
            # Herald does not wait for this: the last cost stays.
            print(f"deletion cost not written: {error}", file=sys.stderr, flush=True)
        stop.wait(INTERVAL)


main()
