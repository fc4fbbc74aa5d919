"""Progress on stderr: a bar for the stage at work on a terminal, lines with times elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console

from onnxheadprune.reporting.console import is_asked
from onnxheadprune.runtime.progress import Note, Progress
from onnxheadprune.settings.words import option, spelled_by

QUIET_SECONDS = 5.0
"""Work that is shorter than this writes no lines into a log."""
LINE_SECONDS = 10.0
"""A line of a log at most this often, but for a new stage."""
NARROW = 64
"""Columns of a terminal from which progress has a bar."""


def stage_of(what: str) -> str:
    """The stage of a message: what stands before its colon, behind which the text changes as the work goes on."""
    return what.partition(":")[0]


@contextlib.contextmanager
def progress_on(console: Console) -> Iterator[Progress]:
    """Yield a function to tell what is being done, how much of it is done, and of how much (0: unknown)."""
    verbose = is_asked("verbose")
    if verbose or not console.is_terminal:
        yield Lines(console, silent=0.0 if verbose else QUIET_SECONDS).tell
        return
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bar
    from rich.table import Column

    # What is being done gives way to the bar where there is little room.
    what = TextColumn("{task.description}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis"))
    drawn = [BarColumn(bar_width=16)] if console.width >= NARROW else []
    with Bar(what, *drawn, console=console, transient=True, expand=True) as bar:
        task, stage, notes = bar.add_task("", total=None), "", set[str]()

        def tell(what: str, done: int, of: int) -> None:
            nonlocal stage
            if isinstance(what, Note):
                _once(console, what, notes)
                return
            if stage_of(what) != stage:
                stage = stage_of(what)
                bar.reset(task)
            bar.update(task, description=_line(what, done, of), total=of or None, completed=done)

        yield tell


class Lines:
    """Progress as lines with a time of day: "14:03:20 refitting, layer by layer: 12 of 36"."""

    def __init__(
        self,
        console: Console,
        clock: Callable[[], float] = time.monotonic,
        silent: float = QUIET_SECONDS,
    ) -> None:
        self._console, self._clock, self._silent = console, clock, silent
        self._start = clock()
        self._last: float | None = None
        self._stage = ""
        self._notes: set[str] = set()

    def tell(self, what: str, done: int, of: int) -> None:
        """Write a line if one is due."""
        if isinstance(what, Note):
            _once(self._console, what, self._notes)
            return
        now, is_new = self._clock(), stage_of(what) != self._stage
        self._stage = stage_of(what)
        is_due = self._last is None or is_new or now - self._last >= LINE_SECONDS
        if now - self._start >= self._silent and is_due:
            self._last = now
            self._console.print(f"{time.strftime('%H:%M:%S')} {_line(what, done, of)}", soft_wrap=True)


def _line(what: str, done: int, of: int) -> str:
    return f"{what}: {done} of {of}" if of else what


def _once(console: Console, note: Note, said: set[str]) -> None:
    if note not in said:
        said.add(note)
        console.print(f"note: {spelled_by(option, str(note))}", soft_wrap=True, markup=False, highlight=False)
