"""Writes the generated parts of docs/performance.md: `python -m bench.report`.

They stand between `<!-- generated: NAME -->` and `<!-- end -->`; all other text is left as it is.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path

from bench import bars, tables
from bench.figures import Result
from bench.results import DOCS, FOLDER, load

_TITLES = {
    "connections": "Connections",
    "fanout": "Fan-out",
    "latency": "Latency",
    "publish": "Publishing",
    "resume": "Resume storm",
    "scaleout": "Workers and nodes",
}
_SAYS = {
    "connections": "Connects that are authenticated, subscribed and welcomed, 256 at a time. "
    "Memory is what the processes grew by after a warm-up of 200, divided by the connections.",
    "fanout": "One event to everyone; the next one when all have it. A burst is 50 events in one "
    "request where the system has such a request, else 50 requests one after another.",
    "latency": "Every connection is another user's; each event goes to one of them. A latency "
    "counts from when its POST was due, not from when it could be sent.",
    "publish": "Nobody listens. 64 keep-alive connections post single events, 8 post batches of "
    "100 for 100 different users.",
    "resume": "All clients are dropped at once and miss 10 events each. Then all come back with "
    "their positions; it is over when every one has its ten, each once and in order.",
    "scaleout": "Two cores are shared with the load, so the cost of the same work is counted: CPU "
    "time of all processes of the server. Efficiency is the cost with one by the cost with two.",
}


def skeleton() -> str:
    """The document before anything was written by hand."""
    parts = [
        "# Performance",
        "How fast Herald is beside the systems one would take instead, measured in one run on one "
        "machine: the server alone on one core, load and engine on the other. Absolute figures "
        "drift from machine to machine; ratios hold better.",
        "## Repeat it",
        "    make bench-peers   # installs what is compared, as far as it can be\n"
        "    make bench         # everything, about 35 minutes\n"
        "    make bench SCENARIO=fanout ROUNDS=5",
        _markers("machine"),
        "## The bars",
        "Ratios are taken within a round: median (lowest–highest).",
        _markers("bars"),
    ]
    for name, title in _TITLES.items():
        parts += [f"## {title}", _SAYS[name], _markers(name)]
    parts += [
        "## Where the time goes",
        "<!-- written by hand: per event and per connection, from the profiles -->",
        "## Next limits",
        "<!-- written by hand: what is not met, by how much, why, and what would -->",
    ]
    return "\n\n".join(parts) + "\n"


def _markers(name: str, text: str = "") -> str:
    return (
        f"<!-- generated: {name} -->\n{text}\n<!-- end -->"
        if text
        else (f"<!-- generated: {name} -->\n<!-- end -->")
    )


def fill(document: str, parts: Mapping[str, str]) -> str:
    """Put each part between its markers."""
    for name, text in parts.items():
        pattern = rf"<!-- generated: {re.escape(name)} -->.*?<!-- end -->"
        whole = _markers(name, f"\n{text}\n")
        document = re.sub(pattern, lambda _, whole=whole: whole, document, flags=re.DOTALL)  # type: ignore[misc]
    return document


def write_report(docs: Path) -> Path:
    """From all results below `docs`."""
    results = load(docs)
    pictures = _draw(results, docs / FOLDER)
    parts = {"machine": _machine(results), "bars": bars.table(results)}
    for name, result in results.items():
        parts[name] = tables.table(result)
        for picture in pictures.get(name, ()):
            parts[name] += f"\n\n![{_TITLES[name]}]({FOLDER}/{picture})"
    path = docs / "performance.md"
    path.write_text(fill(path.read_text() if path.exists() else skeleton(), parts))
    return path


def _draw(results: Mapping[str, Result], folder: Path) -> dict[str, list[str]]:
    try:
        from bench import plots
    except ModuleNotFoundError:
        print("matplotlib is not installed: no plots (`make bench` installs it).", file=sys.stderr)
        return {
            name: [path.name for path in sorted(folder.glob(f"{name}*.png"))] for name in results
        }
    return {name: plots.draw(result, folder) for name, result in results.items()}


def _machine(results: Mapping[str, Result]) -> str:
    """Where it was measured, and the versions of all that was measured."""
    machines = sorted({result["machine"] for result in results.values()})
    engines = sorted({result["engine"] for result in results.values()})
    versions: dict[str, str] = {}
    for scenario, result in results.items():
        for name, version in result["versions"].items():
            label = result["labels"][name]
            if scenario != "scaleout" and name != "herald.v1" and "floor" not in label:
                versions[label] = version
    lines = [f"Machine: {'; '.join(machines)}. Engine: {'; '.join(engines)}.", ""]
    lines += ["| system | version |", "|---|---|"]
    lines += [f"| {label} | {version} |" for label, version in versions.items()]
    return "\n".join(lines)


def main() -> None:
    print(write_report(DOCS))


if __name__ == "__main__":
    main()
