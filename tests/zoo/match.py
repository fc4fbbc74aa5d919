"""Which site of a graph is which output projection of the PyTorch model.

By the numbers in the weight, since exporters and optimizers rename everything: up to transposition, a
factor and an offset per row (folded scales, quantization), and rounding.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import TensorProto, numpy_helper

from onnxheadprune import AttentionSite, Sites
from onnxheadprune.model.graph.view import Value
from tests.zoo.case import Projection
from tests.zoo.runs import Array

ALIKE = 0.97
"""Smallest mean correlation of rows for two weights to be the same one, int8 rounding included."""


def by_weight(sites: Sites, weights: Sequence[Array]) -> dict[int, AttentionSite]:
    """The site of each projection whose weight is found; equal weights (shared layers) are taken in order."""
    stored = [(site, found) for site in sites for found in _weights_of(site)]
    matched: dict[int, AttentionSite] = {}
    for index, weight in enumerate(weights):
        place = next((k for k, (_, found) in enumerate(stored) if _same(found, weight)), None)
        if place is not None:
            matched[index] = stored.pop(place)[0]
    return matched


def match_sites(
    sites: Sites, projections: Sequence[Projection], weights: Sequence[Array]
) -> dict[int, AttentionSite] | None:
    """The site of each projection.

    Args:
        sites: what the engine found.
        projections: in order of execution.
        weights: of the projections, ``[out, in]``.

    Returns:
        A site per index of ``projections``, None if some projection has none.
    """
    matched = by_weight(sites, weights)
    if len(matched) == len(projections):
        return matched
    return _by_order(sites, projections) or _by_name(sites, projections)


def _by_order(sites: Sites, projections: Sequence[Projection]) -> dict[int, AttentionSite] | None:
    own = [index for index, projection in enumerate(projections) if projection.tied_to is None]
    heads = [projections[index].num_heads for index in own]
    if [site.num_heads for site in sites] != heads:
        return None
    matched = dict(zip(own, sites, strict=True))
    tied = {i: p.tied_to for i, p in enumerate(projections) if p.tied_to is not None}
    return matched | {index: matched[core] for index, core in tied.items()}


def _by_name(sites: Sites, projections: Sequence[Projection]) -> dict[int, AttentionSite] | None:
    matched = {}
    for index, projection in enumerate(projections):
        path = f".{projection.path}."
        named = [site for site in sites if f".{site.name}." in path or path in f".{site.name}."]
        if len(named) != 1:
            return None
        matched[index] = named[0]
    return matched


def _weights_of(site: AttentionSite) -> list[Array]:
    """The stored weight of each projection, behind the casts and dequantizers that lead to it."""
    found: list[Array] = []
    for projection in site.projections:
        value: Value | None = projection.node.inputs[projection.weight[0]]
        while value is not None and value.tensor is None:
            value = None if value.producer is None else value.producer.input(0)
        if value is not None and value.tensor is not None:
            matrix = _matrix(value.tensor)
            # Both branches of an If read the one weight.
            if not any(np.array_equal(matrix, known) for known in found):
                found.append(matrix)
    return found


def _matrix(tensor: TensorProto) -> Array:
    array: Array = np.asarray(numpy_helper.to_array(tensor)).astype(np.float32)
    return array.reshape([size for size in array.shape if size > 1] or [1])


def _same(stored: Array, weight: Array) -> bool:
    if stored.size != weight.size or stored.ndim > 2:
        return False
    matrices = [stored.reshape(weight.shape)] if stored.shape == weight.shape or stored.ndim == 1 else []
    matrices += [stored.T] if stored.T.shape == weight.shape else []
    return any(_likeness(matrix, weight) > ALIKE for matrix in matrices)


def _likeness(left: Array, right: Array) -> float:
    """Mean correlation of the rows, without regard to its sign."""
    if left.shape[1] < 3:
        return float(np.allclose(left, right, rtol=1e-2, atol=1e-3))
    rows = [matrix - matrix.mean(axis=1, keepdims=True) for matrix in (left, right)]
    norms = [np.sqrt((matrix**2).sum(axis=1)) + 1e-30 for matrix in rows]
    return float(np.mean(np.abs((rows[0] * rows[1]).sum(axis=1)) / (norms[0] * norms[1])))
