"""`recover` as a function."""

from __future__ import annotations

from typing import Unpack

from onnxheadprune.api import calls
from onnxheadprune.api.common import Output, Shown, data_of, heard
from onnxheadprune.api.keywords import keywords_of
from onnxheadprune.api.typed import RecoverKeywords
from onnxheadprune.model.load import ModelLike
from onnxheadprune.settings.setting import part_of
from onnxheadprune.settings.writing import Storing
from onnxheadprune.workflow.pipeline import run_prune
from onnxheadprune.workflow.recover import recovery_request
from onnxheadprune.workflow.requests import Choice, Proving, Request, Run, Writing
from onnxheadprune.workflow.result import PruneResult


@keywords_of(calls.RECOVER)
def recover(
    model: ModelLike,
    pruned: ModelLike,
    output: Output = None,
    *,
    progress: Shown = None,
    **settings: Unpack[RecoverKeywords],
) -> PruneResult:
    """Train the remaining weights of a pruned model to match the original's outputs, prove and write the result.

        result = ohp.recover("model.onnx", "pruned.onnx", "recovered.onnx", data="sentences.txt", budget=10)
        result = ohp.recover("model.onnx", "pruned.onnx", "recovered.onnx", data="feeds.npz", time="5m")

    A twentieth of the samples is set aside to judge by.

    Args:
        model: the original.
        pruned: what `prune` made of it.
        output: where to write; None writes nothing.
        {settings}
        progress: see `prune`.

    Raises:
        UsageError: if the models do not belong together, or the data is no good for it.
        RefusedError: if no gradient reaches a weight.
        ValidationFailedError: if `pruned` is no exact cut of `model`, or the result is not shown to be one.
    """
    given = calls.RECOVER.read(settings, output=output)
    request = Request(
        Choice.training(given, resume=given.resume),
        run=Run(given.provider, given.seed, data_of(model, given)),
        proving=Proving(given.validate, given.accept_inconclusive),
        writing=Writing(output, part_of(Storing, given)),
    )
    return run_prune(model, recovery_request(model, pruned, request), heard(progress))
