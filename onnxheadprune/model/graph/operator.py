"""Operators: a record of each, and sets of alike ones, asked for as in `node in VIEWS`.

`onnxheadprune.operators` makes the records, by `operators.record.operator`. Kinds that differ by one operator differ on
purpose: a view moves no arithmetic, a carrier may also change the type. Where another mixture is needed, kinds are
joined with `|` there, with the reason; where one operator is meant, its name is written: `is_a(node, "Cast")`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import onnx
from onnx import ModelProto
from onnx.defs import OpSchema

from onnxheadprune.model.graph.dims import Shape

Shapes: TypeAlias = Sequence[Shape | None]
"""Shapes of a node's outputs or inputs, None where unknown."""


class Operation(Protocol):
    """Anything that has an operator: a node of a view, or a NodeProto."""

    @property
    def op_type(self) -> str:
        """The name of the operator."""

    @property
    def domain(self) -> str:
        """Its domain, "" or "ai.onnx" for the standard one."""


def name_of(node: Operation) -> str:
    """The name of a node's operator, with its domain where that is not the standard one."""
    domain = node.domain
    return node.op_type if domain in ("", "ai.onnx") else f"{domain}.{node.op_type}"


def is_a(node: Operation, *names: str) -> bool:
    """Return whether a node's operator has one of some names."""
    return name_of(node) in names


class Kind:
    """A set of operators, which grows with the records that say that they are of it."""

    def __init__(self, *names: set[str]) -> None:
        self._names = names

    def add(self, name: str) -> None:
        """Add an operator."""
        (names,) = self._names
        names.add(name)

    def __contains__(self, node: Operation) -> bool:
        name = name_of(node)
        # Asked more often than anything else: a generator would take twice as long.
        for names in self._names:  # noqa: SIM110
            if name in names:
                return True
        return False

    def __iter__(self) -> Iterator[str]:
        return iter(set().union(*self._names))

    def __or__(self, other: Kind) -> Kind:
        return Kind(*self._names, *other._names)


def kind(*names: str) -> Kind:
    """The kind of some operators."""
    return Kind(set(names))


@dataclass(frozen=True)
class Roles:
    """The roles of an operator's inputs, by index; None where it has no such input.

    Attributes:
        contents: inputs whose contents it hands on, where others choose or say how large numbers are.
        places: inputs that say where or how large: axes, bounds, target shapes, numbers of repetitions.
        target: the shape that its output is to have.
        rows: per input that counts rows the input with the table that these are rows of.
        places_in: per input that holds places, a number for each of the first axes, the input that these are places in.
        masks: inputs of an attention that say which tokens are seen, or are added to its scores.
        alike: inputs of the type that the outputs have, where onnx has no schema that says so.
        alike_by_output: the same for single outputs that have another type than the first.
        types: per output its type, where none of those inputs is given.
        past_keys, past_values: the cache of an attention that takes keys and values apart.
        longest: the number of tokens with which a generation ends, its prompt included.
        bias: what it adds to its product, in units of its output.
        zero_points: per quantized input the input with its zero point.
        scales: those of a quantized product's operands.
        weight_scale, weight_zero: those of stored weights.
        integer_weight: the weight of an integer product, which `weight_zero` belongs to.
        output_scale, output_zero: those that its output is quantized with.
        integer_bias: a bias in units of the operands' scales multiplied.
        learned: what training changes beside operands of a product and its bias: scales and shifts of features, and
            products that a fused operator packs.
        training_mode: the input that has to be true for the operator to draw random numbers.
    """

    contents: tuple[int, ...] | None = None
    places: tuple[int, ...] = ()
    target: int | None = None
    rows: Mapping[int, int] = field(default_factory=dict)
    places_in: Mapping[int, int] = field(default_factory=dict)
    masks: tuple[int, ...] = ()
    alike: tuple[int, ...] = ()
    alike_by_output: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    types: Mapping[int, int] = field(default_factory=dict)
    past_keys: int | None = None
    past_values: int | None = None
    longest: int | None = None
    bias: int | None = None
    zero_points: Mapping[int, int] = field(default_factory=dict)
    scales: tuple[int, int] | None = None
    weight_scale: int | None = None
    weight_zero: int | None = None
    integer_weight: int | None = None
    output_scale: int | None = None
    output_zero: int | None = None
    integer_bias: int | None = None
    learned: tuple[int, ...] = ()
    training_mode: int | None = None


NO_ROLES = Roles()


@dataclass(frozen=True)
class Choice:
    """The elements that an operator chooses of its first input; its last output has their numbers.

    Attributes:
        axis: along which elements are compared.
        count: how many are chosen, None where that is computed.
        highest: whether the highest are.
    """

    axis: int
    count: int | None
    highest: bool


