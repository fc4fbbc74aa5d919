"""Progress of a whole call on stderr: a bar on a terminal, lines with times elsewhere.

A call is a sequence of stages of which each counts its own work. What is shown is where the call is among them, and how
long all of it may still take: the time of one stage says nothing about the end of a call.
"""

from __future__ import annotations

import contextlib
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from rich.console import Console, RenderableType

from onnxheadprune.reporting.console import is_asked
from onnxheadprune.runtime.progress import NOTE

if TYPE_CHECKING:
    from rich.progress import Progress

Tell: TypeAlias = Callable[[str, int, int], None]
QUIET_SECONDS = 5.0
"""Work that is shorter than this writes no lines into a log."""
LINE_SECONDS = 10.0
"""A line of a log at most this often, but for a new stage."""
LINE_WIDTH = 80
"""Columns of a log."""
KNOWN = 0.02
"""Part of a call that must be done before its end is estimated."""
SURE = 0.25
"""Part of a stage from which its own pace tells its end."""
ROOMY, NARROW = 100, 64
"""Columns of a terminal from which progress has a long bar and the time so far, and from which it has a bar."""
ALMOST = 0.95
"""Part of a stage that may be done at most as long as it does not say so."""


@dataclass(frozen=True)
class Stage:
    """A part of a call."""

    label: str  # what people read
    names: tuple[str, ...]  # what its messages begin with; those of the first name count its work
    weight: float = 1.0  # how long it usually takes, beside the other stages of a call
    seconds: float | None = None  # how long it takes where that is asked for; None where the weight says
    call: float | None = None  # how long the whole call takes where that is asked for


class Course:
    """The progress of a call. The text after the colon of a message changes as the work goes on."""

    def __init__(self, stages: Sequence[Stage] = (), clock: Callable[[], float] = time.monotonic) -> None:
        self._stages, self._clock = tuple(stages), clock
        self._start = self._stage_start = clock()
        self._position, self._share = -1, 0.0
        self._spent = 0.0
        self._what, self._counted = "", ""

    def at(self, what: str, done: int, of: int) -> bool:
        """Take note of a message."""
        work = what.partition(":")[0]
        found = self._found(work)
        is_new = found > self._position if self._stages else work != self._what.partition(":")[0]
        if is_new and self._stages:
            self._finish()
            self._position = found
        self._what = what
        self._counted = f"{done} of {of}" if of else ""
        if of and self._stages and found == self._position and work.startswith(self._stages[found].names[0]):
            self._share = max(self._share, min(done / of, 1.0))
        return is_new

    def _found(self, work: str) -> int:
        """The position of a stage; other messages belong to the one that is at work."""
        ahead = range(max(self._position, 0), len(self._stages))
        return next((i for i in ahead if work.startswith(self._stages[i].names)), self._position)

    def _finish(self) -> None:
        now = self._clock()
        if self._position >= 0 and self._stages[self._position].seconds is None:
            self._spent += now - self._stage_start
        self._stage_start, self._share = now, 0.0

    @property
    def line(self) -> str:
        """The state of the call: "2 of 4, compensating: 12 of 36"."""
        place = f"{self._position + 1} of {len(self._stages)}, " if self._position >= 0 else ""
        return f"{place}{self._what}" + (f": {self._counted}" if self._counted else "")

    @property
    def to_come(self) -> str:
        """The stages that follow: "then measuring drift, validating"; empty where none do."""
        labels = [stage.label for stage in self._stages[self._position + 1 :]] if self._position >= 0 else []
        return f"then {', '.join(labels)}" if labels else ""

    def left(self) -> float | None:
        """Seconds that all of the call may still take; None where nothing is known of that yet."""
        if self._position < 0:
            return None
        asked = next((stage.call for stage in self._stages if stage.call is not None), None)
        if asked is not None:
            return max(asked - (self._clock() - self._start), 0.0)
        now, (*done, current) = self._clock() - self._stage_start, self._stages[: self._position + 1]
        coming = self._stages[self._position + 1 :]
        fixed = sum(stage.seconds or 0.0 for stage in coming)
        weighed = sum(stage.weight for stage in coming if stage.seconds is None)
        worked = sum(stage.weight for stage in done if stage.seconds is None)
        if current.seconds is not None:
            rate = self._spent / worked if worked else None
            rest = max(current.seconds - now, 0.0)
            return None if rate is None and weighed else rest + fixed + weighed * (rate or 0.0)
        share, counted = self._share, self._share
        if not share and worked and self._spent:
            # It does not count its work: as long as its weight says, and then a little longer.
            share = min(now * worked / (self._spent * current.weight), ALMOST)
        worked += share * current.weight
        if worked < KNOWN * (worked + weighed + current.weight) or not worked:
            return None
        rate = (self._spent + now) / worked
        rest = (1 - share) * current.weight * rate
        if counted:
            # The pace of a stage tells its end the better the more of it is done.
            rest += min(counted / SURE, 1.0) * (now * (1 - counted) / counted - rest)
        return rest + fixed + weighed * rate

    def fraction(self) -> float | None:
        """The part of the call that is done, None where that is not known."""
        left = self.left()
        spent = self._clock() - self._start
        return None if left is None else spent / ((spent + left) or 1.0)


