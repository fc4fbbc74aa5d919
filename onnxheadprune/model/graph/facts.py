"""Facts about operators: their kinds, as in `node in VIEWS`, and what onnx's schemas specify.

`onnxheadprune.operators` declares which operators are of a kind. Kinds that differ by one operator differ on purpose: a
view moves no arithmetic, a carrier may also change the type. Where another mixture is needed, kinds are joined with `|`
there, with the reason.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Protocol, TypeAlias

import onnx
from onnx import ModelProto
from onnx.defs import OpSchema

OperatorKey: TypeAlias = tuple[str, str]


class Operation(Protocol):
    """Anything that has a kind: a node of a view, a NodeProto, or an operator by its name."""

    @property
    def op_type(self) -> str:
        """The name of the operator."""

    @property
    def domain(self) -> str:
        """Its domain, "" or "ai.onnx" for the standard one."""


UNFILLED = "no operator is known: import onnxheadprune.operators first"


class OperatorKind:
    """A set of operators.

    Attributes:
        what: what the operators do, for errors.
    """

    def __init__(self, what: str, *parts: OperatorKind) -> None:
        self.what = what
        self._parts = parts
        self._keys: set[OperatorKey] = set()
        self._known: dict[OperatorKey, bool] = {}

    def add(self, *op_types: str, domain: str = "") -> None:
        """Say that operators of one domain are of this kind.

        Raises:
            ValueError: if one is already.
            TypeError: if the kind is made of others, or was asked of one before.
        """
        for op_type in op_types:
            if self._parts or self._known.get((domain, op_type)) is False:
                raise TypeError(f"operators that {self.what} can no longer be added to")
            if (domain, op_type) in self._keys:
                raise ValueError(f"{domain or 'ai.onnx'}.{op_type} is said twice to {self.what}")
            self._keys.add((domain, op_type))

    def __contains__(self, node: Operation) -> bool:
        return self._has((node.domain, node.op_type))

    def __iter__(self) -> Iterator[OperatorKey]:
        return iter(self._all())

    def __or__(self, other: OperatorKind) -> OperatorKind:
        return OperatorKind(f"{self.what} or {other.what}", self, other)

    def _has(self, key: OperatorKey) -> bool:
        known = self._known.get(key)
        if known is None:
            own = ("", key[1]) if key[0] == "ai.onnx" else key
            if not self._keys and not self._parts:
                raise LookupError(UNFILLED)
            known = self._known[key] = own in self._keys or any(part._has(key) for part in self._parts)
        return known

    def _all(self) -> frozenset[OperatorKey]:
        own = self._keys | {("ai.onnx", op_type) for domain, op_type in self._keys if not domain}
        return frozenset(own).union(*(part._all() for part in self._parts))


RESHAPES = OperatorKind("read one buffer under other axes that an input lists")
SQUEEZES = OperatorKind("put in axes of size 1, or drop them")
FLATTENS = OperatorKind("read one buffer under other axes that the operator computes")
TRANSPOSES = OperatorKind("change the order of axes")
IDENTITIES = OperatorKind("give what they take")
DROPOUTS = OperatorKind("give what they take, at inference")
DRAWS_NORMAL = OperatorKind("draw from a normal distribution")
DRAWS_BETWEEN = OperatorKind("draw between two limits")
DRAWS_TRUTHS = OperatorKind("draw truth values with given probabilities")
DRAWS_CLASSES = OperatorKind("draw classes with given logits")
DRAWS_OUTSIDE_STANDARD = OperatorKind("draw random numbers, and are ONNX Runtime's own")
CASTS = OperatorKind("change the type")
CASTS_LIKE = OperatorKind("change the type to that of another input")
QUANTIZES = OperatorKind("quantize with a scale that is given")
MEASURES_SCALE = OperatorKind("quantize with a scale of their own")
DEQUANTIZES = OperatorKind("dequantize")
ROUNDS_ACTIVATIONS = OperatorKind("compute with activations of a few levels")
SLICES = OperatorKind("cut a stretch out of axes")
GATHERS = OperatorKind("pick indices of one axis")
GATHERS_ROWS = OperatorKind("pick rows at places")
WRITES_INTO = OperatorKind("write into some places of their first input")
GATHERS_ELEMENTS = OperatorKind("pick single elements")
PICKS_LABELLED = OperatorKind(
    "pick elements of axis 1 of their first input by labels, their second, for a loss"
)
TAKES_CHUNKS = OperatorKind("take one chunk of a sequence")
MAKES_CHUNKS = OperatorKind("cut a tensor into a sequence of chunks")
SPLITS = OperatorKind("cut one axis into pieces")
JOINS = OperatorKind("join pieces along an axis")
PADS = OperatorKind("put something around")
EXPANDS = OperatorKind("repeat axes of size 1")
TILES = OperatorKind("repeat axes")
FILLS = OperatorKind("only write")
MARKS_NUMBERS = OperatorKind("mark each number on an axis of its own")
FINDS_NONZERO = OperatorKind("list the places of elements that are not zero")
COUNTS = OperatorKind("count from one number to another")
SHOWS_SHAPE = OperatorKind("tell a shape")
SHOWS_SIZE = OperatorKind("tell how many elements there are")

ELEMENTWISE = OperatorKind("compute element by element, with broadcasting")
DIVIDES = OperatorKind("divide two values, element by element")
SUBTRACTS = OperatorKind("subtract two values")
ADDS = OperatorKind("add two values")
ADDS_ALL = OperatorKind("add any number of values")
ADDS_QUANTIZED = OperatorKind("add two quantized values")
MULTIPLIES = OperatorKind("multiply two values, element by element")
MULTIPLIES_QUANTIZED = OperatorKind("multiply two quantized values, element by element")
RAISES = OperatorKind("raise to a power")
CHOOSES_ELEMENTS = OperatorKind("choose each element by a condition")
TESTS_NAN = OperatorKind("tell what is no number")
COMPARES = OperatorKind("compare two values, element by element")
EQUALS = OperatorKind("tell which elements of two values are equal")
JOINS_TRUTHS = OperatorKind("combine truth values, element by element")
REMAINDERS = OperatorKind("give the remainder of a division")
EXTREMES = OperatorKind("take the larger or the smaller of values, element by element")
SIGMOIDS = OperatorKind("squash each element between 0 and 1, along a sigmoid")
VANISHES = OperatorKind("tend to zero where what they read tends to minus infinity")
CLIPS = OperatorKind("keep each element between bounds")
ACTIVATES = OperatorKind("apply an activation function to each element")

REDUCES = OperatorKind("reduce axes to one number")
SUMS = OperatorKind("sum along axes")
DECIDED_BY_LARGEST = OperatorKind("reduce axes to a number that the largest elements decide")
AVERAGES = OperatorKind("take the mean along axes")
POOLS = OperatorKind("take the mean, the norm or the largest of each window")
ACCUMULATES = OperatorKind("sum up what stands before, along one axis")
KEEPS_ZEROS = OperatorKind("reduce zeros to zero")
SUMS_MAGNITUDES = OperatorKind("sum absolute values along axes")
NORMALIZES = OperatorKind("normalise by a mean and a variance of what they read")
DIVIDES_BY_NORM = OperatorKind("divide by a norm along one axis")
ADDS_AND_NORMALIZES = OperatorKind("add a residual stream and normalise the sum")
PLAIN_SUMS = ADDS | ADDS_ALL | ADDS_QUANTIZED
SUMS_VALUES = PLAIN_SUMS | ADDS_AND_NORMALIZES
SOFTMAXES = OperatorKind("divide exponentials by their sum")
WEIGHS = OperatorKind("make weights that sum to one")

SUMS_PRODUCTS = OperatorKind("sum products, and add nothing but a plain bias")
SUMS_INTEGERS = OperatorKind("sum products of integers, into 32 bits")
MULTIPLIES_MATRICES = OperatorKind("multiply matrices, and perhaps add a bias")
MULTIPLIES_FLOATS = OperatorKind("multiply two floating-point tensors, and add nothing")
ACTIVATES_PRODUCTS = OperatorKind("apply an activation function to a sum of products")
READS_BIAS = OperatorKind(
    "have an optional bias without which the CPU kernel of ONNX Runtime before 1.32 is a segmentation fault"
)
CRASHES_INFERENCE = OperatorKind(
    "are a segmentation fault of onnx 1.23's inference where the type of their input is unknown"
)
PACKS_BLOCKS = OperatorKind("read weights that are packed in blocks of a few bits")
CHOOSES = OperatorKind("run one of two subgraphs")
REPEATS = OperatorKind("run a subgraph over and over, as long as a condition holds")
GENERATES = OperatorKind("run a decoder of their own over and over")

STANDS_FOR_PATTERN = OperatorKind("stand for several nodes of other exporters")

REREADS = RESHAPES | SQUEEZES
"""One buffer under other axes that the node is told."""
OBSERVES = SHOWS_SHAPE | SHOWS_SIZE
"""They ask for a shape, never for contents."""
VIEWS = REREADS | TRANSPOSES | IDENTITIES
"""The same elements under other axes. Without Flatten, which has no target that could be written anew."""
CARRIERS = VIEWS | CASTS | DEQUANTIZES
"""One element of the output for each of the input, which it alone decides."""
QUANTIZERS = QUANTIZES | MEASURES_SCALE
DRAWS = DRAWS_NORMAL | DRAWS_BETWEEN | DRAWS_TRUTHS | DRAWS_CLASSES
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
