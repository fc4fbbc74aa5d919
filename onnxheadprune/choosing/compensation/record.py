"""The results of a compensation, and the record of them in a model.

A compensated model is the pruned form of a *refitted original*: the original with other numbers in a few
initializers. Only those numbers are taken from the pruned file; everything else about the cut is planned on
the original again and proven, as for any other cut.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from onnx import ModelProto, TensorProto, numpy_helper

from onnxheadprune.attention.sites.kinds import key_of
from onnxheadprune.edit.apply import set_metadata
from onnxheadprune.edit.edits import SliceTensor
from onnxheadprune.edit.extract import store_constants, store_in_bodies
from onnxheadprune.edit.plan import PrunePlan
from onnxheadprune.edit.records import COMPENSATED_KEY, RefitRecord, refit_record, refit_text
from onnxheadprune.model.bodies import graphs_in
from onnxheadprune.model.constants import stored_tensor
from onnxheadprune.model.load import LoadedModel
from onnxheadprune.model.one_line import one_line
from onnxheadprune.model.replacing import Contents, with_contents
from onnxheadprune.model.storage.reading import in_memory
from onnxheadprune.runtime import Array


@one_line("node site before after strength skipped")
@dataclass(frozen=True)
class Refit:
    """The refit of one linear layer.

    Attributes:
        node: its name.
        site: index of the site whose projection it is, None for another map.
        strength: ridge strength, None if only the bias moved or nothing did.
        before: held-out error of the stream without the refit, as a share of the original's variance there.
        after: the same with it.
        skipped: why it was left as it is, None if it was refitted.
        kept: outputs of a quantized map that keep their weights, since the refit did not pay in the levels there are.
        stands_in: keys of the sublayers behind it that go and that it stands in for.
        limited: why it was refitted with a strong ridge or in its bias alone, None where any ridge was tried.
    """

    node: str
    site: int | None
    strength: float | None
    before: float
    after: float
    skipped: str | None = None
    kept: int = 0
    stands_in: tuple[str, ...] = ()
    limited: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        return {
            "node": self.node,
            "site": None if self.site is None else key_of(self.site),
            "strength": self.strength,
            "before": self.before,
            "after": self.after,
            "skipped": self.skipped,
            "kept_outputs": self.kept,
            "stands_in": list(self.stands_in),
            "limited": self.limited,
        }


@one_line("refits data samples steps")
@dataclass(frozen=True, eq=False)
class Compensation:
    """New contents of initializers of the original, and how they came about.

    Attributes:
        stored: contents by initializer name, in the original's shapes and types.
        refits: what was done, in graph order.
        data: fingerprint of the calibration data.
        samples: how many samples that were.
        steps: of training behind the contents, if they were read from a model that was trained.
        quantized: whether some of the refitted weights are stored in levels.
    """

    stored: Mapping[str, Array]
    refits: tuple[Refit, ...]
    data: str
    samples: int
    steps: int = 0
    quantized: bool = False

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data, without the numbers themselves."""
        return {
            "data": self.data,
            "samples": self.samples,
            "tensors": sorted(self.stored),
            "refits": [item.to_dict() for item in self.refits],
        }


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
