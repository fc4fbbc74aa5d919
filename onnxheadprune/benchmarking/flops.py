"""Floating point operations: of a graph on concrete shapes, of some of its nodes, of a cut.

A multiply and an add count as two. Counted are contractions: products with weights, convolutions, attention
(all scores, also those that a mask hides), recurrent layers. Everything element-wise is left out, as in most
counters; it costs memory traffic rather than arithmetic.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, TensorProto, ValueInfoProto, helper, numpy_helper

from onnxheadprune.errors import HeadPruneError
from onnxheadprune.model.graph.operator import is_a
from onnxheadprune.model.graph.restated import restated
from onnxheadprune.model.graph.view import GraphView, Node, Scope
from onnxheadprune.model.tensors import Array
from onnxheadprune.model.typed_json import JsonObject, written
from onnxheadprune.operators import view_of
from onnxheadprune.runtime.feeds.generate import Feed

FEW = 64
"""Inputs of up to this many whole numbers or flags (lengths, `use_cache_branch`) become constants."""


@dataclass(frozen=True)
class Flops(JsonObject):
    """Operations of one run."""

    total: int  # of the whole graph
    attention: int | None  # of the nodes that heads run through, None where the sites are not known
    uncounted: tuple[str, ...] = ()  # labels of contractions whose shapes are not known

    @classmethod
    def of(cls, view: GraphView, attention: Container[str] | None = None) -> Flops:
        """Count the operations of one run, and those of some nodes, given by their references."""
        costs = node_flops(view)
        total = sum(cost for cost in costs.values() if cost is not None)
        own = None
        if attention is not None:
            own = sum(cost or 0 for node, cost in costs.items() if node.ref in attention)
        return cls(total, own, tuple(node.label for node, cost in costs.items() if cost is None))

    @property
    @written()
    def attention_share(self) -> float | None:
        """The part of all operations that belongs to heads."""
        return None if self.attention is None or not self.total else self.attention / self.total


def node_flops(view: GraphView) -> dict[Node, int | None]:
    """Count the operations of each contraction in one run, None where its shapes are not known."""
    counted = ((node, times, node.operator.cost) for node, times in _executed(view.main, 1))
    found = {node: (counter(node), times) for node, times, counter in counted if counter is not None}
    return {node: None if cost is None else times * cost for node, (cost, times) in found.items()}


def _executed(scope: Scope, times: int) -> list[tuple[Node, int]]:
    """The nodes that run, and how often: the branch that is taken, a loop's body as often as its trip count."""
    found: list[tuple[Node, int]] = []
    for node in scope.nodes:
        found.append((node, times))
        bodies = list(node.bodies.values())
        if is_a(node, "If"):
            condition = node.literal(0)
            if condition is not None:
                taken = "then_branch" if bool(condition.reshape(-1)[0]) else "else_branch"
                bodies = [node.bodies[taken]]
            else:
                # The dearer branch is the honest guess: one of them runs.
                bodies = [max(bodies, key=_rough)]
        trips = node.operator.trips
        repeat = 1 if trips is None else trips(node)
        for body in bodies:
            found += _executed(body, times * repeat)
    return found


def _rough(scope: Scope) -> int:
    counted = ((node.operator.cost, node) for node in scope.nodes)
    return sum(counter(node) or 0 for counter, node in counted if counter is not None)


def attention_nodes(model: ModelProto) -> frozenset[str] | None:
    """References (`Node.ref`) of all nodes that work on single heads, None where the sites cannot be told.

    These are the projections of Q, K and V, the scores, the contexts and the output projections, found by a trial
    removal of one group of heads per site.
    """
    from onnxheadprune.attention.sites.find import sites_of
    from onnxheadprune.liveness.sweep import sweep

    try:
        sites = sites_of(view_of(model), "the model")
    except HeadPruneError:
        return None
    found = {*sweep([seed for site in sites for seed in site.seeds(site.groups[0])]).answers}
    for site in sites:
        found.update((*(projection.node for projection in site.projections), *site.cores))
    return frozenset(node.ref for node in found) if sites else None


def concrete_view(model: ModelProto, feed: Mapping[str, Array]) -> GraphView:
    """The annotated view of a model that takes exactly this feed."""
    return view_of(restated(model, _inputs(model, feed)))


def _inputs(model: ModelProto, feed: Mapping[str, Array]) -> Iterator[ValueInfoProto | TensorProto]:
    stored = {tensor.name for tensor in model.graph.initializer}
    for info in model.graph.input:
        array = feed.get(info.name)
        if info.name in stored or array is None:
            yield info
        elif array.dtype.kind in "biu" and array.ndim < 2 and array.size <= FEW:
            yield numpy_helper.from_array(array, info.name)
        else:
            yield helper.make_tensor_value_info(info.name, info.type.tensor_type.elem_type, array.shape)


@dataclass(frozen=True)
class Operations(JsonObject):
    """Floating point operations of one run, before and after."""

    before: int  # of the original
    after: int  # of the pruned model
    shapes: Mapping[str, tuple[int, ...]]  # of the inputs, by name
    complete: bool  # whether all contractions could be counted in both

    @classmethod
    def of(
        cls, original: ModelProto, pruned: ModelProto, shapes: Mapping[str, tuple[int, ...]]
    ) -> Operations | None:
        """Count both models; None where the original has nothing that is counted.

        Args:
            shapes: of the original's inputs. Inputs of the pruned model that are narrower keep their declared sizes.
        """
        before, after = (Flops.of(concrete_view(model, _feed(model, shapes))) for model in (original, pruned))
        if not before.total:
            return None
        return cls(before.total, after.total, shapes, not before.uncounted and not after.uncounted)

    @property
    def halved(self) -> bool:
        """True if less than half of the operations are left."""
        return 2 * self.after < self.before


def _feed(model: ModelProto, shapes: Mapping[str, tuple[int, ...]]) -> Feed:
    """An array per input that takes no memory: of these shapes, but for sizes that the model itself declares."""
    feed: Feed = {}
    for info in model.graph.input:
        shape = shapes.get(info.name)
        declared = info.type.tensor_type
        if shape is None or len(declared.shape.dim) != len(shape):
            continue
        sizes = [
            dim.dim_value if dim.HasField("dim_value") else size
            for dim, size in zip(declared.shape.dim, shape, strict=True)
        ]
        dtype = helper.tensor_dtype_to_np_dtype(declared.elem_type)
        feed[info.name] = np.broadcast_to(np.zeros((), dtype), sizes)
    return feed
