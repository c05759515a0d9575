"""Several worker processes on one port, and the parent that keeps them."""

from __future__ import annotations

import ctypes
import logging
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from service.app.node import Place

logger = logging.getLogger("herald.workers")

_PR_SET_PDEATHSIG = 1
_RESTART_SECONDS = 1.0
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def run_workers(count: int, work: Callable[[Place], None]) -> int:
    """Run `work` in `count` child processes until SIGTERM or SIGINT; gives back the exit status.

    A child that ends by itself is started again. Call it before there are threads or a loop.
    """
    return _Workers(count, work).run()


class _Workers:
    def __init__(self, count: int, work: Callable[[Place], None]) -> None:
        self._count = count
        self._work = work
        self._directory = Path(tempfile.mkdtemp(prefix="herald-workers-"))
        self._children: dict[int, int] = {}  # process id → worker number
        self._stopping = False
        self._failed = False

    def run(self) -> int:
        for number in _SIGNALS:
            signal.signal(number, self._stop)
        try:
            for worker in range(self._count):
                self._start(worker)
            while self._children:
                self._reap()
        finally:
            shutil.rmtree(self._directory, ignore_errors=True)
        return 1 if self._failed else 0

    def _start(self, worker: int) -> None:
        parent = os.getpid()
        sys.stdout.flush()
        sys.stderr.flush()
        # A signal between the fork and its entry would miss the new child.
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        if self._stopping:  # and one before the block would not be passed on to it
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            return
        pid = os.fork()
        if pid:
            self._children[pid] = worker
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            return
        status = 1
        try:
            # Ctrl-C in a terminal reaches every process; the parent passes it on, once.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            if sys.platform == "linux":
                # A killed parent's workers drain and end.
                ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() == parent:
                self._work(Place(worker, self._directory))
                status = 0
        except SystemExit as error:
            status = error.code if isinstance(error.code, int) else 1
        except BaseException:
            logger.exception("a worker failed")
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    def _reap(self) -> None:
        try:
            pid, status = os.wait()
        except InterruptedError:
            return
        worker = self._children.pop(pid, None)
        if worker is None:
            return
        code = os.waitstatus_to_exitcode(status)
        if self._stopping:
            # One that SIGTERM ended had not begun to serve.
            self._failed = self._failed or code not in (0, -signal.SIGTERM)
            return
        logger.error("a worker ended; starting another", extra={"worker": worker, "code": code})
        time.sleep(_RESTART_SECONDS)
        if not self._stopping:
            self._start(worker)

    def _stop(self, number: int, frame: object) -> None:
        self._stopping = True
        for pid in self._children:
            os.kill(pid, signal.SIGTERM)
