"""Floating point operations of a graph on concrete shapes.

A multiply and an add count as two. Counted are contractions: products with weights, convolutions, attention
(all scores, also those that a mask hides), recurrent layers. Everything element-wise is left out, as in most
counters; it costs memory traffic rather than arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container
from dataclasses import dataclass
from typing import Any

from onnxheadprune.benchmarking.flops_fused import FUSED_COUNTERS
from onnxheadprune.liveness.contraction import contraction_of
from onnxheadprune.model.graph.dims import Shape
from onnxheadprune.model.graph.view import GraphView, Node, Scope

Counter = Callable[[Node], int | None]


@dataclass(frozen=True)
class Flops:
    """Operations of one run.

    Attributes:
        total: of the whole graph.
        attention: of the nodes that heads run through, None where the sites are not known.
        uncounted: labels of contractions whose shapes are not known.
    """

    total: int
    attention: int | None
    uncounted: tuple[str, ...] = ()

    @property
    def attention_share(self) -> float | None:
        """The part of all operations that belongs to heads."""
        return None if self.attention is None or not self.total else self.attention / self.total

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        return {
            "total": self.total,
            "attention": self.attention,
            "attention_share": self.attention_share,
            "uncounted": list(self.uncounted),
        }


def count_flops(view: GraphView, attention: Container[str] | None = None) -> Flops:
    """Counts the operations of one run.

    Args:
        view: an annotated view whose inputs have concrete shapes.
        attention: references (`Node.ref`) of the nodes that heads run through.
    """
    total = own = 0
    uncounted = []
    for node, times in _executed(view.main, 1):
        counter = COUNTERS.get((node.domain, node.op_type))
        if counter is None:
            continue
        found = counter(node)
        if found is None:
            uncounted.append(node.label)
            continue
        total += times * found
        own += times * found if attention is not None and node.ref in attention else 0
    return Flops(total, None if attention is None else own, tuple(uncounted))


def _executed(scope: Scope, times: int) -> list[tuple[Node, int]]:
    """The nodes that run, and how often: the branch that is taken, a loop's body as often as its trip count."""
    found: list[tuple[Node, int]] = []
    for node in scope.nodes:
        found.append((node, times))
        bodies = list(node.bodies.values())
        if node.op_type == "If":
            condition = node.literal(0)
            if condition is not None:
                taken = "then_branch" if bool(condition.reshape(-1)[0]) else "else_branch"
                bodies = [node.bodies[taken]]
            else:
                # The dearer branch is the honest guess: one of them runs.
                bodies = [max(bodies, key=_rough)]
        repeat = _trips(node)
        for body in bodies:
            found += _executed(body, times * repeat)
    return found


def _rough(scope: Scope) -> int:
    counted = ((COUNTERS.get((node.domain, node.op_type)), node) for node in scope.nodes)
    return sum(counter(node) or 0 for counter, node in counted if counter is not None)


def _trips(node: Node) -> int:
    if node.op_type == "Loop":
        limit = node.literal(0)
        return 1 if limit is None else max(int(limit.reshape(-1)[0]), 0)
    if node.op_type == "Scan":
        shape = node.shape(len(node.inputs) - 1)
        return shape[0] if shape and isinstance(shape[0], int) else 1
    return 1


def elements(shape: Shape | None) -> int | None:
    """The number of elements, None where a dimension is open."""
    if shape is None:
        return None
    sizes = [dim for dim in shape if isinstance(dim, int)]
    return math.prod(sizes) if len(sizes) == len(shape) else None


def _contraction(node: Node) -> int | None:
    """2 x the product of all letters of the index notation (MatMul, Gemm, Einsum and their relatives)."""
    found = contraction_of(node)
    if found is None:
        return None
    sizes: dict[object, int] = {}
    for index in found.indices:
        shape = node.shape(index)
        if shape is None:
            return None
        for letter, size in zip(found.axes_of(index), shape, strict=False):
            if not isinstance(size, int):
                return None
            sizes[letter] = max(size, sizes.get(letter, 1))
    return 2 * math.prod(sizes.values())


def _convolution(data: int, weight: int) -> Counter:
    def count(node: Node) -> int | None:
        kernel = node.shape(weight)
        transposed = node.op_type == "ConvTranspose"
        places = elements(node.shape(data) if transposed else node.out.shape)
        if kernel is None or elements(kernel) is None or places is None:
            return None
        # [out, in / group, ...] for Conv, [in, out / group, ...] for ConvTranspose: one tap per input of a group.
        return 2 * places * (elements(kernel[1:]) or 0)

    return count


def _recurrent(node: Node) -> int | None:
    """Each step multiplies with the input and the recurrent weights, `[directions, gates * hidden, width]`."""
    data, weights, hidden = node.shape(0), node.shape(1), node.shape(2)
    steps = None if data is None else elements(data[:2])
    inner, outer = elements(weights), elements(hidden)
    return None if steps is None or inner is None or outer is None else 2 * steps * (inner + outer)


def _nbits(node: Node) -> int | None:
    rows = node.shape(0)
    count = None if rows is None else elements(rows)
    return None if count is None else 2 * count * int(node.attribute("N", 0))


def _unknown(node: Node) -> int | None:
    """Operators whose cost depends on what they read."""
    return None


_MS = "com.microsoft"
_PRODUCTS = ("MatMul", "Gemm", "MatMulInteger", "QLinearMatMul", "Einsum")
_MS_PRODUCTS = (
    "FusedMatMul",
    "TransposeMatMul",
    "FusedMatMulActivation",
    "FusedGemm",
    "GemmFastGelu",
    "MatMulIntegerToFloat",
    "DynamicQuantizeMatMul",
    "QGemm",
)
COUNTERS: dict[tuple[str, str], Counter] = {
    **{("", name): _contraction for name in _PRODUCTS},
    **{(_MS, name): _contraction for name in _MS_PRODUCTS},
    **{(domain, name): _convolution(0, 1) for domain, name in (("", "Conv"), (_MS, "FusedConv"))},
    **{("", name): _convolution(0, 1) for name in ("ConvTranspose", "ConvInteger")},
    ("", "QLinearConv"): _convolution(0, 3),
    **{("", name): _recurrent for name in ("LSTM", "GRU", "RNN")},
    **{(_MS, name): _nbits for name in ("MatMulNBits", "MatMulBnb4")},
    **{(_MS, name): _unknown for name in ("MoE", "QMoE", "PackedAttention", "SparseAttention")},
    **FUSED_COUNTERS,
}
"""How many operations each operator takes; None where its shapes are not known."""
