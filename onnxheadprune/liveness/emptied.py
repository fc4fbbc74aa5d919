"""Removing whole sites: their projections sum over nothing, so only their biases are left.

Such a bias is the same for every token. It is propagated forward, combined with other constants, to where it joins the
residual stream, and added there instead of the branch; everything before is then unused and removed. Where it is not
simply added (a fused residual norm, a normalisation, a quantizer, the model's caller), an `Expand` gives it the size
that the output had.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from onnx import TensorProto, helper

from onnxheadprune.edit import nodes
from onnxheadprune.edit.edits import MARK, AddConstant, DropNode, Edit, SetInput
from onnxheadprune.liveness.carriers import carried
from onnxheadprune.liveness.consumers import content_uses, looks_only
from onnxheadprune.liveness.index_notation import contraction_of, kernel_of
from onnxheadprune.liveness.layouts import mixture_of
from onnxheadprune.liveness.live import Live
from onnxheadprune.liveness.refusals import Reason, Refusal, refuse
from onnxheadprune.model.graph.elements import NOTHING_NEW
from onnxheadprune.model.graph.operator import KEEPS_ZEROS, SUMS_PRODUCTS, VIEWS, is_a, kind
from onnxheadprune.model.graph.types import type_of
from onnxheadprune.model.graph.view import Node, Use, Value
from onnxheadprune.model.graph.walks import in_graph_order
from onnxheadprune.model.tensors import FLOATS

_PASSES = kind("Identity", "Dropout")
_PASSES_ZEROS = NOTHING_NEW | kind("Cast")
_MOVES = VIEWS | kind("Flatten", "Slice")
_COMBINES = kind("Add", "Mul")


@dataclass(frozen=True)
class Remnant:
    """A value that has become constant.

    It is the projection's bias, the same for every token: a constant along one axis, or zero. Nodes that only move it,
    scale it or add a constant to it output a constant again.
    """

    value: Value
    name: str | None  # of the constant vector, None for zero
    axis: int  # the axis of `value` that the vector runs along
    projections: tuple[Node, ...]  # the projections that sum over nothing
    edits: tuple[Edit, ...] = ()  # edits that compute the vector

    @property
    def ones(self) -> int:
        """The axes of size 1 that a vector needs behind its own to be broadcast to the value."""
        return 0 if self.name is None else _last(self.value) - self.axis


def _last(value: Value) -> int:
    return len(value.shape or ()) - 1


def constants_for(projections: Iterable[Node]) -> Iterator[tuple[Sequence[Edit] | Refusal, Sequence[Node]]]:
    """Edits that put constants in the place of projections that sum over nothing, with the projections.

    Refusals are those of constants, or sizes, that cannot be expressed.
    """
    biases = {node: bias_of(node) if node.roles.scales is None else _quantized(node) for node in projections}
    yield from ((bias, [node]) for node, bias in biases.items() if isinstance(bias, Refusal))
    branches = _Branches(bias for bias in biases.values() if isinstance(bias, Remnant))
    for joint, left in branches.joints.items():
        yield branches.rejoined(joint, left), left.projections
    for end in branches.ends:
        yield _expanded(end, branches.readers(end)), end.projections


def bias_of(node: Node) -> Remnant | Refusal:
    """Return the output of a projection that sums over nothing; a refusal if it adds more than a plain bias."""
    mixture = mixture_of(node)
    if mixture is not None and mixture.bias is not None:
        why = f"without neurons each token would get the biases that its experts in {node.label} have"
        return refuse(node, Reason.NO_PROJECTION, why)
    axis = _last(node.out) if kernel_of(node) is None else 1
    if mixture is not None or node in KEEPS_ZEROS:
        return Remnant(node.out, None, axis, (node,))
    bias = None if node.roles.bias is None else node.input(node.roles.bias)
    scale = node.attribute("beta", 1.0)
    if node not in SUMS_PRODUCTS or (bias is not None and scale not in (0.0, 1.0)):
        return _refused(node)
    return Remnant(node.out, None if bias is None or not scale else bias.name, axis, (node,))


def _refused(node: Node) -> Refusal:
    why = f"what {node.op_type} outputs with nothing left to sum up cannot be expressed as a constant"
    return refuse(node, Reason.NO_PROJECTION, why)


def _quantized(node: Node) -> Remnant | Refusal:
    """The output of a projection that quantizes it: its zero point, moved by the bias in the units of the output."""
    roles = node.roles
    left, right, scale, zero, bias = (
        None if index is None else node.input(index)
        for index in (*(roles.scales or ()), roles.output_scale, roles.output_zero, roles.integer_bias)
    )
    if left is None or right is None or node.attribute("alpha", 1.0) != 1.0:
        return _refused(node)
    found = Remnant(node.out, None, _last(node.out) if kernel_of(node) is None else 1, (node,))
    if bias is None:
        return _refused(node) if zero is None else replace(found, name=zero.name)
    unit, cast, exact, rounded = (
        f"{node.out.name}/{MARK}_{what}" for what in ("unit", "bias", "exact", "quantized")
    )
    edits: tuple[Edit, ...] = (
        nodes.new(node.ref, "Mul", (left.name, right.name), unit),
        nodes.new(node.ref, "Cast", (bias.name,), cast, to=int(TensorProto.FLOAT)),
        nodes.new(node.ref, "Mul", (cast, unit), exact),
    )
    if scale is None:
        return replace(found, name=exact, edits=edits)
    if zero is None:
        return _refused(node)
    made = nodes.new(node.ref, "QuantizeLinear", (exact, scale.name, zero.name), rounded)
    return replace(found, name=rounded, edits=(*edits, made))


def _behind(node: Node, left: Mapping[Value, Remnant]) -> Remnant | None:
    """Return the output of a node that reads such constants, None if it is no constant along one axis."""
    if node.bodies or any(value is not None and value.is_read for value in node.outputs[1:]):
        return None
    read = {index: left[value] for index, value in enumerate(node.inputs) if value and value in left}
    if node in _COMBINES:
        return _combined(node, read)
    index, remnant = next(iter(read.items()))
    if len(read) > 1:
        return None
    product = contraction_of(node)
    if remnant.name is None and product is not None and index in product.indices:
        found = bias_of(node)
        return None if isinstance(found, Refusal) else replace(found, projections=remnant.projections)
    if index:
        return None
    on = replace(remnant, value=node.out)
    if node in _PASSES:
        return on
    if remnant.name is None:
        return replace(on, axis=_last(node.out)) if node in _PASSES_ZEROS else None
    axis = _moved(node, remnant) if node in _MOVES else None
    return None if axis is None else replace(on, axis=axis)


def _moved(node: Node, remnant: Remnant) -> int | None:
    """The axis that a vector runs along behind a view, None if it is split or repeated."""
    size = (remnant.value.shape or ())[remnant.axis]
    through = carried(node, Live.numbered(remnant.axis, size)) if isinstance(size, int) else None
    axes = () if through is None else through.axes
    return axes[0] if len(axes) == 1 and (node.out.shape or ())[axes[0]] == size else None


def _combined(node: Node, read: Mapping[int, Remnant]) -> Remnant | None:
    """A sum or product: a constant if it is one of vectors along the last axis, such as a bias or a layer scale."""
    last = _last(node.out)
    projections = tuple(dict.fromkeys(item for left in read.values() for item in left.projections))
    edits = tuple(dict.fromkeys(edit for left in read.values() for edit in left.edits))
    found = Remnant(node.out, None, last, projections, edits)
    whole = [left for left in read.values() if left.value.shape == node.out.shape]
    if is_a(node, "Mul") and any(left.name is None for left in whole):
        return found
    if len(whole) < len(read) or any(left.ones for left in whole):
        return None
    names: list[str] = []
    for index, value in enumerate(node.inputs):
        if index in read:
            names += filter(None, [read[index].name])
            continue
        if value is None or not value.is_constant or value.shape is None:
            return None
        if any(dim != 1 for dim in value.shape[:-1]):
            return None
        names.append(value.name)
        if len(value.shape) > 1:
            names[-1] = f"{node.out.name}/{MARK}_flat"
            edits += _reshaped(node, value.name, names[-1], 0)
    if len(names) < 2:
        return replace(found, name=next(iter(names), None), edits=edits)
    name = f"{node.out.name}/{MARK}_left"
    return replace(found, name=name, edits=(*edits, nodes.new(node.ref, node.op_type, names, name)))


def _reshaped(node: Node, source: str, target: str, ones: int) -> tuple[Edit, ...]:
    """Edits that make a vector of the constant `source`, with axes of size 1 behind it, before a node."""
    return (
        AddConstant(node.scope.ref, f"{target}_shape", (-1, *(1,) * ones)),
        nodes.new(node.ref, "Reshape", (source, f"{target}_shape"), target),
    )


class _Branches:
    """The remains of branches that vanish together.

    Attributes:
        joints: where a constant is added to something else.
        ends: constants that other nodes read at their full size.
    """

    def __init__(self, projections: Iterable[Remnant]) -> None:
        """Propagate the constant outputs of projections that sum over nothing."""
        self._left = left = {remnant.value: remnant for remnant in projections}

        def readers(value: Value) -> list[Node]:
            uses = value.consumers if value in left else ()
            return [use.node for use in uses if use.node.scope is value.scope and not looks_only(use)]

        first = [node for value in left for node in readers(value)]
        for node in in_graph_order(first, lambda node: readers(node.out)):
            found = _behind(node, left)
            if found is not None:
                left[found.value] = found
        self.joints: dict[Use, Remnant] = {}
        self.ends: list[Remnant] = []
        for remnant in left.values():
            uses = [use for use in content_uses(remnant.value) if not self._is_left(use.node)]
            met = [use for use in uses if self._joins(use)]
            self.joints |= dict.fromkeys(met, remnant)
            if len(met) < len(uses) or remnant.value.is_graph_output:
                self.ends.append(remnant)
        # Additions to which nothing is left to add, and what replaces them.
        self._bypassed = {use.node: _beside(use) for use, item in self.joints.items() if item.name is None}

    def readers(self, end: Remnant) -> Iterator[Use]:
        """Return the readers of the value that a constant replaces."""
        uses = (use for use in end.value.consumers if use not in self.joints)
        return (use for use in uses if use.node not in self._bypassed and not self._is_left(use.node))

    def rejoined(self, joint: Use, left: Remnant) -> list[Edit]:
        """Edits that add a constant instead of its branch."""
        node = joint.node
        if left.name is not None:
            name, edits = left.name, left.edits
            if left.ones:
                name = f"{node.out.name}/{MARK}_bias"
                edits += _reshaped(node, left.name, name, left.ones)
            return [*edits, SetInput(node.ref, joint.input_index, name)]
        stream = self._bypassed[node]
        while stream.producer is not None and stream.producer in self._bypassed:
            stream = self._bypassed[stream.producer]
        if node.out.is_graph_output:
            kept = nodes.new(node.ref, "Identity", (stream.name,), node.out.name)
            return [kept, DropNode(node.ref, node.op_type)]
        # Additions of other branches that vanish are gone themselves.
        uses = (use for use in node.out.consumers if use.node not in self._bypassed)
        return [
            SetInput(use.node.ref, use.input_index, stream.name)
            for use in uses
            if not self._is_left(use.node)
        ]

    def _is_left(self, node: Node) -> bool:
        """Return whether a node outputs a constant."""
        return any(value in self._left for value in node.outputs)

    def _joins(self, use: Use) -> bool:
        """Return whether a node adds a constant to a computed value of the same shape."""
        if not is_a(use.node, "Add"):
            return False
        other = _beside(use)
        return not other.is_constant and other not in self._left and other.shape == use.node.out.shape


def _beside(joint: Use) -> Value:
    """Return the value that a branch is added to."""
    value = joint.node.inputs[1 - joint.input_index]
    assert value is not None
    return value


def _expanded(left: Remnant, readers: Iterable[Use]) -> Sequence[Edit] | Refusal:
    """The constant at the size of its value: who computes nothing else for it is asked for that later."""
    out, node = left.value, left.value.producer
    assert node is not None
    edits, name = list(left.edits), left.name
    if name is None:
        elem_type = type_of(out)
        if elem_type not in (TensorProto.INT32, *FLOATS):
            return _refused(left.projections[0])
        name = f"{out.name}/{MARK}_zero"
        dtype = np.dtype(helper.tensor_dtype_to_np_dtype(elem_type)).name
        edits.append(AddConstant(node.scope.ref, name, (0,), dtype=dtype))
    elif left.ones:
        vector, name = name, f"{out.name}/{MARK}_per_channel"
        edits += _reshaped(node, vector, name, left.ones)
    shape, whole = f"{out.name}/{MARK}_shape", f"{out.name}/{MARK}_without_heads"
    edits.append(nodes.new(node.ref, "Shape", (out.name,), shape))
    if out.is_graph_output:
        expand = nodes.new(node.ref, "Expand", (name, shape), out.name)
        return [*edits, expand, DropNode(node.ref, node.op_type)]
    edits.append(nodes.new(node.ref, "Expand", (name, shape), whole))
    return [*edits, *(SetInput(use.node.ref, use.input_index, whole) for use in readers)]
