"""New values under names that a model does not use yet: pruning twice makes the same names twice."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import replace

from onnxheadprune.edit.edits import (
    MARK,
    AddConstant,
    DropNode,
    Edit,
    InsertNode,
    SetInput,
    SetOutput,
    SliceTensor,
)
from onnxheadprune.edit.renaming import array_of, constant_name
from onnxheadprune.model.graph.view import GraphView, Scope


def free_name(scope: Scope, wanted: str) -> str:
    """A name for a new value that no value of a scope has yet.

    For whoever makes new values out of values of the graph, some of which an earlier cut has made: one that had the
    name of its own source would read itself.

    Returns:
        `wanted`, or `wanted` and a number.
    """
    return _numbered(wanted, scope.values)


def _numbered(wanted: str, taken: Container[str]) -> str:
    free, number = wanted, 2
    while free in taken:
        free, number = f"{wanted}.{number}", number + 1
    return free


def with_fresh_names(view: GraphView, edits: Mapping[Edit, frozenset[str]]) -> dict[Edit, frozenset[str]]:
    """Edits under names that the model does not use yet (a second pruning makes the same names).

    Constants are named after their numbers, so that equal ones are one edit.
    """
    taken = {name for scope in view.scopes for name in scope.values}
    redefined = {
        output.name
        for edit in edits
        if isinstance(edit, (DropNode, SetOutput))
        for output in view.by_ref[edit.node].outputs
        if output is not None
    }
    wanted = {edit.value: edit.value for edit in edits if isinstance(edit, SetOutput)}
    wanted |= {
        edit.target: edit.target
        for edit in edits
        if isinstance(edit, SliceTensor) and edit.target != edit.name
    }
    wanted |= {name: name for edit in edits if isinstance(edit, InsertNode) for name in edit.outputs}
    taken.update(wanted.keys() & redefined)
    wanted |= {
        edit.name: constant_name(edit.name, array_of(edit)) if f"/{MARK}" in edit.name else edit.name
        for edit in edits
        if isinstance(edit, AddConstant)
    }
    renamed = {name: _numbered(wanted[name], taken) for name in sorted(wanted.keys() - redefined)}
    found: dict[Edit, frozenset[str]] = {}
    for edit, sites in edits.items():
        named = _rename(edit, renamed)
        found[named] = found.get(named, frozenset()) | sites
    return found


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
