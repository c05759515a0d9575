"""Writes what follows from other files: `python helm/generate.py`; with `--check` it only compares.

The schema's part `config` comes from `service/settings.py`, the README's table from
`values.schema.json` and `values.yaml`.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any, get_args

import yaml

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # run as a script, from anywhere

from service.settings import PREFIX, Settings  # noqa: E402

CHART = Path(__file__).parent / "herald"
SCHEMA = CHART / "values.schema.json"
README = CHART / "README.md"
ELSEWHERE = frozenset(
    {
        "port",
        "api_port",
        "redis_url",
        "jwt_secret",
        "jwt_public_key_file",
        "jwt_jwks_url",
        "api_keys",
    }
)
"""Settings that have places of their own in the values."""
_OWN_WORDS = {
    "max_connections": "Per process. Default: what the memory allows; see `capacity`.",
    "workers": "Processes in a pod; better, more pods.",
    "drain_seconds": "Time to move clients away on SIGTERM; part of the pods' grace period.",
}
_SIZE = {"type": "string", "pattern": r"^\s*[0-9]+\s*([kKmMgG][iI]?)?[bB]?\s*$"}
_LIMITS = ("minimum", "maximum", "exclusiveMinimum", "minLength")


def camel(field: str) -> str:
    """`history_size` is `historySize`."""
    head, *tail = field.split("_")
    return head + "".join(word.capitalize() for word in tail)


def config_schema() -> dict[str, Any]:
    """What `config` may hold, from the settings."""
    properties = {}
    described = Settings.model_json_schema()["properties"]
    for field, info in Settings.model_fields.items():
        if field in ELSEWHERE:
            continue
        of_type = next(
            (part for part in described[field].get("anyOf", []) if part["type"] != "null"),
            described[field],
        )
        text = _OWN_WORDS.get(field, of_type.get("description") or described[field]["description"])
        one: dict[str, Any] = {"description": f"`{PREFIX}{field.upper()}`. {text}"}
        if info.default not in (None, ()):
            one["default"] = info.default
        if _is_size(info.metadata, info.annotation):
            # Behind its validator, pydantic gives the limits under its own names.
            limits = {"minimum": of_type["ge"], "maximum": of_type.get("le")}
            number = {"type": "integer"} | {n: limit for n, limit in limits.items() if limit}
            one["anyOf"] = [number, _SIZE]
        elif of_type["type"] == "array":
            one |= {"type": "array", "items": {"type": "string", "pattern": r"^[^,\n]+$"}}
        else:
            one |= {n: of_type[n] for n in ("type", "enum", *_LIMITS) if n in of_type}
        properties[camel(field)] = one
    return {
        "type": "object",
        "description": "Herald's settings, as docs/operations.md explains them.",
        "additionalProperties": False,
        "properties": properties,
    }


def _is_size(metadata: list[Any], annotation: Any) -> bool:
    nested = [part for item in get_args(annotation) for part in get_args(item)]
    return any(
        getattr(getattr(item, "func", None), "__name__", "") == "_size"
        for item in (*metadata, *nested)
    )


def new_schema(old: str) -> str:
    """The schema's text with `config` made anew."""
    schema = json.loads(old)
    schema["properties"]["config"] = config_schema()
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def new_readme(old: str, schema: dict[str, Any], values: dict[str, Any]) -> str:
    """The README's text with the table of values made anew."""
    lines = ["| value | type | default | what it is |", "|---|---|---|---|"]
    lines += _rows(schema, values, "")
    table = "\n".join(lines)
    return re.sub(
        "(<!-- generated: values -->\n).*?(<!-- end -->)",
        lambda match: f"{match[1]}\n{table}\n\n{match[2]}",
        old,
        flags=re.DOTALL,
    )


def _rows(schema: dict[str, Any], values: Any, path: str) -> list[str]:
    rows = []
    for name, part in schema["properties"].items():
        if name == "global":
            continue
        where = f"{path}.{name}".removeprefix(".")
        given = values.get(name) if isinstance(values, dict) else None
        if "properties" in part:
            rows.append(f"| **`{where}`** | | | {part['description']} |")
            rows += _rows(part, given or {}, where)
            continue
        if given is None:
            given = part.get("default")
        shown = "" if given in (None, "", [], {}) else f"`{json.dumps(given, ensure_ascii=False)}`"
        if len(shown) > 60:
            shown = "see values.yaml"
        cells = [f"`{where}`", _kind(part), shown, part["description"]]
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return rows


def _kind(part: dict[str, Any]) -> str:
    if "enum" in part:
        return "one of " + ", ".join(f"`{item}`" for item in part["enum"] if item)
    kinds = part.get("type")
    if kinds is None:
        kinds = [item["type"] for item in part["anyOf"]]
    kinds = [kinds] if isinstance(kinds, str) else kinds
    return " or ".join(dict.fromkeys(kind for kind in kinds if kind != "null"))


def main(arguments: list[str]) -> int:
    """Write both files, or tell whether they are as they should be."""
    schema = new_schema(SCHEMA.read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    texts = {SCHEMA: schema, README: new_readme(README.read_text(), json.loads(schema), values)}
    stale = [path for path, text in texts.items() if path.read_text() != text]
    for path in stale:
        if arguments == ["--check"]:
            print(f"{path.relative_to(ROOT)} is out of date: run python helm/generate.py")
        else:
            path.write_text(texts[path])
            print(f"{path.relative_to(ROOT)} written")
    return 1 if stale and arguments == ["--check"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
