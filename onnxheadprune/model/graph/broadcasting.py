"""Broadcasting of symbolic dimensions."""

from __future__ import annotations

from collections.abc import Sequence

from onnxheadprune.model.graph import dims
from onnxheadprune.model.graph.dims import Dim, Shape, Symbolic
from onnxheadprune.model.graph.view import Node


def simplicity(dim: Dim) -> tuple[bool, bool, int, str]:
    """A key that sorts dimensions from the simplest on: numbers, names of the model, names that inference made up."""
    name = str(dim)
    return (isinstance(dim, Symbolic), "unk__" in name or "." in name, len(name), name)


def broadcast_dim(left: Dim, right: Dim) -> Dim:
    """The broadcast of two dimensions.

    Two different symbols cannot be told apart from a broadcast of 1 at run time; the one that the
    model itself names is preferred to one that inference made up, then the shorter expression.
    """
    if left == 1 or left == right:
        return right
    if right == 1 or isinstance(left, int):
        return left
    if isinstance(right, int):
        return right
    return min(left, right, key=simplicity)


def broadcast(shapes: Sequence[Shape | None]) -> Shape | None:
    """Numpy's broadcast of all `shapes`."""
    result: Shape = ()
    for shape in shapes:
        if shape is None:
            return None
        rank = max(len(result), len(shape))
        left = (1,) * (rank - len(result)) + result
        right = (1,) * (rank - len(shape)) + shape
        result = tuple(broadcast_dim(a, b) for a, b in zip(left, right, strict=True))
    return result


def named(dim: Dim | None, node: Node, axis: int) -> Dim:
    """The dimension; an unknown one gets the name of the output and the axis."""
    return dims.symbol(f"{node.out.name}.{axis}") if dim is None else dim
