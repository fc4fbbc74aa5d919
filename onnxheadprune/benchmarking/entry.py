"""One model of a benchmark: its file, the sizes that are measured, and feeds of exactly these sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path

import numpy as np
from onnx import ModelProto

from onnxheadprune.benchmarking.flops import Flops, attention_nodes, concrete_view
from onnxheadprune.benchmarking.result import GridPoint, ModelFacts
from onnxheadprune.edit.records import HEADS, RECORD_KEY, VALIDATION_KEY, record_of
from onnxheadprune.errors import InferenceError, ModelError, UsageError
from onnxheadprune.model.load import INLINE_LIMIT, ModelLike, open_structure, stored_bytes
from onnxheadprune.model.storage.tensors import stored_size
from onnxheadprune.operators import view_of
from onnxheadprune.runtime import CPU, SUFFIX
from onnxheadprune.runtime.feeds.data import fixed_batch
from onnxheadprune.runtime.feeds.generate import Feed, FeedMaker, Sizes
from onnxheadprune.runtime.feeds.inputs import Input
from onnxheadprune.runtime.tolerances import Tolerance, tolerance_for
from onnxheadprune.settings.measuring import Timing

BATCHES = (1, 8)
LENGTHS = (128, 64, 32, 16, 8, 4)
"""Lengths to try where the user names none: position tables of small models are short."""
PASTS = (128, 64, 16, 4)
EXTENTS = (224, 256, 128, 64, 32, 16, 384, 512, 1024, 3000, 16000)
"""Sides of images and lengths of sound to try where the user names none, the usual ones first."""
_SEQUENCE_WORDS = ("seq", "length", "token")
"""In names of dimensions of float inputs: embeddings come in as floats, as images do, and have a sequence."""
Runs = Callable[[GridPoint], InferenceError | None]
"""Tries a model at a point."""


def differences(reference: ModelFacts, candidate: ModelFacts, sites_gone: int = 0) -> tuple[str, ...]:
    """Return why two optimized graphs are not the same program but for its widths; empty where they are.

    Args:
        sites_gone: sites that the other model lost as a whole, with their fused operators.
    """
    found: list[str] = []
    before, after = reference.fused, candidate.fused
    # A site that is gone takes its fused operators along: one or two of a kind (scores and context).
    changed = [
        f"{before.get(name, 0)} {name} in the first model and {after.get(name, 0)} in this one"
        for name in sorted(before.keys() | after.keys())
        if not 0 <= before.get(name, 0) - after.get(name, 0) <= sites_gone * (1 + (name in after))
    ]
    if reference.operators and candidate.operators and changed:
        found.append(f"ONNX Runtime fuses {', '.join(changed)}")
    first, own = reference.placement, candidate.placement
    if first and own and first.keys() != own.keys():
        found.append(
            f"the nodes of the first model run on {_names(first)}, those of this one on {_names(own)}"
        )
    elif first and own and len(first) > 1 and own.get(CPU, 0) > first.get(CPU, 0):
        found.append(f"{own.get(CPU, 0)} nodes landed on the CPU, {first.get(CPU, 0)} of the first model")
    return tuple(found)


def _names(placement: Mapping[str, int]) -> str:
    return " and ".join(name.removesuffix(SUFFIX) for name in sorted(placement))


@dataclass(frozen=True)
class Entry:
    """A model that takes part."""

    name: str
    path: Path  # its file, as it would be deployed
    proto: ModelProto  # the model; large weights stay on disk
    file_bytes: int  # size on disk
    maker: FeedMaker  # makes its feeds
    tolerance: Tolerance  # the class of its precision

    @classmethod
    def of(cls, model: ModelLike, spare: Path, seed: int) -> Entry:
        """Open a model for measuring.

        Args:
            spare: a folder to make and write it to if it has no file.
        """
        loaded = open_structure(model)
        if loaded.path is None:
            # Written from where its tensors are, so that a model larger than memory can be measured too.
            from onnxheadprune.model.save import save_model

            spare.mkdir()
            path = spare / "model.onnx"
            # ONNX Runtime reads no shapes from files beside a model, so what fits goes into one file.
            save_model(
                loaded, path, external="never" if stored_bytes(loaded.proto) <= INLINE_LIMIT else "auto"
            )
            files = list(spare.iterdir())
        else:
            path, files = loaded.path, [loaded.path, *loaded.data_files]
        size = sum(file.stat().st_size for file in files)
        view = view_of(loaded)
        return cls(loaded.name, path, loaded.proto, size, FeedMaker(view, seed), tolerance_for(view))

    @cached_property
    def _attention(self) -> frozenset[str] | None:
        return attention_nodes(self.proto)

    @cached_property
    def sites_gone(self) -> int:
        """Sites that earlier pruning removed as a whole."""
        try:
            return sum(1 for cut in record_of(self.proto).of(HEADS) if not cut.left)
        except ModelError:
            return 0

    @property
    def is_cut(self) -> bool:
        """True if this tool made it of another model."""
        return any(item.key in (RECORD_KEY, VALIDATION_KEY) for item in self.proto.metadata_props)

    def flops(self, feed: Feed, attention: bool) -> Flops:
        """Operations of one run on a feed, and on request those of attention, whose sites have to be found for that."""
        return Flops.of(concrete_view(self.proto, feed), self._attention if attention else None)

    def facts(self, operators: Mapping[str, int], placement: Mapping[str, int]) -> ModelFacts:
        """Return what does not depend on the grid."""
        params = stored_size(self.proto).elements
        return ModelFacts(self.name, self.file_bytes, params, operators, placement)

    def require_same_inputs(self, other: Entry) -> None:
        """Check that another model does the same work: what both read has the same names, types and ranks.

        A cut may lack inputs of the original, such as the caches of layers that are gone.
        """
        ours, theirs = ({item.name: item for item in entry.maker.inputs} for entry in (self, other))
        for name, item in theirs.items():
            if name not in ours:
                raise _other_inputs(self, other, f"{other.name} also reads {name}")
            before = ours[name]
            if (before.dtype, len(before.dims)) != (item.dtype, len(item.dims)):
                raise _other_inputs(
                    self,
                    other,
                    f"{name} is {_spelled(before)} in {self.name} and {_spelled(item)} in {other.name}",
                )
        missing = [name for name in ours if name not in theirs and not ours[name].is_cache]
        if missing and not other.is_cut:
            raise _other_inputs(self, other, f"{other.name} does not read {missing[0]}")

    def grid(self, asked: Timing, runs: Runs) -> tuple[GridPoint, ...]:
        """The points to measure, each one tried on this model."""
        maker = self.maker
        _check(asked, maker)
        dims = dict(asked.dims)
        points: list[GridPoint] = []
        # Naming only one of the two asks for only that one.
        if asked.seq is not None or asked.past is None:
            points += _family(asked, maker, runs, decode=False, dims=dims)
        if asked.past is not None or (asked.seq is None and maker.symbols.past):
            points += _family(asked, maker, runs, decode=True, dims=dims)
        return tuple(points)

    def feed(self, point: GridPoint, like: Feed | None = None) -> Feed:
        """A feed of a point's sizes: ids below the vocabulary, masks of ones, positions and caches that fit together.

        Args:
            like: another model's feed; arrays of equal name, type and shape are taken from it, but for ids that this
                model does not have.
        """
        maker = self.maker
        sizes = Sizes(point.batch, point.past or 0, point.seq or 1, point.extent or 1, distinct=False)
        known = dict.fromkeys(_sequences(maker), point.seq or 1)
        known |= {name: size for name, size in point.dims.items() if name in _symbols(maker)}
        feed = maker.sized(sizes, known, flag=bool(point.past))
        rows = {item.name: item.rows for item in maker.inputs if item.rows is not None}
        for name, array in (like or {}).items():
            own = feed.get(name)
            if name in rows and array.size and array.max() >= rows[name]:
                continue
            if own is not None and own.shape == array.shape and own.dtype == array.dtype:
                feed[name] = array
        return {name: np.ascontiguousarray(array) for name, array in feed.items()}


def _other_inputs(first: Entry, other: Entry, why: str) -> UsageError:
    return UsageError(
        f"{first.name} and {other.name} do not take the same inputs, so they cannot be compared: {why}"
    )


def _spelled(item: Input) -> str:
    return f"{item.dtype} of rank {len(item.dims)}"


def _check(asked: Timing, maker: FeedMaker) -> None:
    found = maker.symbols
    unknown = sorted(set(asked.dims) - _symbols(maker))
    if unknown:
        listed = ", ".join(sorted(_symbols(maker))) or "none"
        raise UsageError(f"no input has a dimension {', '.join(unknown)}; open dimensions are: {listed}")
    fixed = fixed_batch(maker.inputs) or 1
    if asked.batch is not None and not found.batch and set(asked.batch) != {fixed}:
        raise UsageError(f"the batch of this model is fixed to {fixed}")
    if asked.seq is not None and not (found.length or _sequences(maker)):
        raise UsageError(
            "no input of this model has a sequence of open length; use `dims` NAME=SIZE for others"
        )
    if asked.past is not None and not found.past:
        raise UsageError("this model has no cache of open length, so `past` has no meaning")
    for name, sizes in (("batch", asked.batch), ("seq", asked.seq), ("past", asked.past)):
        if sizes is not None and (not sizes or min(sizes) < 1):
            raise UsageError(f"sizes of {name} are numbers from 1 up")


def _family(
    asked: Timing, maker: FeedMaker, runs: Runs, *, decode: bool, dims: dict[str, int]
) -> Iterator[GridPoint]:
    """Points of whole sequences, or of decode steps."""
    found = maker.symbols
    batches = tuple(asked.batch or (BATCHES if found.batch else (fixed_batch(maker.inputs) or 1,)))
    wanted = asked.past if decode else asked.seq
    usual = PASTS if decode else LENGTHS
    has_axis = bool(found.length) or bool(_sequences(maker)) or decode
    lengths: Sequence[int | None] = wanted or (usual if has_axis else (None,))
    extents: Sequence[int | None] = EXTENTS if set(found.extent) - {*dims, *_sequences(maker)} else (None,)

    def point(batch: int, length: int | None, extent: int | None) -> GridPoint:
        if decode:
            return GridPoint(batch, 1, length, extent, dims)
        return GridPoint(batch, length, 0 if found.past else None, extent, dims)

    first: InferenceError | None = None
    for extent, length in product(extents, lengths if wanted is None else lengths[:1]):
        error = runs(point(min(batches), length, extent))
        if error is None:
            chosen = lengths if wanted is not None else (length,)
            for batch, size in product(batches, chosen):
                made = point(batch, size, extent)
                error = runs(made)
                if error is not None and asked.batch is None and batch > min(batches):
                    # Many models are exported for one sample, whatever their inputs declare.
                    continue
                if error is not None:
                    raise InferenceError(f"at {made.label}: {error}")
                yield made
            return
        first = first or error
    if decode and asked.past is None:
        return
    assert first is not None
    raise first


def _sequences(maker: FeedMaker) -> tuple[str, ...]:
    """Open dimensions of float inputs that are lengths of a sequence: by name, or as `[batch, length, 768]`."""
    embedded = {
        str(item.dims[1]) if isinstance(item.dims[1], int) else item.dims[1].text
        for item in maker.inputs
        if len(item.dims) == 3 and isinstance(item.dims[2], int)
    }
    return tuple(
        name
        for name in maker.symbols.extent
        if name in embedded or any(word in name.lower() for word in _SEQUENCE_WORDS)
    )


def _symbols(maker: FeedMaker) -> set[str]:
    found = maker.symbols
    return {*found.batch, *found.past, *found.total, *found.length, *found.extent}
