"""A small check of JSON against the parts of JSON Schema that asyncapi.yaml uses."""

from __future__ import annotations

import re
from typing import Any

_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
    "null": (type(None),),
}
_KNOWN = {"$ref", "type", "const", "enum", "pattern", "required", "properties", "items", "oneOf"}
_KNOWN |= {"additionalProperties", "description", "format"}


def resolve(document: dict[str, Any], value: dict[str, Any]) -> dict[str, Any]:
    """Follow `$ref` within the document."""
    while "$ref" in value:
        found: Any = document
        for part in value["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        value = found
    return value


def problems(document: dict[str, Any], schema: dict[str, Any], value: Any) -> list[str]:
    """What is wrong with `value`; a keyword that is not checked here is a problem too."""
    schema = resolve(document, schema)
    if unknown := set(schema) - _KNOWN:
        return [f"keywords that are not checked: {sorted(unknown)}"]
    if "oneOf" in schema:
        fitting = [one for one in schema["oneOf"] if not problems(document, one, value)]
        return [] if len(fitting) == 1 else [f"{value!r} fits {len(fitting)} of oneOf"]
    if "const" in schema and value != schema["const"]:
        return [f"{value!r} is not {schema['const']!r}"]
    if "enum" in schema and value not in schema["enum"]:
        return [f"{value!r} is none of {schema['enum']}"]
    if "type" in schema and not _is_of(schema["type"], value):
        return [f"{value!r} is no {schema['type']}"]
    if "pattern" in schema and not re.search(schema["pattern"], value):
        return [f"{value!r} does not fit {schema['pattern']}"]
    found: list[str] = []
    if isinstance(value, dict):
        found += [f"{key} is missing" for key in schema.get("required", ()) if key not in value]
        rest = schema.get("additionalProperties", True)
        for key, item in value.items():
            if key in schema.get("properties", {}):
                found += problems(document, schema["properties"][key], item)
            elif rest is False:
                found.append(f"{key} is not described")
            elif isinstance(rest, dict):
                found += problems(document, rest, item)
    if isinstance(value, list) and "items" in schema:
        for item in value:
            found += problems(document, schema["items"], item)
    return found


def _is_of(names: str | list[str], value: Any) -> bool:
    kinds = [names] if isinstance(names, str) else names
    if isinstance(value, bool):
        return "boolean" in kinds
    return any(isinstance(value, _TYPES[kind]) for kind in kinds)
