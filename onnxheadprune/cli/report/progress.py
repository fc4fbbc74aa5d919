"""Progress on stderr for work that takes its time: a bar on a terminal, lines with times elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import TypeAlias

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

Tell: TypeAlias = Callable[[str, int, int], None]
QUIET_SECONDS = 5.0
"""Work that is shorter than this writes no lines into a log."""
LINE_SECONDS = 10.0
"""A line of a log at most this often, but for a new stage."""


@contextlib.contextmanager
def progress_on(console: Console) -> Iterator[Tell]:
    """A function to tell what is being done, how much of it is done, and of how much (0: unknown).

    Args:
        console: stderr; what is no terminal gets a line now and then.
    """
    if not console.is_terminal:
        yield Lines(console).tell
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        tasks: dict[str, TaskID] = {}

        def tell(what: str, done: int, of: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=of or None)
            bar.update(tasks[what], completed=done, total=of or None)

        yield tell


class Lines:
    """Progress as lines with a time of day: "14:03:20 compensating, map by map: 12 of 36, 48 s left"."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._start = self._stage_start = clock()
        self._last: float | None = None
        self._stage = ""

    def tell(self, what: str, done: int, of: int) -> None:
        """Writes a line if one is due.

        Args:
            what: the stage.
            done: how much of it is done.
            of: how much there is to do, 0 if that is unknown.
        """
        now = self._clock()
        is_new = what != self._stage
        if is_new:
            self._stage, self._stage_start = what, now
        is_due = self._last is None or is_new or now - self._last >= LINE_SECONDS
        if now - self._start < QUIET_SECONDS or not is_due:
            return
        self._last = now
        line = f"{time.strftime('%H:%M:%S')} {what}"
        if of:
            line += f": {done} of {of}"
            spent = now - self._stage_start
            if 0 < done < of and spent > 1:
                line += f", {_spelled(spent / done * (of - done))} left"
        self._console.print(line, soft_wrap=True)


def _spelled(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole} s" if whole < 120 else f"{whole // 60} min {whole % 60:02d} s"
