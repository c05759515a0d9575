"""`helm test`: asks a running release whether it can serve. Needs Python alone."""

import os
import re
import time
import urllib.error
import urllib.request

API = os.environ["API_URL"]
CLIENTS = os.environ["CLIENTS_URL"]
PATIENCE = float(os.environ.get("PATIENCE_SECONDS", "60"))
RESERVED_FILES = 128


def get(url: str) -> tuple[int, str]:
    """An answer's status and text."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def until(url: str, wanted: int) -> str:
    """The answer's text, once its status is the one that is wanted."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            status, text = get(url)
        except OSError as error:
            status, text = 0, str(error)
        if status == wanted:
            print(f"{url}: {status}")
            return text
        if time.monotonic() > deadline:
            raise SystemExit(f"{url}: {status} instead of {wanted}: {text[:500]}")
        time.sleep(1)


def samples(text: str, name: str) -> list[float]:
    """The numbers of a metric, one for each worker."""
    return [float(line.split()[-1]) for line in text.splitlines() if re.match(name + "[{ ]", line)]


until(API + "/healthz/ready", 200)
metrics = until(API + "/metrics", 200)
# Clients get in, to be asked for a token, and to nothing else.
until(CLIENTS + "/v1/stream", 401)
until(CLIENTS + "/metrics", 404)

if 0.0 in samples(metrics, "herald_engine_up"):
    raise SystemExit("the engine does not deliver: see the readiness of the pods")
# Kubernetes cannot set the limit of open files; the container runtime does.
files = min(samples(metrics, "process_max_fds"))
wanted = max(samples(metrics, "herald_connections_limit")) + RESERVED_FILES
if files < wanted:
    raise SystemExit(
        f"a pod may open {files:.0f} files, and needs {wanted:.0f} for its connections"
    )
print(f"open files: {files:.0f}, needed: {wanted:.0f}")
