"""The tables of operators that whoever looks at a graph asks; `onnxheadprune.operators` fills them.

Where nothing is registered, "I do not know this operator" would be the answer to everything, which looks like a graph
that cannot be analysed. So asking then is an error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeAlias, TypeVar

from onnxheadprune.model.graph.dims import Dim, Shape, symbol
from onnxheadprune.model.graph.elements import Elements
from onnxheadprune.model.graph.facts import UNFILLED, Operation, OperatorKind
from onnxheadprune.model.graph.view import Node

Entry = TypeVar("Entry")
OperatorKey: TypeAlias = tuple[str, str]
"""Domain ("" for the standard one) and name of an operator."""
Shapes: TypeAlias = Sequence[Shape | None]
"""Shapes of a node's outputs, None where unknown."""
ShapeFunction: TypeAlias = Callable[[Node], Shapes]
NumbersOfAll: TypeAlias = Callable[[Node], Sequence[Elements | None]]
Cost: TypeAlias = Callable[[Node], int | None]
Arithmetic: TypeAlias = Callable[[Node, Sequence[float | None]], float | None]
"""From one number per input, None where that is not known, to the number of the output."""


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


class Table(Generic[Entry]):
    """One entry per operator.

    Attributes:
        what: what an entry is, for errors.
    """

    def __init__(self, what: str) -> None:
        self.what = what
        self._entries: dict[OperatorKey, Entry] = {}

    def add(self, op_types: Sequence[str], domain: str, entry: Entry) -> None:
        """Register one entry for operators of one domain.

        Raises:
            ValueError: if one of them has an entry already.
        """
        for op_type in op_types:
            if (domain, op_type) in self._entries:
                raise ValueError(f"two entries of {self.what} for {domain or 'ai.onnx'}.{op_type}")
            self._entries[domain, op_type] = entry

    def register(self, *op_types: str, domain: str = "") -> Callable[[Entry], Entry]:
        """Return a decorator that registers what it decorates for operators of one domain.

        Raises:
            ValueError: if one of them has an entry already; the decorator does.
        """

        def registered(entry: Entry) -> Entry:
            self.add(op_types, domain, entry)
            return entry

        return registered

    def of(self, node: Operation) -> Entry | None:
        """The entry of a node's operator, None if it has none.

        Raises:
            LookupError: if `onnxheadprune.operators` was never imported.
        """
        return self._found((node.domain, node.op_type))

    def __iter__(self) -> Iterator[OperatorKey]:
        return iter(self._entries)

    def __getitem__(self, key: OperatorKey) -> Entry:
        entry = self._found(key)
        if entry is None:
            raise KeyError(key)
        return entry

    def _found(self, key: OperatorKey) -> Entry | None:
        key = ("" if key[0] == "ai.onnx" else key[0], key[1])
        if not self._entries:
            raise LookupError(UNFILLED)
        return self._entries.get(key)


SHAPES: Table[ShapeFunction] = Table("shape functions")
"""Each takes a node whose inputs are annotated."""
shape_function = SHAPES.register
INPUT_SHAPES: Table[ShapeFunction] = Table("shapes of inputs")
"""Shapes of a node's inputs that follow from each other, None where unknown; asked before the shape function."""
input_shape_function = INPUT_SHAPES.register
NUMBERS: Table[NumbersOfAll] = Table("numbers")
"""Results of small whole numbers (`elements.py`), one entry per output."""
number_functions = NUMBERS.register
COSTS: Table[Cost] = Table("costs")
"""Operations of a node, a multiplication and an addition being two; None where its shapes are not known."""
cost_function = COSTS.register
TRIPS: Table[Callable[[Node], int]] = Table("trips")
"""Turns of loops; one where that is not known."""
ARITHMETIC: Table[Arithmetic] = Table("arithmetic")
"""Results of operators whose inputs hold one number each."""
arithmetic = ARITHMETIC.register
ROLES: Table[Roles] = Table("roles")


def declare(
    *op_types: str, domain: str = "", kinds: Sequence[OperatorKind] = (), roles: Roles | None = None
) -> None:
    """Declare what operators of one domain are: once for each, with all kinds and the roles of its inputs.

    Raises:
        ValueError: if one of them is declared already.
    """
    for kind in kinds:
        kind.add(*op_types, domain=domain)
    ROLES.add(op_types, domain, roles or NO_ROLES)


def roles_of(node: Node) -> Roles:
    """The roles of a node's inputs."""
    return ROLES.of(node) or NO_ROLES


def number_function(
    *op_types: str,
) -> Callable[[Callable[[Node], Elements | None]], Callable[[Node], Elements | None]]:
    """Register what a standard operator with one output makes of small whole numbers."""

    def register(function: Callable[[Node], Elements | None]) -> Callable[[Node], Elements | None]:
        NUMBERS.add(op_types, "", lambda node: [function(node)])
        return function

    return register


def size_of(shape: Shape | None) -> int | None:
    """The number of elements, None where a dimension is open."""
    if shape is None:
        return None
    sizes = [dim for dim in shape if isinstance(dim, int)]
    return math.prod(sizes) if len(sizes) == len(shape) else None


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


ChoiceReader: TypeAlias = Callable[[Node], Choice | None]
CHOICES: Table[ChoiceReader] = Table("choices")


choice_reader = CHOICES.register


def choice_of(node: Node) -> Choice | None:
    """The choice that a node makes; None for any other node, and where shapes are missing."""
    reader = CHOICES.of(node)
    return None if reader is None else reader(node)


def named(dim: Dim | None, node: Node, axis: int) -> Dim:
    """The dimension; an unknown one gets the name of the output and the axis."""
    return symbol(f"{node.out.name}.{axis}") if dim is None else dim
