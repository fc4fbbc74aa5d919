"""The number of elements of stored tensors that a plan removes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from onnxheadprune.edit.edits import DropNode, DropTensor, Edit, SliceTensor
from onnxheadprune.model.bodies import is_constant
from onnxheadprune.model.graph.view import GraphView, Value


def elements_removed(view: GraphView, edits: Iterable[Edit]) -> int:
    """Elements that are cut off stored tensors, and those of tensors that vanish as a whole.

    Seen from every tensor that results: of a weight that layers share and cut differently, each copy loses its own.
    Target shapes, bounds and single numbers are no weights.
    """
    edits = list(edits)
    scopes = {scope.ref: scope for scope in view.scopes}
    cuts = [edit for edit in edits if isinstance(edit, SliceTensor)]
    total = sum(_cut_off(scopes[edit.scope].values[edit.name], edit) for edit in cuts)
    copied = {scopes[edit.scope].values[edit.name] for edit in cuts if edit.target != edit.name}
    return total + sum(_size(value) for value in _vanished(view, edits) if value not in copied)


def _cut_off(value: Value, edit: SliceTensor) -> int:
    size = _size(value)
    return size - size // math.prod(edit.selection.sizes) * math.prod(edit.selection.kept)


def _vanished(view: GraphView, edits: Iterable[Edit]) -> Iterator[Value]:
    """Weights that nobody reads any more."""
    scopes = {scope.ref: scope for scope in view.scopes}
    for edit in edits:
        match edit:
            case DropTensor(scope, name):
                value = scopes[scope].values[name]
            case DropNode(node) if is_constant(view.by_ref[node]):
                value = view.by_ref[node].out
            case _:
                continue
        if value.shape and value.elements is None:
            yield value


def _size(value: Value) -> int:
    return 0 if value.tensor is None else math.prod(value.tensor.dims)
