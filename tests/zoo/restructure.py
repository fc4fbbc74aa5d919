"""The same computation inside control flow or local functions.

Merged decoders, early exits and exporters that keep modules as functions write such graphs; no
exporter of today's torch does it on request, so the zoo rewrites its plain exports.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import onnx
from onnx import NodeProto, helper

from tests.zoo.case import Case

_LAYER = re.compile(r"^(/.*?\.\d+)/")


class NotApplicableError(Exception):
    """The model has no such part."""


def in_if(source: Path, target: Path, case: Case) -> None:
    """Puts the nodes in both branches of an ``If``; the weights stay outside and are shared.

    A batch of more than one goes through the first branch.
    """
    model = _flat(source)
    nodes, outputs = list(model.graph.node), list(model.graph.output)
    # A branch declares its outputs under names of its own.
    made = {o.name: f"{o.name}/inner" for o in outputs}
    first = _renamed(nodes, made)
    every = {name: f"{name}/else" for node in nodes for name in node.output if name}
    second = _renamed(nodes, every, suffix="/else")
    branch = helper.make_node(
        "If",
        ["/batch_is_many"],
        [o.name for o in outputs],
        name="/merged",
        then_branch=helper.make_graph(first, "then", [], _declared(outputs, made)),
        else_branch=helper.make_graph(second, "else", [], _declared(outputs, every)),
    )
    _replace(model, [*_batch_is_many(model, case), branch])
    _save(model, target)


def in_loop(source: Path, target: Path, case: Case) -> None:
    """Puts the nodes in the body of a ``Loop`` that runs once; the weights stay outside."""
    model = _flat(source)
    outputs = list(model.graph.output)
    made = {o.name: f"{o.name}/inner" for o in outputs}
    inner = _renamed(model.graph.node, made)
    inner.append(helper.make_node("Identity", ["/keep_going"], ["/keep_going_still"]))
    condition = helper.make_tensor_value_info("/keep_going", onnx.TensorProto.BOOL, [])
    still = helper.make_tensor_value_info("/keep_going_still", onnx.TensorProto.BOOL, [])
    step = helper.make_tensor_value_info("/step", onnx.TensorProto.INT64, [])
    body = helper.make_graph(inner, "body", [step, condition], [still, *_declared(outputs, made)])
    nodes = [
        helper.make_node("Constant", [], ["/one"], value_int=1),
        helper.make_node("Constant", [], ["/first_axis"], value_ints=[0]),
        helper.make_node(
            "Loop", ["/one", ""], [f"{o.name}/scanned" for o in outputs], name="/loop", body=body
        ),
        *(helper.make_node("Squeeze", [f"{o.name}/scanned", "/first_axis"], [o.name]) for o in outputs),
    ]
    _replace(model, nodes)
    _save(model, target)


def layer_functions(source: Path, target: Path, case: Case) -> None:
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
    model.opset_import.append(helper.make_opsetid("layers", 1))
    model.ir_version = max(model.ir_version, 8)
    _save(model, target)


def _outline(model: onnx.ModelProto, scope: str, nodes: Sequence[NodeProto]) -> None:
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
    model.functions.append(helper.make_function("layers", name, inputs, outputs, list(nodes), opsets))
    call = helper.make_node(name, inputs, outputs, name=scope, domain="layers")
    # The call goes where the layer's last node was: all its inputs exist there. If something
    # between needs a result earlier, the layer is not convex and the checker says so.
    last = max(i for i, node in enumerate(model.graph.node) if node.name in chosen)
    before = [n for n in model.graph.node[:last] if n.name not in chosen]
    after = list(model.graph.node[last + 1 :])
    _replace(model, [*before, call, *after])


def _flat(source: Path) -> onnx.ModelProto:
    model = onnx.load(source)
    for node in model.graph.node:
        if any(a.type == onnx.AttributeProto.GRAPH for a in node.attribute):
            raise NotApplicableError("the model has subgraphs already")
    return model


def _batch_is_many(model: onnx.ModelProto, case: Case) -> list[NodeProto]:
    axes = {
        name: axis
        for name, named in case.dynamic_axes.items()
        for axis, label in named.items()
        if label == "batch" and name in case.inputs
    }
    first = next((i.name for i in model.graph.input if i.name in axes), None)
    if first is None:
        raise NotApplicableError("the batch is fixed")
    return [
        helper.make_node("Shape", [first], ["/shape"]),
        helper.make_node("Constant", [], ["/batch_axis"], value_int=axes[first]),
        helper.make_node("Constant", [], ["/one"], value_int=1),
        helper.make_node("Gather", ["/shape", "/batch_axis"], ["/batch"], axis=0),
        helper.make_node("Greater", ["/batch", "/one"], ["/batch_is_many"]),
    ]


def _renamed(nodes: Iterable[NodeProto], names: dict[str, str], suffix: str = "") -> list[NodeProto]:
    copies = []
    for node in nodes:
        copy = NodeProto()
        copy.CopyFrom(node)
        copy.name = f"{node.name}{suffix}"
        copy.input[:] = [names.get(n, n) for n in node.input]
        copy.output[:] = [names.get(n, n) for n in node.output]
        copies.append(copy)
    return copies


def _declared(outputs: Iterable[onnx.ValueInfoProto], names: dict[str, str]) -> list[onnx.ValueInfoProto]:
    declared = []
    for output in outputs:
        copy = onnx.ValueInfoProto()
        copy.CopyFrom(output)
        copy.name = names[output.name]
        declared.append(copy)
    return declared


def _replace(model: onnx.ModelProto, nodes: Sequence[NodeProto]) -> None:
    kept = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(kept)


def _save(model: onnx.ModelProto, target: Path) -> None:
    del model.graph.value_info[:]
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, target)
