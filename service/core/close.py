"""Close codes: each with its meaning and what the client should do.

1000 to 1015 are RFC 6455's (section 7.4) and the IANA registry's, 3000, 3003 and 3008 are
registered there too; 4000 to 4099 say "reconnect at once", 4100 to 4199 "do not reconnect".
"""

from __future__ import annotations

from enum import IntEnum


class CloseCode(IntEnum):
    """A close code that Herald sends."""

    NORMAL = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003
    INVALID_DATA = 1007
    POLICY_VIOLATION = 1008
    MESSAGE_TOO_BIG = 1009
    INTERNAL_ERROR = 1011
    RESTART = 1012
    TRY_AGAIN_LATER = 1013
    UNAUTHORIZED = 3000
    FORBIDDEN = 3003
    TIMEOUT = 3008
    SLOW_CONSUMER = 4000
    DISCONNECTED = 4100
    TOO_MANY_CONNECTIONS = 4101


class Advice(IntEnum):
    """What a client should do after a close."""

    STAY_AWAY = 0
    RECONNECT_NOW = 1
    RECONNECT_WITH_BACKOFF = 2
    RECONNECT_WITH_NEW_TOKEN = 3


ADVICE: dict[CloseCode, Advice] = {
    CloseCode.NORMAL: Advice.STAY_AWAY,
    CloseCode.GOING_AWAY: Advice.RECONNECT_WITH_BACKOFF,
    CloseCode.PROTOCOL_ERROR: Advice.STAY_AWAY,
    CloseCode.UNSUPPORTED_DATA: Advice.STAY_AWAY,
    CloseCode.INVALID_DATA: Advice.STAY_AWAY,
    CloseCode.POLICY_VIOLATION: Advice.STAY_AWAY,
    CloseCode.MESSAGE_TOO_BIG: Advice.STAY_AWAY,
    CloseCode.INTERNAL_ERROR: Advice.RECONNECT_WITH_BACKOFF,
    CloseCode.RESTART: Advice.RECONNECT_WITH_BACKOFF,
    CloseCode.TRY_AGAIN_LATER: Advice.RECONNECT_WITH_BACKOFF,
    CloseCode.UNAUTHORIZED: Advice.RECONNECT_WITH_NEW_TOKEN,
    CloseCode.FORBIDDEN: Advice.STAY_AWAY,
    CloseCode.TIMEOUT: Advice.RECONNECT_WITH_BACKOFF,
    CloseCode.SLOW_CONSUMER: Advice.RECONNECT_NOW,
    CloseCode.DISCONNECTED: Advice.STAY_AWAY,
    CloseCode.TOO_MANY_CONNECTIONS: Advice.STAY_AWAY,
}


def advice_for(code: int) -> Advice:
    """What a client should do after `code`, also for codes that Herald does not send itself."""
    if 4000 <= code <= 4099:
        return Advice.RECONNECT_NOW
    if 4100 <= code <= 4199:
        return Advice.STAY_AWAY
    try:
        return ADVICE[CloseCode(code)]
    except ValueError:
        return Advice.RECONNECT_WITH_BACKOFF  # 1005, 1006: the network, not a verdict
