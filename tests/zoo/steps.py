"""What people do to an exported file before they deploy it: optimizers, casts, quantizers, control flow."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime as ort
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

from tests.zoo.restructure import NotApplicableError, in_if, in_loop, layer_functions
from tests.zoo.runs import Arrays

if TYPE_CHECKING:
    from tests.zoo.build import Original

Step = Callable[[Path, Path, "Original"], None]
"""Writes another graph of an original: the source, the target, the original."""


class _Calibration(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, original: Original) -> None:
        case = original.case
        self._feeds: Iterator[Arrays] = iter([case.arrays(feed) for feed in range(len(case.feeds))])

    def get_next(self) -> Arrays | None:
        return next(self._feeds, None)


def _ort(level: ort.GraphOptimizationLevel, source: Path, target: Path, original: Original) -> None:
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    options.optimized_model_filepath = str(target)
    options.log_severity_level = 4
    ort.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])


def _slim(source: Path, target: Path, original: Original) -> None:
    onnx.save(import_module("onnxslim").slim(onnx.load(source)), target)


def _sim(source: Path, target: Path, original: Original) -> None:
    model, checked = import_module("onnxsim").simplify(onnx.load(source))
    if not checked:
        raise RuntimeError("onnxsim's own check failed")
    onnx.save(model, target)


def _float16(source: Path, target: Path, original: Original) -> None:
    from onnxruntime.transformers.float16 import convert_float_to_float16

    onnx.save(convert_float_to_float16(onnx.load(source), keep_io_types=True), target)


def _int8_dynamic(source: Path, target: Path, original: Original) -> None:
    # ONNX's shape inference gives up behind ONNX Runtime's own operators.
    options = {"DefaultTensorType": onnx.TensorProto.FLOAT}
    quantize_dynamic(source, target, weight_type=QuantType.QInt8, extra_options=options)
    _must_contain(target, "MatMulInteger", "ConvInteger", "DynamicQuantizeMatMul")


# Not Add and Where: a mask of -3e38 among the values leaves no bits for the rest.
CONTRACTIONS = ("MatMul", "Gemm", "Conv")
WIDE = (*CONTRACTIONS, "Reshape", "Transpose", "Split", "Concat", "Slice", "Gather")


def _static(
    source: Path,
    target: Path,
    original: Original,
    *,
    quant_format: QuantFormat,
    per_channel: bool,
    op_types: Sequence[str],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        inferred = Path(folder) / "inferred.onnx"
        # Symbolic shape inference gives up on many of these graphs; the quantizer copes without.
        quant_pre_process(source, inferred, skip_optimization=True, skip_symbolic_shape=True)
        quantize_static(
            inferred,
            target,
            _Calibration(original),
            quant_format=quant_format,
            per_channel=per_channel,
            op_types_to_quantize=list(op_types),
        )
    _must_contain(target, "QuantizeLinear")


def _matmul_nbits(bits: int, source: Path, target: Path, original: Original) -> None:
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    quantizer = MatMulNBitsQuantizer(onnx.load(source), bits=bits, block_size=16, is_symmetric=True)
    quantizer.process()
    onnx.save(quantizer.model.model, target)
    _must_contain(target, "MatMulNBits")


def _external_data(source: Path, target: Path, original: Original) -> None:
    onnx.save(
        onnx.load(source), target, save_as_external_data=True, location="model.onnx.data", size_threshold=256
    )


def _fused(source: Path, target: Path, original: Original) -> None:
    from onnxruntime.transformers.fusion_options import FusionOptions
    from onnxruntime.transformers.optimizer import optimize_model

    kind, first = original.case.fusion, original.case.projections[0]
    if kind is None:
        raise NotApplicableError("no model type of the transformer optimizer fits")
    optimized = optimize_model(
        *(str(source), kind, first.num_heads, first.num_heads * first.head_size),
        optimization_options=FusionOptions(kind),
        opt_level=0,
    )
    optimized.save_model_to_file(str(target))
    _must_contain(target, "Attention", "MultiHeadAttention", domain="com.microsoft")


def _bfloat16(source: Path, target: Path, original: Original) -> None:
    """Stores the weights of contractions as bfloat16 behind a Cast, as size-reducers do."""
    model = onnx.load(source)
    wanted = {node.input[1] for node in model.graph.node if node.op_type in ("MatMul", "Gemm")}
    casts = []
    for tensor in model.graph.initializer:
        if tensor.name in wanted and tensor.data_type == onnx.TensorProto.FLOAT:
            array = onnx.numpy_helper.to_array(tensor)
            name = tensor.name
            bits = (array.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
            tensor.Clear()
            tensor.name, tensor.data_type = f"{name}_bf16", onnx.TensorProto.BFLOAT16
            tensor.dims.extend(array.shape)
            tensor.raw_data = bits.tobytes()
            casts.append(onnx.helper.make_node("Cast", [tensor.name], [name], to=onnx.TensorProto.FLOAT))
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*casts, *nodes])
    onnx.save(model, target)


def _must_contain(path: Path, *op_types: str, domain: str | None = None) -> None:
    nodes = onnx.load(path, load_external_data=False).graph.node
    if not any(n.op_type in op_types and domain in (None, n.domain) for n in nodes):
        path.unlink()
        raise NotApplicableError(f"the result has none of {', '.join(op_types)}")


STEPS: dict[str, Step] = {
    "ort-basic": partial(_ort, ort.GraphOptimizationLevel.ORT_ENABLE_BASIC),
    "ort-extended": partial(_ort, ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED),
    "slim": _slim,
    "sim": _sim,
    "fp16": _float16,
    "bf16w": _bfloat16,
    "int8dyn": _int8_dynamic,
    "qdq": partial(_static, quant_format=QuantFormat.QDQ, per_channel=True, op_types=CONTRACTIONS),
    "qdq-tensor": partial(_static, quant_format=QuantFormat.QDQ, per_channel=False, op_types=WIDE),
    "qop": partial(_static, quant_format=QuantFormat.QOperator, per_channel=False, op_types=CONTRACTIONS),
    "nbits4": partial(_matmul_nbits, 4),
    "nbits8": partial(_matmul_nbits, 8),
    "extdata": _external_data,
    "ort-fused": _fused,
    "in-if": in_if,
    "in-loop": in_loop,
    "functions": layer_functions,
}

TOLERANCES: dict[str, float | None] = {
    **dict.fromkeys(("fp16", "ts17half", "dyn18half"), 2e-2),
    "bf16w": 5e-2,
    **dict.fromkeys(("int8dyn", "qdq", "qdq-tensor", "qop", "nbits4", "nbits8")),
}
"""Tolerance of the steps that change numbers; None where torch's reference says nothing."""
