"""The selection that meets a target: removed units, new weights, and all measurements."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from onnxheadprune.benchmarking.gate import Gate
from onnxheadprune.choosing.compensation.record import Compensation, refitted
from onnxheadprune.choosing.space import Selection
from onnxheadprune.display.spelling import many
from onnxheadprune.edit.plan import PrunePlan
from onnxheadprune.liveness.interface import AS_BEFORE, Interface
from onnxheadprune.model.load import LoadedModel
from onnxheadprune.model.one_line import one_line
from onnxheadprune.model.typed_json import HIDDEN, JsonObject, Key, written
from onnxheadprune.runtime.feeds.data import Basis

if TYPE_CHECKING:
    from onnxheadprune.benchmarking.result import SpeedUp
    from onnxheadprune.settings.cutting import Cut
    from onnxheadprune.training.result import Recovery


@dataclass(frozen=True)
class Trial(JsonObject):
    """A cut that was tried in the search for a call."""

    removed: int  # units that it removes
    # its speed-up, or its drift: the larger one of those on the held-out part and on all data
    measured: float
    meets: bool  # whether it meets the target
    speed: SpeedUp | None = None  # the speed-up at each grid point, None for a drift


@one_line("drift unit held_out selection compensation recovery trials")
@dataclass(frozen=True, eq=False)
class Chosen(JsonObject):
    """The selection that meets a call.

    Attributes:
        selection: the heads, and the basis of the selection.
        compensation: refitted weights, None without.
        recovery: weights that were trained after that, None without; where they are rejected, those of the
            compensation are written.
        trials: the cuts measured in the search for a speed-up or drift.
        drift: of the choice; None where it was not measured.
        unit: of the drift.
        held_out: whether the drift was measured on data that no refit has seen.
        speed: of the choice where the target is a speed-up, measured without refitted weights.
        plan: the cut, made for the refitted model if there is one.
        io: the inputs and outputs after the cut.
        given_up: the drift with a refit of quantized weights, where it was larger than without and so the old
            weights are kept; None where no refit was rejected.
        unreached: sites in branches that no sample of the data runs, so they cannot be scored and are kept.
    """

    selection: Selection
    compensation: Compensation | None = None
    recovery: Recovery | None = None
    trials: tuple[Trial, ...] = ()
    drift: float | None = None
    unit: Annotated[str | None, Key("drift_unit")] = None
    held_out: Annotated[bool, Key("drift_held_out")] = False
    speed: SpeedUp | None = None
    plan: Annotated[PrunePlan | None, HIDDEN] = None
    io: Annotated[Interface, HIDDEN] = AS_BEFORE
    given_up: Annotated[float | None, Key("refit_given_up")] = None
    unreached: tuple[str, ...] = ()

    @property
    def numbers(self) -> Compensation | Recovery | None:
        """The original's new weights, None where they are unchanged."""
        trained = self.recovery
        return self.compensation if trained is None or trained.rejected is not None else trained

    def renumbered(self, model: LoadedModel) -> LoadedModel:
        """The original with these weights; itself where there are none."""
        return model if self.numbers is None else refitted(model, self.numbers, self.steps)

    @property
    def steps(self) -> int:
        """The number of training steps."""
        earlier = 0 if self.compensation is None else self.compensation.steps
        return earlier + (
            self.recovery.best if self.recovery is not None and self.numbers is self.recovery else 0
        )

    @property
    def warning(self) -> str | None:
        """The reason why what was requested was not done, or not all of it; None if it was."""
        if self.recovery is not None and self.recovery.is_interrupted:
            return f"the training was interrupted after {many(self.recovery.steps, 'step')}"
        refit = self.compensation
        if refit is None or refit.done or not refit.refits:
            return None
        return (
            f"nothing was refitted, of {many(len(refit.refits), 'linear layer')}: {refit.refits[0].skipped}"
        )

    @property
    def basis(self) -> Basis:
        """The data that the drift is of."""
        trained = self.recovery is not None and self.numbers is self.recovery
        return basis_of(self.held_out, refitted=self.numbers is not None, trained=trained)

    @written("drift_measured_on")
    def _measured_on(self) -> str | None:
        return None if self.drift is None else self.basis.measured_on

    def limits(self, call: Cut, sizes: tuple[int, int]) -> tuple[Gate, ...]:
        """The limits that a call sets, with the values that this selection reaches.

        Args:
            sizes: bytes of the original's files, and of those that the cut leads to.
        """
        if call.target_size is not None:
            found = sizes[1] / sizes[0]
            return (Gate("max_size_ratio", "the cut", call.target_size, found, found <= call.target_size),)
        if call.max_drift is not None and self.drift is not None:
            kept = self.drift <= call.max_drift
            return (Gate("max_drift", "the cut", call.max_drift, self.drift, kept, self.unit),)
        if call.target_speedup is not None and self.speed is not None:
            least = call.target_speedup
            return (Gate("min_speedup", "the cut", least, self.speed.value, self.speed.reaches(least)),)
        return ()


def basis_of(held_out: bool, *, refitted: bool, trained: bool) -> Basis:
    """The data that figures of a choice are of."""
    if not held_out:
        seen = "refit" if refitted else "choice"
        return Basis(measured_on=f"the calibration data, which the {seen} has seen", seen_by=seen)
    unseen = ", which the refit has not seen" if refitted else ""
    if trained:
        unseen = ", which neither refit nor training has seen"
    return Basis(measured_on=f"held-out data{unseen}", held_out=True)
