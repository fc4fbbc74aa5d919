"""A folder as it is opened: its models, and which of their sites are the same."""

from __future__ import annotations

import filecmp
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from onnxheadprune.attention.io_changes import cache_cut
from onnxheadprune.deploying.folders.export import Export, ModelFile, not_in, open_export
from onnxheadprune.deploying.folders.matching import HEADS_ALONE, Match, matched
from onnxheadprune.deploying.folders.network import check_joins
from onnxheadprune.edit.records import CACHES_ENTRY, units_entry
from onnxheadprune.errors import RefusedError
from onnxheadprune.model.load import LoadedModel
from onnxheadprune.model.spelling import first_few
from onnxheadprune.settings.units import KINDS, UnitKind


def opened(
    root: Path,
    *,
    follow_links: bool = False,
    kinds: Sequence[UnitKind] = HEADS_ALONE,
    exclude: Sequence[str] = (),
) -> tuple[Export, Match]:
    """The models of a folder, and which of their sites are the same."""
    export = open_export(root, follow_links=follow_links, exclude=exclude)
    return export, _some(root, matched(export, kinds))


def looked_at(
    root: Path, *, follow_links: bool = False, exclude: Sequence[str] = ()
) -> tuple[Export, Match, str | None]:
    """The same for whoever only looks: where files disagree in other kinds than heads, without these, and why.

    Kinds whose search ended in an unexpected error in one of the files are left out.
    """
    export = open_export(root, follow_links=follow_links, exclude=exclude)
    stopped = {kind for file in export.models for kind, find in file.sites.others.items() if find().failure}
    try:
        match, why = matched(export, [kind for kind in KINDS if kind not in stopped]), None
    except RefusedError as error:
        match, why = matched(export), str(error)
    return export, _some(root, match), why


def _some(root: Path, match: Match) -> Match:
    """The match, if there is anything in it."""
    if not match.sites:
        titles = " or ".join(kind.title for kind in match.kinds)
        raise RefusedError(
            f"no model of {root} has an {titles}: no contraction with weights sums over the heads of a product of two"
            " activations" + (", or over other units that can go" if len(match.kinds) > 1 else "")
        )
    return match


@dataclass(frozen=True, eq=False)
class FilePair:
    """A file of a folder, and those of the same name in others."""

    name: str  # its path in the folder
    leads: bool  # whether units are chosen on it
    model: LoadedModel
    others: tuple[LoadedModel, ...]

    @property
    def is_same(self) -> bool:
        """True if all are the same to the last byte, with what lies beside them."""
        return all(_same(self.model, other) for other in self.others)


def paired(
    model: Path,
    others: Sequence[Path],
    *,
    follow_links: bool = False,
    leaders: bool = False,
    note: Callable[[str], None] = lambda _: None,
) -> list[FilePair]:
    """The files of a folder's networks, each with its like in every other folder.

    Args:
        note: takes a sentence on files that another folder left out.
    """
    exports = [(path, open_export(path, follow_links=follow_links)) for path in others]
    missing = {name for _, export in exports for name in not_in(model, export, follow_links=follow_links)}
    if missing:
        note(f"{first_few(sorted(missing))} of {model} is compared with nothing: other folders left it out")
    original, match, _ = looked_at(model, follow_links=follow_links, exclude=tuple(missing))
    pairs = []
    for network in match.networks:
        for file in network.files[:1] if leaders else network.files:
            for path, export in exports:
                if all(other.name != file.name for other in export.models):
                    raise RefusedError(f"{path} has no {file.name}, which {model} has")
            likes = tuple(export.model(file.name).loaded for _, export in exports)
            pairs.append(FilePair(file.name, file is network.leader, file.loaded, likes))
    for _, export in exports:
        # Files that lost different units do not work together, however exact each is by itself.
        matched(export)
        _check_alike(match, export)
        check_joins(original.models, {file.name: _renamed(file, export) for file in original.models})
    return pairs


def _same(one: LoadedModel, other: LoadedModel) -> bool:
    ours, theirs = ({place: source.path for place, source in item.sources.items()} for item in (one, other))
    if ours.keys() != theirs.keys():
        return False
    graphs = [item.proto.SerializeToString(deterministic=True) for item in (one, other)]
    return graphs[0] == graphs[1] and all(
        filecmp.cmp(path, theirs[place], shallow=False) for place, path in ours.items()
    )


def _check_alike(match: Match, pruned: Export) -> None:
    """Compare what the files of a folder have lost of the sites that they share."""
    lost = {file.name: _lost_by(file) for file in pruned.models}
    for item in match.sites:
        first: tuple[str, tuple[int, ...]] | None = None
        for name, indices in item.places.items():
            for index in indices if name in lost else ():
                gone = lost[name].get(index, ())
                if first is not None and gone != first[1]:
                    raise RefusedError(
                        f"{first[0]} and {name} of {pruned.root} have lost different {item.site.KIND.units} of"
                        f" {item.site.label}, so they do not work together"
                    )
                first = first or (name, gone)


def _renamed(file: ModelFile, pruned: Export) -> Mapping[str, str | None]:
    """The new names of a file's inputs and outputs, by the record of the pruned one."""
    other = next((item for item in pruned.models if item.name == file.name), file)
    went = {*CACHES_ENTRY.read(other.loaded.proto)} - {*CACHES_ENTRY.read(file.loaded.proto)}
    return cache_cut(file.view, file.sites, [site for site in file.sites if site.index in went]).names


def _lost_by(file: ModelFile) -> dict[int, tuple[int, ...]]:
    """The units that a model has lost by its own record, per site index."""
    return {
        kind.first + entry.number: tuple(sorted(entry.removed))
        for kind in KINDS
        for entry in units_entry(kind.units).read(file.loaded.proto)
    }
