"""Element-wise operators with numpy broadcasting: every input is read where the output is live."""

from __future__ import annotations

from collections.abc import Sequence

from onnxheadprune.liveness.axes import broadcast_back
from onnxheadprune.liveness.live import Live, together
from onnxheadprune.liveness.refusal import Refusal
from onnxheadprune.liveness.registry import Answer, rule, unknown_shape
from onnxheadprune.model.graph.broadcasting import broadcast
from onnxheadprune.model.graph.facts import (
    ACTIVATES,
    ADDS,
    ADDS_ALL,
    CASTS,
    CASTS_LIKE,
    CHOOSES_ELEMENTS,
    CLIPS,
    COMPARES,
    DIVIDES,
    DROPOUTS,
    ELEMENTWISE,
    EXTREMES,
    IDENTITIES,
    JOINS_TRUTHS,
    MULTIPLIES,
    RAISES,
    REMAINDERS,
    SIGMOIDS,
    STANDS_FOR_PATTERN,
    SUBTRACTS,
    TESTS_NAN,
)
from onnxheadprune.model.graph.tables import ROLES, Roles, Shapes, shape_function
from onnxheadprune.model.graph.view import Node

IDENTITIES.add("Identity")
DROPOUTS.add("Dropout")
CASTS.add("Cast")
CASTS_LIKE.add("CastLike")
ADDS.add("Add")
MULTIPLIES.add("Mul")
DIVIDES.add("Div")
SUBTRACTS.add("Sub")
ADDS_ALL.add("Sum")
RAISES.add("Pow")
REMAINDERS.add("Mod")
EXTREMES.add("Max", "Min")
CLIPS.add("Clip")
SIGMOIDS.add("Sigmoid")
TESTS_NAN.add("IsNaN")
COMPARES.add("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")
JOINS_TRUTHS.add("And", "Or", "Xor", "Not")
CHOOSES_ELEMENTS.add("Where")

ROLES.add(("Where",), "", Roles(contents=(1, 2)))
ROLES.add(("Clip",), "", Roles(places=(1, 2)))

UNARY = (
    "Identity Cast Relu Gelu Erf Tanh Sigmoid Sqrt Neg Exp Log Abs Clip Not IsNaN IsInf Softplus"
    " Softsign Elu Selu LeakyRelu HardSwish HardSigmoid Floor Ceil Round Sign Reciprocal Sin Cos Tan"
    " Asin Acos Atan Sinh Cosh Asinh Acosh Atanh Swish Mish Celu ThresholdedRelu Shrink BitwiseNot"
).split()


BROADCASTING = (
    "Add Sub Mul Div Pow Where And Or Xor Equal Greater GreaterOrEqual Less LessOrEqual Max Min Mean"
    " Sum Mod PRelu BitwiseAnd BitwiseOr BitwiseXor BitShift"
).split()


MICROSOFT = ("Gelu", "QuickGelu", "FastGelu", "BiasGelu")

ELEMENTWISE.add(*UNARY, *BROADCASTING)
ELEMENTWISE.add(*MICROSOFT, domain="com.microsoft")
ACTIVATES.add(
    *"Relu Gelu Tanh Sigmoid Exp Softplus Softsign Elu Selu LeakyRelu PRelu".split(),
    *"HardSwish HardSigmoid Swish Mish Celu ThresholdedRelu".split(),
)
ACTIVATES.add(*MICROSOFT, domain="com.microsoft")
STANDS_FOR_PATTERN.add("Gelu", "Swish")
ROLES.add(MICROSOFT, "com.microsoft", Roles(alike=(0, 1), learned=(1,)))


@shape_function(*BROADCASTING)
def _broadcast_shape(node: Node) -> Shapes:
    return [broadcast([None if value is None else value.shape for value in node.inputs])]


@shape_function(*UNARY, "CastLike", "Dropout")
@shape_function(*MICROSOFT, domain="com.microsoft")
def _same_shape(node: Node) -> Shapes:
    return [node.shape(0)]


@rule(*UNARY, *BROADCASTING, ragged=True)
def _elementwise(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """Each input follows its broadcast against the output; scalars and other size-1 axes stay whole."""
    out_shape = node.out.shape
    inputs: dict[int, Live] = {}
    for index, value in enumerate(node.inputs):
        if value is None:
            continue
        if value.shape is None or out_shape is None:
            return unknown_shape(node)
        back = broadcast_back(lives[0], value.shape, out_shape)
        if back is None:
            return unknown_shape(node)
        inputs[index] = back
    return Answer(inputs)


@rule(*MICROSOFT, domain="com.microsoft", ragged=True)
def _fused_activation(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """Activations of ONNX Runtime, some with a bias along the last axis."""
    return _elementwise(node, lives)


@rule("CastLike", ragged=True)
def _cast_like(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """The second input only lends its type."""
    return Answer({0: lives[0]})


@rule("Dropout")
def _dropout(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """At inference the identity; ratio and training_mode are scalars."""
    live = together(lives)
    return Answer({0: live}, kept=(live,) * len(lives))
