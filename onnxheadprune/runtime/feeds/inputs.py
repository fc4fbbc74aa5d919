"""Graph inputs: type, dimensions and role.

Names tell a mask: what a graph does with its numbers is written in too many ways. An input of integers that neither its
name nor a table tells apart is filled with zeros and ones, which fit a mask, too.

Exporters write dimensions as plain names ("batch"), sums ("past_sequence_length + 1"), sympy expressions
("Max(1, 2*s0)") or not at all. The same symbol always gets the same number.
"""

from __future__ import annotations

import ast
import enum
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any, TypeAlias

import numpy as np
from onnx import TensorProto, TypeProto, helper

from onnxheadprune.display.spelling import first_few
from onnxheadprune.errors import UsageError
from onnxheadprune.model.graph.view import GraphView
from onnxheadprune.model.tensors import FLOATS
from onnxheadprune.runtime.feeds.tables import feature_width, least_capacity, replaces_some, row_bound

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


SymbolicDim: TypeAlias = "int | Expression"
_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: Fraction(a) / Fraction(b),
    ast.FloorDiv: lambda a, b: a // b,
    ast.Mod: lambda a, b: a % b,
    ast.Pow: lambda a, b: a**b,
}
# Sympy writes Max where Python writes max.
_CALLS: dict[str, Callable[..., Any]] = {
    "max": max,
    "min": min,
    "floor": math.floor,
    "ceiling": math.ceil,
    "mod": lambda a, b: a % b,
}


@dataclass(frozen=True)
class Expression:
    """A dimension that depends on symbols."""

    text: str  # as the model spells it
    symbols: tuple[str, ...]  # the names in it; the whole text where it is no arithmetic

    @property
    def is_symbol(self) -> bool:
        """True for a single name, without arithmetic."""
        return self.symbols == (self.text,)

    def evaluate(self, numbers: Mapping[str, int]) -> int:
        """The dimension for one number per symbol."""
        if self.is_symbol:
            return numbers[self.text]
        return int(_evaluate(ast.parse(self.text, mode="eval").body, numbers))


def read_dim(text: str) -> Expression:
    """A `dim_param` as an expression."""
    try:
        body = ast.parse(text.strip(), mode="eval").body
        names = _names(body)
    except (SyntaxError, ValueError):
        return Expression(text, (text,))
    return Expression(text.strip(), names) if names else Expression(text, (text,))


def _names(node: ast.expr) -> tuple[str, ...]:
    """Names in an expression, in order of appearance."""
    match node:
        case ast.Name(id=name):
            return (name,)
        case ast.Constant(value=int()):
            return ()
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            return tuple(dict.fromkeys((*_names(left), *_names(right))))
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return _names(operand)
        case ast.Call(func=ast.Name(id=function), args=args, keywords=[]) if function.lower() in _CALLS:
            return tuple(dict.fromkeys(name for item in args for name in _names(item)))
    raise ValueError("not arithmetic")


def _evaluate(node: ast.expr, numbers: Mapping[str, int]) -> Any:
    match node:
        case ast.Name(id=name):
            return numbers[name]
        case ast.Constant(value=int(value)):
            return value
        case ast.BinOp(left=left, op=op, right=right):
            return _BINARY[type(op)](_evaluate(left, numbers), _evaluate(right, numbers))
        case ast.UnaryOp(operand=operand):
            return -_evaluate(operand, numbers)
        case ast.Call(func=ast.Name(id=function), args=args):
            return _CALLS[function.lower()](*(_evaluate(item, numbers) for item in args))
    raise ValueError(f"no arithmetic: {ast.dump(node)}")


@dataclass(frozen=True)
class Input:
    """One graph input that a feed must hold."""

    name: str
    dtype: np.dtype[Any]  # NumPy's type of its elements (ml_dtypes' for bfloat16)
    dims: tuple[SymbolicDim, ...]  # its dimensions; empty for a scalar
    role: Role  # what it stands for, judged by type and name
    # integers must stay below this (rows of the tables they index), None where unknown
    rows: int | None = None
    # sizes that the weights dictate for open axes, whatever those are called
    widths: Mapping[int, int] = field(default_factory=dict, compare=False)
    capacity: int = 0  # positions that a cache must have at least
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
        dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.elem_type))
        free = [axis for axis, dim in enumerate(dims) if axis and not isinstance(dim, int)]
        widths = {axis: feature_width(value, axis) for axis in free}
        known = {axis: width for axis, width in widths.items() if width is not None}
        mends = rows is not None and replaces_some(value)
        found.append(Input(info.name, dtype, dims, role, rows, known, least_capacity(value), mends=mends))
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


def padding_warning(inputs: Iterable[Input]) -> str | None:
    """A warning where an input may be a mask that its name does not tell, since padding is then counted."""
    unclear = [
        f"{item.name} ({item.describe()})"
        for item in inputs
        if item.role is Role.IDS and item.rows is None and len(item.dims) == 2
    ]
    if not unclear:
        return None
    return (
        f"the role of {first_few(unclear)} is not known, so padding is counted as if it were content; if it is a mask,"
        " rename the input to attention_mask"
    )
