"""Every command of the runbook runs, every query is one, every link leads somewhere."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from tests.broker.support import tcp_engine
from tests.harness.process import KEY, Herald, clean_environment, free_port, running
from tests.observability.conftest import Seen
from tests.observability.promql import ROOT, RUNBOOK, TOOLS, run_promtool
from tests.observability.test_rules import RECORDS
from tests.observability.vocabulary import check_names

TEXT = RUNBOOK.read_text()
SETUP, *COMMANDS = re.findall(r"^```sh\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
QUERIES = re.findall(r"^```promql\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
NOT_THERE = "http://127.0.0.1:1"

# What `kubectl exec` runs in a pod is run here, with the pod's environment; anything else is only
# written down, for the real kubectl to read.
KUBECTL = """#!{python}
import os, shlex, sys
with open({log!r}, "a") as log:
    print(shlex.join(sys.argv[1:]), file=log)
if "--" in sys.argv and "ONLY_WRITE" not in os.environ:
    command = sys.argv[sys.argv.index("--") + 1 :]
    os.execvpe(command[0], command, {pod!r})
if "name" in sys.argv and "get" in sys.argv:
    print("pod/herald-1")
"""
HELM = """#!/bin/sh
printf '%s\\n' "$*" >> {log}
"""


class Place(NamedTuple):
    """Where the commands are run.

    Attributes:
        herald: the node.
        environment: a shell's outside of the pods, after the runbook's first block.
        log: kubectl's command lines.
    """

    herald: Herald
    environment: dict[str, str]
    log: Path

    def run(self, command: str, **more: str) -> subprocess.CompletedProcess[str]:
        """Run a block as an operator would; an event to alice has just been published."""
        position = self.herald.publish("user:alice", "the event")["positions"]["user:alice"]
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            env=self.environment | {"POSITION": position} | more,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    directory = tmp_path_factory.mktemp("runbook")
    programs = directory / "bin"
    programs.mkdir()
    log = directory / "kubectl.log"
    # With a port for the API, as the chart has it.
    api_port = str(free_port())
    with tcp_engine() as engine, running(engine.url, directory, api_port=api_port) as herald:
        path = f"{programs}:{os.environ['PATH']}"
        pod = clean_environment(**herald.settings) | {"PATH": path}
        _program(programs / "herald", f'#!/bin/sh\nexec {sys.executable} -m service "$@"\n')
        stub = KUBECTL.format(python=sys.executable, log=str(log), pod=pod)
        _program(programs / "kubectl", stub)
        _program(programs / "helm", HELM.format(log=log.with_name("helm.log")))
        variables = _variables(herald, engine.url)
        variables |= {"PATH": path, "NEW_KEY": "new", "TOKEN": "bad"}
        yield Place(herald, clean_environment() | variables, log)


def _program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def _variables(herald: Herald, engine: str) -> dict[str, str]:
    """What the runbook's first block sets, for this place."""
    said = dict(re.findall(r"^(\w+)=(\S+)", SETUP, re.MULTILINE))
    assert list(said) == ["NS", "API", "CLIENTS", "KEY", "ENGINE", "PODS"]
    clients = f"http://127.0.0.1:{herald.port}"
    return said | {"API": herald.url, "CLIENTS": clients, "KEY": KEY, "ENGINE": engine}


