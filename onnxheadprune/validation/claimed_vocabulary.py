"""What a pruned model says of its vocabulary: which tokens of the original it has kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxheadprune.edit.vocabulary_records import vocabulary_record
from onnxheadprune.errors import UsageError
from onnxheadprune.model.load import LoadedModel

if TYPE_CHECKING:
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
