"""The refitted original, read back from a model that was cut from it.

Only the numbers are taken from the pruned file. Large ones stay there, or are made whole again whenever they are read,
so that several models may have them and none is in memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from onnx import TensorProto, numpy_helper

from onnxheadprune.attention.observed import others
from onnxheadprune.attention.planning import Planning
from onnxheadprune.attention.sites.site import Sites
from onnxheadprune.choosing.compensation.record import array_of, digest, slices_of, tensors_by_name
from onnxheadprune.choosing.compensation.tasks import refittable
from onnxheadprune.choosing.compensation.trainable import trainable
from onnxheadprune.edit.edits import DropTensor, SliceTensor
from onnxheadprune.edit.extract import Restored
from onnxheadprune.edit.records import RefitRecord, refit_record
from onnxheadprune.model.graph.view import GraphView
from onnxheadprune.model.load import LoadedModel
from onnxheadprune.model.replacing import Computed
from onnxheadprune.model.storage.sources import Source
from onnxheadprune.model.storage.spans import PRIVATE, Span, is_outside, refer, span_of
from onnxheadprune.model.storage.tensors import bytes_needed
from onnxheadprune.model.tensors import read_ranges
from onnxheadprune.runtime import Array


def restored(
    original: LoadedModel, pruned: LoadedModel, planning: Planning, record: RefitRecord
) -> tuple[Restored, list[str]]:
    """The refitted original's tensors, out of a pruned model.

    Only weights and biases of maps that a refit of this cut may change are taken from the file, whatever it says; of a
    model that was trained, weights, biases and normalisations.

    Returns:
        What is not as in the original; and what is wrong with the record.

    Raises:
        ModelError: if a tensor cannot be read.
    """
    before_this = refit_record(original.proto)
    earlier = () if before_this is None else before_this.tensors
    slices = {edit.name: edit for edit in slices_of(planning.plan)}
    dropped = {item.edit.name for item in planning.plan.edits if isinstance(item.edit, DropTensor)}
    ours, theirs = tensors_by_name(original.proto), tensors_by_name(pruned.proto)
    allowed = _changeable(planning.view, planning.sites, planning.heads, trained=bool(record.steps))
    for part in others(planning.view, planning.sites):
        allowed |= _changeable(part.view, part.sites, planning.heads, trained=bool(record.steps))
    tensors: dict[str, TensorProto] = {}
    sources: dict[str, Source] = {}
    problems = []
    for name in record.tensors:
        edit = slices.get(name)
        target = name if edit is None else edit.target
        if name in dropped and target not in theirs:
            continue
        if name in earlier and name not in ours and name not in theirs:
            # Other tools renamed or quantized what an earlier refit changed, before this cut.
            continue
        if name not in ours or target not in theirs:
            problems.append(f"{pruned.name} says that {name} was refitted, which is not in both models")
            continue
        one = _One((ours[name], original), (theirs[target], pruned), edit)
        array, before = array_of(*one.cut), array_of(*one.original)
        whole = whole_of(array, before, edit)
        if whole is None or theirs[target].data_type != ours[name].data_type:
            problems.append(f"the refitted {name} of {pruned.name} does not have the planned shape and type")
        elif (record.digests or {}).get(name, digest(array)) != digest(array):
            problems.append(
                f"the refitted {name} of {pruned.name} is not what was written: the file is damaged"
            )
        elif whole.tobytes() == before.tobytes():
            continue
        elif record.digests is not None and name not in record.digests:
            problems.append(
                f"the record of {pruned.name} has no digest of the refitted {name}; was it changed?"
            )
        elif name not in allowed:
            problems.append(
                f"{pruned.name} says that {name} was refitted, which no refit of this cut changes; its numbers are"
                f" not those of {original.name}"
            )
        else:
            tensors[name], needed = one.restored(whole)
            sources |= needed
    return Restored(tensors, sources), problems


@dataclass(frozen=True, eq=False)
class _One:
    """A refitted tensor.

    Attributes:
        original: as it was, and the model that it is of.
        cut: as the pruned model has it, and that model.
        edit: what was cut off, None where it is whole.
    """

    original: tuple[TensorProto, LoadedModel]
    cut: tuple[TensorProto, LoadedModel]
    edit: SliceTensor | None

    def restored(self, whole: Array) -> tuple[TensorProto, dict[str, Source]]:
        """The tensor in the original's shape, and what it refers to."""
        tensor, model = self.cut
        if not is_outside(tensor):
            return numpy_helper.from_array(whole, tensor.name), {}
        made = TensorProto()
        if self.edit is None:
            made.CopyFrom(tensor)
            span = span_of(tensor)
            location = f"{PRIVATE}refitted/{span.location}"
            refer(made, Span(location, span.offset, span.length))
            return made, {location: model.sources[span.location]}
        made.CopyFrom(self.original[0])
        location = f"{PRIVATE}refitted/{self.original[0].name}"
        dims = tuple(made.dims)
        size = bytes_needed(made.data_type, dims)
        refer(made, Span(location, 0, size))
        source = Computed(Path(location), size, (), made.name, made.data_type, dims, self._whole)
        return made, {location: source}

    def _whole(self) -> Array:
        found = whole_of(array_of(*self.cut), array_of(*self.original), self.edit)
        assert found is not None
        return found


def _changeable(
    view: GraphView, sites: Sites, heads: Mapping[int, tuple[int, ...]], *, trained: bool
) -> frozenset[str]:
    """Names of the stored tensors that a refit of a cut may change, or a training after it."""
    found = refittable(view, sites.concerned(heads), heads)
    return found | trainable(view).keys() if trained else found


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
