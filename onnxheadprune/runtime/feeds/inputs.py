"""Graph inputs: type, dimensions and role.

An input is a mask by what the graph does with its numbers, not by its name. A mask is compared, negated, combined with
other masks and scaled until it chooses elements, is added to scores as a huge number, or multiplies features. One that
also says where tokens stand is summed up along the sequence.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from onnx import TensorProto, TypeProto, helper

from onnxheadprune.errors import UsageError
from onnxheadprune.model.graph.operator import (
    COMPARES,
    EXTREMES,
    NORMALIZES,
    OBSERVES,
    SUMS_PRODUCTS,
    WEIGHS,
    is_a,
    kind,
)
from onnxheadprune.model.graph.view import GraphView, Node, Use, Value
from onnxheadprune.model.graph.walks import back_through, reachable
from onnxheadprune.model.tensors import FLOATS
from onnxheadprune.runtime.feeds.symbols import SymbolicDim, read_dim
from onnxheadprune.runtime.feeds.tables import (
    MOVES,
    compared_with,
    ends_generation,
    feature_width,
    least_capacity,
    marks_places,
    replaces_some,
    row_bound,
)

_MASK = re.compile(r"mask(?![a-z])")
_PIXELS = (TensorProto.UINT8, TensorProto.INT8)


class Role(enum.Enum):
    """The role of an input: what it is filled with."""

    FLOATS = "floats"
    MASK = "mask"
    POSITIONS = "positions"
    LENGTHS = "lengths"
    IDS = "ids"
    PIXELS = "pixels"
    FLAG = "flag"
    BOOLS = "bools"


_UNNAMED = (Role.FLOATS, Role.IDS, Role.BOOLS, Role.PIXELS)
"""Roles by the type alone, which what the graph does with an input may contradict."""


@dataclass(frozen=True)
class Input:
    """One graph input that a feed must hold."""

    name: str
    dtype: np.dtype[Any]  # NumPy's type of its elements (ml_dtypes' for bfloat16)
    dims: tuple[SymbolicDim, ...]  # its dimensions; empty for a scalar
    role: Role  # what it stands for, judged by type and name; a mask also by what the graph does with it
    # integers must stay below this (rows of the tables they index), None where unknown
    rows: int | None = None
    # sizes that the weights dictate for open axes, whatever those are called
    widths: Mapping[int, int] = field(default_factory=dict, compare=False)
    capacity: int = 0  # positions that a cache must have at least
    ends_generation: bool = False  # whether it holds the number of tokens with which a generation ends
    special: tuple[int, ...] = ()  # numbers that it is compared with, as ids of tokens that stand for images
    # whether it is a mask whose places are listed, as those of tokens that features replace
    marks_places: bool = False
    is_shared: bool = False  # whether its size is fixed where the samples of other inputs have another number
    mends: bool = False  # the model replaces some integers before they pick rows, as labels of -100

    @property
    def is_cache(self) -> bool:
        """True if it holds what the model has kept of tokens before: keys and values, or another state."""
        lowered = self.name.lower()
        return len(self.dims) > 2 and ("past" in lowered or lowered.startswith("cache"))

    @property
    def tells_padding(self) -> bool:
        """True if zeros mark padding. Boolean masks are excluded: in some models True marks padding."""
        return self.role is Role.MASK and self.dtype.kind in "iu"

    @property
    def batch_axis(self) -> int | None:
        """The batch axis, None if there is none: what all samples share, as flags, lengths, positions or settings.

        The axis whose name contains "batch", as in "[sequence, batch, 64]"; otherwise the first one.
        """
        rank = len(self.dims)
        if not rank or self.role is Role.FLAG or self.is_shared:
            return None
        names = [dim.text if not isinstance(dim, int) and dim.is_symbol else "" for dim in self.dims]
        named = [axis for axis, name in enumerate(names) if "batch" in name.lower()]
        if len(named) == 1:
            return named[0]
        if self.role is Role.POSITIONS and rank != 2:
            # Positions in time, height and width come one after the other, [3, batch, sequence].
            return 1 if rank == 3 else None
        return None if self.role is Role.LENGTHS and rank == 1 and isinstance(self.dims[0], int) else 0

    def describe(self) -> str:
        """Type and dimensions for messages: "int64 [batch, sequence]"."""
        return f"{self.dtype.name} [{', '.join(_spell_dim(dim) for dim in self.dims)}]"


def _spell_dim(dim: SymbolicDim) -> str:
    """A dimension as the model writes it, "?" where it says nothing."""
    text = str(dim) if isinstance(dim, int) else dim.text
    return "?" if text.startswith("?") else text


def graph_inputs(view: GraphView) -> tuple[Input, ...]:
    """The inputs of a model that are not initializers as well."""
    found = []
    for info in view.main.proto.input:
        value = view.main.values[info.name]
        if value.is_initializer:
            continue
        tensor = info.type.tensor_type
        if info.type.WhichOneof("value") != "tensor_type" or tensor.elem_type in (0, TensorProto.STRING):
            raise UsageError(
                f"input {info.name!r} is no tensor of numbers, and this tool runs models on those only"
            )
        dims = _dims(tensor)
        rows = row_bound(value) if tensor.elem_type not in FLOATS else None
        role = _role(info.name, tensor.elem_type, dims, rows)
        if role in _UNNAMED and dims and _is_mask(value, indexes=rows is not None):
            role = Role.MASK
        dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.elem_type))
        free = [axis for axis, dim in enumerate(dims) if axis and not isinstance(dim, int)]
        widths = {axis: feature_width(value, axis) for axis in free}
        known = {axis: width for axis, width in widths.items() if width is not None}
        ends = tensor.elem_type not in FLOATS and ends_generation(value)
        role = Role.LENGTHS if ends else role
        special = compared_with(value) if role is Role.IDS else ()
        mends = rows is not None and replaces_some(value)
        marks = role in (Role.MASK, Role.BOOLS) and marks_places(value)
        capacity = least_capacity(value)
        found.append(
            Input(info.name, dtype, dims, role, rows, known, capacity, ends, special, marks, mends=mends)
        )
    return _shared_marked(found)


def _shared_marked(inputs: Sequence[Input]) -> tuple[Input, ...]:
    """The inputs; those without a batch axis are marked: their first size is fixed, and that of others differs.

    What holds whole samples, of several axes, decides on the number of samples.
    """
    sizes = {item: item.dims[axis] for item in inputs if (axis := item.batch_axis) is not None}
    batches = [sizes[item] for item in sorted(sizes, key=lambda item: len(item.dims) < 2)]
    if not batches:
        return tuple(inputs)
    return tuple(
        replace(item, is_shared=isinstance(size := sizes.get(item), int) and size not in (1, batches[0]))
        for item in inputs
    )


def _dims(tensor: TypeProto.Tensor) -> tuple[SymbolicDim, ...]:
    """Dimensions as declared; unnamed ones of one axis count as the same symbol in all inputs."""
    dims: list[SymbolicDim] = []
    for axis, dim in enumerate(tensor.shape.dim):
        if dim.dim_param:
            dims.append(read_dim(dim.dim_param))
        else:
            dims.append(dim.dim_value if dim.dim_value > 0 else read_dim(f"?{axis}"))
    return tuple(dims)


def _role(name: str, elem_type: int, dims: tuple[SymbolicDim, ...], rows: int | None) -> Role:
    lowered = name.lower()
    if elem_type == TensorProto.BOOL and dims in ((), (1,)):
        return Role.FLAG
    # A mask that is summed up to positions indexes their table. Tokens are masked, too.
    if _MASK.search(lowered) or ("mask" in lowered and rows is None):
        return Role.MASK
    if elem_type in FLOATS:
        return Role.FLOATS
    if elem_type == TensorProto.BOOL:
        return Role.BOOLS
    if "position" in lowered:
        return Role.POSITIONS
    if "length" in lowered or "seqlen" in lowered:
        return Role.LENGTHS
    return Role.PIXELS if elem_type in _PIXELS and rows is None else Role.IDS


_MOVES = MOVES | kind("CastLike", "GatherND", "Pad")
_SCALES = kind("Mul", "Div")
_SHIFTS = kind("Add", "Sub")
_CALCULATES = _SCALES | _SHIFTS | EXTREMES | kind("Clip", "Where")
_TRUTHS = COMPARES | kind("And", "Or", "Xor", "Not")
_FEATURES = SUMS_PRODUCTS | NORMALIZES | WEIGHS
_TO_SCORES = _MOVES | _SCALES | _SHIFTS | EXTREMES | kind("Where", "Dropout")
HUGE = 1000
"""The least distance below its score of a mask that hides a token."""
MOST_SEEN = 1000
"""Values that are followed from one input."""
NEAR = 64
"""Values between a mask's neighbor and the layer that computed it, or the softmax that reads it."""


