"""`quantize` as a function."""

from __future__ import annotations

from typing import Unpack

from onnxheadprune.api import calls
from onnxheadprune.api.common import Output, Shown, data_of, heard
from onnxheadprune.api.keywords import keywords_of
from onnxheadprune.api.typed import QuantizeKeywords
from onnxheadprune.model.load import ModelLike
from onnxheadprune.settings.measuring import Rounding
from onnxheadprune.settings.setting import part_of
from onnxheadprune.settings.writing import Storing
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
