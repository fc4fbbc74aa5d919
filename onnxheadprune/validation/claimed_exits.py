"""What a pruned model says of early exits: which were made permanent since the original, and what that must equal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from onnx import ModelProto, TensorProto

from onnxheadprune.attention.masking import graph_of
from onnxheadprune.edit.extract import Restored, store_constants, stored_anew, with_stored
from onnxheadprune.edit.model_records import RecordedExit, exits_record, vocabulary_record
from onnxheadprune.errors import UsageError
from onnxheadprune.model.load import LoadedModel

if TYPE_CHECKING:
    from onnxheadprune.attention.exits.leave import Leaving
    from onnxheadprune.attention.vocabulary.trim import Trimming


def claimed_vocabulary(original: LoadedModel, pruned: LoadedModel) -> Trimming | None:
    """The original with the tokens that the pruned model's record keeps; None where it keeps all that it has.

    Args:
        original: the model before the cut, with the exits that the pruned model has.
        pruned: the model after it.

    Raises:
        UsageError: if the two do not belong together.
        RefusedError: if the original has no such vocabulary.
    """
    theirs, ours = vocabulary_record(pruned.proto), vocabulary_record(original.proto)
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

    return trimming(original, kept, theirs.inputs, rows)


def claimed_exits(original: LoadedModel, pruned: LoadedModel) -> Leaving | None:
    """The original with the exits for good that the pruned model's record has and the original's has not.

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


def forced_original(
    original: LoadedModel, left: Leaving, refits: Restored
) -> tuple[LoadedModel, LoadedModel]:
    """The original with its decisions forced to the exits that a pruned model claims, made from the original alone.

    Args:
        original: the model before the cut, with all of its exits.
        left: the exits, as they were found in it.
        refits: refitted tensors, under the names that they have behind the exits.

    Returns:
        The forced original with the refitted tensors, and the original with the last decision the other way.
    """
    from onnxheadprune.attention.exits.forcing import forced, otherwise

    view = left.original.view
    made = _refitted(forced(view, left.decisions), left, refits.tensors)
    return refits.beside(original).changed(made), original.changed(forced(view, otherwise(left.decisions)))


def _left(original: LoadedModel, numbers: Sequence[int]) -> Leaving:
    from onnxheadprune.attention.exits.leave import leaving

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
        for tensor in body.initializer:
            if tensor.name == value.name:
                tensor.CopyFrom(stored_anew(tensor, numbers))
        store_constants(body, {value.name: numbers})
    return made
