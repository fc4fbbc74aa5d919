"""Computing a value once more, narrower, where that costs no more than gathering from it.

Layers that share weights after a Cast, a bias that is only spread over the batch, a fill of zeros: what one consumer
needs of such a value follows from stored tensors, which are cut for free.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from onnx import AttributeProto, helper, numpy_helper

from onnxheadprune.edit import nodes
from onnxheadprune.edit.edits import (
    MARK,
    AddConstant,
    Attribute,
    Edit,
    InsertNode,
    SetAttribute,
    SetInput,
    SliceTensor,
)
from onnxheadprune.liveness.domain import MASKS
from onnxheadprune.liveness.live import FULL, Live
from onnxheadprune.liveness.refusals import Refusal
from onnxheadprune.liveness.rule_calls import ask
from onnxheadprune.liveness.shape_literals import reads_own_shape
from onnxheadprune.model.graph.dims import Symbolic
from onnxheadprune.model.graph.operator import DEQUANTIZES, REREADS, is_a, kind
from onnxheadprune.model.graph.view import Node, Use, Value
from onnxheadprune.model.tensors import Selection, spell_ranges

FREE = REREADS | kind("Identity")
"""Nodes that move no data."""
WORKING = DEQUANTIZES | kind("Cast", "Expand", "Mul", "Add", "Transpose", "Slice")
"""Nodes that read and write every element once, as a gather does.

