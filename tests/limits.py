"""What a hostile file may take at most: time and memory.

Time is that of the processor, so that a busy machine changes nothing; a real clock, which only ends what waits
for ever, has many times as much.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.conftest import ROOT

PATIENCE = 20
"""Seconds on the wall for one of work."""


@contextmanager
def within(seconds: int) -> Iterator[None]:
    """A block that must be done in so many seconds of work."""

    def late(*_: Any) -> None:
        raise TimeoutError(f"still at work after {seconds} seconds")

    handlers = {number: signal.signal(number, late) for number in (signal.SIGPROF, signal.SIGALRM)}
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE * seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in handlers.items():
            signal.signal(number, handler)


def limit_work(seconds: int) -> None:
    """This process ends after so many seconds of work from now on."""
    spent = resource.getrusage(resource.RUSAGE_SELF)
    allowed = int(spent.ru_utime + spent.ru_stime) + 1 + seconds
    resource.setrlimit(resource.RLIMIT_CPU, (allowed, allowed))
    signal.alarm(PATIENCE * seconds)


def bounded(*arguments: Any) -> subprocess.CompletedProcess[str]:
    """The command line with 1.5 GB of memory and 20 seconds of work."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (1_500_000_000, 1_500_000_000))
        limit_work(20)

    command = [sys.executable, "-m", "onnxheadprune", *map(str, arguments)]
    # Threads of a BLAS reserve memory of their own, on large machines more than is allowed here.
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, preexec_fn=limit, env=environment
    )
