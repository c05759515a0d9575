"""`python -m tests.rollout`: play a rollout at length, and write docs/rollout.md."""

from __future__ import annotations

import argparse
import asyncio
import secrets
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from tests.rollout.deployment import Times
from tests.rollout.plot import draw
from tests.rollout.rehearsal import Rehearsal, rehearse

_DOCUMENT = Path("docs/rollout.md")
_BEGIN, _END = "<!-- generated: rollout -->", "<!-- end -->"


def main() -> int:
    options = _options()
    seed = options.seed or secrets.randbelow(1 << 30)
    times = Times(drain=options.drain)
    print(f"{options.pods} pods, {options.connections:,} connections, seed {seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="herald-rollout-") as directory:
        outcome = asyncio.run(
            rehearse(options.pods, options.connections, times, 0.02, seed, Path(directory))
        )
    begin = outcome.samples[0].at
    for moment in outcome.history:
        print(f"  {moment.at - begin:6.1f} s  {moment.what}")
    lines = _table(options.pods, times, outcome)
    print("\n".join(lines))
    if options.write:
        draw(outcome, _DOCUMENT.with_suffix("") / "reconnects.png")
        _write(options, seed, lines)
    print("holds" if outcome.holds else "FAILED")
    return 0 if outcome.holds else 1


def _table(pods: int, times: Times, outcome: Rehearsal) -> list[str]:
    verdict = outcome.verdict
    rates = sorted(rate for _, rate in outcome.reconnects())
    least = min(sample.connected for sample in outcome.samples)
    rows = [
        ("pods replaced", f"{pods}, one at a time, in {outcome.seconds:.0f} s"),
        ("preStop, drain, grace", f"{times.pre_stop:g} s, {times.drain:g} s, {times.grace:g} s"),
        ("connections", f"{outcome.subscribers:,}"),
        ("moved", f"{outcome.closes['1012']:,} closes with 1012"),
        ("attempts refused", f"{sum(outcome.refusals.values())}"),
        ("fewest connected at once", f"{least:,}"),
        ("reconnects a second", f"{rates[-1]:,.0f} at most"),
        ("events", f"{verdict.accepted:,} accepted, {verdict.delivered:,} delivered"),
        ("publishers' retries", f"{sum(outcome.retries.values())}"),
        ("lost, doubled, out of order", f"{verdict.lost}, {verdict.doubled}, {verdict.misordered}"),
        ("gaps", f"{verdict.gaps}"),
        ("pods killed after their grace", f"{outcome.killed}"),
    ]
    return ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]


def _write(options: argparse.Namespace, seed: int, lines: list[str]) -> None:
    day = datetime.now(UTC).strftime("%Y-%m-%d")
    command = f"make rollout ROLLOUT_ARGS='--seed {seed}'"
    text = _DOCUMENT.read_text()
    before, _, rest = text.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    generated = "\n".join(
        [
            *lines,
            "",
            f"`{command}`, {day}.",
            "",
            "![Connected clients, and reconnects a second, over the rollout]"
            "(rollout/reconnects.png)",
        ]
    )
    _DOCUMENT.write_text(f"{before}{_BEGIN}\n\n{generated}\n\n{_END}{after}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.rollout", description=__doc__)
    parser.add_argument("--pods", type=int, default=3)
    parser.add_argument("--connections", type=int, default=5000)
    parser.add_argument("--drain", type=float, default=30.0, help="HERALD_DRAIN_SECONDS")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--no-write", dest="write", action="store_false", help="print only")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