@contextlib.contextmanager
def progress_on(console: Console, stages: Iterable[Stage] = ()) -> Iterator[Tell]:
    """Yield a function to tell what is being done, how much of it is done, and of how much (0: unknown).

    Args:
        stages: of the call, in their order; without any no end is estimated.
    """
    verbose = is_asked("verbose")
    if verbose or not console.is_terminal:
        yield Lines(console, stages=tuple(stages), silent=0.0 if verbose else QUIET_SECONDS).tell
        return
    course = Course(tuple(stages))
    with _bar(lambda: course.to_come, console) as bar:
        task = bar.add_task("", total=None, left="")
        notes: set[str] = set()

        def tell(what: str, done: int, of: int) -> None:
            if what.startswith(NOTE):
                _once(console, what, notes)
                return
            course.at(what, done, of)
            part, left = course.fraction(), course.left()
            bar.update(
                task,
                description=course.line,
                total=None if part is None else 1.0,
                completed=part or 0.0,
                left="" if left is None else f"about {_spelled(left)} left",
            )

        yield tell


def _bar(to_come: Callable[[], str], console: Console) -> Progress:
    """Return one bar for the call, with a line below it on what is to come."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.table import Column
    from rich.text import Text

    class Bar(Progress):
        def get_renderables(self) -> Iterable[RenderableType]:
            yield from super().get_renderables()
            if text := to_come():
                yield Text(text, style="dim", no_wrap=True, overflow="ellipsis")

    # What is being done gives way to the bar where there is little room, and the bar to the estimate.
    what = TextColumn("{task.description}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis"))
    bar = [BarColumn(bar_width=40 if console.width >= ROOMY else 16)] if console.width >= NARROW else []
    elapsed = [TimeElapsedColumn()] if console.width >= ROOMY else []
    left = TextColumn("{task.fields[left]}", table_column=Column(no_wrap=True))
    return Bar(what, *bar, *elapsed, left, console=console, transient=True, expand=True)


class Lines:
    """Progress as lines with a time of day: "14:03:20 2 of 4, compensating: 12 of 36, about 5 min 10 s left in all"."""

    def __init__(
        self,
        console: Console,
        clock: Callable[[], float] = time.monotonic,
        stages: Sequence[Stage] = (),
        silent: float = QUIET_SECONDS,
    ) -> None:
        self._console, self._clock, self._silent = console, clock, silent
        self._start = clock()
        self._last: float | None = None
        self._course = Course(stages, clock)
        self._notes: set[str] = set()

    def tell(self, what: str, done: int, of: int) -> None:
        """Write a line if one is due."""
        if what.startswith(NOTE):
            _once(self._console, what, self._notes)
            return
        course, now = self._course, self._clock()
        is_new = course.at(what, done, of)
        is_due = self._last is None or is_new or now - self._last >= LINE_SECONDS
        if now - self._start < self._silent or not is_due:
            return
        self._last = now
        left = course.left()
        parts = [course.line, "" if left is None else f"about {_spelled(left)} left in all"]
        parts.append(course.to_come if is_new else "")
        now_words = f"{time.strftime('%H:%M:%S')} "
        told = textwrap.wrap(
            now_words + ", ".join(filter(None, parts)), LINE_WIDTH, subsequent_indent=" " * len(now_words)
        )
        self._console.print(*told, sep="\n", soft_wrap=True)


def _once(console: Console, note: str, said: set[str]) -> None:
    if note not in said:
        said.add(note)
        console.print(note, soft_wrap=True, markup=False, highlight=False)


def _spelled(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole} s" if whole < 120 else f"{whole // 60} min {whole % 60:02d} s"
