"""`validate`: is the pruned model equal to the original with silenced heads?"""

from __future__ import annotations

from onnxheadprune.attention.heads import HeadSpec
from onnxheadprune.model.load import ModelLike
from onnxheadprune.runtime import Provider
from onnxheadprune.runtime.feeds import DataSource
from onnxheadprune.runtime.providers import AUTO
from onnxheadprune.selection.activations.drift import Measure
from onnxheadprune.validation.metric import Metric, MetricResult
from onnxheadprune.validation.proof import prove
from onnxheadprune.validation.request import ValidationRequest
from onnxheadprune.validation.result import Accuracy, CaseResult, Drift, Validation

__all__ = [
    "Accuracy",
    "CaseResult",
    "Drift",
    "MetricResult",
    "Validation",
    "ValidationRequest",
    "prove",
    "validate",
]


def validate(
    original: ModelLike,
    pruned: ModelLike,
    *,
    heads: HeadSpec | None = None,
    data: DataSource | None = None,
    provider: str | Provider = AUTO,
    seed: int = 0,
    metric: Metric | None = None,
    effect: Measure | None = None,
    unseen: bool = False,
) -> Validation:
    """Compares a pruned model with the masked reference, and measures what the cut costs.

    The masked reference is built from the *original*, for the heads that the pruned model's metadata
    says are gone. Both run on random inputs of several sizes, and on `data`. The verdict is "passed"
    only if silencing the heads moves the outputs enough for a wrong cut to show.

    Args:
        original: the model before the cut.
        pruned: the model after it.
        heads: the removed heads, where the pruned model's metadata does not say.
        data: the user's inputs; see `feeds.load_data` for the forms.
        provider: "auto", "cpu", "cuda" or another execution provider's name; or one that is resolved.
        seed: of the random inputs.
        metric: the user's own measure, a function or "module:function", called with (outputs, feed) per feed of `data`
            or once with (outputs, feeds); see `MetricMeter`.
        effect: the measure of drift: "kl", "cosine" or a function; None goes by the kind of output. See
            `calibration.drift.EffectMeter`.
        unseen: `data` is none that the weights were trained on, which the verdict then says.

    Raises:
        UsageError: if the models do not belong together, nothing was removed, or the data or metric does not fit.
        ModelError: if a model cannot be read, or the original itself does not load in ONNX Runtime.
        RefusedError: if the heads cannot be removed from the original.
        ProviderError: if the asked-for provider does not run here.
    """
    return prove(original, pruned, ValidationRequest(heads, data, provider, seed, metric, effect, unseen))
