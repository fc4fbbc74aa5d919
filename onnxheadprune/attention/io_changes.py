"""The changes of a model's inputs and outputs: those that a cut may make, and those that it makes.

The cache of attention that is removed as a whole keeps its shape, so that nothing changes for callers. On request its
inputs and outputs are dropped, and the layer numbers in the names of the others run on without a gap.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from onnxheadprune.attention.sites.all_sites import Sites
from onnxheadprune.attention.sites.site import Site
from onnxheadprune.edit.edits import DropBranchOutput, DropInputs, DropIo, DropNode, Edit, Rename, SetInput
from onnxheadprune.edit.plan import RenamedIo
from onnxheadprune.errors import RefusedError, named_setting
from onnxheadprune.model.graph.operator import is_a
from onnxheadprune.model.graph.view import GraphView, Value
from onnxheadprune.model.spelling import first_few

Cache: TypeAlias = Literal["narrow", "keep", "renumber"]


@dataclass(frozen=True)
class Contract:
    """Consent to change the shapes that callers of the model rely on."""

    # what happens to past and present inputs and outputs: "narrow" removes the heads from them, "keep" keeps
    # their shapes at the price of an edge gather, "renumber" also drops the cache of attention that goes as a
    # whole, and closes the gap in the names of the others
    cache: Cache = "narrow"
    # also narrow graph inputs and outputs that are no cache, where they carry heads
    allow_io_change: bool = False
    # indices of the sites whose caches may be dropped, None for all
    renumbered_sites: frozenset[int] | None = None


AS_IT_IS = Contract()
"""No consent is given beyond what every cut needs: caches follow the heads."""


_NUMBER = re.compile(r"(?<![0-9])(?:0|[1-9][0-9]{0,5})(?![0-9])")
"""A number of a layer: without leading zeros, and not too long to be one."""
LEAVE = f"leave {named_setting('cache', 'renumber')} out, and the cache keeps its shape"


@dataclass(frozen=True, eq=False)
class CacheCut:
    """The caches that are removed."""

    sites: tuple[int, ...] = ()  # indices of the sites whose caches go
    gone: tuple[Value, ...] = ()  # their inputs and outputs
    # the inputs and outputs of others that get another name, with that name
    renamed: Mapping[str, str] = field(default_factory=dict)
    idle: str = ""  # why nothing goes although it was asked for, a sentence; nothing otherwise

    @property
    def names(self) -> Mapping[str, str | None]:
        """New names by those in the original, None for those that go."""
        return {**dict.fromkeys((value.name for value in self.gone), None), **self.renamed}

    def changes(self, view: GraphView) -> tuple[RenamedIo, ...]:
        """The same as data, in the order of the model's inputs and outputs."""
        graph, names = view.model.graph, self.names
        inputs = (
            RenamedIo("input", info.name, names[info.name]) for info in graph.input if info.name in names
        )
        outputs = (
            RenamedIo("output", info.name, names[info.name]) for info in graph.output if info.name in names
        )
        return (*inputs, *outputs)

    def opening(self) -> dict[Edit, frozenset[str]]:
        """The edits that come first: outputs go, so that what only they need goes with them."""
        found: dict[Edit, frozenset[str]] = {}
        for value in self.gone:
            if value.is_graph_output:
                found[DropIo(value.scope.ref, value.name, "output")] = frozenset()
                found |= dict.fromkeys(_in_branches(value), frozenset())
        return found

    def closing(self, view: GraphView, edits: Mapping[Edit, frozenset[str]]) -> dict[Edit, frozenset[str]]:
        """The edits that take the inputs away and rename the others, once everything else is known."""
        for value in self.gone:
            _require_unread(value, edits)
        dropped = {edit.node for edit in edits if isinstance(edit, DropNode)}
        taken = {
            name
            for scope in view.scopes
            for name, value in scope.values.items()
            if name not in self.renamed
            and value not in self.gone
            and (value.producer is None or value.producer.ref not in dropped)
        }
        clash = next((name for name in self.renamed.values() if name in taken), None)
        if clash is not None:
            raise RefusedError(f"the caches cannot be renumbered: {clash} is something else already; {LEAVE}")
        inputs = [value for value in self.gone if value.is_graph_input]
        found: dict[Edit, frozenset[str]] = {
            DropIo(value.scope.ref, value.name, "input"): frozenset() for value in inputs
        }
        main = view.main.ref
        return found | {Rename(main, name, after): frozenset() for name, after in self.renamed.items()}


def cache_cut(
    view: GraphView, sites: Sites, whole: Sequence[Site], only: frozenset[int] | None = None
) -> CacheCut:
    """The changes of the caches when some sites are removed as a whole.

    Args:
        only: indices of the sites among these whose caches go; None for all.
    """
    chosen = [site for site in whole if site.free and (only is None or site.index in only)]
    kept = {value for site in sites.sites if site not in chosen for value in site.free}
    own = {value for site in chosen for value in site.free} - kept
    if not own:
        return CacheCut(idle=_why_idle([site for site in whole if site in sites.sites]))
    inner = next((value for value in own if value.scope.parent is not None), None)
    if inner is not None:
        raise RefusedError(
            f"the cache {inner.name} lives inside the body of a control-flow operator, where caches are not"
            f" renumbered; {LEAVE}"
        )
    gone = tuple(sorted(own, key=lambda value: value.name))
    renamed = _renamed(view, [own & site.free for site in chosen])
    return CacheCut(tuple(site.index for site in chosen), gone, renamed)


