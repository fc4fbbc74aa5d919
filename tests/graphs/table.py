"""The table: graphs by name, what is found in each, which cuts are legal, and what is refused at which node."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from typing import Any

from onnx import ModelProto

from tests.graphs.blueprint import PLAIN, STATIC, Blueprint
from tests.graphs.net import Cut, Graph, Net

Write = Callable[[Net], Any]
"""Writes a graph, and returns the name of its output or several."""


@dataclass(frozen=True)
class Found:
    """A site.

    Attributes:
        units: how many.
        groups: how many sets of units share keys and values; one for each unit if None.
        size: channels of a unit's keys, None where that is no question.
        v_size: of its values, if others.
        key: in a spec; the position in the list if empty.
        of: the name of the units.
        kind: "mha", "gqa" or "mqa", by the groups if empty.
        together: units that can only be removed together.
        reason: why no unit can be removed, and a part of the node's name where that is.
    """

    units: int
    groups: int | None = None
    size: int | None = None
    v_size: int | None = None
    key: str = ""
    of: str = "heads"
    kind: str = ""
    together: Sequence[Sequence[int]] | None = None
    reason: tuple[str, str] | None = None

    @property
    def sets(self) -> list[list[int]]:
        """Units that can only be removed together, or that share keys and values."""
        if self.together is not None:
            return list(map(list, self.together))
        ratio = self.units // (self.groups or self.units)
        return [list(range(first, first + ratio)) for first in range(0, self.units, ratio)]


@dataclass(frozen=True)
class Row:
    """A graph and what is true of it.

    Attributes:
        name: what it is called in tests.
        write: writes it.
        plan: the parameters of its columns.
        found: its sites in order.
        missed: the reason of each near miss with a part of its node's name; None where that is no question.
        no_heads: how many products of attention have no axis that can enumerate heads.
        hidden: the same of units other than heads.
        only: the kinds of feed-forward blocks that there may be beside `found`.
        cuts: legal cuts; made of `found` if None.
        refused: other cuts, with a part of the sentence.
        stays: whether the plan says that a part of removed heads is still computed.
        gathers: how many edges need a gather where a cut leaves something of a site; or for each cut.
        agreed: inputs and outputs that follow the heads where that was agreed to, and along which axis.
    """

    name: str
    write: Callable[[Net], Any]
    plan: Blueprint = PLAIN
    found: Sequence[Found] = ()
    missed: Sequence[tuple[str, str]] | None = ()
    no_heads: int = 0
    hidden: Sequence[tuple[str, str]] | None = None
    only: Sequence[str] = ()
    cuts: Sequence[Cut] | None = None
    refused: Sequence[tuple[Cut, str]] = ()
    stays: bool = False
    gathers: int | Sequence[int] = 0
    agreed: Mapping[str, int] = field(default_factory=dict)

    @cached_property
    def graph(self) -> Graph:
        """The graph. Nobody changes it."""
        net = Net(self.plan)
        made = self.write(net)
        if isinstance(made, Graph):
            return made
        return net.drawn([made] if isinstance(made, str) else made)

    @property
    def model(self) -> ModelProto:
        """Its model."""
        return self.graph.model

    @property
    def sites(self) -> Sequence[Found]:
        """Its sites with their keys."""
        return [replace(site, key=site.key or str(number)) for number, site in enumerate(self.found)]

    @cached_property
    def legal(self) -> Sequence[Cut]:
        """Legal cuts."""
        return self.cuts if self.cuts is not None else [cut for site in self.sites for cut in _cuts(site)]

    def __str__(self) -> str:
        return self.name


def _cuts(site: Found) -> list[Cut]:
    """Two groups that are no neighbours or one, one unit of each group, last or here and there, and the whole site."""
    if site.reason is not None:
        return []
    cuts: list[Sequence[int]] = []
    if len(site.sets) > 1:
        cuts.append(site.sets[0] if len(site.sets) < 4 else [*site.sets[0], *site.sets[2]])
    if site.together is None and len(site.sets[0]) > 1:
        cuts.append([some[-1] for some in site.sets])
        if len(site.sets) > 1:
            cuts.append([some[number % len(some)] for number, some in enumerate(site.sets)])
    return [{site.key: list(units)} for units in [*cuts, range(site.units)]]


ROWS: dict[str, Row] = {}
BOTH: Mapping[str, Blueprint] = {"static": STATIC, "dynamic": PLAIN}
"""Sizes of batch and sequence as numbers, or as names."""


def add(row: Row) -> None:
    """Add a row."""
    assert row.name not in ROWS, row.name
    ROWS[row.name] = row


def row(name: str, *found: Found, plans: Mapping[str, Blueprint] | Blueprint = PLAIN, **more: Any) -> Any:
    """Add a row that a function writes, once for each of several plans."""

    def added(write: Write) -> Write:
        if isinstance(plans, Blueprint):
            add(Row(name, write, plans, found, **more))
        else:
            for what, plan in plans.items():
                add(Row(f"{name}, {what}", write, plan, found, **more))
        return write

    return added


@cache
def table() -> Mapping[str, Row]:
    """All rows by name."""
    from tests.graphs import rows

    assert rows
    return ROWS
