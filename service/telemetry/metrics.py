"""Prometheus metrics: plain numbers while running, turned into samples when scraped.

The hot paths add to attributes; nothing takes a lock. docs/operations.md lists every metric.
"""

from __future__ import annotations

import asyncio
import platform
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import NamedTuple, get_args

from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)

from service import __version__
from service.core.close import CloseCode
from service.ports import CutOff, Refused

_LATENCY = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_CODES = (*(str(int(code)) for code in CloseCode), "1005", "1006")
_STATUSES = ("400", "401", "403", "408", "413", "415", "422", "429", "500", "503")
_LINKS = ("publish", "read", "subscribe")
_TASKS = ("accept", "heartbeat", "audit", "garbage")


def _from_zero(*labels: str) -> Counter[str]:
    """A counter per label that is there before anything happened.

    The rate of one that appears with its first event leaves that event out.
    """
    return Counter(dict.fromkeys(labels, 0))


class _Histogram:
    """Counts per bucket; `bounds` are upper ends in seconds."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, seconds: float) -> None:
        # Clocks of two nodes may differ by a little: never below zero.
        seconds = max(seconds, 0.0)
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.total += seconds

    def family(self, name: str, text: str) -> HistogramMetricFamily:
        bounds = [*map(str, self.bounds), "+Inf"]
        buckets = list(zip(bounds, accumulate(self.counts), strict=True))
        return HistogramMetricFamily(name, text, buckets=buckets, sum_value=self.total)


class Gauge(NamedTuple):
    """A number that is asked for when scraped; None leaves it out."""

    name: str
    text: str
    read: Callable[[], float | None]


class Metrics:
    """The `Instrumentation` port, and the registry that is scraped."""

    def __init__(self) -> None:
        self.deliveries = 0
        self.delivered_bytes = 0
        self.received_messages = 0
        self.acks = 0
        self.pings = 0
        self.events_replayed = 0
        self.pushes = 0
        self.duplicate_pushes = 0
        self.heals = 0
        self.gaps = 0
        self.events_accepted = 0
        self.events_duplicate = 0
        self.events_uncopied = 0
        self._connects = 0
        self._refusals = _from_zero(*get_args(Refused))
        self._cut_offs = _from_zero(*get_args(CutOff))
        self._disconnects = _from_zero(*_CODES, "other")
        self._resumes = _from_zero("exact", "gap")
        self._publish_errors = _from_zero(*_STATUSES)
        self._reconnects = _from_zero(*_LINKS)
        self._key_fetches = _from_zero("good", "failed")
        self._task_failures = _from_zero(*_TASKS)
        self._drained = 0
        self._answers = _Histogram(_LATENCY)
        self._latency = _Histogram(_LATENCY)
        self._lateness = _Histogram(_LATENCY)
        self._round_trip = _Histogram(_LATENCY)
        self._gauges: list[Gauge] = []
        self.registry = CollectorRegistry()
        self.registry.register(self)
        ProcessCollector(registry=self.registry)
        GCCollector(registry=self.registry)

    def add_gauges(self, gauges: list[Gauge]) -> None:
        """Numbers that others hold."""
        self._gauges += gauges

    # The Instrumentation port

    def connected(self) -> None:
        self._connects += 1

    def refused(self, reason: Refused) -> None:
        self._refusals[reason] += 1

    def cut_off(self, reason: CutOff) -> None:
        self._cut_offs[reason] += 1

    def disconnected(self, code: int) -> None:
        # A client may close with any of 3000 to 4999: one label for those that are not ours.
        label = str(code)
        self._disconnects[label if label in self._disconnects else "other"] += 1

    def resumed(self, exact: bool) -> None:
        self._resumes["exact" if exact else "gap"] += 1

    def publish_refused(self, status: int) -> None:
        self._publish_errors[str(status)] += 1

    def answered(self, seconds: float) -> None:
        self._answers.observe(seconds)

    def written(self, seconds: float) -> None:
        self._latency.observe(seconds)

    def ponged(self, seconds: float) -> None:
        self._round_trip.observe(seconds)

    def engine_reconnected(self, link: str) -> None:
        self._reconnects[link] += 1

    def drained(self, connections: int) -> None:
        self._drained += connections

    def loop_was_late(self, seconds: float) -> None:
        self._lateness.observe(seconds)

    def keys_fetched(self, good: bool) -> None:
        self._key_fetches["good" if good else "failed"] += 1

    def task_failed(self, name: str) -> None:
        self._task_failures[name] += 1

    # The scrape

    def collect(self) -> Iterator[Metric]:
        """All of Herald's own metrics; called by the registry."""
        for name, text, value in (
            ("connects", "Connections that were admitted.", self._connects),
            ("events_accepted", "Events stored and answered.", self.events_accepted),
            ("events_duplicate", "Events that were known by their id.", self.events_duplicate),
            (
                "events_uncopied",
                "Events stored and refused, as too few replicas confirmed them.",
                self.events_uncopied,
            ),
            ("event_deliveries", "Events written to sockets.", self.deliveries),
            ("sent_bytes", "Bytes written to sockets.", self.delivered_bytes),
            ("client_messages", "Messages received from clients.", self.received_messages),
            ("client_acks", "Acknowledgements received.", self.acks),
            ("events_replayed", "Events read from a log for a client.", self.events_replayed),
            ("gaps", "Gaps told to clients.", self.gaps),
            ("pings", "Pings sent.", self.pings),
            ("engine_pushes", "Events pushed by the engine.", self.pushes),
            ("engine_duplicate_pushes", "Pushes seen before.", self.duplicate_pushes),
            ("heals", "Times a channel was read again to mend its pushes.", self.heals),
            ("drained_connections", "Connections closed by a drain.", self._drained),
        ):
            yield CounterMetricFamily(f"herald_{name}", text, value=value)
        for name, text, label, counts in (
            ("refusals", "Handshakes and connects refused.", "reason", self._refusals),
            ("http_cut_off", "HTTP connections ended for a limit.", "reason", self._cut_offs),
            ("disconnects", "Connections ended, by close code.", "code", self._disconnects),
            ("resumes", "Positions held against the log.", "outcome", self._resumes),
            ("publish_errors", "Publishes refused, by status.", "status", self._publish_errors),
            ("engine_reconnects", "Engine links opened again.", "link", self._reconnects),
            ("jwks_fetches", "The issuer's keys asked for.", "outcome", self._key_fetches),
            ("task_failures", "Tasks that failed and began again.", "task", self._task_failures),
        ):
            family = CounterMetricFamily(f"herald_{name}", text, labels=[label])
            for value_of_label, count in sorted(counts.items()):
                family.add_metric([value_of_label], count)
            yield family
        yield self._answers.family(
            "herald_publish_answer_seconds", "From a publish request to its 202."
        )
        yield self._latency.family(
            "herald_publish_to_write_seconds",
            "From the acceptance of an event to its write to the sockets of this process.",
        )
        yield self._round_trip.family("herald_ping_round_trip_seconds", "From a ping to its pong.")
        yield self._lateness.family(
            "herald_loop_delay_seconds", "How late the event loop was with a timer."
        )
        for gauge in self._gauges:
            number = gauge.read()
            if number is not None:
                yield GaugeMetricFamily(gauge.name, gauge.text, value=number)
        yield GaugeMetricFamily("herald_tasks", "asyncio tasks.", value=len(asyncio.all_tasks()))
        yield InfoMetricFamily(
            "herald_build",
            "Versions.",
            value={"version": __version__, "python": platform.python_version()},
        )