def _why_idle(whole: Sequence[Site]) -> str:
    """Return why there is no cache to drop."""
    if not whole:
        return f"{named_setting('cache', 'renumber')} has no effect: no whole attention is removed"
    if not any(site.free for site in whole):
        return f"{named_setting('cache', 'renumber')} has no effect: the removed attention has no cache"
    return (
        f"{named_setting('cache', 'renumber')} has no effect: the cache of the removed attention is still used"
        " elsewhere"
    )


@dataclass(frozen=True)
class _Family:
    """Names that differ in one number."""

    before: str  # what stands before the number
    behind: str  # what stands behind it

    def name(self, number: int) -> str:
        """The name with a number."""
        return f"{self.before}{number}{self.behind}"


def _renamed(view: GraphView, gone: Sequence[Collection[Value]]) -> dict[str, str]:
    """New names of the inputs and outputs that are numbered together with those that go."""
    names = [
        value.name
        for value in view.main.values.values()
        if value.is_graph_output or (value.is_graph_input and not value.is_initializer)
    ]
    numbers: dict[_Family, set[int]] = defaultdict(set)
    for name in names:
        for family, number in _readings(name):
            numbers[family].add(number)
    lost: dict[_Family, set[int]] = defaultdict(set)
    for values in gone:
        readings = [item for value in values if (item := _reading(value.name, numbers)) is not None]
        for family, number in readings:
            if [other for other, _ in readings].count(family) > 1:
                raise RefusedError(
                    f"the caches cannot be renumbered: the number in {family.name(number)} is not that of a layer,"
                    f" since two caches of one layer differ in it; {LEAVE}"
                )
            lost[family].add(number)
    heads = {family.before for family in lost}
    together = [family for family in numbers if family.before in heads]
    away = set().union(*lost.values())
    found: dict[str, str] = {}
    for family in together:
        have = sorted(numbers[family])
        staying = next((number for number in have if number in away - lost[family]), None)
        if staying is not None:
            raise RefusedError(
                f"the caches cannot be renumbered: {family.name(staying)} belongs to the same layer as a removed"
                f" cache, and is kept; {LEAVE}"
            )
        if have != list(range(have[0], have[0] + len(have))):
            raise RefusedError(
                f"the caches cannot be renumbered: {family.name(have[0])} and those like it are numbered"
                f" {first_few(have)}, with gaps that mean something to their callers; {LEAVE}"
            )
        left = [number for number in have if number not in away]
        for after, before in enumerate(left, have[0]):
            if after != before:
                found[family.name(before)] = family.name(after)
    return found


def _readings(name: str) -> Iterator[tuple[_Family, int]]:
    """All ways to read a name as a numbered one."""
    for found in _NUMBER.finditer(name):
        yield _Family(name[: found.start()], name[found.end() :]), int(found.group())


def _reading(name: str, numbers: Mapping[_Family, set[int]]) -> tuple[_Family, int] | None:
    """The number in a name that counts layers: the only one, or the only one that others differ in."""
    readings = list(_readings(name))
    if len(readings) > 1:
        readings = [item for item in readings if len(numbers[item[0]]) > 1]
        if len(readings) != 1:
            raise RefusedError(
                f"the caches cannot be renumbered: it does not show which number in the name {name} is that of its"
                f" layer; {LEAVE}"
            )
    return readings[0] if readings else None


def _in_branches(value: Value) -> Iterator[DropBranchOutput]:
    """The edit on a choice between branches that makes an output of the graph, and nothing else reads it."""
    if value.producer is not None and is_a(value.producer, "If") and not value.consumers:
        yield DropBranchOutput(value.producer.ref, value.output_index)


def _require_unread(value: Value, edits: Mapping[Edit, frozenset[str]]) -> None:
    """Check whether nothing reads a cache that goes."""
    dropped = {edit.node for edit in edits if isinstance(edit, DropNode)}
    made = value.producer is not None and value.producer.ref not in dropped
    if made and not any(edit in edits for edit in _in_branches(value)):
        assert value.producer is not None
        raise RefusedError(
            f"the caches cannot be renumbered: {value.producer.label} still computes {value.name} of the removed"
            f" attention; {LEAVE}"
        )
    reset = {(edit.node, edit.index) for edit in edits if isinstance(edit, SetInput)}
    reset |= {(edit.node, index) for edit in edits if isinstance(edit, DropInputs) for index in edit.indices}
    for use in value.consumers:
        if use.node.ref not in dropped and (use.node.ref, use.input_index) not in reset:
            raise RefusedError(
                f"the caches cannot be renumbered: {use.node.label} still reads {value.name} of the removed"
                f" attention; {LEAVE}"
            )
