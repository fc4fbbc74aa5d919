"""The results of a compensation, their record in a model, and the refitted original that is read back from it.

A compensated model is the pruned form of a *refitted original*: the original with new contents of a few
initializers. Only those are read from the pruned file; everything else about the cut is planned on
the original again and proven, as for any other cut. Large ones stay there, or are completed whenever they are
read, so that several models may share them and none is in memory.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Protocol

import numpy as np
from onnx import ModelProto, TensorProto, numpy_helper

from onnxheadprune.attention.main_graph_copy import others
from onnxheadprune.attention.planning import Planning
from onnxheadprune.attention.sites.all_sites import Sites
from onnxheadprune.choosing.compensation.tasks import refittable
from onnxheadprune.choosing.compensation.trainable import trainable
from onnxheadprune.edit.edits import DropTensor, SliceTensor
from onnxheadprune.edit.plan import PrunePlan
from onnxheadprune.edit.records import RefitRecord, record_of, write_record
from onnxheadprune.edit.submodel import Restored, store, store_constants
from onnxheadprune.model.bodies import graphs_in, stored_tensor
from onnxheadprune.model.graph.view import GraphView
from onnxheadprune.model.load import LoadedModel
from onnxheadprune.model.messages import copied
from onnxheadprune.model.new_contents import Computed, Contents, with_contents
from onnxheadprune.model.one_line import one_line
from onnxheadprune.model.storage.reading import Source, in_memory
from onnxheadprune.model.storage.tensors import PRIVATE, Span, bytes_needed, is_outside, refer, span_of
from onnxheadprune.model.tensors import read_ranges
from onnxheadprune.model.typed_json import HIDDEN, JsonObject, Key, Spelled
from onnxheadprune.runtime import Array
from onnxheadprune.settings.units import key_of


def _site_key(site: int | None) -> str | None:
    return None if site is None else key_of(site)


@one_line("node site before after strength skipped")
@dataclass(frozen=True)
class Refit(JsonObject):
    """The refit of one linear layer.

    Attributes:
        node: its name.
        site: index of the site whose projection it is, None for another layer.
        strength: ridge strength, None if only the bias moved or nothing did.
        before: held-out error of the stream without the refit, as a share of the original's variance there.
        after: the same with it.
        skipped: why it was left unchanged, None if it was refitted.
        kept: outputs of a quantized layer that keep their weights, since rounding made the refit worse.
        stands_in: keys of the removed sublayers after it that it replaces.
        limited: why only strong ridges or only its bias were tried, None where all ridges were.
    """

    node: str
    site: Annotated[int | None, Spelled(Any, _site_key)]
    strength: float | None
    before: float
    after: float
    skipped: str | None = None
    kept: Annotated[int, Key("kept_outputs")] = 0
    stands_in: tuple[str, ...] = ()
    limited: str | None = None


@one_line("refits data samples steps")
@dataclass(frozen=True, eq=False)
class Compensation(JsonObject):
    """New contents of initializers of the original, and how they were computed.

    Attributes:
        data: fingerprint of the calibration data.
        samples: the number of samples.
        stored: contents by initializer name, in the original's shapes and types; documents have the names alone.
        refits: one per layer, in graph order.
        steps: training steps, if the contents were read from a trained model.
        quantized: whether some of the refitted weights are quantized.
    """

    data: str
    samples: int
    stored: Annotated[Mapping[str, Array], Key("tensors"), Spelled(Any, sorted)]
    refits: tuple[Refit, ...] = ()
    steps: Annotated[int, HIDDEN] = 0
    quantized: Annotated[bool, HIDDEN] = False

    @property
    def done(self) -> tuple[Refit, ...]:
        """The refits that changed a layer."""
        return tuple(item for item in self.refits if item.skipped is None)


class NewNumbers(Protocol):
    """The common result of a refit and a recovery: contents of the original's initializers, and their training data."""

    @property
    def stored(self) -> Mapping[str, Array]:
        """Contents by name, in the original's shapes and types."""

    @property
    def data(self) -> str:
        """Fingerprint of the data."""

    @property
    def samples(self) -> int:
        """The number of samples."""


def refitted(loaded: LoadedModel, numbers: NewNumbers, steps: int = 0) -> LoadedModel:
    """The original with refitted weights, recorded in its metadata."""
    changed = with_contents(loaded, _contents(loaded.proto, numbers.stored))
    proto = changed.proto
    store_constants(proto.graph, numbers.stored)
    for body in islice(graphs_in(proto.graph), 1, None):
        store(body, numbers.stored)
    earlier = record_of(loaded.proto).refit
    names = {*numbers.stored, *(earlier.tensors if earlier else ())}
    steps += earlier.steps if earlier else 0
    _write(proto, RefitRecord(tuple(sorted(names)), numbers.data, numbers.samples, steps=steps))
    return changed


def _contents(model: ModelProto, stored: Mapping[str, Array]) -> dict[str, Contents]:
    """New contents of those tensors that are initializers; large ones are read when they are written."""
    from onnxheadprune.choosing.activations.store import Store

    found: dict[str, Contents] = {}
    for name in {tensor.name for tensor in model.graph.initializer}.intersection(stored):
        lies_in_file = isinstance(stored, Store) and not stored.in_memory(name)
        found[name] = functools.partial(stored.__getitem__, name) if lies_in_file else stored[name]
    return found


