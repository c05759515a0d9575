"""One scrape for several worker processes.

Each worker answers on a unix socket of its own with its metrics; the one that is scraped asks the
others and adds a label `worker`. So any worker can be scraped, counters of different workers never
mix, and a worker that is away just leaves a hole in its own series.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

logger = logging.getLogger("herald.metrics")

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_TIMEOUT = 2.0


class _Merged:
    """A registry's stand-in that gives out what was gathered."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> Iterator[Metric]:
        return iter(self._families)


class Exposition:
    """Renders the metrics of this process, and of its sibling workers where there are any."""

    def __init__(self, registry: CollectorRegistry, directory: Path | None, worker: int) -> None:
        self._registry = registry
        self._directory = directory
        self._worker = worker
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Answer siblings."""
        if self._directory is not None:
            path = self._path(self._worker)
            path.unlink(missing_ok=True)
            self._server = await asyncio.start_unix_server(self._answer, path)

    async def close(self) -> None:
        """Stop answering."""
        if self._server is not None:
            self._server.close()
            self._path(self._worker).unlink(missing_ok=True)

    async def render(self) -> tuple[bytes, str]:
        """The text format and its content type."""
        own = generate_latest(self._registry)
        if self._directory is None:
            return own, CONTENT_TYPE
        texts = {self._worker: own}
        others = [
            int(path.stem.rpartition("-")[2])
            for path in self._directory.glob("metrics-*.sock")
            if path != self._path(self._worker)
        ]
        answers = await asyncio.gather(*(self._ask(worker) for worker in others))
        texts.update((worker, text) for worker, text in zip(others, answers, strict=True) if text)
        merged = _Merged(merge(texts))
        return generate_latest(merged), CONTENT_TYPE

    def _path(self, worker: int) -> Path:
        assert self._directory is not None
        return self._directory / f"metrics-{worker}.sock"

    async def _answer(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(generate_latest(self._registry))
        with contextlib.suppress(OSError):
            await writer.drain()
        writer.close()

    async def _ask(self, worker: int) -> bytes:
        try:
            async with asyncio.timeout(_TIMEOUT):
                reader, writer = await asyncio.open_unix_connection(self._path(worker))
                text = await reader.read(-1)
                writer.close()
                return text
        except OSError:
            logger.warning("a worker did not tell its metrics", extra={"worker": worker})
            return b""


def merge(texts: dict[int, bytes]) -> list[Metric]:
    """Join the metrics of several workers, each sample labelled with its worker."""
    families: dict[str, Metric] = {}
    for worker, text in sorted(texts.items()):
        for family in text_string_to_metric_families(text.decode()):
            merged = families.setdefault(
                family.name, Metric(family.name, family.documentation, family.type)
            )
            for sample in family.samples:
                labels = {**sample.labels, "worker": str(worker)}
                merged.samples.append(sample._replace(labels=labels))
    return list(families.values())