@dataclass(eq=False, slots=True)
class Operator:
    """All that is known of one operator; functions take a node, and answer None where its shapes do not tell.

    `operators.record.operator` makes records and has the types of what higher layers ask for.

    Attributes:
        name: with its domain in front, if that is not the standard one.
        roles: of its inputs.
        axes: reads a node in index notation.
        shape: the shapes of outputs, given annotated inputs.
        rule: the propagation rule; whether it takes masks that are no outer product of axes (`ragged`), and live sets
            with repeats (`repeats`).
        operands: the inputs that it multiplies and sums over; none listed if it multiplies all of them.
        inputs: the shapes of inputs that follow from each other; asked before `shape`.
        elements: small whole numbers of the output, or of each (`elements.py`).
        cost: operations, a multiplication and an addition being two.
        trips: turns of a loop; one where that is not known.
        choice: what it chooses of its first input.
        layout, mixture: positions of heads in a fused attention, of neurons in a fused mixture of experts.
        gradient, parts: gradients of inputs, or smaller operators that compute the same.
    """

    name: str
    roles: Roles = NO_ROLES
    axes: Callable[[Any], Any] | None = None
    shape: Callable[[Any], Shapes] | None = None
    rule: Callable[..., Any] | None = None
    ragged: bool = False
    repeats: bool = False
    operands: tuple[int, ...] | None = None
    inputs: Callable[[Any], Shapes] | None = None
    elements: Callable[[Any], Any] | None = None
    cost: Callable[[Any], int | None] | None = None
    trips: Callable[[Any], int] | None = None
    choice: Callable[[Any], Choice | None] | None = None
    layout: Callable[[Any], Any] | None = None
    mixture: Callable[[Any], Any] | None = None
    gradient: Callable[..., Any] | None = None
    parts: Callable[..., Any] | None = None


OPERATORS: dict[str, Operator] = {}
"""All records by name."""
UNKNOWN = Operator("")


def operator_of(node: Operation) -> Operator:
    """The record of a node's operator, an empty one if nothing is known of it.

    Raises:
        LookupError: if `onnxheadprune.operators` was never imported. "I do not know this operator" would be the answer
            to everything then, which looks like a graph that cannot be analysed.
    """
    if not OPERATORS:
        raise LookupError("no operator is known: import onnxheadprune.operators first")
    return OPERATORS.get(name_of(node), UNKNOWN)


REREADS = kind()
"""One buffer under other axes that an input or attribute lists."""
DEQUANTIZES = kind()
QUANTIZES = kind()
ROUNDS_ACTIVATIONS = kind()
"""They compute with activations of a few levels."""
WRITES_INTO = kind()
"""They write into some places of their first input."""

ELEMENTWISE = kind()
"""They compute element by element, with broadcasting."""
COMPARES = kind()
ACTIVATES = kind()
"""Activation functions."""
VANISHES = kind()
"""They tend to zero where what they read tends to minus infinity."""

REDUCES = kind()
KEEPS_ZEROS = kind()
"""Reductions that make zero of zeros."""
DECIDED_BY_LARGEST = kind()
"""Reductions to a number that the largest elements decide."""
NORMALIZES = kind()
"""They normalise by a mean and a variance of what they read."""
ADDS_AND_NORMALIZES = kind()
"""They add a residual stream and normalise the sum."""
WEIGHS = kind()
"""They make weights that sum to one."""

CONVOLVES = kind()
"""They multiply with a kernel, the second operand, which they move over the axes behind the channels."""
SUMS_PRODUCTS = kind()
"""They sum products, and add nothing but a plain bias."""
SUMS_INTEGERS = kind()
"""They sum products of integers, into 32 bits."""
MULTIPLIES_MATRICES = kind()
"""They multiply matrices, and perhaps add a bias."""
MULTIPLIES_FLOATS = kind()
"""They multiply two floating-point tensors, and add nothing."""
ACTIVATES_PRODUCTS = kind()
"""They apply an activation function to a sum of products."""
GENERATES = kind()
"""They run a decoder of their own over and over."""
DRAWS_OUTSIDE_STANDARD = kind()
"""They draw random numbers, and are ONNX Runtime's own."""
STANDS_FOR_PATTERN = kind()
"""They stand for several nodes of other exporters."""

OBSERVES = kind("Shape", "Size")
"""They ask for a shape, never for contents."""
VIEWS = REREADS | kind("Transpose", "Identity")
"""The same elements under other axes. Without Flatten, which has no target that could be written anew."""
CARRIERS = VIEWS | DEQUANTIZES | kind("Cast")
"""One element of the output for each of the input, which it alone decides."""
QUANTIZERS = QUANTIZES | kind("DynamicQuantizeLinear")
EXTREMES = kind("Max", "Min")
PLAIN_SUMS = kind("Add", "Sum", "com.microsoft.QLinearAdd")
SUMS_VALUES = PLAIN_SUMS | ADDS_AND_NORMALIZES
DRAWS_NORMAL = kind("RandomNormal", "RandomNormalLike")
DRAWS = DRAWS_NORMAL | kind("RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial")
"""They give other numbers in each run, at inference too."""


def opset_of(model: ModelProto) -> int:
    """The version of the standard operators that a model uses."""
    return next((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), 0)


@functools.cache
def schema_of(op_type: str, opset: int) -> OpSchema | None:
    """The schema, None for an operator that the standard does not have."""
    try:
        return onnx.defs.get_schema(op_type, opset, "")
    except onnx.defs.SchemaError:
        return None


@functools.cache
def is_random(op_type: str, opset: int) -> bool:
    """Return whether an operator draws numbers. What does so in training alone, as a Dropout, does not here."""
    schema = schema_of(op_type, opset)
    if schema is None or "seed" not in schema.attributes:
        return False
    return all(item.name != "training_mode" for item in schema.inputs)
