"""Weights packed in blocks (`com.microsoft.MatMulNBits`): columns are removed one by one, inputs only as whole blocks.

The weight is `[N, K / block, bytes]`; scales and zero points have one entry per block, flat or as a matrix,
and zero points of two or four bits share bytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from onnx import TensorProto

from onnxheadprune.liveness.live import Live
from onnxheadprune.model.graph.operator import is_a
from onnxheadprune.model.graph.view import Node, Use
from onnxheadprune.model.tensors import Mask

WEIGHT, SCALES, ZERO_POINTS, GROUP_INDEX, BIAS = range(1, 6)


def is_packed(node: Node) -> bool:
    """Return whether the node's weight is packed in blocks along the summed axis."""
    return is_a(node, "com.microsoft.MatMulNBits")


def block_size(node: Node) -> int:
    """Inputs per block."""
    return int(node.attribute("block_size", 32))


def weights_per_element(use: Use) -> float:
    """The number of weights in an element of a stored tensor: several in a packed byte, none in its scale."""
    node, index = use.node, use.input_index
    value = node.input(index)
    if not is_packed(node) or index not in (WEIGHT, SCALES, ZERO_POINTS) or value is None:
        return 1.0
    sizes = [dim for dim in value.shape or () if isinstance(dim, int)]
    return int(node.attribute("K")) * int(node.attribute("N")) / math.prod(sizes) if index == WEIGHT else 0.0


def why_not_cut(node: Node, mask: Mask) -> str | None:
    """Return why the inputs outside `mask` cannot be cut off the packed weight, None if they can."""
    size = block_size(node)
    if node.input(GROUP_INDEX) is not None:
        return "MatMulNBits reads its inputs in another order (g_idx)"
    if mask.size % size:
        return f"the last block of {node.label} is not full"
    rows = mask.reshape(-1, size)
    if np.any(rows.any(axis=1) != rows.all(axis=1)):
        return f"{node.op_type} packs {size} inputs in a block, and a unit does not fill whole blocks"
    in_byte = _zero_points_in_byte(node)
    kept = _by_bytes(np.asarray(np.any(rows, axis=1)), in_byte)
    if np.any(kept.any(axis=1) != kept.all(axis=1)):
        return f"{node.op_type} packs the zero points of {in_byte} blocks in a byte, and a unit has only some of them"
    return None


def packed_together(node: Node, channels: Sequence[Sequence[int]]) -> Iterator[set[int]]:
    """Heads with inputs in one block, or in some whose zero points share a byte."""
    yield from _owners(channels, block_size(node) * _zero_points_in_byte(node))


def share_blocks(node: Node, channels: Sequence[Sequence[int]]) -> bool:
    """Return whether some heads have inputs in one block; else only bytes of zero points hold them together."""
    return any(len(owners) > 1 for owners in _owners(channels, block_size(node)))


def _owners(channels: Sequence[Sequence[int]], size: int) -> Iterable[set[int]]:
    """The heads with inputs among each `size` ones in a row."""
    owners: dict[int, set[int]] = {}
    for head, inputs in enumerate(channels):
        for block in {channel // size for channel in inputs}:
            owners.setdefault(block, set()).add(head)
    return owners.values()


def _zero_points_in_byte(node: Node) -> int:
    """Return the number of zero points per stored element: several where they have few bits, else one."""
    value = node.input(ZERO_POINTS)
    in_bytes = value is not None and value.elem_type == TensorProto.UINT8
    return 8 // int(node.attribute("bits", 4)) if in_bytes else 1


def _by_bytes(kept: Mask, in_byte: int) -> Mask:
    """Blocks, [bytes, in a byte]; a last byte that is not full repeats its last block."""
    return np.pad(kept, (0, -kept.size % in_byte), mode="edge").reshape(-1, in_byte)


def cut_inputs(node: Node, mask: Mask) -> Iterator[tuple[int, Live]]:
    """Yield the live sets of the weight, the scales and the zero points if only the inputs in `mask` are live."""
    # Trial removals ask before anybody knows whether the last block is full.
    whole = np.pad(mask, (0, -mask.size % block_size(node)))
    kept = np.asarray(np.any(whole.reshape(-1, block_size(node)), axis=1))
    yield WEIGHT, Live.over((1,), kept)
    yield from _per_block(node, SCALES, kept)
    if node.input(ZERO_POINTS) is not None:
        bytes_kept = np.asarray(_by_bytes(kept, _zero_points_in_byte(node)).any(axis=1))
        yield from _per_block(node, ZERO_POINTS, bytes_kept)


def _per_block(node: Node, index: int, kept: Mask) -> Iterator[tuple[int, Live]]:
    flat = len(node.shape(index) or ()) == 1
    rows = int(node.attribute("N"))
    yield index, Live.over((0,), np.tile(kept, rows)) if flat else Live.over((1,), kept)


def cut_columns(node: Node, columns: Live) -> dict[int, Live]:
    """Return the live set of each input if only some columns (axis 0 of `columns`) are live."""
    answers = {WEIGHT: columns, BIAS: columns}
    for index in (SCALES, ZERO_POINTS):
        shape = node.shape(index)
        if shape is None:
            continue
        per_row = (
            int(shape[0]) // int(node.attribute("N")) if len(shape) == 1 and isinstance(shape[0], int) else 1
        )
        answers[index] = Live.over((0,), np.repeat(columns.array, per_row)) if columns.axes else columns
    return answers
