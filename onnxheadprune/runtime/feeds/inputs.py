"""Graph inputs: type, dimensions and role."""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import TensorProto, TypeProto, helper

from onnxheadprune.errors import UsageError
from onnxheadprune.model.graph.view import GraphView
from onnxheadprune.model.tensors import FLOATS
from onnxheadprune.runtime.feeds.masks import is_mask
from onnxheadprune.runtime.feeds.symbols import SymbolicDim, read_dim
from onnxheadprune.runtime.feeds.tables import feature_width, row_bound

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
    """One graph input that a feed must hold.

    Attributes:
        name: its name.
        dtype: NumPy's type of its elements (ml_dtypes' for bfloat16).
        dims: its dimensions; empty for a scalar.
        role: what it stands for, judged by type and name; a mask also by what the graph does with it.
        rows: integers must stay below this (rows of the tables they index), None where unknown.
        widths: sizes that the weights dictate for open axes, whatever those are called.
    """

    name: str
    dtype: np.dtype[Any]
    dims: tuple[SymbolicDim, ...]
    role: Role
    rows: int | None = None
    widths: Mapping[int, int] = field(default_factory=dict, compare=False)

    @property
    def is_cache(self) -> bool:
        """True if it holds what the model has kept of tokens before: keys and values, or another state."""
        lowered = self.name.lower()
        return len(self.dims) > 2 and ("past" in lowered or lowered.startswith("cache"))

    @property
    def batch_axis(self) -> int | None:
        """The axis that counts samples, None where none does: flags, lengths and positions that all samples share."""
        rank = len(self.dims)
        if not rank or self.role is Role.FLAG:
            return None
        if self.role is Role.POSITIONS and rank != 2:
            # Positions in time, height and width come one behind the other, [3, batch, sequence].
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
    """The inputs of a model that are not initializers as well.

    Raises:
        UsageError: if one is no tensor of numbers, so that no feed can be made up.
    """
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
        if role in _UNNAMED and dims and is_mask(value, indexes=rows is not None):
            role = Role.MASK
        dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.elem_type))
        free = [axis for axis, dim in enumerate(dims) if axis and not isinstance(dim, int)]
        widths = {axis: feature_width(value, axis) for axis in free}
        known = {axis: width for axis, width in widths.items() if width is not None}
        found.append(Input(info.name, dtype, dims, role, rows, known))
    return tuple(found)


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