A lookup by indices of run time is none (T5's buckets): it picks element by element, which takes far longer than to
copy the planes of whole heads.
"""
REPEATED = FREE | WORKING | kind("ConstantOfShape")
MAX_HOPS = 6
DTYPES = frozenset({"float32", "float16", "float64", "int64", "int32", "bool"})


@dataclass
class Repeats:
    """Narrower copies of values, each made once."""

    kept: Mapping[Value, Live]  # what every value keeps
    # the name of each copy and the edits that make it, None where there is none; by scope, value and part
    known: dict[tuple[str, Value, Hashable], tuple[str, list[Edit]] | None] = field(default_factory=dict)

    def of(self, value: Value, wanted: Live, use: Use) -> tuple[str, list[Edit]] | None:
        """The name of a copy of `value` that holds `wanted` alone, and the edits that make it before its reader.

        None where that would cost more than a gather, or cannot be followed. Ask in the order of the readers.
        """
        key = use.node.scope.ref, value, wanted.key
        if key not in self.known:
            # A gather over a symbolic axis reshapes twice: eight nodes, and every element is written once more.
            symbolic = any(isinstance((value.shape or ())[axis], Symbolic) for axis in wanted.axes)
            copy = _Copy(self.kept, use.node, f"{MARK}_copy_{use.name}", 3 if symbolic else 1)
            name = copy.make(value, wanted, MAX_HOPS)
            self.known[key] = None if name is None else (name, copy.edits)
        return self.known[key]


@dataclass
class _Copy:
    kept: Mapping[Value, Live]
    before: Node
    suffix: str
    budget: int
    edits: list[Edit] = field(default_factory=list)

    def make(self, value: Value, wanted: Live, hops: int) -> str | None:
        if value.holds_tensor:
            return self._stored(value, wanted)
        if wanted == self.kept.get(value, FULL):
            return value.name
        node = value.producer
        if node is None or hops == 0 or node.domain or node not in REPEATED or len(node.outputs) != 1:
            return None
        if reads_own_shape(node, self.kept):
            return None
        if node in WORKING and not _cuts_stored(node):
            self.budget -= 1
        answer = ask(node, [wanted], MASKS)
        # An operator that keeps more than was asked for would need a gather behind it.
        if self.budget < 0 or isinstance(answer, Refusal) or answer.kept not in (None, (wanted,)):
            return None
        inputs: list[str] = []
        needs: dict[int, Live] = {}
        for index, source in enumerate(node.inputs):
            needs[index] = FULL if source is None else answer.inputs.get(index, FULL)
            name = "" if source is None else self.make(source, needs[index], hops - 1)
            if name is None:
                return None
            inputs.append(name)
        rewritten = [] if answer.rewrite is None else list(answer.rewrite(needs))
        return self._node(node, inputs, rewritten)

    def _stored(self, value: Value, wanted: Live) -> str | None:
        if wanted.is_full:
            # Whoever cuts it in place must not cut it under the copy.
            return value.name if self.kept.get(value, FULL).is_full else None
        kept = wanted.dense_shape()
        if kept is None or value.shape is None:
            return None
        name = f"{value.name}/{self.suffix}"
        ranges = spell_ranges(np.flatnonzero(wanted.mask.reshape(-1)))
        selection = Selection(wanted.axes, tuple(wanted.array.shape), kept, ranges)
        self.edits.append(SliceTensor(value.scope.ref, value.name, selection, name))
        return name

    def _node(self, node: Node, inputs: list[str], rewritten: list[Edit]) -> str | None:
        attributes = _attributes(node)
        names: dict[str, str] = {}
        for edit in rewritten:
            match edit:
                case SetInput(owner, index, name) if owner == node.ref:
                    inputs += [""] * (index + 1 - len(inputs))
                    inputs[index] = names.get(name, name)
                case SetAttribute(owner, name, setting) if owner == node.ref and setting is not None:
                    attributes = None if attributes is None else attributes | {name: setting}
                case AddConstant():
                    names[edit.name] = f"{edit.name}/{self.suffix}"
                    self.edits.append(replace(edit, name=names[edit.name]))
                case InsertNode():
                    names |= {name: f"{name}/{self.suffix}" for name in edit.outputs}
                    outputs = tuple(names[name] for name in edit.outputs)
                    reads = tuple(names.get(name, name) for name in edit.inputs)
                    self.edits.append(replace(edit, before=self.before.ref, inputs=reads, outputs=outputs))
                case _:
                    return None
        output = f"{node.out.name}/{self.suffix}"
        if is_a(node, "ConstantOfShape"):
            fill = self._fill(node, output)
            if fill is None:
                return None
            self.edits.append(nodes.new(self.before.ref, "Expand", (fill, inputs[0]), output))
            return output
        if attributes is None:
            return None
        made = InsertNode(
            self.before.ref, node.proto.op_type, tuple(inputs), (output,), tuple(attributes.items())
        )
        self.edits.append(made)
        return output

    def _fill(self, node: Node, output: str) -> str | None:
        """The number that fills a ConstantOfShape, as a constant of its own."""
        tensor = node.attribute("value")
        number = np.zeros(1, np.float32) if tensor is None else numpy_helper.to_array(tensor)
        if str(number.dtype) not in DTYPES:
            return None
        name = f"{output}_fill"
        values = (number.reshape(-1)[0].item(),)
        self.edits.append(AddConstant(node.scope.ref, name, values, True, str(number.dtype)))
        return name


def _cuts_stored(node: Node) -> bool:
    """Return whether a node takes a part of a stored tensor, which moves no more than that part."""
    source = node.inputs[0]
    return is_a(node, "Slice") and source is not None and source.holds_tensor


def _attributes(node: Node) -> dict[str, Attribute] | None:
    """The attributes of a node, None if one is no number, text or list of numbers."""
    found: dict[str, Attribute] = {}
    for attribute in node.proto.attribute:
        value = helper.get_attribute_value(attribute)
        if attribute.type in (AttributeProto.INT, AttributeProto.FLOAT):
            found[attribute.name] = value
        elif attribute.type in (AttributeProto.INTS, AttributeProto.FLOATS):
            found[attribute.name] = tuple(value)
        elif attribute.type == AttributeProto.STRING:
            found[attribute.name] = value.decode()
        elif not is_a(node, "ConstantOfShape"):
            return None
    return found
