"""Every error that this package raises on purpose.

    HeraldError
    ├── ConfigurationError      a URL, a key or an option is missing or makes no sense
    ├── InvalidEvent            an event that is no JSON; nothing was sent
    ├── RequestFailed           a request came to nothing
    │   ├── Rejected            Herald said no, and would again: change the request
    │   │   ├── Unauthorized    401: the key is not accepted
    │   │   ├── Forbidden       403: the service token lacks the scope `publish`
    │   │   ├── TooLarge        413: over a limit of the server
    │   │   └── IdConflict      422: the id was used before with another payload
    │   └── Unavailable         not until the deadline; may be repeated with the same id
    │       ├── Overloaded      429: too much is in flight
    │       └── NoAnswer        no connection, or no answer: it may be stored or not
    ├── SomeNotPublished        of many events some were not published; `results` says which
    ├── QueueFull               the background queue has no room
    ├── Closed                  the publisher was closed before
    └── SubscriptionEnded       a subscription cannot go on
        ├── ConnectionRefused   the close code says: stay away
        ├── TokenRefused        the token was refused three times in a row
        └── LoggedOut           the application has no token any more

Their texts never hold a key, a token or an event's data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from herald_client.events import Published


class HeraldError(Exception):
    """The root of the tree."""

    def __reduce__(self) -> tuple[Any, ...]:
        # As they were, whatever `__init__` takes: Celery and process pools pickle what is raised,
        # and a pool whose answer cannot be read is broken.
        return _restore, (type(self), self.args), self.__dict__


def _restore(kind: type[HeraldError], args: tuple[Any, ...]) -> HeraldError:
    error = kind.__new__(kind)
    error.args = args
    return error


class ConfigurationError(HeraldError, ValueError):
    """A URL, a key or an option is missing or makes no sense."""


class InvalidEvent(HeraldError, ValueError):
    """An event that cannot be written as JSON; nothing was sent."""


class RequestFailed(HeraldError):
    """A request came to nothing.

    Attributes:
        id: the event's idempotency id, where the request was about one event: repeat with it.
        status: the HTTP status, or None where there was no answer.
        detail: what is wrong, in a sentence.
        problem: the whole problem document (RFC 9457), empty where there was none.
        attempts: how often it was tried.
    """

    def __init__(
        self,
        detail: str,
        *,
        status: int | None = None,
        problem: Mapping[str, Any] | None = None,
        id: str | None = None,
        attempts: int = 1,
    ) -> None:
        text = detail if status is None else f"{status}: {detail}"
        if status == 404:  # no request of ours is about something that could be missing
            text = f"{text.rstrip('.')}. Is the URL right?"
        super().__init__(text)
        self.id = id
        self.status = status
        self.detail = detail
        self.problem = dict(problem or {})
        self.attempts = attempts

    @property
    def stored(self) -> dict[str, str]:
        """The channels that have the event all the same, with its position in each.

        Repeated with the same id, it is completed on the others and doubled on none of these.
        """
        return self._positions("stored")

    @property
    def uncopied(self) -> dict[str, str]:
        """The channels where it is stored, but where fewer replicas than demanded confirmed it."""
        return self._positions("uncopied")

    def _positions(self, member: str) -> dict[str, str]:
        positions = self.problem.get(member)
        return dict(positions) if isinstance(positions, Mapping) else {}


class Rejected(RequestFailed):
    """Herald said no, and would say it again."""


class Unauthorized(Rejected):
    """The key is not accepted (401)."""


class Forbidden(Rejected):
    """A good token without the scope `publish` (403)."""


class TooLarge(Rejected):
    """Over a limit of the server, or of a proxy before it (413)."""


class IdConflict(Rejected):
    """The id was used in the last five minutes with another payload (422)."""

    @property
    def channels(self) -> list[str]:
        """Where. The event was stored on none."""
        return list(self.problem.get("channels", ()))


class Unavailable(RequestFailed):
    """It could not be done until the deadline; with the same id it may be repeated."""


class Overloaded(Unavailable):
    """Too much is in flight (429)."""


class NoAnswer(Unavailable):
    """No connection, or no answer in time: the event may be stored or not."""


class SomeNotPublished(HeraldError):
    """Of many events, some were not published.

    Attributes:
        results: one per event, in order: what was answered, or the error.
    """

    def __init__(self, results: Sequence[Published | RequestFailed]) -> None:
        failed = [result for result in results if isinstance(result, RequestFailed)]
        super().__init__(f"{len(failed)} of {len(results)} not published; the first: {failed[0]}")
        self.results = list(results)


class QueueFull(HeraldError):
    """The background queue has no room: events come faster than they can be sent."""


class Closed(HeraldError):
    """The publisher was closed before."""


class SubscriptionEnded(HeraldError):
    """A subscription cannot go on: a person or a program change is needed."""


def _clause(reason: str) -> str:
    """The server's words within a sentence of ours, which has a full stop of its own."""
    return reason.rstrip(".") or "no reason given"


class ConnectionRefused(SubscriptionEnded):
    """The server closed with a code that says: stay away.

    Attributes:
        code: the close code; docs/protocol.md says what each means.
        reason: the server's words.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"The server closed with {code} ({_clause(reason)}).")
        self.code = code
        self.reason = reason


class TokenRefused(SubscriptionEnded):
    """The token was refused three times in a row.

    Attributes:
        reason: the server's words.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(f"The token was refused again and again: {_clause(reason)}.")
        self.reason = reason


class LoggedOut(SubscriptionEnded):
    """The application's token function gave None."""

    def __init__(self) -> None:
        super().__init__("There is no token: nobody is logged in.")
