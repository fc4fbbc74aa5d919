"""GridSample: pictures are sampled on grids."""

from __future__ import annotations

from collections.abc import Sequence

from onnxheadprune.liveness.live import Live
from onnxheadprune.liveness.refusal import Refusal
from onnxheadprune.liveness.registry import Answer, inexpressible, rule
from onnxheadprune.model.graph.tables import ROLES, Roles, Shapes, shape_function
from onnxheadprune.model.graph.view import Node

ROLES.add(("GridSample",), "", Roles(contents=(0,)))


@shape_function("GridSample")
def _grid_sample_shape(node: Node) -> Shapes:
    """A value of each channel at every place of the grid."""
    data, grid = node.shape(0), node.shape(1)
    return [None if data is None or grid is None else (*data[:2], *grid[1:-1])]


@rule("GridSample")
def _grid_sample(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """Each picture of a batch is sampled on a grid of its own, each channel alike."""
    live = lives[0]
    if any(axis > 1 for axis in live.axes):
        return inexpressible(node)
    return Answer({0: live, 1: live.only([0])})
