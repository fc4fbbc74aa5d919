"""Rename values of a model, and give new values and constants names that are free and reproducible.

Pruning twice makes the same names twice. A constant of a cut is named after its contents, stored once, and sorted by
its name, so that names do not depend on the order of cuts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, MutableSequence
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import AttributeProto, GraphProto, TensorProto, ValueInfoProto, numpy_helper

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
from onnxheadprune.edit.nodes import numbered
from onnxheadprune.model.bodies import graphs_in
from onnxheadprune.model.graph.view import GraphView

NUMBERS_IN_A_NAME = 8
_WHOLE = (TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL)


def array_of(edit: AddConstant) -> npt.NDArray[np.generic]:
    """The numbers of a new constant, as they are stored."""
    array = np.array(edit.values, dtype=edit.dtype)
    return array.reshape(()) if edit.scalar else array


def _constant_name(name: str, array: npt.NDArray[np.generic]) -> str:
    """The name of a constant of a cut: what it replaces, and what it holds.

    Args:
        name: any name in the place of the same value, that of an earlier cut's constant included.

    >>> _constant_name("split/onnxheadprune_made", np.array([0, 0, 2, 4]))
    'split/onnxheadprune_0_0_2_4'
    >>> _constant_name("split/onnxheadprune_0_0_3_4", np.array(True))
    'split/onnxheadprune_bool_scalar_1'
    """
    words = [] if array.dtype == np.int64 else [str(array.dtype)]
    if array.ndim != 1:
        words.append("x".join(map(str, array.shape)) or "scalar")
    if array.size <= NUMBERS_IN_A_NAME and array.dtype.kind in "iub":
        words += [str(int(number)) for number in array.reshape(-1)]
    else:
        words.append(hashlib.sha256(array.tobytes()).hexdigest()[:16])
    return f"{name.partition(f'/{MARK}')[0]}/{MARK}_{'_'.join(words)}"


def settle_constants(graph: GraphProto) -> None:
    """Give the whole numbers that cuts have stored in a graph their names, and keep one of those that are equal."""
    made = {tensor.name: tensor for tensor in graph.initializer if f"/{MARK}" in tensor.name}
    fixed = {info.name for info in graph.output}
    names = {
        name: after
        for name, tensor in made.items()
        if _is_readable(tensor) and name not in fixed
        if (after := _constant_name(name, numpy_helper.to_array(tensor))) != name
    }
    if names:
        _rename_constants(graph, made, names)
    if made:
        graph.initializer.sort(key=lambda tensor: tensor.name if f"/{MARK}" in tensor.name else "")


def _rename_constants(graph: GraphProto, made: Mapping[str, TensorProto], names: dict[str, str]) -> None:
    taken = {name for name in _defined(graph) if name not in made}
    holders: dict[str, str] = {name: name for name in made if name not in names}
    for before, after in list(names.items()):
        holder = holders.setdefault(after, before)
        if after in taken or not _hold_the_same(made[holder], made[before]):
            del names[before]
        elif holder != before:
            remove_named(graph.initializer, {before})
            remove_named(graph.input, {before})
            remove_named(graph.value_info, {before})
    rename_values(graph, names)


def _is_readable(tensor: TensorProto) -> bool:
    """Return whether a tensor holds whole numbers, in memory."""
    return tensor.data_type in _WHOLE and tensor.data_location != TensorProto.EXTERNAL


def _hold_the_same(one: TensorProto, other: TensorProto) -> bool:
    if not (_is_readable(one) and _is_readable(other)):
        return False
    left, right = numpy_helper.to_array(one), numpy_helper.to_array(other)
    return left.dtype == right.dtype and np.array_equal(left, right)


def _defined(graph: GraphProto) -> Iterator[str]:
    """Names that mean something in a graph and in the bodies of its nodes."""
    for inner in graphs_in(graph):
        yield from (item.name for item in (*inner.input, *inner.initializer))
        yield from (name for node in inner.node for name in node.output)


def rename_values(graph: GraphProto, names: Mapping[str, str]) -> None:
    """Call values otherwise, in a graph and in the bodies that read them."""
    for info in (*declared(graph), *graph.initializer):
        info.name = names.get(info.name, info.name)
    for node in graph.node:
        for listed in (node.input, node.output):
            listed[:] = [names.get(name, name) for name in listed]
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                rename_values(attribute.g, names)


def declared(graph: GraphProto) -> Iterable[ValueInfoProto]:
    """All that a graph declares types and shapes of."""
    return chain(graph.input, graph.output, graph.value_info)


def remove_named(items: MutableSequence[Any], names: set[str]) -> None:
    """Remove the items of a repeated field that have one of these names."""
    for position in reversed(range(len(items))):
        if items[position].name in names:
            del items[position]


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
        edit.name: _constant_name(edit.name, array_of(edit)) if f"/{MARK}" in edit.name else edit.name
        for edit in edits
        if isinstance(edit, AddConstant)
    }
    renamed = {name: numbered(wanted[name], taken) for name in sorted(wanted.keys() - redefined)}
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
