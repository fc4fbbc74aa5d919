"""What a compensated model says about itself, and the refitted original that can be read back from it.

A compensated model is the pruned form of a *refitted original*: the original with other numbers in a few
initializers. Only those numbers are taken from the pruned file; everything else about the cut is planned on
the original again and proven, as for any other cut.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
from onnx import ModelProto, TensorProto, numpy_helper

from onnxheadprune.attention.matrices import Array
from onnxheadprune.attention.planning import Planning
from onnxheadprune.edit.apply import set_metadata
from onnxheadprune.edit.edits import DropTensor, SliceTensor
from onnxheadprune.edit.extract import with_stored
from onnxheadprune.edit.plan import PrunePlan
from onnxheadprune.edit.records import COMPENSATED_KEY, RefitRecord, refit_record, refit_text
from onnxheadprune.model.constants import stored_tensor
from onnxheadprune.model.load import LoadedModel
from onnxheadprune.model.slices import read_ranges
from onnxheadprune.model.storage.reading import in_memory
from onnxheadprune.selection.compensation.result import Compensation
from onnxheadprune.selection.compensation.tasks import refittable


def refitted(loaded: LoadedModel, compensation: Compensation) -> LoadedModel:
    """The original with refitted weights, which says so in its metadata."""
    proto = with_stored(loaded.proto, compensation.stored)
    earlier = refit_record(loaded.proto)
    names = {*compensation.stored, *(earlier.tensors if earlier else ())}
    _write(proto, RefitRecord(tuple(sorted(names)), compensation.data, compensation.samples))
    return loaded.changed(proto)


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

    Only weights and biases of maps that a refit of this cut may change are taken from the file, whatever it says.

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
    allowed = refittable(planning.view, planning.sites, planning.heads)
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
        whole = _whole(array, before, edit)
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


def _slices(plan: PrunePlan) -> Iterator[SliceTensor]:
    return (item.edit for item in plan.edits if isinstance(item.edit, SliceTensor))


def _targets(plan: PrunePlan) -> dict[str, str]:
    """What the cut part of each tensor is called."""
    return {edit.name: edit.target for edit in _slices(plan)}


def _whole(array: Array, original: Array, edit: SliceTensor | None) -> Array | None:
    """The array in the original's shape; None if it is not the planned cut of such a one."""
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
    found = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        tensor = stored_tensor(node)
        if tensor is not None:
            found[node.output[0]] = tensor
    return found


def _array(tensor: TensorProto, model: LoadedModel) -> Array:
    return numpy_helper.to_array(in_memory(tensor, model.sources))
