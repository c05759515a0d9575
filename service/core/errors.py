"""Every error that Herald raises on purpose.

    HeraldError
    ├── InvalidInput            the caller's input is wrong; the text says what and where
    │   ├── InvalidChannel
    │   ├── InvalidPosition
    │   ├── InvalidEvent
    │   │   └── TooManyEvents   a batch has more than it may
    │   └── InvalidMessage      a client's WebSocket message; carries a code word
    ├── EventTooLarge           one event is over its byte limit
    ├── IdempotencyConflict     an id was used before with another payload
    ├── Refused                 an identity is not accepted
    │   ├── Unauthorized        who are you? (401, close 3000)
    │   └── Forbidden           you may not (403, close 3003)
    ├── KeysUnavailable         the issuer's keys were never fetched; try again later
    ├── Overloaded              too much is in flight; try again after `retry_after` seconds
    ├── NotCopied               stored, and fewer replicas than demanded have it
    ├── EngineUnavailable       the engine is away, or did not answer in time
    └── EngineError             the engine answered with an error

Their texts are shown to callers: they never hold a token, a key or a payload.
"""


class HeraldError(Exception):
    """The root of the tree."""


class InvalidInput(HeraldError):
    """The caller's input is wrong."""


class InvalidChannel(InvalidInput):
    """Not a channel name."""


class InvalidPosition(InvalidInput):
    """Not a position."""


class InvalidEvent(InvalidInput):
    """Not an event that can be published."""


class TooManyEvents(InvalidEvent):
    """A batch has more events than it may."""


class InvalidMessage(InvalidInput):
    """Not a message that a client may send. `code` is the word for the `error` answer."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class EventTooLarge(HeraldError):
    """An event is over `limit` bytes."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"An event may have at most {limit} bytes.")
        self.limit = limit


class IdempotencyConflict(HeraldError):
    """The id was used in the last five minutes with another payload, on `channels`."""

    def __init__(self, channels: list[str]) -> None:
        super().__init__(
            "This id was used before with another payload on: " + ", ".join(channels[:10])
        )
        self.channels = channels


class Refused(HeraldError):
    """An identity is not accepted."""


class Unauthorized(Refused):
    """No credential, or one that proves nothing."""


class Forbidden(Refused):
    """A good credential that does not permit this."""


class KeysUnavailable(HeraldError):
    """Tokens cannot be verified, because their issuer's keys were never fetched."""


class Overloaded(HeraldError):
    """Too much is in flight."""

    def __init__(self, message: str, retry_after: int = 1) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class NotCopied(HeraldError):
    """Fewer replicas than demanded have confirmed an event in time.

    `positions`, by channel, are where it is stored on the primary.
    """

    def __init__(self, positions: dict[str, str]) -> None:
        super().__init__(
            "The event is stored, but too few replicas have confirmed it; repeat with the same id."
        )
        self.positions = positions


class EngineUnavailable(HeraldError):
    """The engine is away, or did not answer in time: what was asked may or may not be done."""


class EngineError(HeraldError):
    """The engine answered with an error."""
