"""Publishers where processes fork and end, each in a program of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.clients.conftest import retained
from tests.harness.process import KEY, PATIENCE, Herald, clean_environment, free_port

_PRELUDE = """
import os, sys, threading
from herald_client import Publisher, QueueOptions, Unavailable
CHANNEL = "user:" + sys.argv[1]
"""


def _run(url: str, user: str, program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", _PRELUDE + program, user],
        env=clean_environment(url=url, api_key=KEY),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


_FORKS = """
publisher = Publisher(queue=QueueOptions(linger=2.0))
publisher.publish(to=CHANNEL, type="t", data="before")     # a connection to share by accident
publisher.enqueue(to=CHANNEL, type="t", data="queued before")  # and an event still in the queue

def work(name):
    def publish(thread):
        for number in range(5):
            publisher.publish(to=CHANNEL, type="t", data=f"{name}-{thread}-{number}")
            publisher.enqueue(to=CHANNEL, type="t", data=f"{name}-{thread}-{number} queued")
    threads = [threading.Thread(target=publish, args=(number,)) for number in range(3)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()

children = []
for child in range(2):
    pid = os.fork()
    if pid == 0:
        work(f"child{child}")
        sys.exit(0)   # like a prefork server's worker: at-exit functions run
    children.append(pid)
work("parent")
for pid in children:
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
"""


def test_a_fork_shares_no_connection_and_no_queue(herald: Herald, user: str) -> None:
    duplicates = herald.metrics()["herald_events_duplicate_total"]
    # The parent has a thread when it forks, of which Python 3.12 warns.
    done = _run(herald.url, user, "import warnings; warnings.simplefilter('default')\n" + _FORKS)
    assert done.returncode == 0, done.stderr
    expected = ["before", "queued before"] + [
        f"{name}-{thread}-{number}{how}"
        for name in ("parent", "child0", "child1")
        for thread in range(3)
        for number in range(5)
        for how in ("", " queued")
    ]
    assert sorted(retained(herald, f"user:{user}")) == sorted(expected)
    assert herald.metrics()["herald_events_duplicate_total"] == duplicates, "none was sent twice"


@pytest.mark.parametrize("end", ["", "sys.exit(3)", "raise RuntimeError('the end')"])
def test_what_waits_when_the_program_ends_is_sent(herald: Herald, user: str, end: str) -> None:
    program = f"""
publisher = Publisher(queue=QueueOptions(linger=60.0))
for number in range(80):
    publisher.enqueue(to=CHANNEL, type="t", data=number)
{end}
"""
    done = _run(herald.url, user, program)
    assert done.returncode == {"": 0, "sys.exit(3)": 3}.get(end, 1), done.stderr
    assert retained(herald, f"user:{user}") == list(range(80))


def test_what_cannot_be_sent_when_the_program_ends_is_told(user: str) -> None:
    program = """
def tell(failed):
    assert isinstance(failed.error, Unavailable)
    print(failed.fields["data"], flush=True)

publisher = Publisher(queue=QueueOptions(on_failed=tell, exit_timeout=0.2))
for number in range(3):
    publisher.enqueue(to=CHANNEL, type="t", data=number)
Publisher().enqueue(to=CHANNEL, type="kept", data="to be logged")   # nobody holds this one
"""
    program = program.replace("Publisher()", "Publisher(queue=QueueOptions(exit_timeout=0.2))")
    done = _run(f"http://127.0.0.1:{free_port()}", user, program)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["0", "1", "2"]
    assert "an event was not published" in done.stderr
    assert "type='kept'" in done.stderr


def test_a_publisher_that_nobody_closed_ends_in_peace(herald: Herald, user: str) -> None:
    program = """
publisher = Publisher()
publisher.publish(to=CHANNEL, type="t", data=1)
publisher.enqueue(to=CHANNEL, type="t", data=2)
"""
    done = _run(herald.url, user, program)
    assert (done.returncode, done.stderr) == (0, "")
    assert retained(herald, f"user:{user}") == [1, 2]


def test_an_event_of_the_very_end_is_sent(herald: Herald, user: str) -> None:
    """From an at-exit function, when the thread is gone and no other may start."""
    program = """
import atexit
publisher = Publisher()

@atexit.register
def last():
    publisher.enqueue(to=CHANNEL, type="t", data="last")
"""
    done = _run(herald.url, user, program)
    assert done.returncode == 0, done.stderr
    assert retained(herald, f"user:{user}") == ["last"]
