"""One model of a benchmark: its file, its feeds, its sizes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from onnx import ModelProto

from onnxheadprune.attention.sites.find import view_of
from onnxheadprune.benchmarking.flops import Flops, attention_nodes, concrete_view, count_flops
from onnxheadprune.benchmarking.result import ModelFacts
from onnxheadprune.edit.records import CACHES_KEY, HEADS, REMOVED_KEY, VALIDATION_KEY, units_record
from onnxheadprune.errors import ModelError, UsageError
from onnxheadprune.model.graph.facts import STANDS_FOR_PATTERN
from onnxheadprune.model.load import INLINE_LIMIT, ModelLike, open_structure, stored_bytes
from onnxheadprune.model.save import save_model
from onnxheadprune.model.storage.tensors import stored_size
from onnxheadprune.runtime import CPU, SUFFIX
from onnxheadprune.runtime.feeds.generate import Feed, FeedMaker
from onnxheadprune.runtime.feeds.inputs import Input
from onnxheadprune.runtime.tolerances import tolerance_for

CACHE_LAYOUT = ("ReorderInput", "ReorderOutput")


class _Named(NamedTuple):
    """An operator by its name."""

    domain: str
    op_type: str


def _is_fused(operator: str) -> bool:
    """Return whether an operator of an optimized graph ("Softmax", "com.microsoft:BiasGelu") stands for several."""
    domain, _, op_type = operator.rpartition(":")
    return op_type not in CACHE_LAYOUT and (bool(domain) or _Named("", op_type) in STANDS_FOR_PATTERN)


def fused(operators: Mapping[str, int]) -> dict[str, int]:
    """The fused part of a histogram."""
    return {name: count for name, count in operators.items() if _is_fused(name)}


def differences(
    reference: Mapping[str, int],
    candidate: Mapping[str, int],
    reference_placement: Mapping[str, int],
    candidate_placement: Mapping[str, int],
    sites_gone: int = 0,
) -> tuple[str, ...]:
    """Return why two optimized graphs are not the same program but for its widths; empty where they are.

    Args:
        reference: histogram of the first model's optimized graph; empty where it is not known.
        candidate: the same of the other model.
        reference_placement: nodes of the first model per execution provider.
        candidate_placement: the same of the other model.
        sites_gone: sites that the other model lost as a whole, with their fused operators.
    """
    found: list[str] = []
    if reference and candidate:
        found += _fused_differences(fused(reference), fused(candidate), sites_gone)
    found += _placement_differences(reference_placement, candidate_placement)
    return tuple(found)


def _fused_differences(
    reference: Mapping[str, int], candidate: Mapping[str, int], sites_gone: int
) -> Iterator[str]:
    for name in sorted(reference.keys() | candidate.keys()):
        before, after = reference.get(name, 0), candidate.get(name, 0)
        # A site that is gone takes its fused operators along: one or two of a kind (scores and context).
        if after == before or (after and 0 < before - after <= 2 * sites_gone):
            continue
        if not after and 0 < before <= sites_gone:
            continue
        yield f"ONNX Runtime fuses {before} {name} in the first model and {after} in this one"


def _placement_differences(reference: Mapping[str, int], candidate: Mapping[str, int]) -> Iterator[str]:
    if not reference or not candidate:
        return
    if reference.keys() != candidate.keys():
        yield (
            f"the nodes of the first model run on {_names(reference)}, those of this one on {_names(candidate)}"
        )
    elif len(reference) > 1 and candidate.get(CPU, 0) > reference.get(CPU, 0):
        yield (f"{candidate.get(CPU, 0)} nodes landed on the CPU, {reference.get(CPU, 0)} of the first model")


def _names(placement: Mapping[str, int]) -> str:
    return " and ".join(name.removesuffix(SUFFIX) for name in sorted(placement))


@dataclass(frozen=True)
class Entry:
    """A model that takes part.

    Attributes:
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
            return sum(1 for cut in units_record(self.proto, HEADS) if not cut.left)
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