def _is_mask(value: Value, *, indexes: bool) -> bool:
    """Return whether an input of at least one axis is a mask.

    Args:
        indexes: whether its numbers also index a table. Token ids do, and are compared with special tokens; of what
            indexes a table only what is summed up to positions is a mask.
    """
    walk = _Walk(value)
    if indexes:
        return walk.is_counted
    return walk.masks and not (value.elem_type in FLOATS and walk.is_read_otherwise)


class _Walk:
    """Everything that follows from an input by what is done with masks.

    Attributes:
        masks: whether some of it acts as a mask.
        is_counted: whether the input's own numbers are summed up along an axis.
        is_read_otherwise: whether its own numbers are read by what masks nothing: layers with weights, functions.
    """

    def __init__(self, value: Value) -> None:
        self._input, self._is_float = value, value.elem_type in FLOATS
        self.masks = self.is_counted = self.is_read_otherwise = False

        def following(item: tuple[Value, bool]) -> Iterator[tuple[Value, bool]]:
            for use in item[0].consumers:
                yield from self._look_at(use, item[1])

        for _ in reachable([(value, False)], following, MOST_SEEN):
            pass

    def _look_at(self, use: Use, tested: bool) -> set[tuple[Value, bool]]:
        """Return what to follow from one use, and whether that comes out of a comparison."""
        node = use.node
        acts, follows = self._acts_as_mask(use), self._follows(use)
        self.masks |= acts
        self.is_counted |= is_a(node, "CumSum") and not tested
        self.is_read_otherwise |= not (acts or follows or tested or node in OBSERVES)
        outputs = node.outputs if follows else ()
        return {(item, tested or node in _TRUTHS) for item in outputs if item is not None}

    def _acts_as_mask(self, use: Use) -> bool:
        node, index = use
        rank = len(node.shape(index) or ())
        if index in node.roles.masks:
            # One of a single axis lists lengths.
            return rank > 1 and _is_alike_for_heads(node.input(index))
        if is_a(node, "Where"):
            return index == 0
        if is_a(node, "ReduceSum"):
            return index == 0 and rank > 1 and not self._is_float
        if is_a(node, "CumSum"):
            return index == 0 and not self._is_float
        if is_a(node, "Mul"):
            return self._hides(use)
        return self._is_float and node in _SHIFTS and self._is_added_to_scores(use)

    def _hides(self, use: Use) -> bool:
        """Return whether a product scales by a huge number, or takes features from some places."""
        other = use.node.input(1 - use.input_index)
        if other is None:
            return False
        number = other.literal()
        if number is not None:
            return number.size == 1 and abs(float(number.reshape(-1)[0])) >= HUGE
        if other.is_constant or not _is_computed(other, self._input):
            return False
        if not self._is_float:
            return other.elem_type in FLOATS
        own, others = self._input.rank, other.rank
        return (own == 2 and others is not None and others > 2) or _is_among_scores(use.node.out, other)

    def _is_added_to_scores(self, use: Use) -> bool:
        other, own = use.node.input(1 - use.input_index), use.node.input(use.input_index)
        if other is None or other.is_constant or not _is_alike_for_heads(own):
            return False
        return _leads_to_weights(use.node.out) and _is_computed(other, self._input)

    def _follows(self, use: Use) -> bool:
        """Return whether what comes out of a node is a mask where one of its inputs is."""
        node, index = use
        roles = node.roles
        if (
            node.domain
            or index in roles.places
            or (roles.contents is not None and index not in roles.contents)
        ):
            return False
        if node in _MOVES or is_a(node, "And", "Or", "Xor", "Not") or _only_permutes(node):
            return True
        if node in COMPARES:
            other = node.literal(1 - index)
            return other is not None and other.size == 1 and abs(float(other.reshape(-1)[0])) <= 1
        if is_a(node, "CumSum"):
            return not self._is_float
        if node not in _CALCULATES:
            return False
        others = [
            other for position, other in enumerate(node.inputs) if position != index and other is not None
        ]
        return all(other.is_constant or not _is_computed(other, self._input) for other in others)


