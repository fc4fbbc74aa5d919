"""Walks two models and finds every difference that a plan does not explain.

The walk knows no field by name except where a plan may change something: it follows the message descriptors,
unknown fields included, so that fields of later ONNX versions are covered too.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from onnx import GraphProto, ModelProto, NodeProto, TensorProto

from onnxheadprune import PrunePlan
from onnxheadprune.edit.edits import (
    AddConstant,
    DropInputs,
    DropNode,
    DropOutputs,
    DropTensor,
    InsertNode,
    SetAttribute,
    SetDim,
    SetInput,
    SetOutput,
    SliceTensor,
)
from onnxheadprune.model.tensors import cut
from tests.recording import RECORD, VALIDATION


def differences(left: Any, right: Any, path: str = "") -> Iterator[str]:
    """Every place where two messages of one type differ."""
    if _unknown(left) != _unknown(right):
        yield f"{path}: unknown fields changed"
    for field in left.DESCRIPTOR.fields:
        where = f"{path}.{field.name}"
        one, other = getattr(left, field.name), getattr(right, field.name)
        if _repeated(one):
            if len(one) != len(other):
                yield f"{where}: {len(one)} entries became {len(other)}"
            elif field.type == FieldDescriptor.TYPE_MESSAGE:
                for index, pair in enumerate(zip(one, other, strict=True)):
                    yield from differences(*pair, f"{where}[{index}]")
            elif [_bits(item) for item in one] != [_bits(item) for item in other]:
                yield f"{where}: changed"
        elif left.HasField(field.name) != right.HasField(field.name):
            yield f"{where}: set in one only"
        elif field.type == FieldDescriptor.TYPE_MESSAGE:
            if left.HasField(field.name):
                yield from differences(one, other, where)
        elif _bits(one) != _bits(other):
            yield f"{where}: changed"


def _repeated(value: Any) -> bool:
    return hasattr(value, "extend")


def _bits(value: Any) -> Any:
    return repr(value) if isinstance(value, float) else value


def _unknown(message: Any) -> bytes:
    """The bytes of a message's own fields that its type does not know."""
    rest = _copy(message)
    for field in message.DESCRIPTOR.fields:
        rest.ClearField(field.name)
    return bytes(rest.SerializeToString())


def unexplained(before: ModelProto, after: ModelProto, plan: PrunePlan) -> list[str]:
    """Differences between a model and its pruned form that the plan does not ask for.

    Args:
        before: the original, weights in memory.
        after: the pruned model, weights in memory.
        plan: what was to be changed in the main graph.
    """
    expected, found = ModelProto(), ModelProto()
    expected.CopyFrom(before)
    found.CopyFrom(after)
    edits = [item.edit for item in plan.edits]
    _metadata(expected, found)
    _tensors(expected.graph, found.graph, edits)
    _nodes(expected.graph, found.graph, edits)
    for edit in edits:
        if isinstance(edit, SetDim):
            for info in (*expected.graph.input, *expected.graph.output, *expected.graph.value_info):
                if info.name == edit.value and info.type.tensor_type.HasField("shape"):
                    dim = info.type.tensor_type.shape.dim[edit.axis]
                    dim.ClearField("dim_param")
                    dim.ClearField("dim_value")
                    if edit.dim is not None:
                        dim.dim_value = edit.dim
    return list(differences(expected, found, "model"))


def _metadata(expected: ModelProto, found: ModelProto) -> None:
    for model in (expected, found):
        others = [
            (entry.key, entry.value)
            for entry in model.metadata_props
            if entry.key not in (RECORD, VALIDATION)
        ]
        del model.metadata_props[:]
        for key, value in others:
            model.metadata_props.add(key=key, value=value)


def _tensors(expected: GraphProto, found: GraphProto, edits: list[Any]) -> None:
    """Cuts what the plan cuts; what it makes or drops is taken out of the comparison."""
    made = {edit.name for edit in edits if isinstance(edit, AddConstant)}
    gone = {edit.name for edit in edits if isinstance(edit, DropTensor)}
    stored = {tensor.name: tensor for tensor in expected.initializer}
    for edit in edits:
        if isinstance(edit, SliceTensor) and edit.target != edit.name:
            copy = TensorProto()
            copy.CopyFrom(stored[edit.name])
            copy.name = edit.target
            cut(copy, edit.selection)
            match = next(tensor for tensor in found.initializer if tensor.name == edit.target)
            assert not list(differences(copy, match)), edit
            made.add(edit.target)
    for edit in edits:
        if isinstance(edit, SliceTensor) and edit.target == edit.name and edit.name not in gone:
            cut(stored[edit.name], edit.selection)
    for graph, names in ((expected, gone), (found, made)):
        kept = [tensor for tensor in graph.initializer if tensor.name not in names]
        infos = [info for info in graph.value_info if info.name not in gone]
        _refill(graph.initializer, kept)
        _refill(graph.value_info, infos)


def _nodes(expected: GraphProto, found: GraphProto, edits: list[Any]) -> None:
    """Makes the plan's changes of nodes, which are spelled here once more and differently."""
    nodes = list(expected.node)
    by_ref = {f"main[{position}]": node for position, node in enumerate(nodes)}
    dropped: list[NodeProto] = []
    pieces: set[str] = set()
    for edit in edits:
        if isinstance(edit, SetInput):
            inputs = by_ref[edit.node].input
            inputs.extend([""] * (edit.index + 1 - len(inputs)))
            inputs[edit.index] = edit.value
        elif isinstance(edit, SetOutput):
            by_ref[edit.node].output[edit.index] = edit.value
        elif isinstance(edit, DropNode):
            dropped.append(by_ref[edit.node])
        elif isinstance(edit, (DropInputs, DropOutputs)):
            node = by_ref[edit.node]
            names = node.input if isinstance(edit, DropInputs) else node.output
            if isinstance(edit, DropOutputs):
                pieces.update(names[index] for index in edit.indices)
            _refill(names, [name for i, name in enumerate(names) if i not in edit.indices])
    changed = {(edit.node, edit.name) for edit in edits if isinstance(edit, SetAttribute)}
    for ref, name in changed:
        _refill(by_ref[ref].attribute, [item for item in by_ref[ref].attribute if item.name != name])
    inserted = {edit.outputs for edit in edits if isinstance(edit, InsertNode)}
    theirs = [node for node in found.node if tuple(node.output) not in inserted]
    ours = [node for node in nodes if not any(node is other for other in dropped)]
    refs = [ref for ref, node in by_ref.items() if not any(node is other for other in dropped)]
    for ref, node in zip(refs, theirs, strict=False):
        names = {name for changed_ref, name in changed if changed_ref == ref}
        _refill(node.attribute, [item for item in node.attribute if item.name not in names])
    gone = pieces | {output for node in dropped for output in node.output}
    for graph, kept in ((expected, ours), (found, theirs)):
        _refill(graph.value_info, [info for info in graph.value_info if info.name not in gone])
        _refill(graph.node, kept)


def _refill(field: Any, items: list[Any]) -> None:
    copies = [item if isinstance(item, (str, bytes, int, float)) else _copy(item) for item in items]
    del field[:]
    field.extend(copies)


def _copy(message: Any) -> Any:
    copy = type(message)()
    copy.CopyFrom(message)
    return copy
