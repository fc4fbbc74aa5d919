"""The result of a recovery: new contents of tensors, and how they came about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from onnxheadprune.model.display import one_line
from onnxheadprune.model.spelling import many
from onnxheadprune.model.typed_json import JsonObject
from onnxheadprune.runtime import Array
from onnxheadprune.training.budget import Budget

Help: TypeAlias = Literal["more data", "more time", "neither"]
APART = 0.1
"""Part of a loss that two of them must be apart to say something."""


@dataclass(frozen=True)
class Measured(JsonObject):
    """The loss on data that no step has seen, after some steps."""

    step: int
    loss: float


@one_line("best epochs steps seconds kind stopped data samples held_out")
@dataclass(frozen=True, eq=False)
class Recovery:
    """New contents of initializers of the original, and how they came about.

    Attributes:
        stored: contents by initializer name, in the original's shapes and types; those of a refit before it included.
        data: fingerprint of the data.
        samples: that steps could learn from.
        held_out: samples that no step has seen.
        trained: names of the original's tensors that were trained.
        constant: names of those that stayed unchanged, with the reason.
        epochs: passes over the data that were made.
        steps: that were made.
        rate: the peak learning rate.
        trials: held-out loss by each learning rate that was tried before.
        curve: held-out loss at the start and on the way.
        best: the step whose numbers were taken, 0 for the start.
        stopped: why training ended early, None if it did not.
        kind: what it learned from.
        seconds: that it took.
        seed: of the order of the data.
    """

    stored: Mapping[str, Array]
    data: str
    samples: int
    held_out: int
    trained: tuple[str, ...]
    constant: Mapping[str, str]
    epochs: float
    steps: int
    rate: float
    trials: Mapping[float, float]
    curve: tuple[Measured, ...]
    best: int
    stopped: str | None
    kind: str
    seconds: float
    seed: int
    resumed: int = field(default=0)
    """The step at which an interrupted run was gone on with."""
    precision: str = field(default="float32")
    """The type of the operands of products in steps: "float32", "tf32" or "float16"."""

    used: int = field(default=0)
    """Samples that steps took, each as often as it was taken."""
    learned: float = field(default=0.0)
    """The loss of what was taken on some samples that steps learned from."""
    unlearned: float = field(default=0.0)
    """The same at the start."""
    unit: str = field(default="sample")
    """What the user calls a sample."""
    planned: Budget | None = field(default=None)
    """What was asked for."""
    repeated: bool = field(default=False)
    """True if samples were repeated because all had been used."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Samples of the data that are not for the model, by the reason."""
    rejected: str | None = field(default=None)
    """Why what was trained is not what is written, None where it is."""

    @property
    def before(self) -> float:
        """The held-out loss at the start."""
        return self.curve[0].loss

    @property
    def after(self) -> float:
        """The held-out loss of what was taken."""
        return next(item.loss for item in self.curve if item.step == self.best)

    @property
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

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data, without the numbers themselves."""
        return {
            "data": self.data,
            "samples": self.samples,
            "samples_used": self.used,
            "seen_more_than_once": self.repeated,
            "samples_left_out": dict(self.left_out),
            "held_out_samples": self.held_out,
            "learned_from": self.kind,
            "tensors": sorted(self.trained),
            "constant": dict(self.constant),
            "epochs": self.epochs,
            "steps": self.steps,
            "learning_rate": self.rate,
            "learning_rates_tried": [
                {"learning_rate": rate, "loss": loss} for rate, loss in self.trials.items()
            ],
            "held_out_loss": {"before": self.before, "after": self.after},
            "learned_loss": self.learned,
            "would_help": self.would_help,
            "curve": [item.to_dict() for item in self.curve],
            "best_step": self.best,
            "rejected": self.rejected,
            "stopped": self.stopped,
            "resumed_at_step": self.resumed,
            "seconds": self.seconds,
            "seed": self.seed,
            "precision": self.precision,
        }
