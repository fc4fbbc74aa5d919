"""Signatures of sites, the same in every file that holds one: the signs of some numbers of its output projection.

Signs survive what exporters and quantizers do to weights: transposing, rounding, scaling by columns, packing in blocks
of four bits. Of two maps that have nothing to do with each other about half of them are the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from onnxheadprune.attention.levels import StoredLevels
from onnxheadprune.attention.matrices import Array, matrix_of
from onnxheadprune.attention.packed import packed_matrix
from onnxheadprune.attention.sites.projection import Projection
from onnxheadprune.attention.sites.unit import Site
from onnxheadprune.liveness.blocks import is_packed
from onnxheadprune.liveness.contraction import contraction_of
from onnxheadprune.model.graph.tables import roles_of

Signs = npt.NDArray[np.float32]
SAME = 0.7
"""Share of equal signs from which on two maps are one; refitting changes some."""
ENOUGH = 64
"""Signs that two maps must have in common to be compared."""
_NUMBERS = 4096
"""Numbers of a map that are looked at, at most."""
_COLUMNS = 64


def signs_of(site: Site) -> Signs | None:
    """Signs (-1, 0, 1) of the projection's numbers, the units in order; None where its weights are in no known form."""
    for projection in site.projections:
        matrix = _matrix(projection)
        if matrix is not None and matrix.shape[0] >= 1 + max(map(max, projection.channels)):
            rows = np.concatenate([np.asarray(channels) for channels in projection.channels])
            columns = _spread(matrix.shape[1], _COLUMNS)
            rows = rows[_spread(len(rows), _NUMBERS // len(columns))]
            signs = np.asarray(np.sign(matrix[np.ix_(rows, columns)]), np.float32).reshape(-1)
            # Nothing is known of a map that is nearly all zeros.
            return signs if np.count_nonzero(signs) >= min(ENOUGH, signs.size) else None
    return None


def likeness(signs: Sequence[Signs]) -> npt.NDArray[np.float32]:
    """Share of equal signs for each pair; 0 for pairs that have too few in common."""
    stacked = np.stack(signs)
    known = np.abs(stacked)
    common, agreed = known @ known.T, stacked @ stacked.T
    share = (common + agreed) / 2 / np.maximum(common, 1)
    return np.asarray(np.where(common >= min(ENOUGH, stacked.shape[1]), share, 0), np.float32)


def _spread(size: int, most: int) -> npt.NDArray[np.int64]:
    """Up to `most` positions, evenly spread."""
    return np.unique(np.linspace(0, size - 1, min(size, max(most, 1))).astype(np.int64))


def _matrix(projection: Projection) -> Array | None:
    """The weights as [in, out], up to a positive factor per column; None in a form that is not known."""
    node = projection.node
    if is_packed(node):
        packed = packed_matrix(node)
        return None if packed is None else packed.read()
    if projection.weight is None:
        return None
    index, contracted = projection.weight
    operand, found = node.inputs[index], contraction_of(node)
    if operand is None or found is None or index not in found.indices:
        return None
    letters = found.axes_of(index)
    free = [axis for axis, letter in enumerate(letters) if axis not in contracted and letter is not None]
    zero = None if (place := roles_of(node).weight_zero) is None else node.input(place)
    # Scales are positive, so they need not be found.
    levels = StoredLevels((), zero if zero is not None and zero.holds_tensor else None)
    matrix = matrix_of(operand, contracted, free) or matrix_of(operand, contracted, free, levels)
    return None if matrix is None else matrix.read()
