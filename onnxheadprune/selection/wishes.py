"""Targets of a choice, and the choice that meets one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from onnxheadprune.benchmarking.request import BenchSettings
from onnxheadprune.benchmarking.result import SpeedUp
from onnxheadprune.edit.plan import PrunePlan
from onnxheadprune.errors import UsageError
from onnxheadprune.liveness.interface import AS_BEFORE, Interface
from onnxheadprune.model.one_line import one_line
from onnxheadprune.selection.allocate import Limits
from onnxheadprune.selection.compensation.result import Compensation
from onnxheadprune.selection.kinds import HEADS_ALONE, wishable
from onnxheadprune.selection.recovery.result import Recovery
from onnxheadprune.selection.scoring.score import scored_kinds
from onnxheadprune.selection.scoring.scores import METHODS, SHARES, HeadScores
from onnxheadprune.selection.space import Selection
from onnxheadprune.settings.cutting import AMOUNT, Cut, Method
from onnxheadprune.settings.setting import check


@dataclass(frozen=True, kw_only=True)
class Requirements:
    """The scores and limits of a choice, whatever its size.

    Attributes:
        scores: what heads, or units of all kinds that may go, are worth; None measures it on the data, or without data
            goes by the weights.
        limits: floors, multiples, uniformity.
        protect: a head spec of heads that stay; a bare site protects all of its heads.
        sizes: of the inputs that a speed-up is measured with, where one is: settings of `benchmark`.
        units: the kinds of units that may go: "heads", "neurons" and "layers" (sublayers as a whole). With more than
            heads a ratio is the share of the operations of the blocks, not of the heads.
        method: a method of `score` that scores them on the data, in the place of given scores; None measures cuts.

    Raises:
        UsageError: if there are scores and a method, or there is no such method or kind of unit.
    """

    scores: HeadScores | None = None
    limits: Limits = field(default_factory=Limits)
    protect: str | None = None
    sizes: BenchSettings = field(default_factory=BenchSettings)
    units: frozenset[str] = HEADS_ALONE
    method: Method | None = None

    def __post_init__(self) -> None:
        if not self.units or not self.units <= set(wishable()):
            raise UsageError(
                f"units are {', '.join(wishable())}, not {', '.join(sorted(self.units)) or 'none'}"
            )
        if self.method is not None and self.scores is not None:
            raise UsageError(
                "scores are given, so there is nothing to score by a method; leave one of the two out"
            )
        if self.method is not None and self.method not in METHODS:
            raise UsageError(f"there is no scoring method {self.method!r}; there are {', '.join(METHODS)}")
        if self.method is not None or self.scores is not None:
            scored_kinds(self.units)

    @property
    def measures(self) -> bool:
        """True if cuts are measured where there is data, since scores do not compare across sites."""
        if self.method is not None:
            return self.method in SHARES
        return self.scores is None or self.scores.are_shares


@one_line("ratio keep target_speedup max_drift units scores protect method")
@dataclass(frozen=True, kw_only=True)
class Wish(Requirements):
    """The number of units to remove, given in one of several ways, and the requirements of the choice.

    Attributes:
        ratio: share of all heads to remove.
        keep: heads that every site keeps.
        target_speedup: the smallest cut that is this many times as fast here, at every grid point (`SpeedUp`).
        max_drift: the largest cut that drifts no further on held-out data.

    Raises:
        UsageError: unless exactly one of these is given.
    """

    ratio: float | None = None
    keep: int | None = None
    target_speedup: float | None = None
    max_drift: float | None = None

    def __post_init__(self) -> None:
        ways = (self.ratio, self.keep, self.target_speedup, self.max_drift)
        if sum(way is not None for way in ways) != 1:
            raise UsageError(
                "say in one way how many heads are to go: by a ratio, by what every site keeps, by a speed-up or by a"
                " drift"
            )
        super().__post_init__()
        check(Cut, **{name: getattr(self, name) for name in AMOUNT.split()})


@dataclass(frozen=True)
class Trial:
    """A cut that was tried on the way to a target.

    Attributes:
        removed: units that it removes.
        measured: its speed-up, or its drift: the larger one of those on the held-out part and on all data.
        meets: whether that is good enough.
        speed: the speed-up at each grid point, None for a drift.
    """

    removed: int
    measured: float
    meets: bool
    speed: SpeedUp | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        found: dict[str, Any] = {"removed": self.removed, "measured": self.measured, "meets": self.meets}
        return found if self.speed is None else found | {"speed": self.speed.to_dict()}


@one_line("drift unit held_out selection compensation recovery trials")
@dataclass(frozen=True, eq=False)
class Chosen:
    """The answer to a wish.

    Attributes:
        selection: the heads, and why these.
        compensation: refitted weights, None without.
        recovery: weights that were trained after that, None without; where it says that they are rejected, those of the
            compensation are written.
        trials: what was measured on the way to a speed-up or drift.
        drift: of the choice; None where it was not measured.
        unit: of the drift.
        held_out: whether the drift was measured on data that no refit has seen.
        speed: of the choice where a speed-up was wished for, measured without refitted weights.
        plan: the cut, made for the refitted model if there is one.
        io: what the cut leaves of inputs and outputs.
        given_up: the drift that a refit of quantized weights would have had, where it was larger than without and
            the weights therefore stay; None where no refit was given up.
        unreached: sites in branches that no sample of the data runs, so that nothing is known of them and they stay.
    """

    selection: Selection
    compensation: Compensation | None = None
    recovery: Recovery | None = None
    trials: tuple[Trial, ...] = ()
    drift: float | None = None
    unit: str | None = None
    held_out: bool = False
    speed: SpeedUp | None = None
    plan: PrunePlan | None = None
    io: Interface = AS_BEFORE
    given_up: float | None = None
    unreached: tuple[str, ...] = ()

    @property
    def numbers(self) -> Compensation | Recovery | None:
        """The original's new numbers, None where they are as they were."""
        trained = self.recovery
        return self.compensation if trained is None or trained.rejected is not None else trained

    @property
    def steps(self) -> int:
        """Steps of training behind these numbers."""
        earlier = 0 if self.compensation is None else self.compensation.steps
        return earlier + (
            self.recovery.best if self.recovery is not None and self.numbers is self.recovery else 0
        )

    @property
    def measured_on(self) -> str:
        """What the drift was measured on, and what has seen that before."""
        trained = self.recovery is not None and self.numbers is self.recovery
        return data_words(self.held_out, refitted=self.numbers is not None, trained=trained)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data, without the plan, which is its own document."""
        return {
            "selection": self.selection.to_dict(),
            "compensation": None if self.compensation is None else self.compensation.to_dict(),
            "recovery": None if self.recovery is None else self.recovery.to_dict(),
            "trials": [trial.to_dict() for trial in self.trials],
            "drift": self.drift,
            "drift_unit": self.unit,
            "drift_held_out": self.held_out,
            "drift_measured_on": None if self.drift is None else self.measured_on,
            "refit_given_up": self.given_up,
            "unreached": list(self.unreached),
            "speed": None if self.speed is None else self.speed.to_dict(),
        }


def data_words(held_out: bool, *, refitted: bool, trained: bool) -> str:
    """A name for data that figures are of, which tells what has seen it, or has not."""
    if not held_out:
        return f"the calibration data, which the {'refit' if refitted else 'choice'} has seen"
    if trained:
        return "held-out data, which neither refit nor training has seen"
    return "held-out data, which the refit has not seen" if refitted else "held-out data"
