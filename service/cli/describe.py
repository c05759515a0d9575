"""`herald openapi`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from service.app.describe import openapi_document

_PLAIN_KEY = re.compile(r"[A-Za-z$/][A-Za-z0-9_$/{}.-]*")
_NOT_TEXT = frozenset({"true", "false", "null", "yes", "no", "on", "off", "y", "n"})


def openapi(
    yaml: Annotated[bool, typer.Option("--yaml", help="As YAML instead.")] = False,
) -> None:
    """Print the OpenAPI document of the HTTP API, as JSON."""
    document = openapi_document()
    if yaml:
        typer.echo("# Written by `make documents`; edit service/edge/documents.py instead.")
        typer.echo("\n".join(yaml_lines(document)))
    else:
        typer.echo(json.dumps(document, indent=2, ensure_ascii=False))


def yaml_lines(value: Any) -> Iterator[str]:
    """YAML 1.2 for what JSON can say: block style outside, JSON for every scalar.

    JSON's scalars are YAML's as well, so nothing needs to be known of YAML's many ways to quote.
    """
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _entry(f"{_key(str(key))}:", item)
    elif isinstance(value, list) and value:
        for item in value:
            first, *rest = yaml_lines(item)
            yield f"- {first}"
            yield from (f"  {line}" for line in rest)
    else:
        yield json.dumps(value, ensure_ascii=False)


def _entry(key: str, item: Any) -> Iterator[str]:
    if isinstance(item, dict | list) and item:
        yield key
        yield from (f"  {line}" for line in yaml_lines(item))
    else:
        yield f"{key} {json.dumps(item, ensure_ascii=False)}"


def _key(text: str) -> str:
    plain = _PLAIN_KEY.fullmatch(text) and text.lower() not in _NOT_TEXT
    return text if plain else json.dumps(text, ensure_ascii=False)
