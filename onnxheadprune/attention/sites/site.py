"""Sites of any kind of unit: contractions with weights that sum over units, each of which can be removed."""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self, TypeVar

import numpy as np

from onnxheadprune.attention.sites.projection import Projection, named_apart
from onnxheadprune.display.spelling import count, many, spelled
from onnxheadprune.edit.records import RecordedUnits
from onnxheadprune.liveness.answers import Answer
from onnxheadprune.liveness.live import DEAD, Live
from onnxheadprune.liveness.refusals import Refusal
from onnxheadprune.liveness.sweep_result import Seed, Sweep
from onnxheadprune.model.analysis_errors import NotAnalysed
from onnxheadprune.model.graph.view import Node, Value
from onnxheadprune.model.one_line import one_line
from onnxheadprune.settings.units import UnitKind

if TYPE_CHECKING:
    from onnxheadprune.attention.sites.grouping import Block
    from onnxheadprune.attention.sites.routing import Meeting, Routing
    from onnxheadprune.attention.sites.states import State


@one_line()
@dataclass(frozen=True)
class NearMiss:
    """A candidate that is no site, with the reason.

    Attributes:
        node: label of the projection, or of the attention.
        reason: why it is none.
        units: the name of the units of such a site.
    """

    node: str
    reason: Refusal
    units: str = "heads"

    def to_dict(self) -> dict[str, str]:
        """The near miss as JSON-ready data."""
        return {"node": self.node, "reason": self.reason.sentence, "units": self.units}


