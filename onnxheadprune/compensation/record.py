"""What a compensated model says about itself, and the refitted original that can be read back from it.

A compensated model is the pruned form of a *refitted original*: the original with other numbers in a few
initializers. Only those numbers are taken from the pruned file; everything else about the cut is planned on
the original again and proven, as for any other cut.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, TensorProto, numpy_helper

from onnxheadprune.calibration.taps import with_stored
from onnxheadprune.calibration.weights import Array
from onnxheadprune.compensation.result import Compensation
from onnxheadprune.documents import parse_json
from onnxheadprune.edits import SliceTensor, read_ranges
from onnxheadprune.errors import ModelError
from onnxheadprune.model_io import LoadedModel
from onnxheadprune.plan import PrunePlan
from onnxheadprune.storage.reading import in_memory
from onnxheadprune.surgery import set_metadata

COMPENSATED_KEY = "onnxheadprune.compensated"


@dataclass(frozen=True)
class Record:
    """Which initializers of the original were refitted, and on what data."""

    tensors: tuple[str, ...]
    data: str
    samples: int


def refitted(loaded: LoadedModel, compensation: Compensation) -> LoadedModel:
    """The original with refitted weights, which says so in its metadata."""
    proto = with_stored(loaded.proto, compensation.stored)
    earlier = record_of(loaded.proto)
    names = {*compensation.stored, *(earlier.tensors if earlier else ())}
    content = {
        "version": 1,
        "tensors": sorted(names),
        "data": compensation.data,
        "samples": compensation.samples,
    }
    set_metadata(proto, COMPENSATED_KEY, json.dumps(content))
    return loaded.changed(proto)


def record_of(model: ModelProto) -> Record | None:
    """The record of a compensated model, None for any other.

    Raises:
        ModelError: if it cannot be read.
    """
    for entry in model.metadata_props:
        if entry.key == COMPENSATED_KEY:
            try:
                content = parse_json(entry.value)
                names = tuple(str(name) for name in content["tensors"])
                return Record(names, str(content["data"]), int(content["samples"]))
            except (ValueError, KeyError, TypeError) as error:
                raise ModelError(f"the metadata entry {COMPENSATED_KEY} cannot be read") from error
    return None


def restored(
    original: LoadedModel, pruned: LoadedModel, plan: PrunePlan, record: Record
) -> tuple[dict[str, Array], list[str]]:
    """Contents of the refitted original's initializers, out of a pruned model.

    Args:
        original: the model before the cut.
        pruned: the compensated model.
        plan: what the cut should have been, made for `original`.
        record: what `pruned` says was refitted.

    Returns:
        Contents by name in the original's shapes, cut parts as they were; and what is wrong with the record.
    """
    slices = {item.edit.name: item.edit for item in plan.edits if isinstance(item.edit, SliceTensor)}
    ours, theirs = _tensors(original.proto), _tensors(pruned.proto)
    stored: dict[str, Array] = {}
    problems = []
    for name in record.tensors:
        edit = slices.get(name)
        target = name if edit is None else edit.target
        if name not in ours or target not in theirs:
            problems.append(f"{pruned.name} says that {name} was refitted, which is not in both models")
            continue
        array = _array(theirs[target], pruned)
        whole = _whole(array, _array(ours[name], original), edit)
        if whole is None or theirs[target].data_type != ours[name].data_type:
            problems.append(f"the refitted {name} of {pruned.name} does not have the planned shape and type")
        else:
            stored[name] = whole
    return stored, problems


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
        if node.op_type == "Constant":
            for item in node.attribute:
                if item.name == "value":
                    found[node.output[0]] = item.t
    return found


def _array(tensor: TensorProto, model: LoadedModel) -> Array:
    return numpy_helper.to_array(in_memory(tensor, model.sources))
