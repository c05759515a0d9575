"""What the code says, read from its source, so that no document can fall behind unseen."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from service.core import messages

SERVICE = Path(__file__).parents[2] / "service"
_SAYS_ERROR = frozenset({"error", "InvalidMessage", "_strike"})


def _calls(path: Path) -> Iterator[tuple[str, list[ast.expr]]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else ""
            if isinstance(node.func, ast.Name):
                name = node.func.id
            elif isinstance(node.func, ast.Attribute) and name == "error":
                owner = node.func.value
                if not (isinstance(owner, ast.Name) and owner.id == "messages"):
                    continue  # logger.error
            yield name, node.args


def error_codes() -> set[str]:
    """Every code word that an `error` message can carry."""
    found: set[str] = set()
    for path in [SERVICE / "core/messages.py", SERVICE / "core/session.py", *SERVICE.glob("hub/*")]:
        if path.suffix != ".py":
            continue
        for name, arguments in _calls(path):
            first = arguments[0] if name in _SAYS_ERROR and arguments else None
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                found.add(first.value)
    return found


def server_types() -> set[str]:
    """The `type` of every message that the server builds."""
    tree = ast.parse(Path(messages.__file__).read_text())
    found = {"ping", "pong", "event"}  # written as bytes, not as a dictionary
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                named = isinstance(key, ast.Constant) and key.value == "type"
                if named and isinstance(value, ast.Constant):
                    found.add(str(value.value))
    return found
