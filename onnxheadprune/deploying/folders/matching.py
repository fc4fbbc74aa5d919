"""Sites of the files of an export that are the same: matched by their weights, names and structure.

Weights are compared by the signs of some numbers of the output projection. Signs survive what exporters and quantizers
do to weights: transposing, rounding, scaling by columns, packing in blocks of four bits. Of two layers that have
nothing to do with each other about half of them are the same.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from onnxheadprune.attention.matrices import matrix_of
from onnxheadprune.attention.quantized import packed_matrix, stored_grid
from onnxheadprune.attention.sites.all_sites import Sites
from onnxheadprune.attention.sites.grouping import Partition
from onnxheadprune.attention.sites.projection import Projection
from onnxheadprune.attention.sites.site import Site
from onnxheadprune.attention.specs import resolve_units
from onnxheadprune.deploying.folders.export import (
    Export,
    ModelFile,
    open_export,
    or_exclude,
    part_of,
    says_its_part,
)
from onnxheadprune.display.spelling import first_few
from onnxheadprune.errors import RefusedError
from onnxheadprune.liveness.index_notation import contraction_of
from onnxheadprune.liveness.packed_blocks import is_packed
from onnxheadprune.runtime import Array
from onnxheadprune.settings.units import HEAD, KINDS, UnitKind, called, key_of

_Signs = npt.NDArray[np.float32]
_SAME = 0.7
"""Share of equal signs from which on two layers are one; refitting changes some."""
_ENOUGH = 64
"""Signs that two layers must have in common to be compared."""
_NUMBERS = 4096
"""Numbers of a layer that are looked at, at most."""
_COLUMNS = 64
Heads: TypeAlias = dict[int, tuple[int, ...]]
"""Units to remove from each site, of whatever kind, as indices of the original model."""
Place: TypeAlias = tuple[str, int]
"""A file, and the index of a site in it."""


Held: TypeAlias = Mapping[str, Mapping[int, Site]]
"""The sites that are matched, by file and index."""


def _held(files: Sequence[ModelFile], kinds: Sequence[UnitKind]) -> Held:
    """The sites of some kinds; files without any are left out."""
    found = {
        file.name: {site.index: site for kind in kinds for site in file.sites.of(kind.units)}
        for file in files
    }
    return {name: sites for name, sites in found.items() if sites}


def _groups_of(held: Held) -> list[list[Place]]:
    """Sites with the same weights, over all files; those whose weights cannot be read go by structure and name."""
    places: Partition[Place] = Partition()
    buckets: dict[Hashable, list[tuple[Place, _Signs]]] = defaultdict(list)
    blind: list[Place] = []
    for name, sites in held.items():
        for site in sites.values():
            place = name, site.index
            places.join([place])
            signs = _signs_of(site) if len(held) > 1 else None
            if signs is None and not site.parts:
                blind.append(place)
            elif signs is not None:
                buckets[site.KIND, site.num_units, len(signs)].append((place, signs))
    for bucket in buckets.values():
        alike = _likeness([signs for _, signs in bucket]) >= _SAME
        for left, right in zip(*np.nonzero(np.triu(alike, 1)), strict=True):
            places.join([bucket[left][0], bucket[right][0]])
    for place in blind:
        for other in _namesakes(place, blind, held):
            places.join([place, other])
    # What lies between two states is what its parts are.
    whole: dict[Hashable, Place] = {}
    for name, sites in held.items():
        for site in sites.values():
            if site.parts:
                place = name, site.index
                parts = frozenset(places.root((name, part.index)) for part in site.parts)
                places.join([place, whole.setdefault((site.KIND, parts), place)])
    return places.sets()


def _signs_of(site: Site) -> _Signs | None:
    """Signs (-1, 0, 1) of the projection's numbers, the units in order; None where its weights are in no known form."""
    for projection in site.projections:
        matrix = _matrix(projection)
        if matrix is not None and matrix.shape[0] >= 1 + max(map(max, projection.channels)):
            rows = np.concatenate([np.asarray(channels) for channels in projection.channels])
            columns = _spread(matrix.shape[1], _COLUMNS)
            rows = rows[_spread(len(rows), _NUMBERS // len(columns))]
            signs = np.asarray(np.sign(matrix[np.ix_(rows, columns)]), np.float32).reshape(-1)
            # Nothing is known of a layer that is nearly all zeros.
            return signs if np.count_nonzero(signs) >= min(_ENOUGH, signs.size) else None
    return None


def _likeness(signs: Sequence[_Signs]) -> npt.NDArray[np.float32]:
    """Share of equal signs for each pair; 0 for pairs that have too few in common."""
    stacked = np.stack(signs)
    known = np.abs(stacked)
    common, agreed = known @ known.T, stacked @ stacked.T
    share = (common + agreed) / 2 / np.maximum(common, 1)
    return np.asarray(np.where(common >= min(_ENOUGH, stacked.shape[1]), share, 0), np.float32)


def _spread(size: int, most: int) -> npt.NDArray[np.int64]:
    return np.unique(np.linspace(0, size - 1, min(size, max(most, 1))).astype(np.int64))


def _matrix(projection: Projection) -> Array | None:
    """The weights as [in, out], up to a positive factor per column; None in a form that is not known."""
    node = projection.node
    if is_packed(node):
        packed = packed_matrix(node)
        return None if packed is None else packed.read()
    if projection.weight is None:
        return None
    index, contracted = projection.weight
    operand, found = node.inputs[index], contraction_of(node)
    if operand is None or found is None or index not in found.indices:
        return None
    letters = found.axes_of(index)
    free = [axis for axis, letter in enumerate(letters) if axis not in contracted and letter is not None]
    zero = None if (place := node.roles.weight_zero) is None else node.input(place)
    # Scales are positive, so they need not be found.
    levels = partial(stored_grid, (), zero if zero is not None and zero.holds_tensor else None)
    matrix = matrix_of(operand, contracted, free) or matrix_of(operand, contracted, free, levels)
    return None if matrix is None else matrix.read()


def _namesakes(place: Place, blind: Sequence[Place], held: Held) -> Iterator[Place]:
    """Sites with the same name and structure in files of the same part, or in files that are alike throughout."""
    home, own = place[0], held[place[0]][place[1]]
    for name, sites in held.items():
        same_part = part_of(name) == part_of(home)
        if name == home or (not same_part and _outline(sites) != _outline(held[home])):
            continue
        for site in sites.values():
            known = same_part or (name, site.index) in blind
            if known and site.KIND is own.KIND and site.name == own.name and site.shape == own.shape:
                yield name, site.index


def _outline(sites: Mapping[int, Site]) -> list[tuple[object, ...]]:
    return [(site.KIND, site.name, *site.shape) for site in sites.values()]


HEADS_ALONE: tuple[UnitKind, ...] = (HEAD,)


@dataclass(frozen=True, eq=False)
class SharedSite:
    """A site of an export, which one file or several hold."""

    index: int  # its number in the export
    site: Site  # how the most precise of these files has it; index and name are those in the export
    network: int  # number of the network that it is a part of
    # where it is: indices of sites per file. A file may hold it twice, in the branches of an `If`.
    places: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, eq=False)
class Network:
    """Files that share sites: one network, in several precisions or for several stages of its use."""

    files: tuple[ModelFile, ...]  # the files, the most precise one first

    @property
    def leader(self) -> ModelFile:
        """The file that heads are chosen on."""
        return self.files[0]


@dataclass(frozen=True, eq=False)
class Match:
    """Sites that belong together in an export."""

    networks: tuple[Network, ...]  # the networks, in order of the names of their files
    sites: tuple[SharedSite, ...]  # their sites: network by network, in the order of their leaders
    kinds: tuple[UnitKind, ...] = HEADS_ALONE

    def of(self, file: str) -> dict[int, int]:
        """The number in the export of each site of a file."""
        return {index: item.index for item in self.sites for index in item.places.get(file, ())}

    def is_copy(self, file: ModelFile) -> bool:
        """Return whether a file is the leader of its network in another precision."""
        return any(
            file is not network.leader and file in network.files and file.part == network.leader.part
            for network in self.networks
        )

    def as_sites(self, name: str) -> Sites:
        """The sites as if they were those of one model."""
        return Sites.gathered(name, (item.site for item in self.sites), self.kinds)

    def of_kind(self, kind: UnitKind) -> tuple[SharedSite, ...]:
        """The sites of one kind."""
        return tuple(item for item in self.sites if kind.owns(item.index))


def matched(export: Export, kinds: Sequence[UnitKind] = HEADS_ALONE) -> Match:
    """Find out which sites are the same."""
    held = _held(export.models, kinds)
    groups = _groups_of(held)
    networks = _networks([file for file in export.models if file.name in held], groups)
    _check_parts(networks, " or ".join(kind.title for kind in kinds))
    shared = [
        item for number, network in enumerate(networks) for item in _sites(number, network, held, groups)
    ]
    several = len(networks) > 1
    counted: Counter[UnitKind] = Counter()
    found = []
    for item in shared:
        kind = item.site.KIND
        site = (
            item.site.among_several(networks[item.network].leader.part, counted[kind])
            if several
            else replace(item.site, index=_number(counted[kind], item, networks[0]))
        )
        counted[kind] += 1
        found.append(replace(item, index=site.index, site=site))
    # What lies in a layer has its number in the export, too.
    numbered = {
        (name, index): item.site for item in found for name in item.places for index in item.places[name]
    }
    for place, item in enumerate(found):
        name = next(file.name for file in networks[item.network].files if file.name in item.places)
        parts = tuple(numbered.get((name, part.index), part) for part in item.site.parts)
        found[place] = replace(item, site=replace(item.site, parts=parts))
    return Match(tuple(networks), tuple(found), tuple(kinds))


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


def heads_in(file: ModelFile, heads: Mapping[int, tuple[int, ...]], match: Match) -> Heads:
    """The same units by the numbers that sites have in one file."""
    numbers = match.of(file.name)
    local = {index: heads[number] for index, number in numbers.items() if heads.get(number)}
    if local:
        try:
            resolve_units(spec_of(local), file.sites)
        except RefusedError as error:
            hint = or_exclude(file.name) if match.is_copy(file) else ""
            raise RefusedError(f"{file.name}: {error}{hint}") from error
    return local


def spec_of(local: Mapping[int, tuple[int, ...]]) -> dict[str, list[int]]:
    """Units as somebody would name them."""
    return {key_of(index): list(gone) for index, gone in local.items()}


def _number(position: int, item: SharedSite, network: Network) -> int:
    """The index of a site of the only network: that of its leader, if it holds it."""
    places = item.places.get(network.leader.name)
    if places is not None:
        return places[0]
    return item.site.KIND.first + position + len(network.leader.sites.of(item.site.KIND.units))


def _networks(files: Sequence[ModelFile], groups: Iterable[Sequence[Place]]) -> list[Network]:
    together: Partition[str] = Partition()
    for file in files:
        together.join([file.name])
    for group in groups:
        together.join([name for name, _ in group])
    by_name = {file.name: file for file in files}
    sets = [[by_name[name] for name in names] for names in together.sets()]
    # Of files of one precision the one with most sites leads, then the one that is easiest to run.
    networks = [
        Network(tuple(sorted(found, key=lambda f: (f.precision, -len(f.sites), f.inputs, -f.size, f.name))))
        for found in sets
    ]
    return sorted(networks, key=lambda network: min(file.name for file in network.files))


def _check_parts(networks: Sequence[Network], titles: str) -> None:
    """Check whether files of one part are in one network, and networks side by side say what they are for."""
    seen: dict[str, tuple[int, str]] = {}
    for number, network in enumerate(networks):
        for file in network.files:
            other = seen.setdefault(file.part, (number, file.name))
            if other[0] != number:
                raise RefusedError(
                    f"{other[1]} and {file.name} are one model by their names, and share no {titles}: their"
                    " weights or sizes differ; put only models of one export into a folder"
                    f"{or_exclude(file.name)}"
                )
    strangers = [file.name for network in networks for file in network.files if not says_its_part(file.part)]
    if len(networks) > 1 and strangers:
        names = [network.leader.name for network in networks]
        raise RefusedError(
            f"the models {first_few(names, 3)} share no {titles}, and {strangers[0]} does not say which part of an"
            " export it is; prune each alone, or all of them with the command batch"
        )


def _sites(number: int, network: Network, held: Held, groups: Sequence[Sequence[Place]]) -> list[SharedSite]:
    """The sites of a network, in the order of its leader, those that it does not hold after them."""
    files = {file.name: rank for rank, file in enumerate(network.files)}
    found: list[SharedSite] = []
    for group in groups:
        if group[0][0] in files:
            found += _of_group(number, network, held, group)
    for file in network.files:
        _check_variant(network.leader, file, found)
    return sorted(
        found, key=lambda item: min((files[name], places[0]) for name, places in item.places.items())
    )


def _of_group(number: int, network: Network, held: Held, group: Sequence[Place]) -> list[SharedSite]:
    """One site for each time that the files hold equal weights."""
    found: dict[str, list[int]] = defaultdict(list)
    for name, index in sorted(group):
        found[name].append(index)
    counts = {len(indices) for indices in found.values()}
    if len(counts) > 1 and 1 not in counts:
        told = ", ".join(f"{name} {len(indices)} times" for name, indices in found.items())
        name, index = group[0]
        raise RefusedError(
            f"{held[name][index].KIND.title}s with the same weights are in these files unequally often ({told}),"
            " so it cannot be told which belong together"
        )
    times = min(counts)
    whole = len(counts) > 1
    return [
        _shared(
            number,
            network,
            held,
            {name: tuple(indices) if whole else (indices[time],) for name, indices in found.items()},
        )
        for time in range(times)
    ]


def _shared(number: int, network: Network, held: Held, places: Mapping[str, tuple[int, ...]]) -> SharedSite:
    """One site of the export."""
    holders = [
        (rank, held[file.name][index])
        for rank, file in enumerate(network.files)
        for index in places.get(file.name, ())
    ]
    first, site = holders[0]
    for rank, other in holders[1:]:
        if other.shape != site.shape:
            raise RefusedError(
                f"{site.label} of {network.files[first].name} has {_counted(site)}, and in {network.files[rank].name},"
                f" with the same weights, {_counted(other)}; the files of an export must agree"
            )
    return SharedSite(-1, site, number, places)


def _counted(site: Site) -> str:
    before = f", {len(site.removed)} of them removed before" if site.removed else ""
    return f"{site.recorded().counted(site.KIND.units)}{before}"


def _check_variant(leader: ModelFile, file: ModelFile, sites: Sequence[SharedSite]) -> None:
    """Check whether two files of one part hold the same sites."""
    if file.part != leader.part:
        return
    for item in sites:
        held = [name for name in (leader.name, file.name) if name in item.places]
        if len(held) == 1:
            missing = file.name if held[0] == leader.name else leader.name
            name = held[0]
            raise RefusedError(
                f"{leader.name} and {file.name} are one model by their names, but"
                f" {called(item.places[name][0])} ({item.site.name}) of {name} is not in {missing}: its weights or"
                f" sizes differ; the files of an export must agree{or_exclude(file.name)}"
            )
