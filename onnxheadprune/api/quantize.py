"""`quantize` and `combine` as functions."""

from __future__ import annotations

from typing import Unpack

from onnxheadprune.api import calls
from onnxheadprune.api.common import Output, Shown, data_of, heard
from onnxheadprune.api.keywords import keywords_of
from onnxheadprune.api.typed import CombineKeywords, QuantizeKeywords
from onnxheadprune.model.load import ModelLike
from onnxheadprune.settings.measuring import Rounding, Timing
from onnxheadprune.settings.setting import part_of
from onnxheadprune.settings.writing import Storing
from onnxheadprune.workflow.apart import Looking
from onnxheadprune.workflow.combine import Combination, CombineRequest, combined_through
from onnxheadprune.workflow.quantize import QuantizeRequest, QuantizeResult, quantized_through
from onnxheadprune.workflow.requests import Run, Writing, measure_of


@keywords_of(calls.QUANTIZE)
def quantize(
    model: ModelLike,
    output: Output = None,
    *,
    progress: Shown = None,
    **settings: Unpack[QuantizeKeywords],
) -> QuantizeResult:
    """Quantize a model with ONNX Runtime's own quantizer, try the result, then write it.

        result = ohp.quantize("model.onnx", "int8.onnx", to="int8-dynamic")
        result = ohp.quantize("model.onnx", "qdq.onnx", to="int8-qdq", data="sentences.txt")

    Args:
        model: the model, in floats.
        output: where to write; None writes nothing.
        {settings}
        progress: see `prune`.

    Raises:
        UsageError: if a keyword, a path or the data is wrong.
        ModelError: if the model cannot be read.
        RefusedError: if ONNX Runtime cannot quantize it, or it is quantized already.
    """
    given = calls.QUANTIZE.read(settings, output=output)
    request = QuantizeRequest(
        part_of(Rounding, given),
        Run(given.provider, given.seed, data_of(model, given)),
        Writing(output, part_of(Storing, given)),
        measure_of(given.drift),
    )
    return quantized_through(model, request, heard(progress))


@keywords_of(calls.COMBINE)
def combine(
    model: ModelLike,
    pruned: ModelLike,
    output: Output = None,
    *,
    progress: Shown = None,
    **settings: Unpack[CombineKeywords],
) -> Combination:
    """Compare a model, its pruned form, the model quantized, and both changes together in either order.

        found = ohp.combine("model.onnx", "pruned.onnx", to="int8-dynamic", data="sentences.txt")
        found = ohp.combine("model.onnx", "pruned.onnx", "best.onnx", to="int8-qdq", data="feeds.npz", batch=8)

    A fifth of the data is held out to measure on; ranges and refits use the rest.

    Args:
        model: the original, in floats.
        pruned: the result of `prune`.
        output: where to write the better of both orders; None writes nothing.
        {settings}
        progress: see `prune`.

    Raises:
        UsageError: if the models do not belong together, or the data does not fit.
        RefusedError: if ONNX Runtime cannot quantize a model.
    """
    given = calls.COMBINE.read(settings, output=output)
    request = CombineRequest(
        part_of(Rounding, given),
        Run(given.provider, given.seed, data_of(model, given)),
        Looking(measure_of(given.drift), given.metric),
        part_of(Timing, given),
        Writing(output, part_of(Storing, given)),
    )
    return combined_through(model, pruned, request, heard(progress))
