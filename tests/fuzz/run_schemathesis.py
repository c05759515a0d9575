"""Runs Schemathesis, which makes requests from openapi.yaml, against a Herald started for it.

`GET /v1/stream` refuses the publisher's key that it brings, so that no answer without an end holds
it up; `test_api.py` opens streams.

Its two checks of what a schema says are left out: a channel's form, an id that was used before and
a bad event within a batch are refused, or answered with 200, as the document says in words.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from service.broker.embedded import EmbeddedEngine
from tests.fuzz.amount import SEED, inputs
from tests.harness.process import KEY, running

ROOT = Path(__file__).parents[2]


def main(program: str) -> int:
    """Its exit status, or 1 where the log has an error."""
    engine = EmbeddedEngine()
    try:
        with (
            tempfile.TemporaryDirectory() as directory,
            running(engine.url, Path(directory), log_level="info") as herald,
        ):
            command = [
                str(Path(program).absolute()),
                "run",
                str(ROOT / "openapi/openapi.yaml"),
                "--url",
                herald.url,
            ]
            command += ["--header", f"Authorization: Bearer {KEY}", "--seed", str(SEED)]
            command += [
                "--max-examples",
                str(max(1, inputs(10_000) // 100)),
                "--continue-on-failure",
            ]
            command += ["--exclude-checks", "positive_data_acceptance,negative_data_rejection"]
            status = subprocess.run(command, cwd=directory).returncode
            errors = [line for line in herald.log().splitlines() if _is_error(line)]
            print(*errors, sep="\n")
            return status or bool(errors)
    finally:
        engine.stop()


def _is_error(line: str) -> bool:
    return bool(json.loads(line)["level"] in ("error", "critical"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
