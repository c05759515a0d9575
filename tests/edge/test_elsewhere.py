"""Every path of the API is known at the clients' port, where a request may come by mistake."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from service.edge import elsewhere

DOCUMENT = yaml.safe_load((Path(__file__).parents[2] / "openapi" / "openapi.yaml").read_text())
CLIENTS = {elsewhere.WEBSOCKET, elsewhere.STREAM}


@pytest.mark.parametrize("path", sorted(DOCUMENT["paths"].keys() - CLIENTS))
def test_the_api_s_paths_are_told_to_be_on_another_port(path: str) -> None:
    assert "HERALD_API_PORT" in elsewhere.at_clients_port(path)


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/eventsource", "/v1/ws"])
def test_other_paths_are_not(path: str) -> None:
    assert "HERALD_API_PORT" not in elsewhere.at_clients_port(path)
