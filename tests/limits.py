"""What a hostile file may take at most: time and memory.

Time is that of the processor, so that a busy machine changes nothing; a real clock, which only ends what waits
for ever, has many times as much.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from onnxheadprune.cli import main
from onnxheadprune.runtime.memory_limits import give_back
from tests.conftest import Outcome
from tests.crashes import in_child

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


def limit_memory(more: int) -> None:
    """This process may have so many bytes of data on top of what it uses: what is freed and kept does not count."""
    give_back()
    used = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_DATA, (used + more, used + more))


def bounded(*arguments: object, memory: int = 1_500_000_000) -> Outcome:
    """The command line in a child of this process, with so many more bytes of memory and 20 seconds of work."""
    with tempfile.TemporaryDirectory() as folder:
        out, errors = Path(folder, "out"), Path(folder, "errors")

        def run() -> None:
            limit_memory(memory)
            limit_work(20)
            with (
                out.open("w", encoding="utf-8") as stdout,
                errors.open("w", encoding="utf-8") as stderr,
                contextlib.redirect_stdout(stdout),
                contextlib.redirect_stderr(stderr),
            ):
                code = main([str(argument) for argument in arguments])
            os._exit(code)

        _, status = os.waitpid(in_child(run), 0)
        texts = [path.read_text(encoding="utf-8") if path.exists() else "" for path in (out, errors)]
    return Outcome(os.waitstatus_to_exitcode(status), *texts)
