"""What is told to those who knock at the wrong path, or at the wrong one of two ports.

The setting is named and never its number: a port is nobody's business outside.
"""

from __future__ import annotations

WEBSOCKET = "/v1/ws"
STREAM = "/v1/stream"
_CLIENTS = (WEBSOCKET, STREAM)
_API = ("/v1/events", "/v1/channels", "/v1/tickets", "/healthz", "/metrics", "/openapi.json")
_CLIENTS_ELSEWHERE = "Clients connect to another port (HERALD_PORT)."


def at_clients_port(path: str) -> str:
    """Where the API has a port of its own, on the other one."""
    if any(path == known or path.startswith(known + "/") for known in _API):
        return "The API is on another port (HERALD_API_PORT)."
    return f"There is nothing here but {WEBSOCKET} and {STREAM}."


def at_api(path: str) -> str:
    """Where the API is. The clients' paths come here only if they are on another port."""
    if path in _CLIENTS:
        return _CLIENTS_ELSEWHERE
    return "There is nothing here; /openapi.json says what there is."


def of_websocket(path: str) -> str:
    """To a WebSocket's opening that came by another path, or to a port without WebSockets."""
    if path == WEBSOCKET:
        return _CLIENTS_ELSEWHERE
    return f"There is no WebSocket here; it is at {WEBSOCKET}."
