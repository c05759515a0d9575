"""What is written from other files is in step with them, and says something of everything."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from helm.generate import ELSEWHERE, camel
from service.settings import Settings

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm/herald"
SCHEMA = json.loads((CHART / "values.schema.json").read_text())
VALUES = yaml.safe_load((CHART / "values.yaml").read_text())


def _objects(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for name, part in schema.get("properties", {}).items():
        yield from _objects(part, f"{path}.{name}".removeprefix("."))
    if "items" in schema:
        yield from _objects(schema["items"], f"{path}[]")


def test_schema_and_readme_are_as_the_settings_and_values_say() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "helm/generate.py", "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_setting_has_a_place_in_the_values() -> None:
    config = SCHEMA["properties"]["config"]["properties"]
    assert {camel(field) for field in Settings.model_fields} == set(config) | {
        camel(field) for field in ELSEWHERE
    }


def test_every_value_is_described() -> None:
    for path, part in _objects(SCHEMA):
        if not path.endswith("[]"):
            assert len(part.get("description", "")) >= 5, path


def test_unknown_values_are_refused_everywhere_but_in_free_maps() -> None:
    for path, part in _objects(SCHEMA):
        if "properties" in part:
            assert part["additionalProperties"] is False, path


def test_schema_and_values_have_the_same_names() -> None:
    def compare(schema: dict[str, Any], values: dict[str, Any], path: str) -> None:
        known = set(schema["properties"]) - {"global"}
        if path in ("config", "resources", "trial", "httpRoute.timeouts") or "probes." in path:
            assert set(values) <= known, path
        else:
            assert set(values) == known, path
        for name, part in schema["properties"].items():
            if "properties" in part and name in values:
                compare(part, values[name], f"{path}.{name}".removeprefix("."))

    compare(SCHEMA, VALUES, "")


def test_readme_has_a_row_for_every_value() -> None:
    readme = (CHART / "README.md").read_text()
    for path, _ in _objects(SCHEMA):
        if path and not path.endswith("global") and "[]" not in path:
            assert f"`{path}`" in readme, path


def test_readme_names_every_example_and_no_other() -> None:
    readme = (CHART / "README.md").read_text()
    there = {path.name for path in (CHART / "examples").iterdir()}
    assert there
    assert {name for name in there if f"](examples/{name})" in readme} == there
    assert readme.count("](examples/") == len(there)


def test_versions_are_those_of_the_package() -> None:
    from service import __version__

    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == __version__