def _only_permutes(node: Node) -> bool:
    """Return whether a node is an Einsum of one operand, as exporters write a Transpose."""
    return node in SUMS_PRODUCTS and len(node.inputs) == 1


def _is_alike_for_heads(value: Value | None) -> bool:
    """Return whether what is added to scores is the same for all heads, as no bias of positions is."""
    shape = None if value is None else value.shape
    return shape is not None and (len(shape) < 3 or shape[-3] == 1 or not isinstance(shape[-3], int))


def _is_among_scores(product: Value, other: Value) -> bool:
    """Return whether a product lies before the softmax of an attention, or after it."""
    if _leads_to_weights(product):
        return True
    return any(node in WEIGHS for node in back_through(other, _MOVES | kind("Dropout"), most=4))


def _leads_to_weights(value: Value) -> bool:
    def readers(node: Node) -> list[Node]:
        return node.readers if node in _TO_SCORES else []

    first = [use.node for use in value.consumers]
    return any(node in WEIGHS for node in reachable(first, readers, NEAR))


def _is_computed(value: Value, input_: Value) -> bool:
    """Return whether features go into a value: what layers with weights compute, or another input of floats."""

    def above(item: Value) -> Iterable[Value]:
        return () if item.producer is None or item.producer in _FEATURES else _contents(item.producer)

    def is_feature(item: Value) -> bool:
        given = item.is_graph_input and item is not input_ and item.elem_type in FLOATS
        return given or (item.producer is not None and item.producer in _FEATURES)

    return any(map(is_feature, reachable([value], above, NEAR)))


def _contents(node: Node) -> Iterator[Value]:
    """Yield what a node reads as numbers, not as sizes or places."""
    if node in OBSERVES:
        return
    roles = node.roles
    for index, value in enumerate(node.inputs):
        if value is not None and index not in roles.places and index not in roles.rows:
            yield value
