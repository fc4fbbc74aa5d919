"""One model of a benchmark: its file, its feeds, its sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from onnx import ModelProto

from onnxheadprune.attention.sites.find import view_of
from onnxheadprune.benchmarking.concrete import concrete_view
from onnxheadprune.benchmarking.flops import Flops, attention_nodes, count_flops
from onnxheadprune.benchmarking.result import ModelFacts
from onnxheadprune.edit.records import CACHES_KEY, REMOVED_KEY, VALIDATION_KEY, pruning_record
from onnxheadprune.errors import ModelError, UsageError
from onnxheadprune.model.load import INLINE_LIMIT, ModelLike, open_structure, stored_bytes
from onnxheadprune.model.save import save_model
from onnxheadprune.model.storage.tensors import stored_size
from onnxheadprune.runtime.feeds.generate import Feed, FeedMaker
from onnxheadprune.runtime.feeds.inputs import Input
from onnxheadprune.runtime.tolerances import tolerance_for


@dataclass(frozen=True)
class Entry:
    """A model that takes part.

    Attributes:
        name: what to call it.
        path: its file, as it would be deployed.
        proto: the model; large weights stay on disk.
        file_bytes: size on disk.
        maker: makes its feeds.
        precision: the class of its tolerance ("float16").
    """

    name: str
    path: Path
    proto: ModelProto
    file_bytes: int
    maker: FeedMaker
    precision: str

    @cached_property
    def _attention(self) -> frozenset[str] | None:
        return attention_nodes(self.proto)

    @cached_property
    def sites_gone(self) -> int:
        """Sites that earlier pruning removed as a whole."""
        try:
            return sum(1 for cut in pruning_record(self.proto) if not cut.left)
        except ModelError:
            return 0

    @property
    def is_cut(self) -> bool:
        """True if this tool made it of another model."""
        return any(
            item.key in (VALIDATION_KEY, REMOVED_KEY, CACHES_KEY) for item in self.proto.metadata_props
        )

    def flops(self, feed: Feed) -> Flops:
        """Operations of one run on a feed."""
        return count_flops(concrete_view(self.proto, feed), self._attention)

    def facts(self, operators: Mapping[str, int], placement: Mapping[str, int]) -> ModelFacts:
        """Return what does not depend on the grid."""
        params = stored_size(self.proto).elements
        return ModelFacts(self.name, self.file_bytes, params, operators, placement)


def enter(model: ModelLike, spare: Path, seed: int) -> Entry:
    """Opens a model for measuring.

    Args:
        model: a path, a `ModelProto`, a `gs.Graph` or an `onnx_ir.Model`.
        spare: a folder to make and write it to if it has no file.
        seed: of its feeds.

    Raises:
        UsageError: if the path does not exist, or an input is no tensor of numbers.
        ModelError: if it cannot be read.
    """
    loaded = open_structure(model)
    if loaded.path is None:
        # Written from where its tensors are, so that a model larger than memory can be measured too.
        spare.mkdir()
        path = spare / "model.onnx"
        # ONNX Runtime reads no shapes from files beside a model, so what fits goes into one file.
        save_model(loaded, path, external=False if stored_bytes(loaded.proto) <= INLINE_LIMIT else None)
        files = list(spare.iterdir())
    else:
        path, files = loaded.path, [loaded.path, *loaded.data_files]
    size = sum(file.stat().st_size for file in files)
    view = view_of(loaded)
    return Entry(loaded.name, path, loaded.proto, size, FeedMaker(view, seed), tolerance_for(view).precision)


def require_same_inputs(first: Entry, other: Entry) -> None:
    """Check that two models do the same work: what they read has the same names, types and ranks.

    A cut may lack inputs of the original, such as the caches of layers that are gone.

    Raises:
        UsageError: if not; latencies of other inputs compare nothing.
    """
    ours, theirs = ({item.name: item for item in entry.maker.inputs} for entry in (first, other))
    for name, item in theirs.items():
        if name not in ours:
            raise _other_inputs(first, other, f"{other.name} also reads {name}")
        before = ours[name]
        if (before.dtype, len(before.dims)) != (item.dtype, len(item.dims)):
            raise _other_inputs(
                first,
                other,
                f"{name} is {_spelled(before)} in {first.name} and {_spelled(item)} in {other.name}",
            )
    missing = [name for name in ours if name not in theirs and not ours[name].is_cache]
    if missing and not other.is_cut:
        raise _other_inputs(first, other, f"{other.name} does not read {missing[0]}")


def _other_inputs(first: Entry, other: Entry, why: str) -> UsageError:
    return UsageError(
        f"{first.name} and {other.name} do not take the same inputs, so they cannot be compared: {why}"
    )


def _spelled(item: Input) -> str:
    return f"{item.dtype} of rank {len(item.dims)}"
