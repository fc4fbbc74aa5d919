"""The result of a recovery: new contents of tensors, and how they came about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

from onnxheadprune.display.spelling import many
from onnxheadprune.model.one_line import one_line
from onnxheadprune.model.typed_json import HIDDEN, JsonObject, Key, Spelled, written
from onnxheadprune.runtime import Array
from onnxheadprune.training.budget import Budget

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
