"""Where `make bench-peers` puts the peers, and what several of them share."""

from __future__ import annotations

import json
import subprocess
from functools import cache
from pathlib import Path

from bench.peers.peer import SECRET, TEXT, Post, Running, Workplace, free_port, wait_for_port

HERE = Path(__file__).parent
SERVERS = HERE / "servers"
FOLDER = HERE.parent / ".peers"
PYTHON = FOLDER / "venv" / "bin" / "python"
NODE_MODULES = FOLDER / "node" / "node_modules"
BIN = FOLDER / "bin"
NGINX = FOLDER / "nginx"

TYPE = "order.shipped"
"""Every event's type."""
DATA = {"mark": "{mark}", "text": TEXT}
"""Every event's data."""
EVENT = json.dumps({"type": TYPE, "data": DATA}, separators=(",", ":"))


def lacking(path: Path) -> str | None:
    """A sentence where nothing is at `path`."""
    return None if path.exists() else f"there is no {path.relative_to(HERE.parents[1])}"


@cache
def said_by(*argv: str) -> str:
    """What a command prints, to either stream, in one string."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    return (done.stdout + done.stderr).strip()


def python_versions(*packages: str) -> str:
    """The versions of packages in the peers' environment, and Python's."""
    script = (
        "import platform, sys; from importlib.metadata import version; "
        "print(', '.join([*(f'{p} {version(p)}' for p in sys.argv[1:]), "
        "f'Python {platform.python_version()}']))"
    )
    return said_by(str(PYTHON), "-c", script, *packages)


def node_versions(*packages: str) -> str:
    """The versions of packages in the peers' node_modules, and Node's."""
    found = [
        f"{name} {json.loads((NODE_MODULES / name / 'package.json').read_text())['version']}"
        for name in packages
    ]
    return ", ".join([*found, f"Node {said_by('node', '--version').lstrip('v')}"])


def start_uvicorn(workplace: Workplace, application: str, *options: str) -> Running:
    """Run an ASGI application of servers/python: one process, uvloop, no access log."""
    port = free_port()
    process = workplace.spawn(
        [
            *(str(PYTHON), "-m", "uvicorn", application, "--app-dir", str(SERVERS / "python")),
            *("--host", "127.0.0.1", "--port", str(port), "--loop", "uvloop"),
            *("--log-level", "warning", *options),
        ],
        {"REDIS_URL": workplace.engine_url, "JWT_SECRET": SECRET},
    )
    wait_for_port(port, process)
    return Running([process.pid], port, port)


def start_node(workplace: Workplace, script: str) -> Running:
    """Run a script of servers/node."""
    port = free_port()
    process = workplace.spawn(
        ["node", str(SERVERS / "node" / script)],
        {
            "NODE_PATH": str(NODE_MODULES),
            "NODE_ENV": "production",
            "PORT": str(port),
            "REDIS_URL": workplace.engine_url,
            "JWT_SECRET": SECRET,
        },
    )
    wait_for_port(port, process)
    return Running([process.pid], port, port)


def post_json(to: str) -> Post:
    """A POST of one event, in the form of those servers that are written here."""
    body = json.dumps({"to": to, "type": TYPE, "data": DATA}, separators=(",", ":"))
    return Post(["POST /publish HTTP/1.1", "Content-Type: application/json"], body)
