"""Sizes of a model before and after a cut: elements and bytes of its tensors, bytes of its files."""

from __future__ import annotations

from onnxheadprune.attention.planning import planned_on
from onnxheadprune.edit.functions import carried_out
from onnxheadprune.edit.plan import PrunePlan
from onnxheadprune.model.load import LoadedModel, ModelLike, open_structure
from onnxheadprune.model.storage.tensors import StoredSize, stored_size


def file_bytes(model: LoadedModel) -> int | None:
    """What the file of a model and those with its weights take; None for a model that was not read from a file."""
    if model.path is None:
        return None
    return sum(file.stat().st_size for file in (model.path, *model.data_files) if file.is_file())


def planned_size(plan: PrunePlan, model: ModelLike) -> tuple[StoredSize, StoredSize]:
    """Return what a model's stored tensors hold before and after a plan; nothing is written.

    Raises:
        RefusedError: if the plan was made for a model of another structure.
        ModelError: if the model cannot be read.
    """
    loaded = open_structure(model)
    return stored_size(loaded.as_stored), stored_size(carried_out(plan, planned_on(plan, loaded)))


def size_warnings(before: StoredSize, after: StoredSize) -> tuple[str, ...]:
    """A sentence if the tensors of a pruned model take more bytes than before."""
    if after.bytes <= before.bytes:
        return ()
    grown = after.bytes - before.bytes
    sentence = (
        f"the weights grow by {grown:,} bytes: new indices or copies of shared weights outweigh what is cut"
    )
    return (sentence,)


def file_warnings(before: int, after: int) -> tuple[str, ...]:
    """A sentence if the files of a pruned model take more bytes than before."""
    if after <= before:
        return ()
    return (f"the file grows by {after - before:,} bytes: what the cut adds to the graph outweighs it",)
