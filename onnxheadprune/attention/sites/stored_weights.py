"""Stored weights of units: their size, inseparable units, and reasons why units cannot be removed.

A silenced context adds nothing to a quantized sum only if writer and reader use the same zero point: a head that is
multiplied by zero before a quantizer becomes that quantizer's zero point. If a reader of the integers subtracts another
one, a silenced head still adds a constant, and a removed one would not.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Container, Iterable, Iterator
from functools import lru_cache

import numpy as np
import onnx
from onnx import ModelProto

from onnxheadprune.attention.sites.grouping import Partition
from onnxheadprune.attention.sites.projection import Projection
from onnxheadprune.attention.sites.site import Site
from onnxheadprune.liveness.domain import MASKS
from onnxheadprune.liveness.live import FULL, Live
from onnxheadprune.liveness.packed_blocks import is_packed, weights_per_element
from onnxheadprune.liveness.refusals import Reason, Refusal
from onnxheadprune.liveness.rule_calls import ask
from onnxheadprune.liveness.sweep_result import Sweep
from onnxheadprune.model.graph.operator import DEQUANTIZES, VIEWS, is_a, kind
from onnxheadprune.model.graph.view import GraphView, Node, Use, Value
from onnxheadprune.model.graph.walks import reachable
from onnxheadprune.model.storage.tensors import stored_size

MOST, MOST_LISTS = 2**17, 2**4


@lru_cache(MOST)
def _single(number: int) -> frozenset[int]:
    return frozenset((number,))


def as_set(numbers: Collection[int]) -> frozenset[int]:
    """Return a set of numbers."""
    return _single(next(iter(numbers))) if len(numbers) == 1 else frozenset(numbers)


@lru_cache(MOST_LISTS)
def once(sets: tuple[tuple[int, ...], ...]) -> tuple[tuple[int, ...], ...]:
    """Return equal sets that were given before instead: blocks of one model are divided alike."""
    return sets


def units_together(projections: Iterable[Projection], count: int) -> tuple[tuple[int, ...], ...]:
    """Units that can only be removed together because a projection packs them in one block; each other unit alone."""
    found: Partition[int] = Partition()
    for unit in range(count):
        found.root(unit)
    for members in (some for item in projections for some in item.packed_together()):
        found.join(members)
    return once(tuple(sorted(tuple(sorted(members)) for members in found.sets())))


def why_not_cut(site: Site) -> Refusal | None:
    """Return why the stored weights of a site's projections cannot be cut, None if they can."""
    units = site.units if len(site.units) > 1 else ((0,),)
    for item in site.projections:
        packed = item.why_not_cut(units)
        if packed is not None:
            return _refused(Reason.OPAQUE_WEIGHTS, item, packed)
    for item in site.projections:
        lost = why_zero_is_lost(item, site.KIND.unit)
        if lost is not None:
            return _refused(Reason.COUPLED, item, lost)
    return None


def _refused(reason: Reason, projection: Projection, sentence: str) -> Refusal:
    return Refusal(reason, projection.node.label, projection.node.out.name, sentence)


def weights_of(walk: Sweep, within: Container[Node] | None = None) -> tuple[int, int, int]:
    """`(weights, bytes, flops per token)` that a mask sweep removes from stored tensors.

    Args:
        within: nodes whose weights count, without the shapes and single numbers that they read; None for all.
    """
    weights = size_in_bytes = flops = 0
    for value in walk.reached:
        if value.tensor is None or value.shape is None:
            continue
        # As a weight, not as a shape or a single number.
        several = value.elem_type != onnx.TensorProto.INT64 and math.prod(_sizes(value)) > 1
        if within is not None and not (several and any(use.node in within for use in value.consumers)):
            continue
        uses = [use for use in value.consumers if (use.node.index, use.input_index) in walk.edges]
        # A value without a consumer is an output of an `If` branch.
        live = (walk.edge(uses[0]) if uses else walk.kept[value]).as_mask()
        whole = _whole(uses[0]) if uses else FULL
        total = math.prod(_sizes(value))
        gone = round(total * (_share(whole) - _share(live & whole)))
        size_in_bytes += gone * _element_bits(value.elem_type) // 8
        gone = round(gone * _per_element(value))
        weights += gone
        flops += 2 * gone if len(value.shape) > 1 else 0
    return weights, size_in_bytes, flops


