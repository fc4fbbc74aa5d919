"""The budget of a training: epochs, seconds, or what a whole call leaves of its seconds."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, replace

from onnxheadprune.errors import UsageError
from onnxheadprune.model.one_line import one_line

MOST_EPOCHS = 10_000
MOST_SECONDS = 7 * 24 * 3600.0
STARTUP = 1.0
"""Seconds that Python and libraries take to load before a call begins."""
LATE = 0.1
"""Part of the time of a call by which it may last longer without a word."""
SLACK = 0.02
"""Part of the time of a whole call that is left free: the end of it is known in advance only nearly."""


@one_line("epochs seconds call")
@dataclass(frozen=True)
class Budget:
    """One of the three."""

    # passes over the samples in memory. The same data and seed give the same bytes.
    epochs: float | None = None
    seconds: float | None = None  # until training ends, the search for a learning rate included
    # seconds of the whole call, from the making of this budget: what is left when training begins is its time
    call: float | None = None
    # how many of a network's files are proven after the training
    files: int = field(default=1, compare=False)
    reserved: float = field(default=0.0, compare=False)  # of these seconds, those for the proofs
    # when the call began, by the monotonic clock
    started: float = field(default_factory=time.monotonic, compare=False)

    def __post_init__(self) -> None:
        given = [item for item in (self.epochs, self.seconds, self.call) if item is not None]
        if len(given) != 1 or not (math.isfinite(given[0]) and given[0] > 0):
            what = "a recovery takes epochs or seconds" if self.call is None else "the time of a call is"
            raise UsageError(f"{what} above 0")
        if (self.epochs or 0) > MOST_EPOCHS or (self.seconds or self.call or 0) > MOST_SECONDS:
            raise UsageError(f"a recovery takes up to {MOST_EPOCHS:,} epochs or {MOST_SECONDS:,.0f} seconds")

    def __str__(self) -> str:
        if self.call is not None:
            return f"{self.call:g} s for the whole call"
        return f"{self.epochs:g} epochs" if self.seconds is None else f"{self.seconds:g} s"

    @property
    def left(self) -> float | None:
        """Seconds for a training that begins now, None of epochs."""
        if self.call is None:
            return self.seconds
        return max(self.call * (1 - SLACK) - STARTUP - self.spent - self.reserved, 0.0)

    @property
    def spent(self) -> float:
        """Seconds since the call began."""
        return time.monotonic() - self.started

    def shortest(self, trained: float) -> int | None:
        """Whole seconds of the shortest call that could have been kept, None where this one was.

        Args:
            trained: seconds of it that training took.
        """
        if self.call is None or self.spent + STARTUP <= self.call * (1 + LATE):
            return None
        return math.ceil(self.spent + STARTUP - trained)

    def shared(self, among: int) -> Budget:
        """An equal part of it."""
        if self.call is not None:
            # What is left now is divided; those that come later divide what is left then.
            return replace(self, call=None, seconds=max((self.left or 0.0) / among, 1e-3))
        if self.seconds is not None:
            return Budget(seconds=self.seconds / among)
        return Budget(epochs=(self.epochs or 0.0) / among)

    def turn(self, among: int, files: int = 1) -> Budget:
        """Give one of several that work here its part of the call: what is left now is for it and those that wait.

        Args:
            among: how many that are: networks of a folder, models of a batch, sizes of a sweep.
        """
        if self.call is None:
            return self
        return replace(self, call=self.spent + max(self.call - self.spent, 1e-3) / among, files=files)

    def part(self, among: int) -> Budget:
        """The same for one of several that work elsewhere: an equal part of what is left, from when it has `begun`."""
        if self.call is None:
            return self
        return replace(self, call=max(self.call - self.spent, 1e-3) / among)

    def begun(self) -> Budget:
        """The same from now on."""
        return replace(self, started=time.monotonic())

    def keeping(self, seconds: float) -> Budget:
        """The same with so many seconds of the call for the proof of each file."""
        return replace(self, reserved=seconds * self.files)


def parse_budget(text: str) -> Budget:
    """A budget from "10" (epochs) or "90s" (seconds; "5m" and "1h" as well)."""
    try:
        return (
            Budget(seconds=seconds) if (seconds := _seconds(text)) is not None else Budget(epochs=float(text))
        )
    except ValueError:
        raise UsageError(
            f"a recovery takes a number of epochs like 10, or a time like 90s or 5m, not {text!r}"
        ) from None


def parse_time(text: str) -> Budget:
    """The budget of a whole call from "90s", "5m" or "1h"."""
    try:
        seconds = _seconds(text)
    except ValueError:
        seconds = None
    if seconds is None:
        raise UsageError(f"the time of a call is given like 90s, 5m or 1h, not {text!r}")
    return Budget(call=seconds)


def _seconds(text: str) -> float | None:
    """Seconds from a number with a unit, None where it has none."""
    spelled = text.strip().lower()
    factor = {"s": 1, "m": 60, "h": 3600}.get(spelled[-1:])
    return None if factor is None else float(spelled[:-1]) * factor
