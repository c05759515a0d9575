"""What becomes of failures that nobody expected: work begins again, or the process ends.

Memory may run out anywhere. A request, a connection, a link to the engine or a task of its own can
fail by itself, and does. Where the failure leaves half done what others rely on, the process ends
at once (fail-stop: Schlichting & Schneider, 1983): its clients resume elsewhere, and nothing is
lost, whereas going on might lose an event without a sign.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Callable, Coroutine
from typing import Any

_PAUSE_SECONDS = 0.5
EXIT_STATUS = 70
"""Of a process that ended itself: EX_SOFTWARE of sysexits.h."""


async def supervise(
    work: Callable[[], Coroutine[Any, Any, None]],
    failed: Callable[[Exception], None],
    pause: float = _PAUSE_SECONDS,
) -> None:
    """Do `work` until it ends by itself or is cancelled; after a failure, anew.

    Args:
        work: called each time it begins.
        failed: told of each failure, in its `except` block. It may fail as well: as a rule there
            is no memory, and then a line of the log cannot be had either.
        pause: seconds from a failure to the next beginning.
    """
    # Not with `contextlib.suppress`, which takes memory itself.
    while True:
        try:
            return await work()
        except Exception as error:
            try:  # noqa: SIM105
                failed(error)
            except Exception:  # noqa: S110
                pass
        try:
            await asyncio.sleep(pause)
        except MemoryError:
            # What cannot even wait would hold up all others for ever.
            fail_stop(b"herald: out of memory, not even to wait; ending, so that clients resume\n")


def log_failures(logger: logging.Logger, text: str) -> Callable[[Exception], None]:
    """For `supervise`: where a line in the log is all there is to do."""
    return lambda error: logger.error(text, exc_info=error)


def fail_stop(line: bytes) -> None:
    """End the process now: no drain, no `finally`, no memory needed. `line`: for stderr."""
    try:
        os.write(2, line)
    finally:
        os._exit(EXIT_STATUS)


def on_loop_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """An event loop's exception handler.

    A callback without memory may have been the one that wakes a task, writes to a channel or
    frees a place: nobody knows, and nobody calls it again. Failures that have closed a transport,
    or are a task's, have been dealt with.
    """
    dealt_with = "transport" in context or "task" in context or "future" in context
    if isinstance(context.get("exception"), MemoryError) and not dealt_with:
        fail_stop(b"herald: out of memory in the event loop; ending, so that clients resume\n")
    loop.default_exception_handler(context)


def on_unraisable(failure: Any) -> None:
    """A `sys.unraisablehook`: what C code could not even tell the loop, see `on_loop_error`."""
    if failure.exc_type is MemoryError:
        fail_stop(b"herald: out of memory in its libraries; ending, so that clients resume\n")
    sys.__unraisablehook__(failure)
