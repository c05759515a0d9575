"""Checks of the functions that an application gives."""

from __future__ import annotations

import inspect

from herald_client.errors import ConfigurationError


def check_plain(name: str, function: object) -> None:
    """Refuse what is no function, and `async def`, which nobody would await; None is fine.

    Raises:
        ConfigurationError: else what it was to be told would be lost.
    """
    if function is None:
        return
    if not callable(function):
        raise ConfigurationError(f"`{name}` is a function.")
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004
    ):
        raise ConfigurationError(f"`{name}` is a plain function, not `async def`.")
