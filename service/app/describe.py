"""The API's own description, without an engine or settings."""

from __future__ import annotations

from typing import Any, cast

from service.edge.api import build_api
from service.edge.history import History
from service.edge.inspection import Inspection
from service.edge.publishing import Publishing
from service.edge.tickets import TicketOffice
from service.ports import Health


def openapi_document() -> dict[str, Any]:
    """The OpenAPI document, as `/openapi.json` serves it."""
    # Describing calls none of the endpoints, so nothing stands behind them.
    nothing: Any = None
    api = build_api(
        cast("Publishing", nothing),
        cast("History", nothing),
        cast("Inspection", nothing),
        cast("TicketOffice", nothing),
        cast("Health", nothing),
        lambda: False,
        nothing,
    )
    return api.openapi()
