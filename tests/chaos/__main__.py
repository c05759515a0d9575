"""`python -m tests.chaos`: play the scenarios at length and write docs/reliability.md."""

from __future__ import annotations

import argparse
import asyncio
import secrets
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from tests.chaos.report import Report
from tests.chaos.scenarios import ALL
from tests.chaos.world import LONG, SHORT, Outcome, Scenario, play


def main() -> int:
    options = _options()
    wanted = [scenario for scenario in ALL if (options.only or "") in scenario.name]
    if not wanted:
        print(f"No scenario's name has {options.only!r}.", file=sys.stderr)
        return 2
    report = Report(options.into)
    failed = []
    for number, scenario in enumerate(wanted, 1):
        seed = options.seed or secrets.randbelow(1 << 30)
        print(f"[{number}/{len(wanted)}] {scenario.name}: {scenario.what}", flush=True)
        began = time.monotonic()
        outcome = _play(scenario, options, seed)
        took = time.monotonic() - began
        if isinstance(outcome, Outcome):
            report.add(scenario, outcome)
            print(f"    {_line(outcome)}; {took:.0f} s", flush=True)
        if not isinstance(outcome, Outcome) or not outcome.holds:
            failed.append(scenario.name)
            print(f"    FAILED: {outcome}", flush=True)
            print(f"    to repeat: make chaos SCENARIO='{scenario.name}' CHAOS_SEED={seed}")
    if not options.only or options.write:
        report.write()
    for name in failed:
        print(f"failed: {name}")
    print(f"{len(wanted) - len(failed)} passed, {len(failed)} failed")
    return 1 if failed else 0


def _play(scenario: Scenario, options: argparse.Namespace, seed: int) -> Outcome | Exception:
    scale = SHORT if options.short else LONG
    if options.repeats:
        scale = replace(scale, repeats=options.repeats)
    with tempfile.TemporaryDirectory(prefix="herald-chaos-") as directory:
        try:
            return asyncio.run(play(scenario, scale, seed, Path(directory)))
        except Exception as error:  # whatever it is, the other scenarios are still of interest
            return error


def _line(outcome: Outcome) -> str:
    verdict = outcome.verdict
    return (
        f"{verdict.accepted:,} accepted, {verdict.delivered:,} delivered to "
        f"{outcome.subscribers:,} subscribers over {outcome.connections:,} connections; "
        f"{verdict.lost} lost, {verdict.doubled} doubled, {verdict.misordered} misordered, "
        f"{verdict.gaps} gaps; recovered in {outcome.recovery:.1f} s"
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--only", metavar="TEXT", help="scenarios whose name has this")
    parser.add_argument("--seed", type=int, help="instead of a new one for each scenario")
    parser.add_argument("--short", action="store_true", help="as `make test` plays them")
    parser.add_argument("--repeats", type=int, help="of each fault")
    parser.add_argument("--write", action="store_true", help="write the report also with --only")
    parser.add_argument("--into", type=Path, default=Path("docs/reliability.md"), metavar="FILE")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
