"""What Kubernetes does with the chart's Deployment when its image changes, with local processes.

`maxSurge: 1`, `maxUnavailable: 0`: a new pod is started; once it is ready, an old one is deleted.
Deleting a pod does two things at once. Its endpoint is taken away, which reaches the nodes that
route to it a moment later; until then it still gets new connections. And its preStop hook sleeps,
then it gets SIGTERM, and SIGKILL where it has not ended when the grace period is over. Both times
count from the deletion (Kubernetes documentation, "Pod Lifecycle").

The next old pod goes when the one before has ended, as the chart's `minReadySeconds` has it: a new
pod counts only after the time that preStop and drain take.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from tests.harness.process import Herald


@dataclass(frozen=True)
class Times:
    """Seconds, as in the chart.

    Attributes:
        probe: between two looks at whether a new pod has started and is ready.
        routing: from a change of the endpoints until everyone routes by it.
        pre_stop, drain, grace: of a pod that is deleted.
    """

    probe: float = 1.0
    routing: float = 1.0
    pre_stop: float = 5.0
    drain: float = 30.0
    grace: float = 50.0


@dataclass(frozen=True)
class Moment:
    """Something that happened at `at` (loop time)."""

    at: float
    what: str


class Deployment:
    """Pods and the Service in front of them.

    Attributes:
        pods: all that run, also those that are about to end.
        endpoints: ports that connections are routed to.
        history: what was done when.
        killed: pods that outlived their grace period.
    """

    def __init__(self, start: Callable[[], Herald], times: Times) -> None:
        self._start = start
        self._times = times
        self._loop = asyncio.get_running_loop()
        self.pods: list[Herald] = []
        self.endpoints: list[int] = []
        self.history: list[Moment] = []
        self.killed = 0
        self._routing: set[asyncio.Task[None]] = set()

    async def create(self) -> Herald:
        """Start a pod; it gets connections once it is ready."""
        pod = await asyncio.to_thread(self._start)
        self.pods.append(pod)
        self._note("a pod is started")
        while not await asyncio.to_thread(pod.is_ready):
            assert pod.process.poll() is None, pod.log()
            await asyncio.sleep(self._times.probe)
        self._note("it is ready")
        self._route(lambda: self.endpoints.append(pod.port))
        return pod

    async def delete(self, pod: Herald) -> None:
        """Take a pod away; returns when it has ended."""
        self._note("a pod is deleted")
        self._route(lambda: self.endpoints.remove(pod.port))
        await asyncio.sleep(self._times.pre_stop)
        self._note("SIGTERM")
        pod.signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(self._times.grace - self._times.pre_stop):
                await asyncio.to_thread(pod.process.wait, self._times.grace)
        except TimeoutError:
            self.killed += 1
            pod.kill()
        self.pods.remove(pod)
        pod.http.close()
        self._note(f"it has ended with {pod.process.returncode}")

    async def roll(self) -> list[int]:
        """Replace every pod, one at a time; their exit statuses."""
        statuses = []
        for old in list(self.pods):
            await self.create()
            await self.delete(old)
            statuses.append(old.process.returncode)
        return statuses

    async def settled(self) -> None:
        """Until every change of the endpoints has reached everyone."""
        while self._routing:
            await asyncio.gather(*self._routing)

    async def close(self) -> None:
        for task in list(self._routing):
            task.cancel()
        await asyncio.gather(*self._routing, return_exceptions=True)

    def _route(self, change: Callable[[], None]) -> None:
        async def later() -> None:
            await asyncio.sleep(self._times.routing)
            change()

        task = asyncio.create_task(later())
        self._routing.add(task)
        task.add_done_callback(self._routing.discard)

    def _note(self, what: str) -> None:
        self.history.append(Moment(self._loop.time(), what))


@contextlib.asynccontextmanager
async def sampled(sample: Callable[[], None], seconds: float) -> AsyncIterator[None]:
    """Look every so often for as long as this lasts."""

    async def go_on() -> None:
        while True:
            sample()
            await asyncio.sleep(seconds)

    task = asyncio.create_task(go_on())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        sample()
