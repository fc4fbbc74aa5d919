"""Which sites of the files of an export are one and the same: told by their weights, checked by their structure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnxheadprune.attention.sites.grouping import Partition
from onnxheadprune.attention.sites.site import AttentionSite, Sites
from onnxheadprune.errors import RefusedError
from onnxheadprune.workflow.folders.export import Export, ModelFile
from onnxheadprune.workflow.folders.parts import says_its_part
from onnxheadprune.workflow.folders.signatures import SAME, Signs, likeness, signs_of

Place = tuple[str, int]
"""A file, and the index of a site in it."""


@dataclass(frozen=True, eq=False)
class SharedSite:
    """A site of an export, which one file or several hold.

    Attributes:
        index: its number in the export.
        site: how the most precise of these files has it; index and name are those in the export.
        network: number of the network that it is a part of.
        places: where it is: indices of sites per file. A file may hold it twice, in the branches of an `If`.
    """

    index: int
    site: AttentionSite
    network: int
    places: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, eq=False)
class Network:
    """Files that share sites: one network, in several precisions or for several stages of its use.

    Attributes:
        files: the files, the most precise one first.
    """

    files: tuple[ModelFile, ...]

    @property
    def leader(self) -> ModelFile:
        """The file that heads are chosen on."""
        return self.files[0]


@dataclass(frozen=True, eq=False)
class Match:
    """What belongs together in an export.

    Attributes:
        networks: the networks, in order of the names of their files.
        sites: their sites: network by network, in the order of their leaders.
    """

    networks: tuple[Network, ...]
    sites: tuple[SharedSite, ...]

    def of(self, file: str) -> dict[int, int]:
        """The number in the export of each site of a file."""
        return {index: item.index for item in self.sites for index in item.places.get(file, ())}

    def as_sites(self, name: str) -> Sites:
        """The sites as if they were those of one model."""
        return Sites(name, tuple(item.site for item in self.sites))


def matched(export: Export) -> Match:
    """Finds out which sites are the same.

    Raises:
        RefusedError: if files disagree, or do not belong together.
    """
    files = [item for item in export.models if item.sites]
    groups = _groups(files)
    networks = _networks(files, groups)
    _check_parts(networks)
    shared = [item for number, network in enumerate(networks) for item in _sites(number, network, groups)]
    several = len(networks) > 1
    found = []
    for position, item in enumerate(shared):
        index = position if several else _number(position, item, networks[0])
        name = f"{networks[item.network].leader.part}/{item.site.name}" if several else item.site.name
        found.append(replace(item, index=index, site=replace(item.site, index=index, name=name)))
    return Match(tuple(networks), tuple(found))


def _number(position: int, item: SharedSite, network: Network) -> int:
    """The number of a site of the only network: that of its leader, if it holds it."""
    places = item.places.get(network.leader.name)
    return position + len(network.leader.sites) if places is None else places[0]


def _groups(files: Sequence[ModelFile]) -> list[list[Place]]:
    """Sites with the same weights, over all files; those whose weights cannot be read go by structure and name."""
    places: Partition[Place] = Partition()
    buckets: dict[Hashable, list[tuple[Place, Signs]]] = defaultdict(list)
    blind: list[Place] = []
    for file in files:
        for site in file.sites:
            place = file.name, site.index
            places.join([place])
            signs = signs_of(site, file.loaded) if len(files) > 1 else None
            if signs is None:
                blind.append(place)
            else:
                buckets[site.num_heads, len(signs)].append((place, signs))
    for bucket in buckets.values():
        alike = likeness([signs for _, signs in bucket]) >= SAME
        for left, right in zip(*np.nonzero(np.triu(alike, 1)), strict=True):
            places.join([bucket[left][0], bucket[right][0]])
    for place in blind:
        for other in _namesakes(place, blind, files):
            places.join([place, other])
    return places.sets()


def _namesakes(place: Place, blind: Sequence[Place], files: Sequence[ModelFile]) -> Iterator[Place]:
    """Sites with the same name and structure in files of the same part, or in files that are alike throughout."""
    home = next(file for file in files if file.name == place[0])
    own = _site(place, files)
    for file in files:
        if file is home or (file.part != home.part and _outline(file) != _outline(home)):
            continue
        for site in file.sites:
            other = file.name, site.index
            known = file.part == home.part or other in blind
            if known and site.name == own.name and _structure(site) == _structure(own):
                yield other


def _outline(file: ModelFile) -> list[tuple[object, ...]]:
    return [(site.name, *_structure(site)) for site in file.sites]


def _site(place: Place, files: Sequence[ModelFile]) -> AttentionSite:
    file = next(item for item in files if item.name == place[0])
    return next(site for site in file.sites if site.index == place[1])


def _structure(site: AttentionSite) -> tuple[object, ...]:
    return site.original_num_heads, site.original_kv_num_heads, site.v_head_size, site.removed


def _networks(files: Sequence[ModelFile], groups: Iterable[Sequence[Place]]) -> list[Network]:
    together: Partition[str] = Partition()
    for file in files:
        together.join([file.name])
    for group in groups:
        together.join([name for name, _ in group])
    by_name = {file.name: file for file in files}
    sets = [[by_name[name] for name in names] for names in together.sets()]
    # Of files of one precision the one with most sites leads, then the one that is easiest to run.
    ordered = [
        sorted(found, key=lambda file: (file.precision, -len(file.sites), -file.size, file.inputs, file.name))
        for found in sets
    ]
    networks = [Network(tuple(_easiest_first(found))) for found in ordered]
    return sorted(networks, key=lambda network: min(file.name for file in network.files))


def _easiest_first(files: list[ModelFile]) -> list[ModelFile]:
    """Files that are as precise and hold as many sites as the first are tried in order of their inputs."""
    first = files[0]
    alike = [f for f in files if f.precision == first.precision and len(f.sites) == len(first.sites)]
    leader = min(alike, key=lambda file: (file.inputs, -file.size, file.name))
    return [leader, *(file for file in files if file is not leader)]


def _check_parts(networks: Sequence[Network]) -> None:
    """Whether files of one part are in one network, and networks side by side say what they are for.

    Raises:
        RefusedError: if not.
    """
    seen: dict[str, tuple[int, str]] = {}
    for number, network in enumerate(networks):
        for file in network.files:
            other = seen.setdefault(file.part, (number, file.name))
            if other[0] != number:
                raise RefusedError(
                    f"{other[1]} and {file.name} are one model by their names, and share no attention site: their"
                    " weights or sizes differ; put only models of one export into a folder"
                )
    strangers = [file.name for network in networks for file in network.files if not says_its_part(file.part)]
    if len(networks) > 1 and strangers:
        names = [network.leader.name for network in networks]
        raise RefusedError(
            f"{' and '.join(names[:3])} are {len(names)} models that share no attention site, and {strangers[0]} does"
            " not say which part of an export it is; prune each alone, or all of them with the command batch"
        )


def _sites(number: int, network: Network, groups: Sequence[Sequence[Place]]) -> list[SharedSite]:
    """The sites of a network, in the order of its leader, those that it does not hold behind them."""
    files = {file.name: rank for rank, file in enumerate(network.files)}
    found: list[SharedSite] = []
    for group in groups:
        if group[0][0] in files:
            found += _of_group(number, network, group)
    for file in network.files:
        _check_variant(network.leader, file, found)
    return sorted(
        found, key=lambda item: min((files[name], places[0]) for name, places in item.places.items())
    )


def _of_group(number: int, network: Network, group: Sequence[Place]) -> list[SharedSite]:
    """One site for each time that the files hold equal weights.

    Raises:
        RefusedError: if they hold them unequally often, or in other structures.
    """
    held: dict[str, list[int]] = defaultdict(list)
    for name, index in sorted(group):
        held[name].append(index)
    counts = {len(indices) for indices in held.values()}
    if len(counts) > 1 and 1 not in counts:
        told = ", ".join(f"{name} {len(indices)} times" for name, indices in held.items())
        raise RefusedError(
            f"attention with the same weights is in these files unequally often ({told}), so it cannot be told which"
            " sites belong together"
        )
    times = min(counts)
    whole = len(counts) > 1
    return [
        _shared(
            number,
            network,
            {name: tuple(found) if whole else (found[time],) for name, found in held.items()},
        )
        for time in range(times)
    ]


def _shared(number: int, network: Network, places: Mapping[str, tuple[int, ...]]) -> SharedSite:
    holders = [
        (file, next(site for site in file.sites if site.index == index))
        for file in network.files
        for index in places.get(file.name, ())
    ]
    first, site = holders[0]
    for file, other in holders[1:]:
        if _structure(other) != _structure(site):
            raise RefusedError(
                f"site {site.index} ({site.name}) of {first.name} has {_told(site)}, and in {file.name}, with the same"
                f" weights, {_told(other)}; the files of an export must agree"
            )
    return SharedSite(-1, site, number, places)


def _told(site: AttentionSite) -> str:
    before = f", {len(site.removed)} of them removed before" if site.removed else ""
    return (
        f"{site.original_num_heads} heads ({site.original_kv_num_heads} of keys and values) of size"
        f" {site.v_head_size}{before}"
    )


def _check_variant(leader: ModelFile, file: ModelFile, sites: Sequence[SharedSite]) -> None:
    """Whether two files of one part hold the same sites.

    Raises:
        RefusedError: with the first site that only one holds.
    """
    if file.part != leader.part:
        return
    for item in sites:
        held = [name for name in (leader.name, file.name) if name in item.places]
        if len(held) == 1:
            missing = file.name if held[0] == leader.name else leader.name
            raise RefusedError(
                f"{leader.name} and {file.name} are one model by their names, but site {item.places[held[0]][0]}"
                f" ({item.site.name}) of {held[0]} is not in {missing}: its weights or sizes differ; the files of an"
                " export must agree"
            )
