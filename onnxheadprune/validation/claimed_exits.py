"""What a pruned model says of early exits: which were made permanent since the original, and what that must equal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnx import ModelProto, TensorProto

from onnxheadprune.attention.analysis import analysis_of
from onnxheadprune.attention.masking import graph_of, masked_reference
from onnxheadprune.attention.planning import Planning
from onnxheadprune.attention.sites.unit import Site
from onnxheadprune.edit.exit_records import RecordedExit, exits_record
from onnxheadprune.edit.extract import Restored, store_constants, stored_anew, with_stored
from onnxheadprune.errors import RefusedError, UsageError
from onnxheadprune.model.load import LoadedModel

if TYPE_CHECKING:
    from onnxheadprune.attention.exits.leave import Leaving


@dataclass(frozen=True, eq=False)
class Forced:
    """The original with its decisions forced to the exits that a pruned model claims.

    Attributes:
        masked: without the units that are gone: what the pruned model must equal.
        aside: all units alive, the last decision the other way: what a wrong exit would look like.
    """

    masked: LoadedModel
    aside: LoadedModel


def claimed_exits(original: LoadedModel, pruned: LoadedModel) -> Leaving | None:
    """The original with the exits for good that the pruned model's record has and the original's has not.

    Args:
        original: the model before the cut.
        pruned: the model after it.

    Raises:
        UsageError: if the two do not belong together.
        RefusedError: if the original has no such exits.
    """
    record = exits_record(pruned.proto)
    theirs, ours = _taken(record), _taken(exits_record(original.proto))
    if not set(ours) <= set(theirs):
        raise UsageError(
            f"exit {ours[0]} is permanent in {original.name} and not in {pruned.name}; are the two swapped?"
        )
    numbers = [number for number in theirs if number not in ours]
    left = _left(original, numbers) if numbers else None
    # What is said of the exits that were not taken numbers those that may be taken later.
    if record and record != exits_record((original if left is None else left.model).proto):
        raise UsageError(
            f"the record of {pruned.name} speaks of other exits than {original.name} has; the two do not belong"
            " together"
        )
    return left


def forced_original(original: LoadedModel, left: Leaving, planning: Planning, refits: Restored) -> Forced:
    """What a pruned model with permanent exits is compared with, made from the original alone.

    Args:
        original: the model before the cut, with all of its exits.
        left: the exits, as they were found in it.
        planning: the units that go, planned on the model with the exits.
        refits: refitted tensors, under the names that they have there.

    Raises:
        RefusedError: if a site is seen only once the exit is taken, so that the original cannot be masked.
    """
    from onnxheadprune.attention.exits.forcing import forced, otherwise

    view = left.original.view
    # Masks move nodes, so the bodies are looked up before.
    made = refits.beside(original).changed(_refitted(forced(view, left.decisions), left, refits.tensors))
    analysis = analysis_of(made)
    sites = analysis.sites.losing(planning.heads)
    if _seen(sites) != _seen(planning.touched):
        raise RefusedError(
            f"not all sites that lose units are seen in {original.name} before its exit is permanent; take the exit"
            " first, and cut what is written in a second call"
        )
    return Forced(
        made.changed(masked_reference(analysis.view, sites, planning.heads)),
        original.changed(forced(view, otherwise(left.decisions))),
    )


def _left(original: LoadedModel, numbers: Sequence[int]) -> Leaving:
    from onnxheadprune.attention.exits.leave import leaving

    return leaving(original, numbers)


def _taken(record: Sequence[RecordedExit]) -> list[int]:
    return [entry.number for entry in record if entry.state == "taken"]


def _seen(sites: Sequence[Site]) -> list[tuple[int, int, int]]:
    return [(site.index, site.num_units, site.original_num_units) for site in sites]


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
        for tensor in body.initializer:
            if tensor.name == value.name:
                tensor.CopyFrom(stored_anew(tensor, numbers))
        store_constants(body, {value.name: numbers})
    return made
