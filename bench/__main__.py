"""`python -m bench [SCENARIO …]`: measure Herald beside its peers; writes docs/performance.md."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.herald import HeraldServer
from bench.lab import Lab
from bench.limits import CannotMeasureError, most_connections
from bench.load.driver import BenchError
from bench.peers.peer import Peer
from bench.progress import Progress
from bench.report import write_report
from bench.results import DOCS, save
from bench.scenarios import ALL as SCENARIOS


def main() -> int:
    options = _options()
    everyone = _everyone()
    if options.list:
        _list(everyone)
        return 0
    wanted = options.peers.split(",") if options.peers else [peer.name for peer in everyone]
    if unknown := set(wanted) - {peer.name for peer in everyone}:
        print(f"Not a system: {', '.join(sorted(unknown))}; see --list.", file=sys.stderr)
        return 2
    chosen = [peer for peer in everyone if peer.name in wanted]
    peers = [peer for peer in chosen if peer.missing() is None]
    skipped = {peer.name: f"{peer.label}: `{peer.install}`" for peer in chosen if peer.missing()}
    for peer in chosen:
        if missing := peer.missing():
            print(f"Skipped {peer.name} ({missing}). Install: {peer.install}", file=sys.stderr)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        _measure(options, peers, skipped)
    except (CannotMeasureError, BenchError) as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Interrupted; all that was started is ended.", file=sys.stderr)
        return 130
    print(f"Written: {write_report(options.into)}", file=sys.stderr)
    return 0


def _measure(options: argparse.Namespace, peers: Sequence[Peer], skipped: dict[str, str]) -> None:
    most = most_connections()
    names = options.scenario or list(SCENARIOS)
    rounds = options.rounds or (1 if options.quick else 3)
    progress = Progress(
        {name: SCENARIOS[name].seconds(len(peers), rounds, options.quick) for name in names}
    )
    with contextlib.closing(Lab(most)) as lab:
        for name in names:
            progress.begin(name)
            found = SCENARIOS[name].run(lab, peers, rounds, options.quick, progress)
            save(
                options.into,
                name,
                found,
                command=_command(name, options),
                rounds=rounds,
                quick=options.quick,
                most_connections=most,
                skipped=skipped,
            )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "scenario",
        nargs="*",
        choices=[*SCENARIOS, []],
        metavar="SCENARIO",
        help=", ".join(SCENARIOS),
    )
    parser.add_argument("--peers", metavar="NAME,…", help="only these systems; see --list")
    parser.add_argument("--rounds", type=int, help="3, or 1 with --quick")
    parser.add_argument("--quick", action="store_true", help="fewer and smaller: about 8 minutes")
    parser.add_argument("--list", action="store_true", help="show scenarios and systems")
    parser.add_argument(
        "--into", type=Path, default=DOCS, metavar="FOLDER", help="instead of docs/"
    )
    options = parser.parse_args()
    if options.rounds is not None and options.rounds < 1:
        parser.error("--rounds is 1 or more")
    return options


def _everyone() -> list[Peer]:
    from bench.peers import ALL

    return [HeraldServer(), *ALL]


def _list(everyone: Sequence[Peer]) -> None:
    for name, module in SCENARIOS.items():
        print(f"{name:<16} {(module.__doc__ or '').strip()}")
    print()
    for peer in everyone:
        missing = peer.missing()
        state = f"missing: {missing}; {peer.install}" if missing else peer.version()
        print(f"{peer.name:<16} {state}")


def _command(scenario: str, options: argparse.Namespace) -> str:
    words = ["python -m bench", scenario]
    if options.peers:
        words.append(f"--peers {options.peers}")
    if options.rounds:
        words.append(f"--rounds {options.rounds}")
    if options.quick:
        words.append("--quick")
    return " ".join(words)


def _interrupt(number: int, frame: object) -> None:
    # A second one must not break into the clearing up.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
