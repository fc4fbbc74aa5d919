"""A limit that a pipeline sets, and whether it was kept."""

from __future__ import annotations

from dataclasses import dataclass

from onnxheadprune.display.facts import Fact
from onnxheadprune.display.spelling import accuracy
from onnxheadprune.model.typed_json import JsonObject

_SENTENCES = {
    "strict": "exactness of {subject} is {measured}, yes was asked for",
    "max_drift": "drift of {subject} is {value}{measure}, at most {limit} was asked for",
    "min_speedup": "the least speed-up of {subject} is {value} (1 if unmeasurable), at least {limit} was asked for",
    "min_accuracy": "accuracy at {subject} is {value}, at least {limit} was asked for",
    "max_accuracy_drop": "accuracy at {subject} {moves} by {value}, a fall of at most {limit} was asked for",
    "min_metric": "{subject} gives {value}, at least {limit} was asked for",
    "max_metric": "{subject} gives {value}, at most {limit} was asked for",
    "max_metric_drop": "{subject} {moves} by {value}, a fall of at most {limit} was asked for",
    "max_file_bytes": "{subject} takes {value} bytes, at most {limit} was asked for",
    "max_size_ratio": "{subject} takes {value} of the original's bytes, at most {limit} was asked for",
    "max_operations_ratio": "{subject} takes {value} of the original's operations, at most {limit} was asked for",
}
QUALITY = tuple(name for name in _SENTENCES if name.split("_")[1:2] in (["drift"], ["accuracy"], ["metric"]))
"""Limits on what a model gives, as opposed to what it takes."""


@dataclass(frozen=True)
class Gate(JsonObject):
    """One limit and whether it was kept."""

    name: str  # "strict", "max_drift", "min_speedup" or another limit of a job
    subject: str  # the model, output or metric that was judged
    limit: float  # what was asked for
    value: float | None  # what was found, None where nothing could be measured; that never passes
    passed: bool  # whether the limit was kept
    measure: str | None = None  # what a drift is measured in, the answer for "strict"; None for others

    @property
    def sentence(self) -> str:
        """The measured value and the limit."""
        drop = self.name.endswith("_drop")
        moved = abs(self.value) if drop and self.value is not None else self.value
        return _SENTENCES[self.name].format(
            subject=self.subject,
            moves="rises" if drop and (self.value or 0) < 0 else "falls",
            value="an unknown amount" if moved is None and drop else self._spelled(moved),
            limit=self._spelled(self.limit),
            measure="" if self.measure is None else f" ({self.measure})",
            measured=self.measure,
        )

    @property
    def fact(self) -> Fact:
        """The verdict and the measured value."""
        return Fact(
            "limit",
            f"{'kept' if self.passed else 'broken'}: {self.sentence}",
            "good" if self.passed else "bad",
        )

    def _spelled(self, value: float | None) -> str:
        """Counts in full, accuracies in percent, measures in four digits."""
        if value is None:
            return "unknown"
        if self.name == "max_accuracy_drop":
            return f"{accuracy(value).removesuffix(' %')} points"
        if "accuracy" in self.name:
            return accuracy(value)
        return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
