"""A request for a validation as one value, and the user's own measure of quality that it may ask for."""

from __future__ import annotations

from dataclasses import dataclass

from onnxheadprune.attention.specs import HeadSpec
from onnxheadprune.data.drift import Measure
from onnxheadprune.errors import UsageError, named_setting
from onnxheadprune.runtime import Provider
from onnxheadprune.runtime.feeds.samples import DataSource
from onnxheadprune.runtime.providers import AUTO
from onnxheadprune.validation.measure import Metric


@dataclass(frozen=True)
class ValidationRequest:
    """All that one validation is asked for, but for the two models."""

    heads: HeadSpec | None = None  # the removed heads, where the pruned model's metadata does not say
    data: DataSource | None = None  # the user's inputs
    # "auto", "cpu", "cuda" or another execution provider's name; or one that is resolved
    provider: str | Provider = AUTO
    seed: int = 0  # of the random inputs
    metric: Metric | None = None  # the user's own measure, a function or "module:function"; see `MetricMeter`
    # the measure of drift: "kl", "cosine" or a function; None goes by the kind of output
    effect: Measure | None = None
    # the data has the token ids of the pruned model, where these are others than the original's
    renumbered: bool = False
    unseen: bool = False  # the data is none that the weights were trained on, which the verdict then says

    def __post_init__(self) -> None:
        if self.metric is not None and self.data is None:
            raise UsageError(f"a metric is measured on your data; give it with {named_setting('data')}")
