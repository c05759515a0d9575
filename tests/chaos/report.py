"""docs/reliability.md: what was done to Herald, and what came of it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.chaos.scenarios import ALL
from tests.chaos.world import Outcome, Scenario

_BEGIN, _END = "<!-- generated: chaos -->", "<!-- end -->"
_HEADS = (
    "fault",
    "events accepted",
    "delivered",
    "lost",
    "doubled",
    "out of order",
    "unannounced",
    "gaps told",
    "covered by them",
    "connections",
    "publishers' retries",
    "not ready after, s",
    "recovered in, s",
)


class Report:
    """The latest outcome of each scenario, kept beside the document, which is written from them."""

    def __init__(self, document: Path) -> None:
        self._document = document
        self._results = document.with_suffix("") / "chaos.json"
        self._rows: dict[str, dict[str, Any]] = {}
        if self._results.exists():
            self._rows = json.loads(self._results.read_text())

    def add(self, scenario: Scenario, outcome: Outcome) -> None:
        verdict = outcome.verdict
        self._rows[scenario.name] = {
            "what": scenario.what,
            "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            "seed": outcome.seed,
            "holds": outcome.holds,
            "accepted": verdict.accepted,
            "delivered": verdict.delivered,
            "lost": verdict.lost,
            "doubled": verdict.doubled,
            "misordered": verdict.misordered + verdict.forged,
            "broken": verdict.broken,
            "gaps": verdict.gaps,
            "covered": verdict.covered,
            "subscribers": outcome.subscribers,
            "connections": outcome.connections,
            "retries": sum(outcome.refused.values()),
            "unready_after": outcome.unready_after,
            "recovery": round(outcome.recovery, 2),
        }

    def write(self) -> None:
        """Put the table between the marks of the document."""
        self._results.parent.mkdir(exist_ok=True)
        self._results.write_text(json.dumps(self._rows, indent=1) + "\n")
        text = self._document.read_text()
        before, _, rest = text.partition(_BEGIN)
        _, _, after = rest.partition(_END)
        self._document.write_text(f"{before}{_BEGIN}\n\n{self._table()}\n\n{_END}{after}")

    def _table(self) -> str:
        lines = ["| " + " | ".join(_HEADS) + " |", "|---" * len(_HEADS) + "|"]
        rows = [self._rows[scenario.name] for scenario in ALL if scenario.name in self._rows]
        lines += ["| " + " | ".join(_cells(row)) + " |" for row in rows]
        lines += [
            "",
            f"In all: {sum(row['accepted'] for row in rows):,} events accepted, "
            f"{sum(row['delivered'] for row in rows):,} delivered over "
            f"{sum(row['connections'] for row in rows):,} connections; "
            f"{sum(row['lost'] for row in rows)} lost, "
            f"{sum(row['doubled'] for row in rows)} doubled.",
            "",
            f"*Last played {max(row['date'] for row in rows)}. A row's seed is in "
            f"`reliability/chaos.json`.*",
        ]
        return "\n".join(lines)


def _cells(row: dict[str, Any]) -> list[str]:
    unready = row["unready_after"]
    return [
        row["what"],
        f"{row['accepted']:,}",
        f"{row['delivered']:,}",
        str(row["lost"]),
        str(row["doubled"]),
        str(row["misordered"]),
        str(row["broken"]),
        f"{row['gaps']:,}",
        f"{row['covered']:,}",
        f"{row['connections']:,}",
        f"{row['retries']:,}",
        "–" if unready is None else f"{unready:.1f}",
        f"{row['recovery']:.1f}",
    ]
