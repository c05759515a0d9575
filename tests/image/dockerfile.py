"""Reads a Dockerfile: as much of the language as ours uses, and refuses the rest."""

from __future__ import annotations

import fnmatch
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_KNOWN = frozenset(
    (
        *("ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "LABEL", "RUN"),
        *("STOPSIGNAL", "USER", "WORKDIR"),
    )
)


class Step(NamedTuple):
    """One instruction and what follows it."""

    name: str
    text: str

    def words(self) -> list[str]:
        """Of the exec form, or separated by blanks."""
        if self.text.startswith("["):
            found: list[str] = json.loads(self.text)
            return found
        return self.text.split()

    def pairs(self) -> dict[str, str]:
        """Of ENV, ARG and LABEL."""
        found = re.findall(r'([\w.]+)(?:=("[^"]*"|\S*))?', self.text)
        return {name: value.strip('"') for name, value in found}


class Stage(NamedTuple):
    """From one FROM to the next."""

    base: str
    name: str
    steps: list[Step]

    def last(self, name: str) -> Step | None:
        return next((step for step in reversed(self.steps) if step.name == name), None)

    def environment(self) -> dict[str, str]:
        return {
            name: value
            for step in self.steps
            if step.name == "ENV"
            for name, value in step.pairs().items()
        }


class Dockerfile(NamedTuple):
    """`arguments` are those before the first stage."""

    arguments: dict[str, str]
    stages: list[Stage]


def read_dockerfile(path: Path) -> Dockerfile:
    """Read it; ValueError for an instruction that this does not know."""
    arguments: dict[str, str] = {}
    stages: list[Stage] = []
    for step in _steps(path.read_text()):
        if step.name not in _KNOWN:
            raise ValueError(f"{step.name} is not known to tests/image")
        if step.name == "FROM":
            base, _, name = step.text.partition(" AS ")
            stages.append(Stage(base, name, []))
        elif stages:
            stages[-1].steps.append(step)
        else:
            arguments |= step.pairs()
    return Dockerfile(arguments, stages)


def _steps(text: str) -> Iterator[Step]:
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    for line in re.sub(r"\\\n", " ", "\n".join(lines)).splitlines():
        name, _, rest = line.strip().partition(" ")
        yield Step(name.upper(), " ".join(rest.split()))


def ignored(rules: list[str], path: str) -> bool:
    """Whether `.dockerignore` leaves a path out of what the builder gets: the last rule decides."""
    out = False
    for rule in rules:
        wanted = rule.removeprefix("!")
        parts = path.split("/")
        heads = ["/".join(parts[: end + 1]) for end in range(len(parts))]
        if wanted.startswith("**/"):
            matches = any(fnmatch.fnmatchcase(part, wanted[3:]) for part in parts)
        else:
            matches = any(fnmatch.fnmatchcase(head, wanted) for head in heads)
        if matches:
            out = not rule.startswith("!")
    return out


def copy_context(root: Path, target: Path) -> None:
    """What a builder would be sent."""
    lines = (root / ".dockerignore").read_text().splitlines()
    rules = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    # A folder is entered where something in it may be wanted.
    tops = {rule[1:].split("/")[0] for rule in rules if rule.startswith("!")}
    for top in sorted(tops):
        source = root / top
        files = [source] if source.is_file() else [p for p in source.rglob("*") if p.is_file()]
        for file in files:
            name = file.relative_to(root).as_posix()
            if not ignored(rules, name):
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(file, target / name)
