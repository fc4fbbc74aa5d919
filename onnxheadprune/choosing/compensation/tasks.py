"""The linear layers that a compensation refits, in order."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np

from onnxheadprune.attention.sites.projection import Projection
from onnxheadprune.attention.sites.site import Site
from onnxheadprune.choosing.activations.linear import Linear, feeders, linear_at, linear_of
from onnxheadprune.choosing.compensation.runs import Run, emptied, runs
from onnxheadprune.model.graph.view import GraphView

Which: TypeAlias = Literal["own", "behind", "all"]
"""Maps to refit: those of the sites that lose units alone; with all others behind the first cut; or with those that
stand in for what is dropped as a whole too."""
LARGEST = 2**24
"""Weights of a map that adds to no stream, above which it stays as it is: a vocabulary times a width."""


@dataclass(frozen=True, eq=False)
class Task:
    """One map to refit.

    Attributes:
        name: of its node.
        linear: the map, None where its weights are in no form to rewrite.
        site: the site whose projection it is and that loses units, else None.
        projection: that projection.
        heads: present units of the site that stay.
        kept: rows of the matrix that stay, None for all.
        run: the dropped sublayers behind it that it is to stand in for, None for none.
        only_stands_in: whether it would not be refitted otherwise.
    """

    name: str
    linear: Linear | None
    site: Site | None = None
    projection: Projection | None = None
    heads: tuple[int, ...] = ()
    kept: tuple[int, ...] | None = None
    run: Run | None = None
    only_stands_in: bool = False

    @property
    def site_index(self) -> int | None:
        """Index of the site, None for another map."""
        return None if self.site is None else self.site.index

    def obstacle(self) -> str | None:
        """Return why the map has to stay as it is."""
        if self.linear is None:
            return "its weights are stored in a form that cannot be rewritten"
        if self.linear.matrix.shared:
            return "its weights are shared with another node"
        if any(value.scope.parent is not None for value in (self.linear.source, self.linear.out)):
            return "it lives inside the body of a control-flow operator"
        if self.linear.other is None and math.prod(self.linear.matrix.shape) > LARGEST:
            return f"it has more than {LARGEST:,} weights and adds to no stream: too much for what it gains"
        return None


def attention_maps(sites: Sequence[Site]) -> Counter[int]:
    """Return how many projections read the attention that each map feeds, by the index of its node."""
    found: Counter[int] = Counter()
    for site in sites:
        for projection in site.projections if site.CORED else ():
            context = projection.node.inputs[projection.activation[0]]
            found.update(item.node.index for item in (() if context is None else feeders(context)))
    return found


def tasks(
    view: GraphView,
    sites: Sequence[Site],
    heads: Mapping[int, Iterable[int]],
    attention: Container[int],
    which: Which = "all",
) -> list[Task]:
    """The maps to refit in graph order: those behind the first cut, except in sites that go as a whole.

    Projections of the sites that lose units; every other map that is not read by attention (queries, keys and values:
    their refit to what they gave before has not paid) and that outputs still depend on; and the maps in front of
    dropped runs of sublayers, to stand in for these.

    Args:
        view: an annotated view of the original.
        sites: its attention sites, and those of other kinds that lose units.
        heads: present units that go, per site index.
        attention: nodes of the maps that attention reads.
        which: of these maps.
    """
    found: dict[int, Task] = {}
    gone = emptied(view, sites, heads)
    for site in sites:
        units = set(heads.get(site.index, ()))
        for projection in site.projections if units and not site.ROUTED else ():
            if projection.node in gone.maps:
                continue
            kept = np.flatnonzero(projection.live_without(units).reshape(-1))
            left = tuple(unit for unit in range(site.num_units) if unit not in units)
            found[projection.node.index] = Task(
                projection.node.label, linear_of(projection), site, projection, left, tuple(kept.tolist())
            )
    routers = (
        projection.node.index
        for site in sites
        if site.ROUTED and heads.get(site.index)
        for projection in site.projections
    )
    first = min((*found, *routers, *(node.index for node in gone.maps)), default=None)
    if which == "own" or first is None:
        return [found[index] for index in sorted(found)]
    for node in view.main.nodes:
        at = node.index
        if at > first and at not in found and at not in attention and gone.spares(node):
            linear = linear_at(node)
            if linear is not None:
                found[at] = Task(node.label, linear)
    for run in runs(view, gone) if which == "all" else ():
        at = run.front.node.index
        other = found.get(at)
        found[at] = replace(
            other or Task(run.front.node.label, run.front), run=run, only_stands_in=other is None
        )
    return [found[index] for index in sorted(found)]


def refittable(view: GraphView, sites: Sequence[Site], heads: Mapping[int, Iterable[int]]) -> frozenset[str]:
    """Names of all stored tensors that a refit of this cut may change.

    Weights and biases of the maps to refit, and of those that make the values of the heads that stay.

    Args:
        view: an annotated view of the original.
        sites: its attention sites, and those of other kinds that lose units.
        heads: present units that go, per site index.
    """
    readers = attention_maps(sites)
    todo = tasks(view, sites, heads, readers)
    # A site may have been refitted before it went as a whole, and its projection's bias stays.
    gone = [site for site in sites if len(set(heads.get(site.index, ()))) == site.num_units]
    todo += [Task(item.node.label, linear_of(item)) for site in gone for item in site.projections]
    found: set[str] = set()
    for task in todo:
        if task.linear is None or task.obstacle() is not None:
            continue
        found.add(task.linear.matrix.stored.name)
        if task.linear.bias is not None:
            found.add(task.linear.bias.stored.name)
        if task.site is not None and len(task.site.projections) == 1:
            makers = (item for item in feeders(task.linear.source) if readers[item.node.index] < 2)
            found.update(item.matrix.stored.name for item in makers if is_free(item))
    return frozenset(found)


def is_free(linear: Linear) -> bool:
    """Return whether the weights can change by themselves, and rows and columns are where they are looked for."""
    last = (len(linear.out.shape or ()) - 1,)
    return not (
        linear.matrix.shared
        or linear.matrix.is_quantized
        or any(value.scope.parent is not None for value in (linear.source, linear.out))
        or linear.axes != last
        or linear.out_axes != last
    )
