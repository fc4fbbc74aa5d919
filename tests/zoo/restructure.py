"""The same computation inside control flow or local functions.

Merged decoders, early exits and exporters that keep modules as functions write such graphs; no
exporter of today's torch does it on request, so the zoo rewrites its plain exports.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto
from onnx.helper import make_function, make_graph, make_node, make_opsetid, make_tensor_value_info

if TYPE_CHECKING:
    from tests.zoo.build import Original

_LAYER = re.compile(r"^(/.*?\.\d+)/")


class NotApplicableError(Exception):
    """The model has no such part."""


def in_if(source: Path, target: Path, original: Original) -> None:
    """Puts the nodes in both branches of an ``If``; the weights stay outside and are shared.

    A batch of more than one goes through the first branch.
    """
    model = _flat(source)
    case = original.case
    axes = ((name, axis, to) for name in case.inputs for axis, to in case.dynamic_axes.get(name, {}).items())
    first, axis = next(((name, axis) for name, axis, to in axes if to == "batch"), ("", 0))
    if first not in {item.name for item in model.graph.input}:
        raise NotApplicableError("the batch is fixed")
    branch = make_node(
        *("If", ["/batch_is_many"], [item.name for item in model.graph.output]),
        name="/merged",
        then_branch=_body(model, "then", {}),
        else_branch=_body(
            model, "else", {name: f"{name}/else" for node in model.graph.node for name in node.output}
        ),
    )
    nodes = [
        make_node("Shape", [first], ["/shape"]),
        make_node("Constant", [], ["/batch_axis"], value_int=axis),
        make_node("Constant", [], ["/one"], value_int=1),
        make_node("Gather", ["/shape", "/batch_axis"], ["/batch"], axis=0),
        make_node("Greater", ["/batch", "/one"], ["/batch_is_many"]),
    ]
    _save(model, [*nodes, branch], target)


def in_loop(source: Path, target: Path, original: Original) -> None:
    """Puts the nodes in the body of a ``Loop`` that runs once; the weights stay outside."""
    model = _flat(source)
    body = _body(model, "body", {})
    body.input.append(make_tensor_value_info("/step", TensorProto.INT64, []))
    body.input.append(make_tensor_value_info("/keep_going", TensorProto.BOOL, []))
    body.node.append(make_node("Identity", ["/keep_going"], ["/keep_going_still"]))
    body.output.insert(0, make_tensor_value_info("/keep_going_still", TensorProto.BOOL, []))
    outputs = [item.name for item in model.graph.output]
    nodes = [
        make_node("Constant", [], ["/one"], value_int=1),
        make_node("Constant", [], ["/first_axis"], value_ints=[0]),
        make_node("Loop", ["/one", ""], [f"{name}/scanned" for name in outputs], name="/loop", body=body),
        *(make_node("Squeeze", [f"{name}/scanned", "/first_axis"], [name]) for name in outputs),
    ]
    _save(model, nodes, target)


def _body(model: ModelProto, name: str, names: Mapping[str, str]) -> GraphProto:
    """Return the nodes as a graph, with other names; it declares its outputs under names of its own."""
    suffix = f"/{name}" if names else ""
    ends = {item.name: names.get(item.name, f"{item.name}/inner") for item in model.graph.output}
    names = {**names, **ends, "": ""}
    nodes, outputs = [], []
    for node in model.graph.node:
        nodes.append(_copy(node))
        nodes[-1].name = f"{node.name}{suffix}"
        nodes[-1].input[:] = [names.get(item, item) for item in node.input]
        nodes[-1].output[:] = [names.get(item, item) for item in node.output]
    for item in model.graph.output:
        outputs.append(ValueInfoProto())
        outputs[-1].CopyFrom(item)
        outputs[-1].name = ends[item.name]
    return make_graph(nodes, name, [], outputs)


def layer_functions(source: Path, target: Path, original: Original) -> None:
    """Makes each numbered module (``/encoder/layer.0``) a model-local function."""
    model = _flat(source)
    groups: dict[str, list[NodeProto]] = {}
    for node in model.graph.node:
        found = _LAYER.match(node.name)
        if found:
            groups.setdefault(found.group(1), []).append(node)
    if not groups:
        raise NotApplicableError("no node name has a numbered scope")
    for scope, nodes in groups.items():
        _outline(model, scope, nodes)
    # An opset must be declared for the functions' own domain.
    model.opset_import.append(make_opsetid("layers", 1))
    model.ir_version = max(model.ir_version, 8)
    _save(model, list(model.graph.node), target)


def _outline(model: ModelProto, scope: str, nodes: Sequence[NodeProto]) -> None:
    chosen = {node.name for node in nodes}
    read = {o.name for o in model.graph.output}
    read |= {n for node in model.graph.node if node.name not in chosen for n in node.input}
    # A constant that others read as well stays outside: they may come before the call.
    nodes = [n for n in nodes if n.op_type != "Constant" or n.output[0] not in read]
    chosen = {node.name for node in nodes}
    own = {name for node in nodes for name in node.output}
    inputs = list(dict.fromkeys(n for node in nodes for n in node.input if n and n not in own))
    outputs = [n for node in nodes for n in node.output if n in read]
    name = scope.strip("/").replace("/", "_").replace(".", "_")
    opsets = [o for o in model.opset_import if o.domain != "layers"]
    model.functions.append(make_function("layers", name, inputs, outputs, list(nodes), opsets))
    call = make_node(name, inputs, outputs, name=scope, domain="layers")
    # The call goes where the layer's last node was: all its inputs exist there. If something
    # between needs a result earlier, the layer is not convex and the checker says so.
    last = max(i for i, node in enumerate(model.graph.node) if node.name in chosen)
    before = [n for n in model.graph.node[:last] if n.name not in chosen]
    _replace(model, [*before, call, *model.graph.node[last + 1 :]])


def _flat(source: Path) -> ModelProto:
    model = onnx.load(source)
    for node in model.graph.node:
        if any(a.type == onnx.AttributeProto.GRAPH for a in node.attribute):
            raise NotApplicableError("the model has subgraphs already")
    return model


def _copy(node: NodeProto) -> NodeProto:
    return NodeProto.FromString(node.SerializeToString())


def _replace(model: ModelProto, nodes: Iterable[NodeProto]) -> None:
    kept = [_copy(node) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(kept)


def _save(model: ModelProto, nodes: Iterable[NodeProto], target: Path) -> None:
    _replace(model, nodes)
    del model.graph.value_info[:]
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, target)
