"""The record of a compensated model, and the refitted original that can be read back from it.

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

from onnxheadprune.edit.apply import set_metadata
from onnxheadprune.edit.edits import SliceTensor
from onnxheadprune.edit.extract import store_constants, store_in_bodies
from onnxheadprune.edit.plan import PrunePlan
from onnxheadprune.edit.records import COMPENSATED_KEY, RefitRecord, refit_record, refit_text
from onnxheadprune.model.bodies import graphs_in
from onnxheadprune.model.constants import stored_tensor
from onnxheadprune.model.load import LoadedModel
from onnxheadprune.model.replacing import Contents, with_contents
from onnxheadprune.model.storage.reading import in_memory
from onnxheadprune.runtime import Array


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
        """How many samples that were."""


def refitted(loaded: LoadedModel, numbers: NewNumbers, steps: int = 0) -> LoadedModel:
    """The original with refitted weights, which says so in its metadata."""
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
    from onnxheadprune.choosing.activations.kept import Shelf

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
    theirs, targets = tensors_by_name(pruned.proto), _targets(plan)
    digests = {
        name: digest(array_of(theirs[target], pruned))
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


def slices_of(plan: PrunePlan) -> Iterator[SliceTensor]:
    """The cuts of stored tensors."""
    return (item.edit for item in plan.edits if isinstance(item.edit, SliceTensor))


def _targets(plan: PrunePlan) -> dict[str, str]:
    """Return what the cut part of each tensor is called."""
    return {edit.name: edit.target for edit in slices_of(plan)}


def tensors_by_name(model: ModelProto) -> Mapping[str, TensorProto]:
    """Return what a model stores, by name; of the main graph before what bodies store."""
    found: dict[str, TensorProto] = {}
    for graph in graphs_in(model.graph):
        for tensor in graph.initializer:
            found.setdefault(tensor.name, tensor)
        for node in graph.node:
            constant = stored_tensor(node)
            if constant is not None:
                found.setdefault(node.output[0], constant)
    return found


def array_of(tensor: TensorProto, model: LoadedModel) -> Array:
    """The numbers of a tensor of a model.

    Raises:
        ModelError: if they cannot be read.
    """
    return numpy_helper.to_array(in_memory(tensor, model.sources))
