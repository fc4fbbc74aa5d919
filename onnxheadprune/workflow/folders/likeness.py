"""Which sites of some files hold the same weights, whatever their units: told by signs, else by name and structure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from onnxheadprune.attention.sites.grouping import Partition
from onnxheadprune.attention.sites.kinds import kind_of
from onnxheadprune.attention.sites.unit import Site
from onnxheadprune.workflow.folders.export import ModelFile
from onnxheadprune.workflow.folders.signatures import SAME, Signs, likeness, signs_of

Place: TypeAlias = tuple[str, int]
"""A file, and the index of a site in it."""


@dataclass(frozen=True, eq=False)
class Holder:
    """A file, and those of its sites that are matched.

    Attributes:
        file: the file.
        sites: its sites of some kinds.
    """

    file: ModelFile
    sites: tuple[Site, ...]

    @property
    def name(self) -> str:
        """Of the file."""
        return self.file.name

    def site(self, index: int) -> Site:
        """The site with an index."""
        return next(site for site in self.sites if site.index == index)


def holders(files: Sequence[ModelFile], kinds: Sequence[type[Site]]) -> list[Holder]:
    """The files that hold sites of some kinds, with these."""
    found = [
        Holder(file, tuple(site for kind in kinds for site in file.sites.of(kind.UNITS))) for file in files
    ]
    return [holder for holder in found if holder.sites]


def groups_of(held: Sequence[Holder]) -> list[list[Place]]:
    """Sites with the same weights, over all files; those whose weights cannot be read go by structure and name."""
    places: Partition[Place] = Partition()
    buckets: dict[Hashable, list[tuple[Place, Signs]]] = defaultdict(list)
    blind: list[Place] = []
    for holder in held:
        for site in holder.sites:
            place = holder.name, site.index
            places.join([place])
            signs = signs_of(site, holder.file.loaded) if len(held) > 1 else None
            if signs is None:
                blind.append(place)
            else:
                buckets[kind_of(site), site.num_units, len(signs)].append((place, signs))
    for bucket in buckets.values():
        alike = likeness([signs for _, signs in bucket]) >= SAME
        for left, right in zip(*np.nonzero(np.triu(alike, 1)), strict=True):
            places.join([bucket[left][0], bucket[right][0]])
    for place in blind:
        for other in _namesakes(place, blind, held):
            places.join([place, other])
    return places.sets()


def _namesakes(place: Place, blind: Sequence[Place], held: Sequence[Holder]) -> Iterator[Place]:
    """Sites with the same name and structure in files of the same part, or in files that are alike throughout."""
    home = next(holder for holder in held if holder.name == place[0])
    own = home.site(place[1])
    for holder in held:
        same_part = holder.file.part == home.file.part
        if holder is home or (not same_part and _outline(holder) != _outline(home)):
            continue
        for site in holder.sites:
            other = holder.name, site.index
            known = same_part or other in blind
            if known and kind_of(site) is kind_of(own) and site.name == own.name and site.shape == own.shape:
                yield other


def _outline(holder: Holder) -> list[tuple[object, ...]]:
    return [(kind_of(site), site.name, *site.shape) for site in holder.sites]
