"""Close codes and their advice, as the contract has them."""

from __future__ import annotations

import pytest

from service.core.close import ADVICE, Advice, CloseCode, advice_for

CONTRACT = [
    *(1000, 1001, 1002, 1003, 1007, 1008, 1009, 1011, 1012, 1013),
    *(3000, 3003, 3008, 4000, 4100, 4101),
]


def test_codes_are_those_of_the_contract() -> None:
    assert sorted(CloseCode) == CONTRACT


@pytest.mark.parametrize("code", list(CloseCode))
def test_every_code_has_advice(code: CloseCode) -> None:
    assert advice_for(code) is ADVICE[code]


@pytest.mark.parametrize(
    ("codes", "advice"),
    [
        (range(4000, 4100), Advice.RECONNECT_NOW),
        (range(4100, 4200), Advice.STAY_AWAY),
        ([1001, 1005, 1006, 1011, 1012, 1013, 3008], Advice.RECONNECT_WITH_BACKOFF),
        ([1014, 2999, 3500, 4200, 4999], Advice.RECONNECT_WITH_BACKOFF),
        ([3000], Advice.RECONNECT_WITH_NEW_TOKEN),
        ([1000, 1002, 1003, 1007, 1008, 1009, 3003], Advice.STAY_AWAY),
    ],
)
def test_advice(codes: list[int], advice: Advice) -> None:
    assert {advice_for(code) for code in codes} == {advice}
