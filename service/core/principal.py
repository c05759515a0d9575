"""Who is at the other end."""

from __future__ import annotations

from typing import NamedTuple

from service.core.channel import TopicGrant


class Principal(NamedTuple):
    """A user, as a verified token says.

    Attributes:
        user: the token's `sub`, a valid user id.
        expires: the token's `exp`, Unix seconds.
        topics: what the token permits beyond `user:<id>` and `all`.
    """

    user: str
    expires: float
    topics: TopicGrant


class Publisher(NamedTuple):
    """A backend that may publish. `name` scopes its idempotency keys.

    All API keys are one publisher (`key`); a service token's publisher is `jwt:<sub>`.
    """

    name: str
