"""Gradients of element-wise operators: the derivative at each element, summed where an operand was broadcast."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import reduce

import numpy as np
from onnx import TensorProto

from onnxheadprune.edit.gradients import Constant, Partials, Step, Term, decomposition, gradient

SLOPES: dict[str, Callable[[Step], Term]] = {
    "Identity": lambda step: step.grad,
    "Neg": lambda step: -step.grad,
    "Sqrt": lambda step: step.grad * 0.5 / step.output(),
    "Reciprocal": lambda step: -(step.grad * (step.output() * step.output())),
    "Exp": lambda step: step.grad * step.output(),
    "Log": lambda step: step.grad / step.input(0),
    "Abs": lambda step: step.grad * step.input(0).op("Sign"),
    "Sin": lambda step: step.grad * step.input(0).op("Cos"),
    "Cos": lambda step: -(step.grad * step.input(0).op("Sin")),
    "Erf": lambda step: step.grad * (_bell(step.input(0), 1.0) * (2 / math.sqrt(math.pi))),
    "Tanh": lambda step: step.grad - step.grad * (step.output() * step.output()),
    "Sigmoid": lambda step: step.grad * (step.output() - step.output() * step.output()),
    "Softplus": lambda step: step.grad * step.input(0).op("Sigmoid"),
    "Relu": lambda step: step.output().test("Greater", 0.0).where(step.grad, 0.0),
    "LeakyRelu": lambda step: _bent(step, float(step.node.attribute("alpha", 0.01))),
    "Elu": lambda step: _bent(step, step.output() + float(step.node.attribute("alpha", 1.0))),
    "HardSigmoid": lambda step: _between(step.output(), 0.0, 1.0).where(
        step.grad * step.node.attribute("alpha", 0.2), 0.0
    ),
    "Gelu": lambda step: step.grad * _normal_slope(step.input(0), step.node.attribute("approximate", "none")),
    "Swish": lambda step: step.grad * _swish_slope(step.input(0), float(step.node.attribute("alpha", 1.0))),
    "com.microsoft.Gelu": lambda step: step.grad * _gelu_slope(step.input(0)),
    "com.microsoft.QuickGelu": lambda step: (
        step.grad * _swish_slope(step.input(0), float(step.node.attribute("alpha", 1.702)))
    ),
}
"""Gradients by the operator, of those with one operand."""


def _of_one_operand(slope: Callable[[Step], Term]) -> Callable[[Step], Partials]:
    return lambda step: {0: slope(step)}


for _operator, _slope in SLOPES.items():
    gradient(_operator)(_of_one_operand(_slope))


def _bent(step: Step, slope: Term | float) -> Term:
    """The gradient of what is positive as it is, else times a slope."""
    return step.input(0).test("Greater", 0.0).where(step.grad, step.grad * slope)


@gradient("Softsign")
def _softsign_gradient(step: Step) -> Partials:
    """d(x / (1 + |x|)) = dx / (1 + |x|) ** 2."""
    below = step.input(0).op("Abs") + 1.0
    return {0: step.grad / (below * below)}


@gradient("Mish")
def _mish_gradient(step: Step) -> Partials:
    """Y = x tanh(softplus(x))."""
    x = step.input(0)
    t = x.op("Softplus").op("Tanh")
    return {0: step.grad * (t + x * x.op("Sigmoid") * (1.0 - t * t))}


@gradient("Dropout")
def _dropout_gradient(step: Step) -> Partials:
    """At inference the identity."""
    training = step.node.literal(2)
    if step.node.input(2) is not None and (training is None or bool(training.reshape(-1)[0])):
        return {0: Constant("draws random numbers, as training_mode may be set")}
    return {0: step.grad}


@gradient("Cast", "CastLike")
def _cast_gradient(step: Step) -> Partials:
    """The gradient in the type of the input."""
    return {0: step.grad.cast(step.input(0).elem_type)}


@gradient("Add", "Sum")
def _addition_gradient(step: Step) -> Partials:
    """The same for every operand."""
    return {index: step.back(index, step.grad) for index in step.wanted}


@gradient("Mean")
def _mean_gradient(step: Step) -> Partials:
    """An equal share for every operand."""
    share = step.grad / float(len(step.node.inputs))
    return {index: step.back(index, share) for index in step.wanted}


@gradient("Sub")
def _subtraction_gradient(step: Step) -> Partials:
    """The second operand counts negatively, after the sum, which is smaller."""
    return {0: step.back(0, step.grad), 1: -step.back(1, step.grad)}


@gradient("Mul")
def _multiplication_gradient(step: Step) -> Partials:
    """Each operand counts as much as the other is large."""
    a, b = step.input(0), step.input(1)
    return {0: step.back(0, step.grad * b), 1: step.back(1, step.grad * a)}


@gradient("Div")
def _division_gradient(step: Step) -> Partials:
    """d(a / b) = da / b - (a / b) db / b."""
    share = step.grad / step.input(1)
    return {0: step.back(0, share), 1: -step.back(1, share * step.output())}


@gradient("Pow")
def _power_gradient(step: Step) -> Partials:
    """d(x ** p) = p x ** (p - 1) dx + log(x) x ** p dp, the latter where x is positive, as in PyTorch."""
    x, exponent = step.input(0), step.input(1)
    number = step.node.literal(1)
    power = exponent.cast(x.elem_type)
    if number is not None and number.size == 1 and float(number.reshape(-1)[0]) in (1.0, 2.0, 3.0):
        known = float(number.reshape(-1)[0])
        slope = reduce(Term.__mul__, [x] * (int(known) - 1), x.writer.number(known, x.elem_type))
    else:
        slope = x.op("Pow", power - 1.0) * power
    positive = x.test("Greater", 0.0)
    logarithm = positive.where(x, 1.0).op("Log")
    wrt_exponent = step.back(1, step.grad * step.output() * logarithm).cast(exponent.elem_type)
    return {0: step.back(0, step.grad * slope), 1: wrt_exponent}


@gradient("Min", "Max")
def _extremum_gradient(step: Step) -> Partials:
    """To the operands that are the extremum, in equal shares where several are."""
    y, operands = step.output(), [step.input(index) for index in range(len(step.node.inputs))]
    hits = [operand.test("Equal", y).cast(y.elem_type) for operand in operands]
    share = step.grad / reduce(Term.__add__, hits)
    return {index: step.back(index, share * hit) for index, hit in enumerate(hits)}


@gradient("Where")
def _choice_gradient(step: Step) -> Partials:
    """To the operand that was chosen."""
    condition = step.input(0)
    return {
        1: step.back(1, condition.where(step.grad, 0.0)),
        2: step.back(2, condition.where(0.0, step.grad)),
    }


@gradient("Clip")
def _clip_gradient(step: Step) -> Partials:
    """To what lies within the bounds, themselves included."""
    x, grad, constant = step.input(0), step.grad, Constant("clips, and its bounds stay constant")
    for index, comparison in ((1, "GreaterOrEqual"), (2, "LessOrEqual")):
        bound = step.given(index)
        if bound is not None:
            grad = x.test(comparison, bound).where(grad, 0.0)
    return {0: grad, 1: constant, 2: constant}


@gradient("PRelu")
def _parametric_relu_gradient(step: Step) -> Partials:
    """The same; the slope counts where it is used."""
    x, slope = step.input(0), step.input(1)
    positive = x.test("GreaterOrEqual", 0.0)
    return {
        0: positive.where(step.grad, step.grad * slope),
        1: step.back(1, positive.where(0.0, step.grad * x)),
    }


@gradient("HardSwish")
def _hard_swish_gradient(step: Step) -> Partials:
    """X (x + 3) / 6 between -3 and 3, x above, nothing below."""
    x = step.input(0)
    inner = step.grad * (x / 3.0 + 0.5)
    above = x.test("GreaterOrEqual", 3.0).where(step.grad, 0.0)
    return {0: _between(x, -3.0, 3.0).where(inner, above)}


@decomposition("com.microsoft.FastGelu")
def _fast_gelu_parts(step: Step) -> list[Term | None]:
    """Gelu by a tanh, after a bias."""
    x, bias = step.input(0), step.given(1)
    x = x if bias is None else x + bias
    return [0.5 * x * (_tanh_of(x).op("Tanh") + 1.0)]


@decomposition("com.microsoft.BiasGelu")
def _bias_gelu_parts(step: Step) -> list[Term | None]:
    """The exact Gelu after a bias."""
    return [(step.input(0) + step.input(1)).op("Gelu", domain="com.microsoft")]


def _swish_slope(x: Term, alpha: float) -> Term:
    s = (x * alpha).op("Sigmoid")
    return s + x * alpha * (s - s * s)


def _normal_slope(x: Term, approximate: str) -> Term:
    return _tanh_gelu_slope(x) if approximate == "tanh" else _gelu_slope(x)


def _gelu_slope(x: Term) -> Term:
    """P(x) + x p(x) with the normal distribution and its density."""
    below = ((x * math.sqrt(0.5)).op("Erf") + 1.0) * 0.5
    return below + x * (_bell(x, 0.5) * (1 / math.sqrt(2 * math.pi)))


def _tanh_of(x: Term) -> Term:
    return (x + x * x * x * 0.044715) * math.sqrt(2 / math.pi)


def _tanh_gelu_slope(x: Term) -> Term:
    t = _tanh_of(x).op("Tanh")
    inner = (x * x * (3 * 0.044715) + 1.0) * math.sqrt(2 / math.pi)
    return (t + 1.0) * 0.5 + x * 0.5 * (1.0 - t * t) * inner


def _bell(x: Term, factor: float) -> Term:
    return (x * x * -factor).op("Exp")


def _between(x: Term, low: float, high: float) -> Term:
    return x.test("Greater", low).op("And", x.test("Less", high), to=TensorProto.BOOL)


RANGES = {
    getattr(TensorProto, name): (float(info.min), float(info.max))
    for name, info in ((name, np.iinfo(name.lower())) for name in ("INT8", "UINT8", "INT16", "UINT16"))
}


SCALES = Constant("has a scale and a zero point, which stay constant")


def _along(step: Step, index: int) -> Term:
    """A scale per tensor, or one per position of an axis, with axes of size 1 behind."""
    vector, rank = step.input(index), len(step.shape(0))
    if len(step.shape(index)) != 1 or step.shape(index) == (1,):
        return vector
    axis = step.node.attribute("axis", 1) % rank
    return vector.unsqueeze(range(1, rank - axis))


@gradient("QuantizeLinear")
def _quantize_gradient(step: Step) -> Partials:
    """Straight through where the number is within the range (Bengio et al., 2013): rounding counts as the identity."""
    limits = RANGES.get(step.node.out.elem_type)
    if limits is None or step.node.attribute("block_size", 0) or len(step.shape(1)) > 1:
        return {0: Constant("quantizes in blocks, or to a type of few bits")}
    x, scale, zero = step.input(0), _along(step, 1), step.given(2)
    exact = x / scale
    if zero is not None:
        exact = exact + _along(step, 2).cast(x.elem_type)
    above = exact.test("GreaterOrEqual", limits[0] - 0.5)
    inside = above.op("And", exact.test("LessOrEqual", limits[1] + 0.5))
    return {0: inside.where(step.grad / scale, 0.0), 1: SCALES, 2: SCALES}


@gradient("DequantizeLinear")
def _dequantize_gradient(step: Step) -> Partials:
    """A product with the scale."""
    if step.node.attribute("block_size", 0) or len(step.shape(1)) > 1:
        return {0: Constant("is quantized in blocks")}
    return {0: step.grad * _along(step, 1), 1: SCALES, 2: SCALES}