def sealed(pruned: LoadedModel, plan: PrunePlan) -> None:
    """Write the digests of the refitted tensors into a pruned model's record, if it has one.

    Args:
        pruned: the refitted model after the plan was applied; only its record changes.
    """
    record = record_of(pruned.proto).refit
    if record is None:
        return
    theirs, targets = _tensors_by_name(pruned.proto), {edit.name: edit.target for edit in _slices_of(plan)}
    digests = {
        name: digest(_array_of(theirs[target], pruned))
        for name in record.tensors
        if (target := targets.get(name, name)) in theirs
    }
    _write(pruned.proto, replace(record, digests=digests))


def digest(array: Array) -> str:
    """A short hash of the numbers of a tensor, its type and its shape."""
    content = f"{array.dtype}{array.shape}".encode() + np.ascontiguousarray(array).tobytes()
    return hashlib.sha256(content).hexdigest()[:16]


def _write(model: ModelProto, record: RefitRecord) -> None:
    write_record(model, replace(record_of(model), refit=record))


def _slices_of(plan: PrunePlan) -> Iterator[SliceTensor]:
    return (item.edit for item in plan.edits if isinstance(item.edit, SliceTensor))


def _tensors_by_name(model: ModelProto) -> Mapping[str, TensorProto]:
    """Return the stored tensors of a model by name; those of the main graph before those of bodies."""
    found: dict[str, TensorProto] = {}
    for graph in graphs_in(model.graph):
        for tensor in graph.initializer:
            found.setdefault(tensor.name, tensor)
        for node in graph.node:
            constant = stored_tensor(node)
            if constant is not None:
                found.setdefault(node.output[0], constant)
    return found


def _array_of(tensor: TensorProto, model: LoadedModel) -> Array:
    """The numbers of a tensor of a model."""
    return numpy_helper.to_array(in_memory(tensor, model.sources))


def restored(
    original: LoadedModel, pruned: LoadedModel, planning: Planning, record: RefitRecord
) -> tuple[Restored, list[str]]:
    """The refitted original's tensors, out of a pruned model.

    Only weights and biases of layers that a refit of this cut may change are taken from the file, whatever it says;
    of a model that was trained, weights, biases and normalisations.

    Returns:
        The tensors that differ from the original; and the errors of the record.
    """
    before_this = record_of(original.proto).refit
    earlier = () if before_this is None else before_this.tensors
    slices = {edit.name: edit for edit in _slices_of(planning.plan)}
    dropped = {item.edit.name for item in planning.plan.edits if isinstance(item.edit, DropTensor)}
    ours, theirs = _tensors_by_name(original.proto), _tensors_by_name(pruned.proto)
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
        array, before = _array_of(*one.cut), _array_of(*one.original)
        whole = whole_of(array, before, edit)
        if whole is None or theirs[target].data_type != ours[name].data_type:
            problems.append(f"the refitted {name} of {pruned.name} does not have the planned shape and type")
        elif record.digests.get(name, digest(array)) != digest(array):
            problems.append(
                f"the refitted {name} of {pruned.name} is not what was written: the file is damaged"
            )
        elif whole.tobytes() == before.tobytes():
            continue
        elif name not in record.digests:
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


def widened(refits: Restored, slices: Iterable[SliceTensor], original: LoadedModel) -> Restored:
    """Refitted tensors in the shapes that they have in the original of an earlier cut, whose removed parts stay."""
    tensors, known = dict(refits.tensors), _tensors_by_name(original.proto)
    for edit in slices:
        refitted = tensors.pop(edit.target, None)
        if refitted is not None:
            array = numpy_helper.to_array(in_memory(refitted, refits.sources))
            whole = whole_of(array, _array_of(known[edit.name], original), edit)
            assert whole is not None
            tensors[edit.name] = numpy_helper.from_array(whole, edit.name)
    return replace(refits, tensors=tensors)


@dataclass(frozen=True, eq=False)
class _One:
    """A refitted tensor."""

    original: tuple[TensorProto, LoadedModel]  # the tensor in the original, and that model
    cut: tuple[TensorProto, LoadedModel]  # the tensor in the pruned model, and that model
    edit: SliceTensor | None  # the cut, None where it is not cut

    def restored(self, whole: Array) -> tuple[TensorProto, dict[str, Source]]:
        """The tensor in the original's shape, and the files that it refers to."""
        tensor, model = self.cut
        if not is_outside(tensor):
            return numpy_helper.from_array(whole, tensor.name), {}
        if self.edit is None:
            made = copied(tensor)
            span = span_of(tensor)
            location = f"{PRIVATE}refitted/{span.location}"
            refer(made, Span(location, span.offset, span.length))
            return made, {location: model.sources[span.location]}
        made = copied(self.original[0])
        location = f"{PRIVATE}refitted/{self.original[0].name}"
        dims = tuple(made.dims)
        size = bytes_needed(made.data_type, dims)
        refer(made, Span(location, 0, size))
        source = Computed(Path(location), size, (), made.name, made.data_type, dims, self._whole)
        return made, {location: source}

    def _whole(self) -> Array:
        found = whole_of(_array_of(*self.cut), _array_of(*self.original), self.edit)
        assert found is not None
        return found


def _changeable(
    view: GraphView, sites: Sites, heads: Mapping[int, tuple[int, ...]], *, trained: bool
) -> frozenset[str]:
    """Names of the stored tensors that a refit of a cut may change, or a training after it."""
    found = refittable(view, sites.concerned(heads), heads)
    return found | trainable(view).keys() if trained else found


def whole_of(array: Array, original: Array, edit: SliceTensor | None) -> Array | None:
    """The array in the original's shape, with the removed parts of the original; None if it is not the planned cut."""
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
