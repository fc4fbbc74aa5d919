"""Removing whole sites: their projections sum over nothing, so only their biases are left.

Such a bias is the same for every token. It is propagated forward, combined with other constants, to where it joins the
residual stream, and added there instead of the branch; everything before is then unused and removed. Where it is not
simply added (a fused residual norm, a normalisation, a quantizer, the model's caller), an `Expand` gives it the size
that the output had.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from onnx import TensorProto, helper

from onnxheadprune.edit import nodes
from onnxheadprune.edit.edits import MARK, AddConstant, DropNode, Edit, InsertNode, SetInput
from onnxheadprune.liveness.axes import reshape_back
from onnxheadprune.liveness.consumers import content_uses, looks_only
from onnxheadprune.liveness.index_notation import contraction_of, kernel_of
from onnxheadprune.liveness.layouts import mixture_of
from onnxheadprune.liveness.live import Live
from onnxheadprune.liveness.refusals import Reason, Refusal, refuse
from onnxheadprune.model.graph.element_types import type_of
from onnxheadprune.model.graph.operator import KEEPS_ZEROS, SUMS_INTEGERS, SUMS_PRODUCTS, is_a, kind
from onnxheadprune.model.graph.view import Node, Use, Value
from onnxheadprune.model.graph.walks import in_graph_order
from onnxheadprune.model.tensors import FLOATS

PASSING = kind("Identity", "Dropout", "Cast")


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


def _reshaped(node: Node, source: str, target: str, shape: tuple[int, ...]) -> tuple[Edit, ...]:
    """Edits that make the constant `target` of `source`, under another shape, before a node."""
    return (
        AddConstant(node.scope.ref, f"{target}_shape", shape),
        nodes.new(node.ref, "Reshape", (source, f"{target}_shape"), target),
    )


def bias_of(node: Node) -> Remnant | Refusal:
    """Return the output of a projection that sums over nothing; a refusal if it adds more than a plain bias."""
    if node in KEEPS_ZEROS:
        return Remnant(node.out, None, len(node.out.shape or ()) - 1, (node,))
    mixture = mixture_of(node)
    if mixture is not None:
        if mixture.bias is None:
            return Remnant(node.out, None, len(node.out.shape or ()) - 1, (node,))
        why = f"without neurons each token would get the biases that its experts in {node.label} have"
        return refuse(node, Reason.NO_PROJECTION, why)
    index = node.roles.bias
    bias = None if index is None else node.input(index)
    scale = node.attribute("beta", 1.0)
    if node not in SUMS_PRODUCTS or (bias is not None and scale not in (0.0, 1.0)):
        why = f"what {node.op_type} outputs with nothing left to sum up cannot be expressed as a constant"
        return refuse(node, Reason.NO_PROJECTION, why)
    axis = len(node.out.shape or ()) - 1 if kernel_of(node) is None else 1
    return Remnant(node.out, None if bias is None or not scale else bias.name, axis, (node,))


def _behind(node: Node, left: Mapping[Value, Remnant]) -> Remnant | None:
    """Return the output of a node that reads such constants, None if it is no constant along one axis."""
    if node.bodies or any(value is not None and value.is_read for value in node.outputs[1:]):
        return None
    reads = [Use(node, index) for index, value in enumerate(node.inputs) if value in left]
    first = left[_read(reads[0])]
    if len(reads) == 1:
        return _through(reads[0], first)
    if len(reads) > 2 or len(node.inputs) != 2 or not (is_a(node, "Add") or is_a(node, "Mul")):
        return None
    return _combined(node, first, left[_read(reads[1])])


def _read(use: Use) -> Value:
    value = use.node.inputs[use.input_index]
    assert value is not None
    return value


def _combined(node: Node, left: Remnant, right: Remnant) -> Remnant | None:
    """Return the sum or product of two constants: another constant, if both run along the last axis."""
    last = len(node.out.shape or ()) - 1
    if any(item.value.shape != node.out.shape or item.axis != last for item in (left, right)):
        return None
    projections = tuple(dict.fromkeys((*left.projections, *right.projections)))
    edits = tuple(dict.fromkeys((*left.edits, *right.edits)))
    on = Remnant(node.out, None, last, projections, edits)
    if is_a(node, "Mul") and None in (left.name, right.name):
        return on
    if left.name is None or right.name is None:
        return replace(on, name=left.name or right.name)
    name = f"{node.out.name}/{MARK}_left"
    made = InsertNode(node.ref, node.op_type, (left.name, right.name), (name,))
    return replace(on, name=name, edits=(*edits, made))


def _through(use: Use, remnant: Remnant) -> Remnant | None:
    """Return the output of a node that reads one constant."""
    node, source, target = use.node, remnant.value.shape, use.node.out.shape
    on = replace(remnant, value=node.out)
    if node in PASSING:
        return on if not is_a(node, "Cast") or remnant.name is None else None
    if is_a(node, "Squeeze", "Unsqueeze") and remnant.name is None:
        return replace(on, axis=len(target or ()) - 1)
    if is_a(node, "Transpose"):
        order = node.attribute("perm", list(reversed(range(len(source or ())))))
        return replace(on, axis=order.index(remnant.axis))
    if is_a(node, "Slice") and use.input_index == 0:
        if source is None or target is None or source[remnant.axis] != target[remnant.axis]:
            return None
        return on
    if is_a(node, "Reshape") and use.input_index == 0:
        axis = _axis_behind(node, remnant)
        return None if axis is None else replace(on, axis=axis)
    if is_a(node, "Mul") and remnant.name is None and source == target:
        return on
    if is_a(node, "Add") or is_a(node, "Mul"):
        return _with_constant(use, remnant)
    return _layer_of_zero(use, remnant)


def _layer_of_zero(use: Use, remnant: Remnant) -> Remnant | None:
    """The output of a linear layer that reads zeros: its bias."""
    product = contraction_of(use.node)
    if remnant.name is not None or product is None or use.input_index not in product.indices:
        return None
    found = bias_of(use.node)
    return None if isinstance(found, Refusal) else replace(found, projections=remnant.projections)


def _axis_behind(node: Node, remnant: Remnant) -> int | None:
    """The axis that the constant runs along after a Reshape, None if it is split."""
    source, target = remnant.value.shape, node.out.shape
    if source is None or target is None:
        return None
    size = source[remnant.axis]
    for axis, dim in enumerate(target):
        if dim != size or not isinstance(dim, int) or dim < 2:
            continue
        back = reshape_back(Live.numbered(axis, dim), source, target)
        if back is not None and back.axes == (remnant.axis,) and back.period(remnant.axis) == dim:
            return axis
    return None


def _with_constant(use: Use, remnant: Remnant) -> Remnant | None:
    """Return the remnant after a bias or a layer scale, which vary along the last axis alone."""
    node, other = use.node, use.node.inputs[1 - use.input_index]
    on = replace(remnant, value=node.out)
    if other is None or not other.is_constant or other.shape is None:
        return None
    # Axes are counted from the last one.
    if remnant.axis != len(node.out.shape or ()) - 1 or any(dim != 1 for dim in other.shape[:-1]):
        return None
    if remnant.name is None and is_a(node, "Mul"):
        return on
    flat, edits = other.name, remnant.edits
    if len(other.shape) > 1:
        flat = f"{node.out.name}/{MARK}_flat"
        edits += _reshaped(node, other.name, flat, (-1,))
    if remnant.name is None:
        return replace(on, name=flat, edits=edits)
    name = f"{node.out.name}/{MARK}_left"
    made = InsertNode(node.ref, node.op_type, (remnant.name, flat), (name,))
    return replace(on, name=name, edits=(*edits, made))


@dataclass(frozen=True)
class Branches:
    """The remains of branches that vanish together."""

    left: Mapping[Value, Remnant]  # all values that have become constant
    joints: Sequence[tuple[Use, Remnant]]  # where such a constant is added to something else
    ends: Sequence[Remnant]  # constants that other nodes read at their full size
    bypassed: Mapping[Node, Value]  # replacements of additions to which nothing is left to add

    def readers(self, end: Remnant) -> Iterator[Use]:
        """Return the readers of the value that a constant replaces."""
        joints = {use for use, _ in self.joints}
        return (use for use in end.value.consumers if not self._vanishes(use.node) and use not in joints)

    def rejoined(self, joint: Use, left: Remnant) -> list[Edit]:
        """Edits that add a constant instead of its branch."""
        node = joint.node
        if left.name is not None:
            after = len(node.out.shape or ()) - 1 - left.axis
            name, made = left.name, list(left.edits)
            if after:
                name = f"{node.out.name}/{MARK}_bias"
                made += _reshaped(node, left.name, name, (-1, *(1,) * after))
            return [*made, SetInput(node.ref, joint.input_index, name)]
        stream = self._stream(node)
        if node.out.is_graph_output:
            return [
                nodes.new(node.ref, "Identity", (stream.name,), node.out.name),
                DropNode(node.ref, node.op_type),
            ]
        # Additions of other branches that vanish are gone themselves.
        staying = [use for use in node.out.consumers if not self._vanishes(use.node)]
        return [SetInput(use.node.ref, use.input_index, stream.name) for use in staying]

    def _vanishes(self, node: Node) -> bool:
        return node in self.bypassed or _made(node, self.left)

    def _stream(self, joint: Node) -> Value:
        """Return the rest of a sum."""
        value = self.bypassed[joint]
        while value.producer is not None and value.producer in self.bypassed:
            value = self.bypassed[value.producer]
        return value


def branches(projections: Iterable[Remnant]) -> Branches:
    """Propagate the constant outputs of projections that sum over nothing."""
    left = {remnant.value: remnant for remnant in projections}

    def readers(value: Value) -> list[Node]:
        uses = value.consumers if value in left else ()
        return [use.node for use in uses if use.node.scope is value.scope and not looks_only(use)]

    first = [node for value in left for node in readers(value)]
    for node in in_graph_order(first, lambda node: readers(node.out)):
        found = _behind(node, left)
        if found is not None:
            left[found.value] = found
    joints: list[tuple[Use, Remnant]] = []
    ends: list[Remnant] = []
    for remnant in left.values():
        uses = [use for use in content_uses(remnant.value) if not _made(use.node, left)]
        met = [use for use in uses if _joins(use, left)]
        joints += [(use, remnant) for use in met]
        if len(met) < len(uses) or remnant.value.is_graph_output:
            ends.append(remnant)
    bypassed = {
        use.node: beside for use, remnant in joints if remnant.name is None and (beside := _beside(use))
    }
    return Branches(left, joints, ends, bypassed)


def _joins(use: Use, left: Mapping[Value, Remnant]) -> bool:
    """Return whether a node adds a constant to a computed value of the same shape."""
    other = _beside(use) if is_a(use.node, "Add") else None
    return (
        other is not None
        and not other.is_constant
        and other not in left
        and other.shape == use.node.out.shape
    )


def _beside(joint: Use) -> Value | None:
    """Return the value that a branch is added to."""
    return joint.node.inputs[1 - joint.input_index]


def _made(node: Node, left: Mapping[Value, Remnant]) -> bool:
    return any(value in left for value in node.outputs)


def stand_in(left: Remnant, readers: Sequence[Use]) -> Sequence[Edit] | Refusal:
    """Edits that replace the sum of projections by a constant.

    The edits, or a refusal if the constant, or its size, cannot be expressed as a constant.
    """
    builder = _Builder(left.projections[0], left.value, list(left.edits))
    constant = builder.constant(left)
    return _refused(left.projections[0]) if constant is None else builder.edits(constant, readers)


def quantized_stand_in(projection: Node) -> Sequence[Edit] | Refusal:
    """The same for a projection that quantizes its output."""
    builder = _Builder(projection, projection.out)
    constant = builder.quantized()
    return _refused(projection) if constant is None else builder.edits(constant, projection.out.consumers)


def _refused(node: Node) -> Refusal:
    why = f"what {node.op_type} outputs with nothing left to sum up cannot be expressed as a constant"
    return refuse(node, Reason.NO_PROJECTION, why)


@dataclass
class _Builder:
    """Collects nodes to insert before the producer of `value`, and names their outputs."""

    node: Node
    value: Value
    made: list[Edit] = field(default_factory=list)

    @property
    def before(self) -> Node:
        """The insert position of new nodes: nothing between the projection and this node is needed any more."""
        return self.value.producer or self.node

    def edits(self, constant: str, readers: Sequence[Use]) -> list[Edit]:
        """The constant at the size of the value: who computes nothing else for it is asked for that later."""
        out, before = self.value, self.before.ref
        shape = self._insert(nodes.new(before, "Shape", (out.name,), self._name("shape")))
        if out.is_graph_output:
            self._insert(nodes.new(before, "Expand", (constant, shape), out.name))
            return [*self.made, DropNode(before, self.before.op_type)]
        expanded = self._insert(nodes.new(before, "Expand", (constant, shape), self._name("without_heads")))
        return [*self.made, *(SetInput(use.node.ref, use.input_index, expanded) for use in readers)]

    def constant(self, left: Remnant) -> str | None:
        """The vector, broadcastable to the value."""
        found = self._zero() if left.name is None else left.name
        after = len(self.value.shape or ()) - 1 - left.axis
        return found if found is None or not after else self._followed_by_ones(found, after)

    def _zero(self) -> str | None:
        """A zero of the output's type; without one on record, of the type of the operands."""
        integer = self.node in SUMS_INTEGERS
        types = [TensorProto.INT32] if integer and self.value is self.node.out else [self.value.elem_type]
        types += [value.elem_type for value in self.node.sources]
        types.append(type_of(self.node.out))
        known = next((elem_type for elem_type in types if elem_type in (TensorProto.INT32, *FLOATS)), None)
        if known is None:
            return None
        return self._integers("zero", (0,), np.dtype(helper.tensor_dtype_to_np_dtype(known)).name)

    def quantized(self) -> str | None:
        """The output's zero point, moved by the bias in the units of the output."""
        node = self.node
        roles = node.roles
        if roles.scales is None:
            return None
        left, right, scale, zero, bias = (
            None if index is None else node.input(index)
            for index in (*roles.scales, roles.output_scale, roles.output_zero, roles.integer_bias)
        )
        if left is None or right is None or node.attribute("alpha", 1.0) != 1.0:
            return None
        if bias is None:
            return None if zero is None else zero.name
        before = self.before.ref
        unit = self._insert(nodes.new(before, "Mul", (left.name, right.name), self._name("unit")))
        cast = self._insert(
            nodes.new(before, "Cast", (bias.name,), self._name("bias"), to=int(TensorProto.FLOAT))
        )
        found = self._insert(nodes.new(before, "Mul", (cast, unit), self._name("exact")))
        if scale is not None:
            if zero is None:
                return None
            found = self._insert(
                nodes.new(before, "QuantizeLinear", (found, scale.name, zero.name), self._name("quantized"))
            )
        after = len(node.out.shape or ()) - 2 if kernel_of(node) is not None else 0
        return self._followed_by_ones(found, after) if after else found

    def _followed_by_ones(self, vector: str, count: int) -> str:
        shape = self._integers("column", (-1, *(1,) * count))
        return self._insert(nodes.new(self.before.ref, "Reshape", (vector, shape), self._name("per_channel")))

    def _name(self, what: str) -> str:
        return f"{self.value.name}/{MARK}_{what}"

    def _integers(self, what: str, values: tuple[int, ...], dtype: str = "int64") -> str:
        name = self._name(what)
        edit = AddConstant(self.node.scope.ref, name, values, dtype=dtype)
        if edit not in self.made:
            self.made.append(edit)
        return name

    def _insert(self, edit: InsertNode) -> str:
        if edit not in self.made:
            self.made.append(edit)
        return edit.outputs[0]