def test_the_first_block_is_shell() -> None:
    done = subprocess.run(["bash", "-euc", SETUP], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("command", COMMANDS, ids=lambda text: text.splitlines()[0][:60])
def test_commands_run(command: str, place: Place) -> None:
    if "redis-cli" in command and shutil.which("redis-cli") is None:
        pytest.skip("redis-cli is not there (Debian: apt-get install redis-tools)")
    done = place.run(command)
    assert done.returncode == 0, done.stdout + done.stderr
    # redis-cli ends with 0 where the engine refuses a command.
    refused = [line for line in done.stdout.splitlines() if line.startswith(("ERR ", "(error)"))]
    alone = "FAILOVER requires connected replicas"
    assert all(alone in line for line in refused), refused


def test_every_program_is_one_of_these() -> None:
    for command in COMMANDS:
        for line in command.splitlines():
            first = shlex.split(line, comments=True)[:1]
            assert not first or first[0] in {
                "kubectl",
                "helm",
                "herald",
                "curl",
                "redis-cli",
                "printf",
                "for",
                "done",
            }, line


def test_the_commands_of_the_incident_answer_it(place: Place) -> None:
    """`User X says that they did not get event Y`: nobody listens, and the event is retained."""
    chapter = TEXT.split("\n## User X")[1].split("\n## ")[0]
    blocks = re.findall(r"^```sh\n(.*?)^```", chapter, re.MULTILINE | re.DOTALL)
    of_pods, of_nodes, of_history, _ = [place.run(block) for block in blocks]
    for done in (of_pods, of_nodes):
        assert re.search(r"^\d+-\d+ is retained: test of ", done.stdout, re.MULTILINE), done
        assert "nobody listens" in done.stdout
    assert '"data":"the event"' in of_history.stdout


def test_a_token_that_is_refused_is_told_why(place: Place) -> None:
    chapter = TEXT.split("\n### HeraldAuthFailures")[1].split("\n### ")[0]
    (block,) = re.findall(r"^```sh\n(.*?)^```", chapter, re.MULTILINE | re.DOTALL)
    answer = place.run(block).stdout
    assert '"status":401' in answer
    assert "not a JWT" in answer


def test_what_the_incident_table_quotes_is_what_the_command_says() -> None:
    source = (ROOT / "service/cli/inspect.py").read_text()
    chapter = TEXT.split("\n## User X")[1].split("\n## ")[0]
    for quoted in re.findall(r"^\| (.*?) \|", chapter, re.MULTILINE):
        for text in re.findall(r"`([^`]*)`", quoted):
            for part in text.split("…"):
                assert part.strip() in source, part


def test_the_real_kubectl_understands_its_commands(place: Place) -> None:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not there")
    for command in COMMANDS:
        if "kubectl" in command:
            place.run(command, ONLY_WRITE="1")
    lines = sorted(set(place.log.read_text().splitlines()))
    assert len(lines) >= 10
    nowhere = ["--kubeconfig=/dev/null", f"--server={NOT_THERE}", "--request-timeout=1s"]
    for line in lines:
        done = subprocess.run(
            [kubectl, *nowhere, *shlex.split(line)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        # There is no server: who gets so far as to miss it has understood the rest.
        assert "was refused" in done.stderr, f"{line}: {done.stderr}"


def test_the_real_helm_understands_its_commands(place: Place, tmp_path: Path) -> None:
    made = sorted(map(str, TOOLS.glob("helm-v*")))
    helm = shutil.which(os.environ.get("HELM_BINARY") or (made[-1] if made else "helm"))
    if helm is None:
        pytest.skip("Helm is not there: make helm-binary")
    for command in COMMANDS:
        if re.search("^helm ", command, re.MULTILINE):
            place.run(command)
    lines = sorted(set(place.log.with_name("helm.log").read_text().splitlines()))
    assert len(lines) >= 3
    (tmp_path / "helm").symlink_to(ROOT / "helm")
    (tmp_path / "values.yaml").write_text((ROOT / "helm/herald/examples/minimal.yaml").read_text())
    for line in lines:
        done = subprocess.run(
            [helm, *shlex.split(line), f"--kube-apiserver={NOT_THERE}"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            cwd=tmp_path,
            env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", "KUBECONFIG": "/nonexistent"},
        )
        assert "refused" in done.stderr, f"{line}: {done.stderr}"


def test_what_helm_installed_is_changed_with_helm() -> None:
    """Helm knows nothing of what kubectl changed: its next upgrade takes it back, or fails."""
    for command in COMMANDS:
        assert "rollout undo" not in command
    # The one exception hands the number of pods over to an autoscaler.
    assert sum(command.count("kubectl") for command in COMMANDS if " scale " in command) == 1


@pytest.mark.parametrize("query", QUERIES)
def test_queries_name_what_a_real_herald_tells(query: str, seen: Seen) -> None:
    check_names(query, seen, set(RECORDS))


def test_queries_are_promql(tmp_path: Path) -> None:
    rules = [{"record": f"runbook:{n}", "expr": query} for n, query in enumerate(QUERIES)]
    path = tmp_path / "queries.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "runbook", "rules": rules}]}))
    done = run_promtool("check", "rules", "--lint=none", str(path))
    assert done.returncode == 0, done.stderr + done.stdout


def _anchors(path: Path) -> set[str]:
    """As GitHub makes them of headings."""
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE):
        plain = re.sub(r"[^\w\- ]", "", heading.lower())
        found.add(plain.replace(" ", "-"))
    return found


@pytest.mark.parametrize("name", ["docs/runbook.md", "docs/operations.md"])
def test_anchors_are_there(name: str) -> None:
    path = ROOT / name
    for target, anchor in re.findall(r"\]\(([^)\s#]*)#([^)\s]*)\)", path.read_text()):
        if not target.startswith("http"):
            other = (path.parent / target).resolve() if target else path
            assert anchor in _anchors(other), f"{target}#{anchor}"


def test_figures_of_the_sizing_tables_are_those_of_the_measurements() -> None:
    """They are copies: this says when they are old."""
    chapter = TEXT.split("\n## Sizing\n")[1].split("\n## ")[0]
    scaling = (ROOT / "docs/scaling.md").read_text()
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in chapter.splitlines()
        if line.startswith("| ") and "---" not in line
    ]
    for first, *figures in rows[1:]:
        if first == "what":
            continue
        matching = [line for line in scaling.splitlines() if f"| {first} |" in line]
        assert any(all(f"| {one} |" in line for one in figures) for line in matching), first
    performance = (ROOT / "docs/performance.md").read_text()
    (one,) = re.findall(r"22,000 to 35,000 POSTs.*? a second", chapter)
    assert one in performance
