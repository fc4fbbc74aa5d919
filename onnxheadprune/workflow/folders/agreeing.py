"""Whether the files of a pruned folder have lost the same: each says in its record what it lost."""

from __future__ import annotations

from onnxheadprune.attention.sites import kinds
from onnxheadprune.edit.records import units_record
from onnxheadprune.errors import RefusedError
from onnxheadprune.workflow.folders.export import Export, ModelFile
from onnxheadprune.workflow.folders.matching import Match


def check_alike(match: Match, pruned: Export) -> None:
    """Compares what the files of a folder have lost of the sites that they share.

    Args:
        match: which sites of the original folder are the same.
        pruned: the folder that was made of it.

    Raises:
        RefusedError: if two files have lost different units of one site.
        ModelError: if a record cannot be read.
    """
    lost = {file.name: _lost_by(file) for file in pruned.models}
    for item in match.sites:
        first: tuple[str, tuple[int, ...]] | None = None
        for name, indices in item.places.items():
            for index in indices if name in lost else ():
                gone = lost[name].get(index, ())
                if first is not None and gone != first[1]:
                    raise RefusedError(
                        f"{first[0]} and {name} of {pruned.root} have lost different {item.site.UNITS} of"
                        f" {item.site.label}, so they do not work together"
                    )
                first = first or (name, gone)


def _lost_by(file: ModelFile) -> dict[int, tuple[int, ...]]:
    """The units that a model has lost by its own record, per site index."""
    found = {entry.index: tuple(sorted(entry.removed)) for entry in file.sites.record}
    for kind in kinds.KINDS:
        for entry in units_record(file.loaded.proto, kind.UNITS):
            found[kind.FROM + entry.number] = tuple(sorted(entry.removed))
    return found
