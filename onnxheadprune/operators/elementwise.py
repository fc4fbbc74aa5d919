"""Element-wise operators with numpy broadcasting: every input is read where the output is live."""

from __future__ import annotations

from collections.abc import Sequence

from onnxheadprune.liveness.axes import broadcast_back
from onnxheadprune.liveness.live import Live, together
from onnxheadprune.liveness.refusals import Refusal, unknown_shape
from onnxheadprune.liveness.registry import Answer, rule
from onnxheadprune.model.graph.dims import broadcast
from onnxheadprune.model.graph.facts import (
    ACTIVATES,
    ADDS,
    ADDS_ALL,
    CASTS,
    CASTS_LIKE,
    CHOOSES_ELEMENTS,
    CLIPS,
    COMPARES,
    CRASHES_INFERENCE,
    DIVIDES,
    DROPOUTS,
    ELEMENTWISE,
    EQUALS,
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
    VANISHES,
)
from onnxheadprune.model.graph.tables import Roles, Shapes, declare, shape_function
from onnxheadprune.model.graph.view import Node

declare("Identity", kinds=(IDENTITIES, ELEMENTWISE))
declare("Dropout", kinds=(DROPOUTS,), roles=Roles(training_mode=2))
declare("Cast", kinds=(CASTS, ELEMENTWISE))
declare("CastLike", kinds=(CASTS_LIKE,))
declare("Add", kinds=(ELEMENTWISE, ADDS))
declare("Mul", kinds=(ELEMENTWISE, MULTIPLIES))
declare("Div", kinds=(ELEMENTWISE, DIVIDES))
declare("Sub", kinds=(ELEMENTWISE, SUBTRACTS))
declare("Sum", kinds=(ELEMENTWISE, ADDS_ALL))
declare("Pow", kinds=(ELEMENTWISE, RAISES))
declare("Mod", kinds=(ELEMENTWISE, REMAINDERS))
declare("Max", "Min", kinds=(ELEMENTWISE, EXTREMES))
declare("Clip", kinds=(ELEMENTWISE, CLIPS), roles=Roles(places=(1, 2)))
declare("Relu", "Exp", "Softplus", kinds=(ELEMENTWISE, ACTIVATES, VANISHES))
declare("Sigmoid", kinds=(ELEMENTWISE, SIGMOIDS, ACTIVATES, VANISHES))
declare("IsNaN", kinds=(ELEMENTWISE, TESTS_NAN))
declare("RegexFullMatch", kinds=(CRASHES_INFERENCE,))
declare("Equal", kinds=(ELEMENTWISE, COMPARES, EQUALS))
declare("Greater", "GreaterOrEqual", "Less", "LessOrEqual", kinds=(ELEMENTWISE, COMPARES))
declare("And", "Or", "Xor", "Not", kinds=(ELEMENTWISE, JOINS_TRUTHS))
declare("Where", kinds=(ELEMENTWISE, CHOOSES_ELEMENTS), roles=Roles(contents=(1, 2)))
declare(
    *"Tanh Softsign Elu Selu LeakyRelu HardSwish HardSigmoid Mish Celu ThresholdedRelu PRelu".split(),
    kinds=(ELEMENTWISE, ACTIVATES),
)
declare("Gelu", "Swish", kinds=(ELEMENTWISE, ACTIVATES, STANDS_FOR_PATTERN))
declare(
    *"Erf Sqrt Neg Log Abs IsInf Floor Ceil Round Sign Reciprocal Sin Cos Tan Asin Acos Atan".split(),
    *"Sinh Cosh Asinh Acosh Atanh Shrink BitwiseNot Mean BitwiseAnd BitwiseOr BitwiseXor BitShift".split(),
    kinds=(ELEMENTWISE,),
)
declare(
    "Gelu",
    "QuickGelu",
    "FastGelu",
    "BiasGelu",
    domain="com.microsoft",
    kinds=(ELEMENTWISE, ACTIVATES),
    roles=Roles(alike=(0, 1), learned=(1,)),
)


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


@shape_function(*BROADCASTING)
def _broadcast_shape(node: Node) -> Shapes:
    return [broadcast([None if value is None else value.shape for value in node.inputs])]


@shape_function(*UNARY, "CastLike", "Dropout")
@shape_function(*MICROSOFT, domain="com.microsoft")
def _same_shape(node: Node) -> Shapes:
    return [node.shape(0)]


@rule(*UNARY, *BROADCASTING, ragged=True, runs=True)
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


@rule(*MICROSOFT, domain="com.microsoft", ragged=True, runs=True)
def _fused_activation(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """Activations of ONNX Runtime, some with a bias along the last axis."""
    return _elementwise(node, lives)


@rule("CastLike", ragged=True, runs=True)
def _cast_like(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """The second input only lends its type."""
    return Answer({0: lives[0]})


@rule("Dropout", runs=True)
def _dropout(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """At inference the identity; ratio and training_mode are scalars."""
    live = together(lives)
    return Answer({0: live}, kept=(live,) * len(lives))
