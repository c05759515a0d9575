"""`herald openapi`."""

from __future__ import annotations

import json

import typer

from service.app.describe import openapi_document


def openapi() -> None:
    """Print the OpenAPI document of the HTTP API, as JSON."""
    typer.echo(json.dumps(openapi_document(), indent=2, ensure_ascii=False))
