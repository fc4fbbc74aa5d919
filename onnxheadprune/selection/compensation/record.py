"""What a compensated model says about itself, and the refitted original that can be read back from it.

A compensated model is the pruned form of a *refitted original*: the original with other numbers in a few
initializers. Only those numbers are taken from the pruned file; everything else about the cut is planned on
the original again and proven, as for any other cut.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Protocol

import numpy as np
from onnx import ModelProto, TensorProto, numpy_helper

from onnxheadprune.attention.matrices import Array
from onnxheadprune.attention.observed import others
from onnxheadprune.attention.planning import Planning
from onnxheadprune.attention.sites.site import Sites
from onnxheadprune.edit.apply import set_metadata
from onnxheadprune.edit.edits import DropTensor, SliceTensor
from onnxheadprune.edit.extract import store_constants, store_in_bodies
from onnxheadprune.edit.plan import PrunePlan
from onnxheadprune.edit.records import COMPENSATED_KEY, RefitRecord, refit_record, refit_text
from onnxheadprune.model.bodies import bodies_of
from onnxheadprune.model.constants import stored_tensor
from onnxheadprune.model.graph.view import GraphView
from onnxheadprune.model.load import LoadedModel
from onnxheadprune.model.replacing import Contents, with_contents
from onnxheadprune.model.slices import read_ranges
from onnxheadprune.model.storage.reading import in_memory
from onnxheadprune.selection.activations.kept import Shelf
from onnxheadprune.selection.compensation.tasks import refittable
from onnxheadprune.selection.compensation.trainable import trainable


class NewNumbers(Protocol):
    """What a refit and a recovery both find: contents of the original's initializers, and what they learned from."""

    @property
    def stored(self) -> Mapping[str, Array]:
        """Contents by name, in the original's shapes and types."""

    @property
    def data(self) -> str:
        """Fingerprint of the data."""

    @property
    def samples(self) -> int:
        """How many samples that were."""


def refitted(loaded: LoadedModel, numbers: NewNumbers, steps: int = 0) -> LoadedModel:
    """The original with refitted weights, which says so in its metadata.

    Args:
        loaded: the original.
        numbers: its new numbers.
        steps: of training that they took.
    """
    changed = with_contents(loaded, _contents(loaded.proto, numbers.stored))
    proto = changed.proto
    store_constants(proto.graph, numbers.stored)
    store_in_bodies(proto.graph, numbers.stored)
    earlier = refit_record(loaded.proto)
    names = {*numbers.stored, *(earlier.tensors if earlier else ())}
    steps += earlier.steps if earlier else 0
    _write(proto, RefitRecord(tuple(sorted(names)), numbers.data, numbers.samples, steps=steps))
    return changed


def _contents(model: ModelProto, stored: Mapping[str, Array]) -> dict[str, Contents]:
    """New contents of the initializers among them; large ones that are not in memory are read when they are written."""
    found: dict[str, Contents] = {}
    for name in {tensor.name for tensor in model.graph.initializer}.intersection(stored):
        lies_in_file = isinstance(stored, Shelf) and not stored.in_memory(name)
        found[name] = functools.partial(stored.__getitem__, name) if lies_in_file else stored[name]
    return found


def sealed(pruned: LoadedModel, plan: PrunePlan) -> None:
    """Writes the digests of the refitted tensors into a pruned model's record, if it has one.

    Args:
        pruned: the refitted model with the plan carried out; only its record changes.
        plan: what was carried out.
    """
    record = refit_record(pruned.proto)
    if record is None:
        return
    theirs, targets = _tensors(pruned.proto), _targets(plan)
    digests = {
        name: digest(_array(theirs[target], pruned))
        for name in record.tensors
        if (target := targets.get(name, name)) in theirs
    }
    _write(pruned.proto, replace(record, digests=digests))


def digest(array: Array) -> str:
    """A short hash of the numbers of a tensor, its type and its shape."""
    content = f"{array.dtype}{array.shape}".encode() + np.ascontiguousarray(array).tobytes()
    return hashlib.sha256(content).hexdigest()[:16]


def _write(model: ModelProto, record: RefitRecord) -> None:
    set_metadata(model, COMPENSATED_KEY, refit_text(record))


