"""Names of channels and topics."""

from __future__ import annotations

import re

from herald_client.errors import ConfigurationError

_TOPIC = "[A-Za-z0-9._:@/-]{1,200}"
_NAME = re.compile(_TOPIC, re.ASCII)
_CHANNEL = re.compile(rf"all|topic:{_TOPIC}|user:[^\x00-\x1f\x7f-\x9f]{{1,255}}", re.ASCII)


def check_topic(name: object) -> None:
    """Refuse what names no topic: the server would, and the subscription go on without it.

    Raises:
        ConfigurationError
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigurationError(
            f"A topic's name is 1 to 200 of A-Z a-z 0-9 . _ : @ / -; this is {repr(name)[:60]}."
        )


def check_channel(name: object) -> None:
    """Refuse what names no channel: the server would refuse all that is asked for, without end.

    Raises:
        ConfigurationError
    """
    if not isinstance(name, str) or not _CHANNEL.fullmatch(name):
        raise ConfigurationError(
            f"A channel is user:<id>, topic:<name> or all; this is {repr(name)[:60]}."
        )
