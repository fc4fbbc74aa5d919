"""Tolerances between two runs of the same mathematics. The one place with such numbers.

All tolerances are relative to the scale of the output: its largest absolute value.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

from onnx import TensorProto

from onnxheadprune.model.graph.operator import (
    DEQUANTIZES,
    QUANTIZES,
    ROUNDS_ACTIVATIONS,
    is_a,
)
from onnxheadprune.model.graph.view import GraphView, Node
from onnxheadprune.model.typed_json import HIDDEN, JsonObject

POWER = 10.0
"""The least effect of silencing the heads, as a multiple of the difference, in which a wrong cut could not hide."""


@dataclass(frozen=True)
class Tolerance(JsonObject):
    """The differences that are allowed for models of one precision."""

    precision: str  # the class: "float32", "float64", "float16", "bfloat16" or "quantized"
    exact: float  # graph optimizations off, TF32 off
    deployed: float  # as ONNX Runtime runs it by default; fused kernels sum in another order
    # the relative distance of neighboring floats. Outputs that move by this much are rounded differently.
    epsilon: Annotated[float, HIDDEN]
    # activations are rounded to a few levels when deployed, so two right results may be a level apart
    has_levels: Annotated[bool, HIDDEN] = False

    @property
    def is_low(self) -> bool:
        """True for floats of 16 bits: ONNX Runtime may crash when it optimizes these, and ties are frequent."""
        return self.precision in ("float16", "bfloat16")

    def when_deployed(self, *, tf32: bool) -> float:
        """The tolerance at deployment settings; TF32 keeps as many bits of a product as float16."""
        return max(self.deployed, FLOAT16.deployed) if tf32 and self.precision == "float32" else self.deployed


FLOAT64 = Tolerance("float64", 1e-10, 1e-8, 2.0**-52)
FLOAT32 = Tolerance("float32", 1e-5, 1e-3, 2.0**-23)
FLOAT16 = Tolerance("float16", 4e-3, 2e-2, 2.0**-10)
BFLOAT16 = Tolerance("bfloat16", 3e-2, 1e-1, 2.0**-7)
# A float that rounds to the other side becomes one whole quantization step further on. The floats between the steps
# are as exact as those of any other model.
QUANTIZED = Tolerance("quantized", 5e-3, 5e-2, FLOAT32.epsilon, has_levels=True)

_COARSEST_FIRST = (
    (TensorProto.BFLOAT16, BFLOAT16),
    (TensorProto.FLOAT16, FLOAT16),
    (TensorProto.FLOAT, FLOAT32),
    (TensorProto.DOUBLE, FLOAT64),
)
INT8_LEVEL = 4
"""MatMulNBits' accuracy level that multiplies in int8."""


def tolerance_for(view: GraphView) -> Tolerance:
    """The class of a model: by quantized activations, else by the coarsest float that it computes in.

    Weights that are merely *stored* coarsely (float16 or int8 weights that are cast or dequantized
    before use) change nothing: both sides read the same numbers. Products that round activations only to be
    faster are run without at exact settings, so they widen what is allowed when deployed, and nothing else.
    """
    computed = {value.elem_type for value in view.values() if not value.is_constant}
    known = computed or {value.elem_type for value in view.values()}
    found = next((tolerance for elem_type, tolerance in _COARSEST_FIRST if elem_type in known), FLOAT32)
    if any(_rounds_activations(node) for node in view.nodes):
        return replace(QUANTIZED, epsilon=found.epsilon)
    if any(_rounds_for_speed(node) for node in view.nodes):
        return replace(found, deployed=max(found.deployed, QUANTIZED.deployed), has_levels=True)
    return found


def _rounds_activations(node: Node) -> bool:
    """Return whether a node rounds activations to a few quantized values."""
    if node in ROUNDS_ACTIVATIONS:
        return True
    if node in QUANTIZES:
        value = node.input(0)
        return value is not None and not value.is_constant
    return False


def _rounds_for_speed(node: Node) -> bool:
    """Return whether a node rounds activations to int8 in a deployment; see `runtime/int8_saturation.py`.

    Of weights that are dequantized in blocks and the product that reads them, ONNX Runtime makes such a node.
    """
    if node in DEQUANTIZES and node.attribute("block_size", 0):
        return node.inputs[0] is not None and node.inputs[0].is_constant
    return is_a(node, "com.microsoft.MatMulNBits") and node.attribute("accuracy_level", 0) == INT8_LEVEL
