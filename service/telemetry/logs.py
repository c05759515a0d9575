"""Structured logs: one line an event, as JSON or as key=value, without tokens or payloads."""

from __future__ import annotations

import logging
import re
import sys
from typing import TextIO

import structlog

_SECRETS = re.compile(
    # a JWT anywhere; a query's token; a credential in a header; the userinfo of a URL
    r"eyJ[A-Za-z0-9_-]*\.[A-Za-z0-9_-]*\.[A-Za-z0-9_-]*"
    r"|(?<=token=)[^&\s\"']+"
    r"|(?<=bearer\.)[^,\s\"']+"
    r"|(?<=[Bb]earer )[^,\s\"']+"
    r"|(?<=://)[^/@\s\"']*:[^/@\s\"']*(?=@)"
)


def redact(line: str) -> str:
    """Take what looks like a credential out of a line of text."""
    return _SECRETS.sub("[redacted]", line)


class _Formatter(structlog.stdlib.ProcessorFormatter):
    """Whatever a library logs, no credential leaves in it."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


def configure_logging(level: str, style: str, stream: TextIO | None = None) -> None:
    """Set up the root logger.

    Args:
        level: debug, info, warning or error, for Herald's own loggers; libraries log warnings.
        style: `json` or `console`.
        stream: standard error unless given.
    """
    renderer: structlog.typing.Processor
    if style == "json":
        renderer = structlog.processors.JSONRenderer()
    else:
        renderer = structlog.processors.LogfmtRenderer(
            key_order=["timestamp", "level", "event", "logger"], bool_as_flag=False
        )
    formatter = _Formatter(
        foreign_pre_chain=[
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_logger_name,
            structlog.stdlib.ExtraAdder(),
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,
        ],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
    )
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(formatter)
    logging.captureWarnings(True)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("herald").setLevel(level.upper())
    # At INFO uvicorn logs whole URLs, at DEBUG websockets logs headers and frames, both under this
    # name: tokens are in either.
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "websockets"):
        library = logging.getLogger(name)
        library.handlers = []
        library.propagate = True
        library.setLevel(logging.WARNING)
