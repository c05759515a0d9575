"""`python -m tests.chaos.blockable serve`: Herald, whose event loop SIGUSR2 blocks for 3 s."""

from __future__ import annotations

import signal
import time

from service.cli import main

if __name__ == "__main__":
    signal.signal(signal.SIGUSR2, lambda *_: time.sleep(3.0))
    main()
