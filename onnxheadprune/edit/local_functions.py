"""Local functions that a plan does not touch stay functions, and nodes stay in the order of the file.

Analyses see a model with all functions inlined and its nodes sorted. Most plans change a few nodes of that, and
all of them can often be found in the model as it is stored; if not, only the functions that hold them are inlined.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TypeAlias

from onnx import FunctionProto, ModelProto, NodeProto

from onnxheadprune.edit import apply
from onnxheadprune.edit.edits import MAIN, DropTensor, SliceTensor
from onnxheadprune.edit.plan import PlannedEdit, PrunePlan, fingerprint
from onnxheadprune.model.bodies import nodes_in
from onnxheadprune.model.graph.walks import reachable
from onnxheadprune.model.load import LoadedModel
from onnxheadprune.model.messages import copied
from onnxheadprune.model.prepare import inlined, inlined_whole, prepared

Function: TypeAlias = tuple[str, str]
_TAG = "onnxheadprune.function"


def apply_with_functions(
    plan: PrunePlan, loaded: LoadedModel, replan: Callable[[ModelProto], PrunePlan] | None = None
) -> ModelProto:
    """The model with the plan carried out, on the model as it is stored wherever that is possible.

    Args:
        replan: makes the same plan for a model with fewer functions inlined; None inlines all or none.
    """
    kept = _on_stored(plan, loaded, replan)
    return apply.apply_plan(plan, loaded.proto) if kept is None else kept


def _on_stored(
    plan: PrunePlan, loaded: LoadedModel, replan: Callable[[ModelProto], PrunePlan] | None
) -> ModelProto | None:
    stored = loaded.stored
    # Someone may have changed the analysed model since; then it is the one that counts.
    if stored is None or _bytes(prepared(stored)) != _bytes(loaded.proto):
        return None
    touched = _touched(plan, loaded.proto, stored)
    if touched is None:
        return None
    needed = _with_callers(touched, stored)
    if not needed:
        moved = _moved(plan, loaded.proto, stored)
        return None if moved is None else apply.apply_plan(moved, stored)
    if replan is None or needed == {_id(function) for function in stored.functions}:
        return None
    part = inlined(stored, sorted(needed))
    analysed = prepared(part)
    again = replan(analysed)
    moved = _moved(again, analysed, part) if again.cuts == plan.cuts else None
    return None if moved is None else apply.apply_plan(moved, part)


def _touched(plan: PrunePlan, analysed: ModelProto, stored: ModelProto) -> set[Function] | None:
    """The functions whose nodes or constants the plan changes, and those that declare shapes of their own.

    None where nodes repeat others: a plan is for a model without these.
    """
    tagged = copied(stored)
    for function in tagged.functions:
        for node in nodes_in(function.node):
            node.metadata_props.add(key=_TAG, value="\n".join(_id(function)))
    inlined = inlined_whole(tagged)
    if [node.output for node in inlined.graph.node] != [node.output for node in analysed.graph.node]:
        return None
    makers = {name: position for position, node in enumerate(inlined.graph.node) for name in node.output}
    found = {_id(function) for function in stored.functions if len(function.value_info)}
    for edit in (item.edit for item in plan.edits):
        positions = [] if edit.place == MAIN else [_position(edit.place)]
        if isinstance(edit, (SliceTensor, DropTensor)) and edit.name in makers:
            positions.append(makers[edit.name])
        for position in positions:
            for node in nodes_in([inlined.graph.node[position]]):
                found |= {
                    tuple(entry.value.split("\n", 1)) for entry in node.metadata_props if entry.key == _TAG
                }
    return found


def _with_callers(functions: set[Function], model: ModelProto) -> set[Function]:
    """The functions and all whose bodies call them, since what is inlined into a body is still in a body."""
    calls = {
        _id(function): {(node.domain, node.op_type) for node in nodes_in(function.node)}
        for function in model.functions
    }
    return set(reachable(functions, lambda item: [caller for caller in calls if item in calls[caller]]))


def _moved(plan: PrunePlan, analysed: ModelProto, stored: ModelProto) -> PrunePlan | None:
    """The plan with its nodes as they are numbered in the stored model; None if one of them is not there."""
    places = {tuple(node.output): position for position, node in enumerate(stored.graph.node)}
    names = {tensor.name for tensor in stored.graph.initializer} | {
        name for node in stored.graph.node for name in node.output
    }
    edits: list[PlannedEdit] = []
    for item in plan.edits:
        edit = item.edit
        if isinstance(edit, (SliceTensor, DropTensor)) and edit.scope == MAIN and edit.name not in names:
            return None
        if edit.place != MAIN:
            node = analysed.graph.node[_position(edit.place)]
            position = places.get(tuple(node.output))
            if position is None or _bytes(stored.graph.node[position]) != _bytes(node):
                return None
            within = edit.place[edit.place.index("]") + 1 :]
            edit = edit.at(f"{MAIN}[{position}]{within}")
        edits.append(dataclasses.replace(item, edit=edit))
    return dataclasses.replace(plan, edits=tuple(edits), fingerprint=fingerprint(stored))


def _position(ref: str) -> int:
    """Of the node of the main graph in "main[7].then_branch[3]"."""
    return int(ref[ref.index("[") + 1 : ref.index("]")])


def _id(function: FunctionProto) -> Function:
    return function.domain, function.name


def _bytes(message: ModelProto | NodeProto) -> bytes:
    return bytes(message.SerializeToString(deterministic=True))
