"""`validate` as a function."""

from __future__ import annotations

from typing import Unpack

from onnxheadprune.api import calls
from onnxheadprune.api.common import data_of, subject_of
from onnxheadprune.api.keywords import keywords_of
from onnxheadprune.api.typed import ValidateKeywords
from onnxheadprune.model.load import ModelLike
from onnxheadprune.validation.result import Validation
from onnxheadprune.workflow.validate import run_validation


@keywords_of(calls.VALIDATE)
def validate(original: ModelLike, pruned: ModelLike, **settings: Unpack[ValidateKeywords]) -> Validation:
    """Compare a pruned model with the original whose removed heads are silenced, and measure the drift.

        verdict = ohp.validate("model.onnx", "pruned.onnx")
        verdict = ohp.validate("model.onnx", "pruned.onnx", data="held_out.npz", max_drift=0.02)

    The masked reference is built from the *original*, for the heads that the pruned model's metadata lists. Both run on
    random inputs of several sizes, and on `data`. The verdict is "passed" only if silencing the heads moves the outputs
    enough for a wrong cut to show. Where its graph is not the planned one, `exact` is "tried": equal on all inputs that
    were run, and no more is known. `passed` is True if the verdict is "passed" and all limits are kept; `gates` has a
    sentence on each limit.

    Args:
        original: the model before the cut.
        pruned: the model after it.
        {settings}

    Raises:
        UsageError: if the models do not belong together, nothing was removed, or the data or metric does not fit.
        ModelError: if a model cannot be read, or the original itself does not load in ONNX Runtime.
        RefusedError: if the heads cannot be removed from the original.
        ProviderError: if the named provider does not run here.
    """
    given = calls.VALIDATE.read(settings)
    before, after = (subject_of(item, given.follow_links) for item in (original, pruned))
    return run_validation(before, after, given, data_of(before, given))
