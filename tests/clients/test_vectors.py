"""The Python client's protocol core does what the conformance vectors say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from herald_client.protocol import Actions, ClientProtocol

VECTORS = Path(__file__).parents[2] / "openapi/vectors/client"


def _vectors() -> list[Any]:
    return [
        pytest.param(vector, id=f"{path.stem}: {vector['name']}")
        for path in sorted(VECTORS.glob("*.json"))
        for vector in json.loads(path.read_text())["vectors"]
    ]


def _take(core: ClientProtocol, step: dict[str, Any]) -> Actions:
    now = step.get("now", 0.0)
    match step:
        case {"opened": True}:
            return core.opened()
        case {"receive": message}:
            return core.receive(message, now)
        case {"lost": {"code": code, "reason": reason, "lasted": lasted}}:
            return core.lost(code, reason, lasted)
        case {"retry": True}:
            return core.retry()
        case {"token": token}:
            return core.token(token)
        case {"token_failed": True}:
            return core.token_failed(now)
        case {"refresh_due": True}:
            return core.refresh_due()
        case {"silent_for": seconds}:
            return core.silent_for(seconds)
        case {"subscribe": topic}:
            return core.subscribe(topic, step.get("position"))
        case {"unsubscribe": topic}:
            return core.unsubscribe(topic)
        case {"close": True}:
            return core.close()
    raise AssertionError(f"an input that is none: {step}")


def _check(core: ClientProtocol, actions: Actions, step: dict[str, Any]) -> None:
    for key in ("sends", "events", "gaps", "errors"):
        assert list(getattr(actions, key)) == step.get(key, []), key
    assert actions.asks_token == step.get("asks_token", False)
    assert actions.drops == step.get("drops", False)
    if "state" in step:
        assert core.state == step["state"]
    if "why" in step:
        assert core.why == step["why"]
    if "positions" in step:
        assert core.positions == step["positions"]
    if "wait" in step:
        assert actions.wait is not None
        expected = (step["wait"]["least"], step["wait"]["most"])
        assert actions.wait == pytest.approx(expected, abs=0.001)
    if "refresh_in" in step:
        assert actions.refresh_in is not None
        assert step["refresh_in"]["least"] <= actions.refresh_in <= step["refresh_in"]["most"]


@pytest.mark.parametrize("vector", _vectors())
def test_vector(vector: dict[str, Any]) -> None:
    given = vector["given"]
    core = ClientProtocol("t1", given.get("topics", ()), given.get("positions"))
    for number, step in enumerate(vector["steps"]):
        try:
            _check(core, _take(core, step), step)
        except AssertionError as error:
            raise AssertionError(f"step {number}, {step}: {error}") from error
