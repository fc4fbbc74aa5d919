"""The constant that a projection computes when all its heads are removed, at the size that its output had.

The general answer where the branch is not simply added to a residual stream: its output feeds a fused
residual norm, a normalisation, a quantizer or the model's caller. The projection sums over nothing, so its
output is its bias (or zero, or a zero point) for every token; an `Expand` spells that at run time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from onnx import TensorProto, helper

from onnxheadprune.edit import nodes
from onnxheadprune.edit.edits import MARK, AddConstant, DropNode, Edit, InsertNode, SetInput
from onnxheadprune.liveness.emptied_branches import Remnant
from onnxheadprune.liveness.index_notation import kernel_of
from onnxheadprune.liveness.refusals import Reason, Refusal, refuse
from onnxheadprune.model.graph.element_types import type_of
from onnxheadprune.model.graph.operator import SUMS_INTEGERS
from onnxheadprune.model.graph.view import Node, Use, Value
from onnxheadprune.model.tensors import FLOATS


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
