"""What a hostile file may take at most: time and memory."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.conftest import ROOT


@contextmanager
def within(seconds: int) -> Iterator[None]:
    """A block that must be done in time."""

    def late(*_: Any) -> None:
        raise TimeoutError(f"still at work after {seconds} seconds")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def bounded(*arguments: Any) -> subprocess.CompletedProcess[str]:
    """The command line with 1.5 GB of memory and 20 seconds."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (1_500_000_000, 1_500_000_000))

    command = [sys.executable, "-m", "onnxheadprune", *map(str, arguments)]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=20, preexec_fn=limit
    )
