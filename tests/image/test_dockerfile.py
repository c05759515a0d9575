"""What the Dockerfile, its context and compose.yaml promise, as far as reading them tells."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from service import __version__
from service.settings import SECRETS, Settings
from tests.image.dockerfile import Dockerfile, copy_context, ignored, read_dockerfile

ROOT = Path(__file__).parents[2]
FILE = ROOT / "Dockerfile"
KNOWN = {f"HERALD_{field.upper()}" for field in Settings.model_fields} | {
    f"HERALD_{secret.upper()}_FILE" for secret in SECRETS
}


@pytest.fixture
def dockerfile() -> Dockerfile:
    return read_dockerfile(FILE)


def test_both_stages_have_the_one_base_that_can_be_pinned(dockerfile: Dockerfile) -> None:
    assert [stage.base for stage in dockerfile.stages] == ["${BASE}", "${BASE}"]
    base = dockerfile.arguments["BASE"]
    # A tag that says which Python, and never `latest`; a digest may follow.
    assert re.fullmatch(r"docker\.io/library/python:3\.11-slim-\w+(@sha256:[0-9a-f]{64})?", base)


def test_packages_are_installed_by_hash_alone(dockerfile: Dockerfile) -> None:
    installs = [
        command
        for stage in dockerfile.stages
        for step in stage.steps
        if step.name == "RUN"
        for command in step.text.split("&&")
        if re.search(r"\binstall\b", command)
    ]
    assert len(installs) == 3
    for command in installs:
        if "dist/*.whl" in command:
            assert "--no-deps" in command
        else:
            assert "--require-hashes" in command
            assert "--only-binary :all:" in command


def test_it_runs_as_a_numbered_user_without_a_shell(dockerfile: Dockerfile) -> None:
    last = dockerfile.stages[-1]
    user, entry, command = last.last("USER"), last.last("ENTRYPOINT"), last.last("CMD")
    assert user is not None
    assert user.text == "65532:65532"
    assert entry is not None
    assert entry.text == '["/opt/herald/bin/herald"]'
    assert command is not None
    assert command.text == '["serve"]'
    # Nothing is run in the last stage: it is the base and one layer.
    names = [step.name for step in last.steps]
    assert "RUN" not in names
    assert names.count("COPY") == 1
    assert names.index("COPY") < names.index("USER")


def test_no_healthcheck(dockerfile: Dockerfile) -> None:
    assert not re.search(r"^\s*HEALTHCHECK", FILE.read_text(), re.MULTILINE)


def test_labels_can_be_given(dockerfile: Dockerfile) -> None:
    last = dockerfile.stages[-1]
    labels = last.last("LABEL")
    assert labels is not None
    given = {
        name.removeprefix("org.opencontainers.image."): v for name, v in labels.pairs().items()
    }
    assert {"title", "description", "version", "revision", "source", "created"} <= set(given)
    arguments = [name for step in last.steps if step.name == "ARG" for name in step.pairs()]
    for name in ("version", "revision", "source", "created"):
        assert given[name] == "${" + name.upper() + "}"
        assert name.upper() in arguments
    version = next(step for step in last.steps if step.name == "ARG").pairs()
    assert version == {"VERSION": __version__}


def test_its_environment_is_known_to_herald(dockerfile: Dockerfile) -> None:
    names = {name for name in dockerfile.stages[-1].environment() if name.startswith("HERALD_")}
    assert names == {"HERALD_HOST"}
    assert names <= KNOWN


def test_context_holds_what_is_copied_and_little_else(
    dockerfile: Dockerfile, tmp_path: Path
) -> None:
    copy_context(ROOT, tmp_path)
    tops = {path.name for path in tmp_path.iterdir()}
    assert tops == {"README.md", "pyproject.toml", "requirements", "service"}
    for step in dockerfile.stages[0].steps:
        if step.name == "COPY":
            for source in step.words()[:-1]:
                assert (tmp_path / source).exists(), source
    assert not list(tmp_path.rglob("__pycache__"))
    sent = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    there = {path.relative_to(ROOT).as_posix() for path in (ROOT / "service").rglob("*.*")}
    assert {name for name in sent if name.startswith("service/")} == {
        name for name in there if "__pycache__" not in name and (ROOT / name).is_file()
    }


@pytest.mark.parametrize(
    ("path", "out"),
    [
        ("service/app/run.py", False),
        ("service/app/__pycache__/run.cpython-311.pyc", True),
        ("requirements/run.txt", False),
        ("requirements/dev.txt", True),
        (".git/config", True),
        (".env", True),
        ("tests/conftest.py", True),
    ],
)
def test_ignore_rules(path: str, out: bool) -> None:
    rules = [
        line
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    assert ignored(rules, path) is out


def test_compose_brings_herald_and_an_engine() -> None:
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text())
    herald, valkey = compose["services"]["herald"], compose["services"]["valkey"]
    assert set(herald["environment"]) <= KNOWN
    # Nothing secret has a default.
    for secret in ("HERALD_JWT_SECRET", "HERALD_API_KEYS"):
        assert herald["environment"][secret].startswith("${" + secret + ":?")
    assert herald["image"].endswith(f":{__version__}")
    assert herald["read_only"] is True
    assert herald["cap_drop"] == ["ALL"]
    drain = Settings.model_fields["drain_seconds"].default
    assert int(herald["stop_grace_period"].removesuffix("s")) >= drain + 15
    # Only this machine may publish.
    assert all(port.startswith("127.0.0.1:") for port in herald["ports"])
    assert "noeviction" in valkey["command"]
    assert re.search(r":\d+\.\d+\.\d+$", valkey["image"])
