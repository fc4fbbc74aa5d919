"""The reference of a model with an exit that is permanent, or with fewer tokens: the original, forced and translated.

What is planned and compared with the pruned graph is the original with the exit and the vocabulary; what comes out is
compared with the original itself, in which nothing but the decision and the ids of tokens is changed. Which exits and
tokens these are is read from the record of the pruned model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnx import ModelProto, TensorProto

from onnxheadprune.attention.masking import graph_of, masked_reference
from onnxheadprune.attention.planning import Planning
from onnxheadprune.attention.sites.find import analysis_of
from onnxheadprune.attention.sites.site import Site
from onnxheadprune.edit.records import RecordedExit, record_of
from onnxheadprune.edit.submodel import Restored, store, with_stored
from onnxheadprune.errors import RefusedError, UsageError
from onnxheadprune.model.graph.view import GraphView
from onnxheadprune.model.load import LoadedModel

if TYPE_CHECKING:
    from onnxheadprune.attention.exits import Leaving
    from onnxheadprune.attention.vocabulary.trim import Trimming


def claimed_vocabulary(original: LoadedModel, pruned: LoadedModel) -> Trimming | None:
    """The original with the tokens that the pruned model's record keeps; None where it keeps all that it has.

    Args:
        original: the model before the cut, with the exits that the pruned model has.
    """
    theirs, ours = record_of(pruned.proto).vocabulary, record_of(original.proto).vocabulary
    if theirs == ours:
        return None
    if theirs is None:
        raise UsageError(f"{original.name} lacks tokens that {pruned.name} still has; are the two swapped?")
    kept, rows = theirs.kept, theirs.rows
    if ours is not None:
        places = {token: place for place, token in enumerate(ours.kept)}
        lost = [token for token in kept if token not in places]
        if ours.rows != rows or lost:
            raise UsageError(
                f"the record of {pruned.name} keeps other tokens than {original.name} has; the two do not belong"
                " together"
            )
        kept, rows = tuple(places[token] for token in kept), len(ours.kept)
    from onnxheadprune.attention.vocabulary.trim import trimming

    return trimming(original, kept, theirs.inputs, rows, theirs.outputs)


def claimed_exits(original: LoadedModel, pruned: LoadedModel) -> Leaving | None:
    """The original with the exits for good that the pruned model's record has and the original's has not."""
    record = record_of(pruned.proto).exits
    theirs, ours = _taken(record), _taken(record_of(original.proto).exits)
    if not set(ours) <= set(theirs):
        raise UsageError(
            f"exit {ours[0]} is permanent in {original.name} and not in {pruned.name}; are the two swapped?"
        )
    numbers = [number for number in theirs if number not in ours]
    left = _left(original, numbers) if numbers else None
    # What is said of the exits that were not taken numbers those that may be taken later.
    if record and record != record_of((original if left is None else left.model).proto).exits:
        raise UsageError(
            f"the record of {pruned.name} speaks of other exits than {original.name} has; the two do not belong"
            " together"
        )
    return left


def _forced_original(
    original: LoadedModel, left: Leaving, refits: Restored
) -> tuple[LoadedModel, LoadedModel]:
    """The original with its decisions forced to the exits that a pruned model claims, made from the original alone.

    The forced original with the refitted tensors, and the original with the last decision the other way.
    """
    from onnxheadprune.attention.exits import forced, otherwise

    view = left.original.view
    made = _refitted(forced(view, left.decisions), left, refits.tensors)
    return refits.beside(original).changed(made), original.changed(forced(view, otherwise(left.decisions)))


def _left(original: LoadedModel, numbers: Sequence[int]) -> Leaving:
    from onnxheadprune.attention.exits import leaving

    return leaving(original, numbers)


def _taken(record: Sequence[RecordedExit]) -> list[int]:
    return [entry.number for entry in record if entry.state == "taken"]


def _refitted(model: ModelProto, left: Leaving, refits: Mapping[str, TensorProto]) -> ModelProto:
    """The model with refitted tensors where the original keeps them: in the main graph, or in the bodies of an If."""
    made = with_stored(model, {name: tensor for name, tensor in refits.items() if name not in left.moved})
    for name, numbers in refits.items():
        value = left.moved.get(name)
        if value is None or value.scope.owner is None:
            continue
        owner = graph_of(made, value.scope.owner).node[value.scope.owner.position]
        body = next(
            item.g for item in owner.attribute if value.scope.owner.bodies.get(item.name) is value.scope
        )
        store(body, {value.name: numbers})
    return made


@dataclass(frozen=True, eq=False)
class Reference:
    """The reference that a pruned model is compared with."""

    original: LoadedModel  # what takes the same inputs, with all units
    asked: GraphView  # its view, which inputs are made for
    masked: LoadedModel  # without the units that are gone: what the pruned model must equal
    aside: LoadedModel | None = None  # a mistake: the last decision the other way, or other tokens


@dataclass(frozen=True, eq=False)
class Prepared:
    """The original with what a pruned model claims beside units: exits, and a smaller vocabulary."""

    whole: LoadedModel  # the original as it is
    left: Leaving | None  # with the exits, None without
    trimmed: Trimming | None  # with fewer tokens, None with all

    @property
    def model(self) -> LoadedModel:
        """The model that units are planned on, and that the graph is compared with."""
        if self.trimmed is not None:
            return self.trimmed.model
        return self.whole if self.left is None else self.left.model

    @property
    def is_changed(self) -> bool:
        """True if it differs from the original."""
        return self.left is not None or self.trimmed is not None

    @property
    def exits(self) -> tuple[int, ...]:
        """Numbers of the exits."""
        return () if self.left is None else self.left.cut.numbers

    @property
    def tokens(self) -> tuple[int, int] | None:
        """The number of kept tokens, and of all."""
        return None if self.trimmed is None else (self.trimmed.cut.left, self.trimmed.cut.tokens.rows)

    @property
    def without(self) -> tuple[str, ...]:
        """The removed parts in words."""
        exits = tuple(f"exit {number}" for number in self.exits)
        return exits if self.tokens is None else (*exits, f"{self.tokens[1] - self.tokens[0]:,} tokens")

    def reference(self, planning: Planning, refits: Restored) -> Reference | None:
        """The reference that the pruned model must equal; None where the masked reference is enough."""
        if not self.is_changed:
            return None
        if self.trimmed is not None and refits.tensors:
            from onnxheadprune.choosing.compensation.record import widened

            source = self.whole if self.left is None else self.left.model
            refits = widened(refits, self.trimmed.slices, source)
        made, aside, asked = refits.into(self.whole), self.whole, planning.view
        if self.left is not None:
            made, aside = _forced_original(self.whole, self.left, refits)
            asked = self.left.original.view
        original = self.whole
        if self.trimmed is not None:
            shift = 0 if self.left is not None else 1
            original, made, aside = (
                self._translated(model, by) for model, by in ((original, 0), (made, 0), (aside, shift))
            )
            asked = analysis_of(original).view
        analysis = analysis_of(made)
        sites = analysis.sites.losing(planning.heads)
        if _seen(sites) != _seen(planning.touched):
            raise RefusedError(
                f"not all sites that lose units are seen in {self.whole.name} before its exit is permanent; take the"
                " exit first, and cut what is written in a second call"
            )
        masked = made.changed(masked_reference(analysis.view, sites, planning.heads))
        return Reference(original, asked, masked, aside)

    def _translated(self, model: LoadedModel, shift: int) -> LoadedModel:
        assert self.trimmed is not None
        return model.changed(self.trimmed.translated(model, shift))


def prepared(original: LoadedModel, pruned: LoadedModel) -> Prepared:
    """The original with the exits and the vocabulary that a pruned model claims."""
    left = claimed_exits(original, pruned)
    return Prepared(original, left, claimed_vocabulary(original if left is None else left.model, pruned))


def _seen(sites: Sequence[Site]) -> list[tuple[int, int, int]]:
    return [(site.index, site.num_units, site.original_num_units) for site in sites]