def restored(
    original: LoadedModel, pruned: LoadedModel, planning: Planning, record: RefitRecord
) -> tuple[dict[str, Array], list[str]]:
    """Contents of the refitted original's initializers, out of a pruned model.

    Only weights and biases of maps that a refit of this cut may change are taken from the file, whatever it says; of a
    model that was trained, weights, biases and normalisations.

    Args:
        original: the model before the cut.
        pruned: the compensated model.
        planning: what the cut should have been, made for `original`.
        record: what `pruned` says was refitted.

    Returns:
        Contents by name in the original's shapes, cut parts as they were, of what is not as in the original; and what
        is wrong with the record.
    """
    slices = {edit.name: edit for edit in _slices(planning.plan)}
    dropped = {item.edit.name for item in planning.plan.edits if isinstance(item.edit, DropTensor)}
    ours, theirs = _tensors(original.proto), _tensors(pruned.proto)
    allowed = _changeable(planning.view, planning.sites, planning.heads, trained=bool(record.steps))
    for part in others(planning.view, planning.sites):
        allowed |= _changeable(part.view, part.sites, planning.heads, trained=bool(record.steps))
    stored: dict[str, Array] = {}
    problems = []
    for name in record.tensors:
        edit = slices.get(name)
        target = name if edit is None else edit.target
        if name in dropped and target not in theirs:
            continue
        if name not in ours or target not in theirs:
            problems.append(f"{pruned.name} says that {name} was refitted, which is not in both models")
            continue
        array, before = _array(theirs[target], pruned), _array(ours[name], original)
        whole = whole_of(array, before, edit)
        if whole is None or theirs[target].data_type != ours[name].data_type:
            problems.append(f"the refitted {name} of {pruned.name} does not have the planned shape and type")
        elif name in record.digests and record.digests[name] != digest(array):
            problems.append(
                f"the refitted {name} of {pruned.name} is not what was written: the file is damaged"
            )
        elif whole.tobytes() == before.tobytes():
            continue
        elif name not in allowed:
            problems.append(
                f"{pruned.name} says that {name} was refitted, which no refit of this cut changes; its numbers are"
                f" not those of {original.name}"
            )
        else:
            stored[name] = whole
    return stored, problems


def _changeable(
    view: GraphView, sites: Sites, heads: Mapping[int, tuple[int, ...]], *, trained: bool
) -> frozenset[str]:
    """Names of the stored tensors that a refit of a cut may change, or a training after it."""
    found = refittable(view, sites.concerned(heads), heads)
    return found | trainable(view).keys() if trained else found


def _slices(plan: PrunePlan) -> Iterator[SliceTensor]:
    return (item.edit for item in plan.edits if isinstance(item.edit, SliceTensor))


def _targets(plan: PrunePlan) -> dict[str, str]:
    """What the cut part of each tensor is called."""
    return {edit.name: edit.target for edit in _slices(plan)}


def whole_of(array: Array, original: Array, edit: SliceTensor | None) -> Array | None:
    """The array in the original's shape, what is cut as it was; None if it is not the planned cut of such a one.

    Args:
        array: of the pruned model.
        original: the tensor that it is to be a cut of.
        edit: the cut, None where the tensor is whole.
    """
    dims = original.shape
    if edit is None:
        return array if array.shape == dims else None
    selection = edit.selection
    count = len(selection.axes)
    expected = list(dims)
    for axis, size in zip(selection.axes, selection.kept, strict=True):
        expected[axis] = size
    if list(array.shape) != expected:
        return None
    front = np.moveaxis(original, selection.axes, range(count))
    flat = front.reshape(-1, *front.shape[count:]).copy()
    flat[read_ranges(selection.live)] = np.moveaxis(array, selection.axes, range(count)).reshape(
        -1, *front.shape[count:]
    )
    return np.moveaxis(flat.reshape(front.shape), range(count), selection.axes)


def _tensors(model: ModelProto) -> Mapping[str, TensorProto]:
    """What a model stores, by name; of the main graph before what bodies store."""
    found: dict[str, TensorProto] = {}
    waiting = [model.graph]
    while waiting:
        graph = waiting.pop(0)
        for tensor in graph.initializer:
            found.setdefault(tensor.name, tensor)
        for node in graph.node:
            constant = stored_tensor(node)
            if constant is not None:
                found.setdefault(node.output[0], constant)
            waiting += bodies_of(node)
    return found


def _array(tensor: TensorProto, model: LoadedModel) -> Array:
    return numpy_helper.to_array(in_memory(tensor, model.sources))
