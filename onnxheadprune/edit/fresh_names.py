"""New values under names that a model does not use yet: pruning twice makes the same names twice."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import replace

from onnxheadprune.edit.edits import AddConstant, DropNode, Edit, InsertNode, SetInput, SetOutput, SliceTensor
from onnxheadprune.model.graph.view import GraphView, Scope


def free_name(scope: Scope, wanted: str) -> str:
    """A name for a new value that no value of a scope has yet.

    For whoever makes new values out of values of the graph, some of which an earlier cut has made: one that had the
    name of its own source would read itself.

    Args:
        scope: where the new value goes.
        wanted: its name, if that is free.

    Returns:
        `wanted`, or `wanted` and a number.
    """
    return _numbered(wanted, scope.values)


def _numbered(wanted: str, taken: Container[str]) -> str:
    free, number = wanted, 2
    while free in taken:
        free, number = f"{wanted}.{number}", number + 1
    return free


def with_fresh_names(view: GraphView, edits: list[Edit]) -> list[Edit]:
    """Renames new values whose name the model already uses (a second pruning makes the same names)."""
    taken = {name for scope in view.scopes for name in scope.values}
    meant = {edit.value for edit in edits if isinstance(edit, SetOutput)}
    redefined = {
        output.name
        for edit in edits
        if isinstance(edit, (DropNode, SetOutput))
        for output in view.by_ref[edit.node].outputs
        if output is not None
    }
    created = meant | {
        edit.target for edit in edits if isinstance(edit, SliceTensor) and edit.target != edit.name
    }
    created |= {edit.name for edit in edits if isinstance(edit, AddConstant)}
    created |= {name for edit in edits if isinstance(edit, InsertNode) for name in edit.outputs}
    renamed: dict[str, str] = {}
    for name in sorted(created - redefined):
        fresh = _numbered(name, taken)
        if fresh != name:
            renamed[name] = fresh
    return [_rename(edit, renamed) for edit in edits] if renamed else edits


def _rename(edit: Edit, names: Mapping[str, str]) -> Edit:
    match edit:
        case SetInput() | SetOutput():
            return replace(edit, value=names.get(edit.value, edit.value))
        case AddConstant():
            return replace(edit, name=names.get(edit.name, edit.name))
        case SliceTensor():
            return replace(edit, target=names.get(edit.target, edit.target))
        case InsertNode():
            inputs = tuple(names.get(name, name) for name in edit.inputs)
            outputs = tuple(names.get(name, name) for name in edit.outputs)
            return replace(edit, inputs=inputs, outputs=outputs)
        case _:
            return edit
