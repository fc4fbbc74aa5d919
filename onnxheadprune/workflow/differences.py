"""Differences between a pruned model and its original, name by name: tensors, attributes, inputs, nodes.

Cuts keep names, so models are compared by names, not by similarity. Large weights may be references:
only shapes are read, and the values of small integer tensors (targets of a Reshape).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from onnxheadprune.edit.edits import AddConstant, InsertNode, SliceTensor
from onnxheadprune.edit.plan import PrunePlan
from onnxheadprune.model.bodies import bodies_of
from onnxheadprune.model.typed_json import JsonObject

What: TypeAlias = Literal[
    "narrowed",
    "refitted",
    "tensor removed",
    "tensor added",
    "attribute",
    "input",
    "node removed",
    "node added",
]
FEW = 16
"""Whole numbers up to this many are shown as they are, others by their shape."""


@dataclass(frozen=True)
class Difference(JsonObject):
    """One difference."""

    what: What  # the kind of change
    name: str  # of the tensor, or the node with its operator
    before: str  # the old shape ("64 x 192"), value or input; empty for new items
    after: str  # the new one; empty for removed items
    site: str = ""  # the site that caused it; empty where unknown

    @classmethod
    def between(
        cls, original: ModelProto, pruned: ModelProto, plan: PrunePlan, refitted: Collection[str] = ()
    ) -> tuple[Difference, ...]:
        """Return every difference between two models, those of tensors first."""
        there, here = _Names(original), _Names(pruned)
        sites = _sites(original, plan)
        found = [*_tensors(there, here, refitted), *_nodes(there, here)]
        return tuple(
            cls(item.what, item.name, item.before, item.after, sites.get(key, "")) for key, item in found
        )


Keyed: TypeAlias = tuple[str, Difference]


class _Names:
    """Tensors and nodes of a model by the names of their values, those of nested graphs included."""

    def __init__(self, model: ModelProto) -> None:
        self.tensors: dict[str, TensorProto] = {}
        self.nodes: dict[str, NodeProto] = {}
        self._read(model.graph)

    def _read(self, graph: GraphProto) -> None:
        for tensor in graph.initializer:
            self.tensors[tensor.name] = tensor
        for node in graph.node:
            key = _key(node)
            stored = next((item.t for item in node.attribute if item.name == "value"), None)
            if not node.input and stored is not None:
                self.tensors[key] = stored
                continue
            self.nodes[key] = node
            for body in bodies_of(node):
                self._read(body)

    def shown(self, name: str) -> str:
        """A value for reports: the numbers of a small constant, else its name."""
        tensor = self.tensors.get(name)
        return name if tensor is None else _shown(tensor, name)


def _key(node: NodeProto) -> str:
    return next((name for name in node.output if name), node.name)


def _label(key: str, node: NodeProto) -> str:
    return f"{node.name or key} ({node.op_type})"


def _shape(tensor: TensorProto) -> str:
    return " x ".join(str(dim) for dim in tensor.dims) or "scalar"


def _shown(tensor: TensorProto, name: str) -> str:
    size = math.prod(tensor.dims)
    inside = tensor.data_location != TensorProto.EXTERNAL
    if tensor.data_type in (TensorProto.INT64, TensorProto.INT32) and size <= FEW and inside:
        return str(numpy_helper.to_array(tensor).tolist())
    return name


def _tensors(there: _Names, here: _Names, refitted: Collection[str]) -> Iterator[Keyed]:
    for name, tensor in there.tensors.items():
        now = here.tensors.get(name)
        if now is None:
            yield name, Difference("tensor removed", name, _shape(tensor), "")
        elif now.dims != tensor.dims:
            yield name, Difference("narrowed", name, _shape(tensor), _shape(now))
        elif name in refitted:
            yield name, Difference("refitted", name, _shape(tensor), _shape(now))
    for name, tensor in here.tensors.items():
        if name not in there.tensors:
            yield name, Difference("tensor added", name, "", _shown(tensor, _shape(tensor)))


def _nodes(there: _Names, here: _Names) -> Iterator[Keyed]:
    for key, node in there.nodes.items():
        now = here.nodes.get(key)
        if now is None or now.op_type != node.op_type:
            yield key, Difference("node removed", _label(key, node), ", ".join(node.input), "")
        else:
            yield from _within(key, node, now, there, here)
    for key, node in here.nodes.items():
        was = there.nodes.get(key)
        if was is None or was.op_type != node.op_type:
            yield key, Difference("node added", _label(key, node), "", ", ".join(map(here.shown, node.input)))


def _within(key: str, node: NodeProto, now: NodeProto, there: _Names, here: _Names) -> Iterator[Keyed]:
    """Yield the differences of a node that is in both models."""
    for position in range(max(len(node.input), len(now.input))):
        before, after = (item.input[position] if position < len(item.input) else "" for item in (node, now))
        if before != after:
            name = f"{_label(key, node)}, input {position}"
            yield key, Difference("input", name, there.shown(before), here.shown(after))
    ours, theirs = _attributes(node), _attributes(now)
    for attribute in sorted(ours.keys() | theirs.keys()):
        if ours.get(attribute) != theirs.get(attribute):
            name = f"{_label(key, node)}, {attribute}"
            yield key, Difference("attribute", name, ours.get(attribute, ""), theirs.get(attribute, ""))


def _attributes(node: NodeProto) -> Mapping[str, str]:
    large = (AttributeProto.GRAPH, AttributeProto.GRAPHS, AttributeProto.TENSOR, AttributeProto.TENSORS)
    return {
        item.name: str(helper.get_attribute_value(item)) for item in node.attribute if item.type not in large
    }


def _sites(original: ModelProto, plan: PrunePlan) -> dict[str, str]:
    """The site that caused each name that the plan touches."""
    found: dict[str, str] = {}
    nodes = original.graph.node
    for item in plan.edits:
        site, edit = ", ".join(item.sites), item.edit
        match edit:
            case SliceTensor():
                found[edit.name] = found[edit.target] = site
            case AddConstant():
                found[edit.name] = site
            case InsertNode():
                found |= dict.fromkeys(edit.outputs, site)
            case _:
                index = getattr(edit, "node", "").removeprefix("main[").removesuffix("]")
                if index.isdecimal() and int(index) < len(nodes):
                    found[_key(nodes[int(index)])] = site
    return found
