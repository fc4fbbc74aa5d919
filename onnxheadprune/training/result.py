"""The result of a recovery: new contents of tensors, and how they came about."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal, TypeAlias

from onnxheadprune.display.spelling import many
from onnxheadprune.errors import UsageError
from onnxheadprune.model.one_line import one_line
from onnxheadprune.model.typed_json import HIDDEN, JsonObject, Key, Spelled, written
from onnxheadprune.runtime import Array

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


Help: TypeAlias = Literal["more data", "more time", "neither"]
INTERRUPTED = "interrupted"
"""Why a training ended early that its user has stopped."""
APART = 0.1
"""Part of a loss that two of them must be apart to say something."""


@dataclass(frozen=True)
class Measured(JsonObject):
    """The loss on data that no step has seen, after some steps."""

    step: int
    loss: float


def _rates(trials: Mapping[float, float]) -> list[dict[str, float]]:
    return [{"learning_rate": rate, "loss": loss} for rate, loss in trials.items()]


@one_line("best epochs steps seconds kind stopped data samples held_out")
@dataclass(frozen=True, eq=False, kw_only=True)
class Recovery(JsonObject):
    """New contents of initializers of the original, and how they came about.

    Attributes:
        stored: contents by initializer name, in the original's shapes and types; those of a refit before it included.
        data: fingerprint of the data.
        samples: that steps could learn from.
        used: samples that steps took, each as often as it was taken.
        repeated: True if samples were repeated because all had been used.
        left_out: samples of the data that are not for the model, by the reason.
        held_out: samples that no step has seen.
        kind: what it learned from.
        trained: names of the original's tensors that were trained.
        constant: names of those that stayed unchanged, with the reason.
        epochs: passes over the data that were made.
        steps: that were made.
        rate: the peak learning rate.
        trials: held-out loss by each learning rate that was tried before.
        learned: the loss of what was taken on some samples that steps learned from.
        curve: held-out loss at the start and on the way.
        best: the step whose numbers were taken, 0 for the start.
        stopped: why training ended early, None if it did not.
        resumed: the step at which an interrupted run was gone on with.
        seconds: that it took.
        seed: of the order of the data.
        rejected: why what was trained is not what is written, None where it is.
        unlearned: as `learned`, at the start.
        unit: what the user calls a sample.
        planned: the budget.
    """

    stored: Annotated[Mapping[str, Array], HIDDEN]
    data: str
    samples: int
    used: Annotated[int, Key("samples_used")]
    repeated: Annotated[bool, Key("seen_more_than_once")]
    left_out: Annotated[Mapping[str, int], Key("samples_left_out")]
    held_out: Annotated[int, Key("held_out_samples")]
    kind: Annotated[str, Key("learned_from")]
    trained: Annotated[tuple[str, ...], Key("tensors"), Spelled(Any, sorted)]
    constant: Mapping[str, str]
    epochs: float
    steps: int
    rate: Annotated[float, Key("learning_rate")]
    trials: Annotated[Mapping[float, float], Key("learning_rates_tried"), Spelled(Any, _rates)]
    learned: Annotated[float, Key("learned_loss")]
    curve: tuple[Measured, ...]
    best: Annotated[int, Key("best_step")]
    rejected: str | None = None
    stopped: str | None
    resumed: Annotated[int, Key("resumed_at_step")]
    seconds: float
    seed: int
    unlearned: Annotated[float, HIDDEN]
    unit: Annotated[str, HIDDEN]
    planned: Annotated[Budget | None, HIDDEN]

    @written("held_out_loss")
    def _losses(self) -> dict[str, float]:
        return {"before": self.before, "after": self.after}

    @property
    def is_interrupted(self) -> bool:
        """True if its user has stopped it."""
        return self.stopped == INTERRUPTED

    @property
    def before(self) -> float:
        """The held-out loss at the start."""
        return self.curve[0].loss

    @property
    def after(self) -> float:
        """The held-out loss of what was taken."""
        return next(item.loss for item in self.curve if item.step == self.best)

    @property
    @written()
    def would_help(self) -> Help:
        """The means that would bring outputs nearer, by how far losses fell on samples learned from and on others.

        Losses at the start make up for samples that are harder than others.
        """
        if self.repeated and self.learned * self.before < self.after * self.unlearned * (1 - APART):
            return "more data"
        return "more time" if self.after < self.before * (1 - APART) else "neither"

    @property
    def data_words(self) -> str:
        """A phrase on the data that steps learned from, and how much judged them."""
        if self.repeated:
            told = f"{many(self.samples, self.unit)}, {self.used / self.samples:.3g} times each"
        else:
            told = f"{self.used:,} of {many(self.samples, self.unit)}, none twice"
        left_out = [f"{many(count, self.unit)} {why}" for why, count in self.left_out.items()]
        return "; ".join(
            (f"training: {told}", f"held out: {self.held_out:,}", *(f"left out: {part}" for part in left_out))
        )

    @property
    def help_words(self) -> str:
        """A sentence on what would help most, with the losses that say so."""
        match self.would_help:
            case "more data":
                losses = f"{self.learned:.3g} on those it learned from, {self.after:.3g} on others"
                return f"more {self.unit}s: the loss is {losses}"
            case "more time":
                return f"more time: the loss fell from {self.before:.3g} to {self.after:.3g}, on all {self.unit}s alike"
        return f"neither more {self.unit}s nor more time: the loss went from {self.before:.3g} to {self.after:.3g}"
