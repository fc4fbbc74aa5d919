"""Sums and means over units: a sum over fewer is the same with zeros left out, a mean also divides by their number."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import numpy.typing as npt
from onnx import helper

from onnxheadprune.edit import nodes
from onnxheadprune.edit.edits import MARK, AddConstant, Edit, SetOutput
from onnxheadprune.model.graph.facts import AVERAGES, SUMS
from onnxheadprune.model.graph.types import type_of
from onnxheadprune.model.graph.view import Node
from onnxheadprune.model.tensors import FLOATS


def averaged(node: Node, mask: npt.NDArray[np.bool_]) -> list[Edit]:
    """Edits that give a mean over what is left the divisor that it had; none for a sum.

    Args:
        node: a reduction.
        mask: what is left of what it reduces, and of other axes.
    """
    share = Fraction(int(np.count_nonzero(mask)), mask.size)
    if node not in AVERAGES or share in (0, 1):
        return []
    scope, out = node.scope, node.out
    raw, factor = f"{out.name}/{MARK}_of_those_left", f"{out.name}/{MARK}_share"
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(type_of(node.out))).name
    after = f"{scope.ref}[{node.position + 1}]"
    return [
        AddConstant(scope.ref, factor, (float(share),), scalar=True, dtype=dtype),
        SetOutput(node.ref, 0, raw),
        nodes.multiply(after, raw, factor, out.name),
    ]


def why_no_sum(node: Node) -> str | None:
    """Return why nothing that a reduction reads can go exactly, None if it can."""
    if node in SUMS or (node in AVERAGES and type_of(node.out) in FLOATS):
        return None
    return f"{node.label} reduces all of them to one, in which a zero still counts"