@dataclass(frozen=True, eq=False, kw_only=True)
class Site:
    """One block of removable units, of a kind (`settings/units.py`).

    Attributes:
        index: unique among all sites of all kinds; stable when the model is pruned.
        name: module path, if the model has it.
        kind: the type of the block, in one word; empty where there is only one.
        num_units: present units.
        groups: units that must stay equally many: heads by KV head, neurons by expert; else single units.
        projections: the contractions that sum over the units.
        cores: the nodes that compute the units.
        block: the positions of each head at the cores, as they were traced.
        units: the units that can only be removed together, because a projection packs them in one block; else each
            alone.
        io: graph inputs and outputs that belong to the units (the cache of heads).
        owners: the unit at each position of these, one bit per unit, where known.
        maps: graph outputs with one map per unit, which only shrink with the caller's consent.
        io_refusal: why `io` keeps its shape when units are removed, None if it shrinks.
        reason: why no unit can be removed, None if some can.
        whole: whether all units can be removed together, even if single ones cannot.
        params: elements of all weights and biases that belong to the units.
        bytes: their size in bytes.
        flops_per_token: multiply-adds x 2 in the projections, without the part that grows with the sequence.
        removed: units that an earlier pruning removed (indices of the original model).
        original_num_units: units before any pruning.
        routing: the path from a router's scores to its choice among the units, None without a router.
        states: the states of the residual stream around it, where its removal makes them one.
        parts: the sites of other kinds that lie between these.
    """

    KIND: ClassVar[UnitKind]
    may_lose_groups: ClassVar[bool] = True
    """True if all units of a group may be removed while other groups stay."""

    index: int
    name: str
    kind: str = ""
    num_units: int
    groups: tuple[tuple[int, ...], ...]
    projections: tuple[Projection, ...]
    cores: tuple[Node, ...]
    block: Block | None = field(default=None, repr=False)
    units: tuple[tuple[int, ...], ...] = ()
    io: frozenset[Value] = frozenset()
    owners: Mapping[Value, Live] = field(default_factory=dict, repr=False)
    maps: frozenset[Value] = frozenset()
    io_refusal: Refusal | None = None
    reason: Refusal | None = None
    whole: bool = True
    params: int = 0
    bytes: int = 0
    flops_per_token: int = 0
    removed: tuple[int, ...] = ()
    original_num_units: int = 0
    routing: Routing | None = field(default=None, repr=False)
    states: tuple[State, ...] = field(default=(), repr=False)
    parts: tuple[Site, ...] = field(default=(), repr=False)

    def stride(self, multiple: int) -> int:
        """The number of units, a multiple of `multiple`, that each step removes on the way from all to few."""
        steps = self.KIND.steps or self.num_units
        return max(-(-self.num_units // (steps * multiple)) * multiple, multiple)

    @property
    def is_branch(self) -> bool:
        """True if it is a branch of a residual stream, as sublayers are; stems and heads are none."""
        return True

    @property
    def number(self) -> int:
        """Position among the sites of its kind in the original."""
        return self.index - self.KIND.first

    @property
    def key(self) -> str:
        """The site's key in a spec."""
        return f"{self.KIND.key}{self.number}"

    def among_several(self, part: str, count: int) -> Self:
        """Return the site with a name and number among those of several models.

        Args:
            part: the name of its model.
            count: sites of its kind before it.
        """
        return replace(self, index=self.KIND.first + count, name=f"{part}/{self.name}")

    @property
    def tag(self) -> str:
        """The site's name in tables: "attn.3", "ffn.3"."""
        return self.KIND.called(self.number)

    @property
    def label(self) -> str:
        """The site's name in sentences."""
        return f"{self.tag} ({self.name})"

    @property
    def removable(self) -> bool:
        """True if units can be removed exactly."""
        return self.reason is None

    @property
    def removable_whole(self) -> bool:
        """True if all units can be removed together exactly; operators that mix them are removed too."""
        every = range(self.num_units)
        return self.reason is None or (
            self.whole and all(projection.is_emptied_by(every) for projection in self.projections)
        )

    @property
    def marks(self) -> tuple[Value, ...]:
        """The outputs of its projections, whose names identify the site in pruned models."""
        return tuple(projection.node.out for projection in self.projections)

    @property
    def projection_names(self) -> tuple[str, ...]:
        """The names of its marks; both branches of a merged decoder may use one name."""
        return tuple(dict.fromkeys(value.name for value in self.marks))

    @cached_property
    def original_units(self) -> tuple[int, ...]:
        """The original model's index of each present unit."""
        gone = set(self.removed)
        return tuple(unit for unit in range(self.original_num_units) if unit not in gone)

    def recorded(self) -> RecordedUnits:
        """Return the site's entry for a record."""
        return RecordedUnits(
            self.number, self.name, self.original_num_units, self.removed, self.projection_names
        )

    def with_record(self, entry: RecordedUnits) -> Self:
        """Return the site with its number, name and units in the original, as a record has them."""
        return replace(
            self,
            index=self.KIND.first + entry.number,
            name=entry.name,
            removed=entry.removed,
            original_num_units=entry.num_units,
        )

    @property
    def only_named(self) -> str | None:
        """The reason that its units are removed only if named; None if data may select them."""
        return None

    @property
    def contexts(self) -> tuple[Projection, ...]:
        """The projections in whose inputs units are silenced; none where a router keeps units out."""
        return self.projections if self.routing is None else ()

    def gates(self) -> Sequence[Meeting]:
        """The inputs by which a router's choice is kept from units; none without a router.

        Raises:
            RefusedError: if a choice is made by scores that are not real numbers.
        """
        return () if self.routing is None else self.routing.gates()

    @property
    def unit_cores(self) -> tuple[Node, ...]:
        """Those of `cores` that make the units on an axis that enumerates them; none where units are channels."""
        return ()

    @property
    def shape(self) -> tuple[object, ...]:
        """Properties that are equal in all files with this site."""
        return self.original_num_units, self.removed

    @classmethod
    def listed(cls, units: Sequence[int], *, named: bool = False) -> str:
        """Return some units by their numbers, or how many there are where a site has hundreds; with their name."""
        if cls.KIND.has_many_units:
            return many(len(units), cls.KIND.unit) if named else count(len(units))
        name = f"{cls.KIND.unit if len(units) == 1 else cls.KIND.units} " if named else ""
        return f"{name}{spelled(units)}"

    def flops_per_unit(self, length: float) -> float:
        """Multiply-adds x 2 per token of one unit, in sequences of a length."""
        return self.flops_per_token / self.num_units

    def to_dict(self) -> dict[str, Any]:
        """The site as JSON-ready data (a part of the contract of `inspect --json`)."""
        return {
            "index": self.number,
            "key": self.key,
            "name": self.name,
            **({"kind": self.kind} if self.kind else {}),
            f"num_{self.KIND.units}": self.num_units,
            **self._state(),
        }

    def _state(self) -> dict[str, Any]:
        """Return the part of `to_dict` that all kinds share, with the same names and order."""
        return {
            "removable": self.removable,
            "removable_whole": self.removable_whole,
            "reason": None if self.reason is None else str(self.reason),
            "params": self.params,
            "bytes": self.bytes,
            "flops_per_token": self.flops_per_token,
            "removed": list(self.removed),
            "together": max((len(unit) for unit in self.units), default=1),
            # By output, too, since nodes may be nameless and names repeated.
            "projections": [
                {"node": item.node.proto.name, "scope": item.node.scope.ref, "output": item.node.out.name}
                for item in self.projections
            ],
        }

    def present(self, units: Iterable[int]) -> tuple[int, ...]:
        """The present index of each unit, from its index in the original model."""
        return tuple(self._present[unit] for unit in units)

    @cached_property
    def _present(self) -> dict[int, int]:
        return {original: now for now, original in enumerate(self.original_units)}

    def original(self, units: Iterable[int]) -> tuple[int, ...]:
        """The index in the original model of each unit, from its present one."""
        names = self.original_units
        return tuple(names[unit] for unit in units)

    def still_there(self, units: Container[int]) -> frozenset[int]:
        """The present indices of those units (of the original model) that still exist."""
        return frozenset(self.present(unit for unit in self.original_units if unit in units))

    @property
    def movable(self) -> frozenset[Value]:
        """The inputs and outputs that shrink with the units: none where one of them is needed with all units."""
        return self.io if self.io_refusal is None else frozenset()

    def seeds(self, units: Iterable[int], without: Collection[Node] = ()) -> Iterator[Seed]:
        """The first demands of the sweep when `units` (present indices) are removed.

        Args:
            units: the removed units.
            without: projections that are left out.
        """
        gone = tuple(units)
        for projection in self.projections:
            if projection.node not in without:
                yield from projection.seeds(gone, self.name)

    def answers(self, units: Iterable[int]) -> Mapping[Node, Answer]:
        """Return fixed answers of nodes, instead of their rules, when `units` (present indices) are removed."""
        return {}

    def needed(self, units: Sequence[int], swept: Sweep) -> Refusal | None:
        """Return a refusal naming the node that still needs removed units, None if no node does.

        Args:
            units: the removed units, as indices of the model.
            swept: the live sets without them.
        """
        return None

    @property
    def details(self) -> Mapping[str, str]:
        """Additional columns of the table of sites."""
        return {}

    def why_too_few(self, units: Sequence[int]) -> str | None:
        """Return why `units` (present indices) cannot be removed together, None if they can."""
        return None

    def numbers_by(self, other: Site) -> bool:
        """Return whether both are one operator, which numbers these units by those of the other."""
        return False

    def inner(self, sites: Iterable[Site]) -> tuple[Site, ...]:
        """Those of the given sites that lie inside its units, and are removed with them."""
        return tuple(site for site in sites if site in self.parts)

    def uneven(self) -> str:
        """Return the error if groups lose different numbers of units."""
        return (
            f"leave its {len(self.groups)} KV heads with different numbers of query heads"
            f" (groups {', '.join(','.join(map(str, self.original(group))) for group in self.groups)})"
        )


AnySite = TypeVar("AnySite", bound=Site)


class Findings(NamedTuple):
    """The sites of one kind in a model, its near misses, and the unexpected error that ended the search, if any."""

    sites: Sequence[Site]
    near_misses: Sequence[NearMiss] = ()
    failure: NotAnalysed | None = None

    def asked_for(self) -> Sequence[Site]:
        """Return the sites for those who need them.

        Raises:
            Exception: the error that ended the search.
        """
        if self.failure is not None:
            raise self.failure.error
        return self.sites


def outermost(sites: Iterable[Site]) -> tuple[Site, ...]:
    """Those of some sites that lie inside the units of no other one."""
    some = tuple(sites)
    inside = {one for site in some for one in site.inner(some)}
    return tuple(site for site in some if site not in inside)


def numbered(sites: Iterable[AnySite]) -> list[AnySite]:
    """Sites of one kind in graph order of their first projections, with numbers and names."""
    some = sorted(sites, key=lambda site: site.projections[0].node.index)
    names = (
        named_apart([(site.projections, site.cores) for site in some], some[0].KIND.unnamed) if some else []
    )
    return [
        replace(site, name=name, index=site.KIND.first + number)
        for number, (site, name) in enumerate(zip(some, names, strict=True))
    ]


def united(some: Iterable[int], units: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """Some units, and all that must be removed with them."""
    asked = set(some)
    return tuple(sorted(asked.union(*(unit for unit in units if asked & set(unit)))))


def caller_demands(sites: Iterable[Site], gone: Mapping[int, tuple[int, ...]]) -> dict[Value, Live]:
    """Return the part of each cache that callers need without some units, whether or not the graph reads it.

    Args:
        sites: all sites whose units may lie there; parts that one of them needs are kept.
        gone: the removed units, by site index.
    """
    needed: dict[Value, Live] = {}
    owned: dict[Value, Live] = {}
    for site in sites:
        dead = sum(1 << unit for unit in gone.get(site.index, ()))
        for value, live in site.owners.items():
            if not live.is_mask:
                alive = Live.over(live.axes, np.asarray((live.array & ~dead) != 0, np.bool_), live.repeats)
                needed[value] = needed.get(value, DEAD) | alive
                owned[value] = owned.get(value, DEAD) | live.as_mask()
    return {
        value: alive | Live.over(owned[value].axes, ~owned[value].mask, owned[value].repeats)
        for value, alive in needed.items()
    }