def size_of(values: Iterable[Value]) -> tuple[int, int]:
    """Return the elements of stored tensors, those of packed weights counted as weights, and their size in bytes."""
    some = [(value, math.prod(_sizes(value))) for value in dict.fromkeys(values)]
    elements = sum(round(count * _per_element(value)) for value, count in some)
    return elements, sum(count * _element_bits(value.elem_type) // 8 for value, count in some)


def weights_in(model: ModelProto, view: GraphView) -> int:
    """Return the number of a model's stored elements, those of packed weights counted as weights."""
    packed = [node for node in view.nodes if is_packed(node)]
    stored = {value for node in packed for value in node.inputs if value is not None and value.holds_tensor}
    more = sum(math.prod(_sizes(value)) * (_per_element(value) - 1) for value in stored)
    return stored_size(model).elements + round(more)


def _per_element(value: Value) -> float:
    return weights_per_element(value.consumers[0]) if value.consumers else 1.0


def _sizes(value: Value) -> list[int]:
    return [dim for dim in value.shape or () if isinstance(dim, int)]


def _whole(use: Use) -> Live:
    """Return the part of a stored tensor that a node reads before anything is removed: a slice reads a slice."""
    answer = ask(use.node, [FULL for _ in use.node.outputs], MASKS)
    return FULL if isinstance(answer, Refusal) else answer.inputs.get(use.input_index, FULL).as_mask()


def _share(live: Live) -> float:
    return float(np.mean(live.array != 0))


def _element_bits(elem_type: int) -> int:
    """Bits per element of an ONNX tensor type."""
    name = onnx.TensorProto.DataType.Name(elem_type)
    if name in ("INT4", "UINT4", "FLOAT4E2M1"):
        return 4
    if name in ("INT2", "UINT2"):
        return 2
    return int(onnx.helper.tensor_dtype_to_np_dtype(elem_type).itemsize) * 8 if name != "UNDEFINED" else 0


_PASSING = VIEWS | kind("Flatten", "Slice", "Gather", "Split", "Concat", "Dropout", "Pad", "Expand")
"""Nodes without arithmetic: what is zero above is zero below."""
_MAX_NODES = 256


def why_zero_is_lost(projection: Projection, unit: str) -> str | None:
    """Return why silenced units would still add something to a projection's sum, None if they add nothing."""
    for reader, index in _readers(projection):
        asked = reader.roles.zero_points[index]
        for zero in _written(reader.inputs[index]):
            if not _same(zero, reader.input(asked)):
                return (
                    f"{reader.label} takes another zero point off the context than its quantizer added, so that a"
                    f" silenced {unit} still adds a constant"
                )
    return None


def _readers(projection: Projection) -> Iterator[tuple[Node, int]]:
    """The projection itself if it reads integers, and dequantizers right above it."""
    node, index = projection.node, projection.activation[0]
    if index in node.roles.zero_points:
        yield node, index
    for value in _above(node.inputs[index]):
        if value.producer is not None and value.producer in DEQUANTIZES:
            yield value.producer, 0


def _written(value: Value | None) -> Iterator[Value | None]:
    """The known zero points of the quantizers upstream."""
    for source in _above(value):
        node = source.producer
        if node is not None and is_a(node, "DynamicQuantizeLinear"):
            yield node.outputs[2] if len(node.outputs) > 2 else None
        elif node is not None and (zero := node.roles.output_zero) is not None:
            yield node.input(zero)


def _above(value: Value | None) -> Iterator[Value]:
    """Yield the sources of a value through views and unions alone."""

    def passed(item: Value) -> list[Value]:
        node = item.producer
        if node is None or node not in _PASSING:
            return []
        return node.sources if is_a(node, "Concat") else node.sources[:1]

    walk = reachable([] if value is None else [value], passed, _MAX_NODES)
    return (item for item in walk if not passed(item))


def _same(left: Value | None, right: Value | None) -> bool:
    if left is right:
        return True
    numbers = [np.zeros(()) if value is None else value.literal() for value in (left, right)]
    first, second = numbers
    return first is not None and second is not None and bool(np.all(first == second))
