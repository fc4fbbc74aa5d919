"""What a recovery found: new contents of tensors, and how they came about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from onnxheadprune.runtime import Array


@dataclass(frozen=True)
class Measured:
    """The loss on data that no step has seen, after some steps."""

    step: int
    loss: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        return {"step": self.step, "loss": self.loss}


@dataclass(frozen=True, eq=False)
class Recovery:
    """New contents of initializers of the original, and how they came about.

    Attributes:
        stored: contents by initializer name, in the original's shapes and types; those of a refit before it included.
        data: fingerprint of the data.
        samples: samples that steps learned from.
        held_out: samples that no step has seen.
        trained: names of the original's tensors that were trained.
        constant: names of those that stayed as they were, with the reason.
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

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data, without the numbers themselves."""
        return {
            "data": self.data,
            "samples": self.samples,
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
            "curve": [item.to_dict() for item in self.curve],
            "best_step": self.best,
            "rejected": self.rejected,
            "stopped": self.stopped,
            "resumed_at_step": self.resumed,
            "seconds": self.seconds,
            "seed": self.seed,
            "precision": self.precision,
        }
