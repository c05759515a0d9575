"""Writes the generated parts of docs/scaling.md, which stand between two markers each."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def put(document: Path, name: str, text: str) -> None:
    """Replace a generated part; all other text is left as it is."""
    marked = f"<!-- generated: {name} -->\n\n{text}\n\n<!-- end -->"
    whole = document.read_text() if document.exists() else ""
    pattern = rf"<!-- generated: {re.escape(name)} -->.*?<!-- end -->"
    if re.search(pattern, whole, re.DOTALL):
        whole = re.sub(pattern, lambda _: marked, whole, flags=re.DOTALL)
    else:
        whole = (whole.rstrip("\n") + "\n\n" if whole else "") + marked + "\n"
    document.write_text(whole)


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Markdown; numbers are set right."""
    rights = [all(_is_number(row[index]) for row in rows) for index in range(len(head))]
    lines = [list(head), ["---:" if right else "---" for right in rights]]
    lines += [[f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _is_number(cell: Any) -> bool:
    return isinstance(cell, int | float) or bool(re.match(r"^[<≈]?[\d.,–-]", str(cell)))


def command(module: str) -> str:
    """How a module of the benchmark is run."""
    return f".venv/bin/python -m {module}"
