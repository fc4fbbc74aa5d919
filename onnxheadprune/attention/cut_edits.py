"""From removed units to the edits that make the model work without them.

A projection that loses all units is taken off the residual stream with its branch: so is every projection of a site
that is removed as a whole, and one of single heads that are projected apart. Who reads the state behind a removed layer
reads the one in front, and nothing else is changed: what only the layer needed is then unused, and what others read of
it (position biases, shared keys and values, gates) is still computed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from onnxheadprune.attention.io_changes import CacheCut, Contract, cache_cut
from onnxheadprune.attention.sites.all_sites import Sites
from onnxheadprune.attention.sites.caches import comes_or_goes
from onnxheadprune.attention.sites.projection import emptied
from onnxheadprune.attention.sites.site import Site, caller_demands
from onnxheadprune.attention.sites.states import State, is_sum, learned_of_norm, released
from onnxheadprune.display.spelling import first_few
from onnxheadprune.edit import nodes
from onnxheadprune.edit.edits import (
    MARK,
    DropInputs,
    DropNode,
    Edit,
    InsertNode,
    SetInput,
    SetOutput,
    scope_of,
)
from onnxheadprune.edit.records import RecordedContract, record_of
from onnxheadprune.errors import RefusedError
from onnxheadprune.liveness.domain import MASKS, Masks
from onnxheadprune.liveness.packed_blocks import is_packed
from onnxheadprune.liveness.realize import realize
from onnxheadprune.liveness.refusals import Refusal
from onnxheadprune.liveness.sweep import sweep
from onnxheadprune.liveness.sweep_result import Sweep
from onnxheadprune.liveness.unused import settled
from onnxheadprune.model.graph.operator import schema_of
from onnxheadprune.model.graph.view import GraphView, Node, Value


@dataclass(frozen=True, eq=False)
class Bypass:
    """The removal of some layers of a viewed model."""

    view: GraphView
    layers: tuple[Site, ...]

    @classmethod
    def of(cls, view: GraphView, sites: Iterable[Site]) -> Bypass:
        """The removal of those of some sites that lie between two states."""
        return cls(view, tuple(site for site in sites if site.states))

    @cached_property
    def fronts(self) -> dict[Value, Value]:
        """The new input of the readers of each removed layer's output: that of the last layer kept before it."""
        found = {state.behind: state.front for layer in self.layers for state in layer.states}

        def left(value: Value) -> Value:
            return left(found[value]) if value in found else value

        return {behind: left(front) for behind, front in found.items()}

    @cached_property
    def gone(self) -> frozenset[Node]:
        """The nodes that nothing needs any more."""
        return frozenset(released([State(front, behind) for behind, front in self.fronts.items()], ()))

    def covers(self, site: Site) -> bool:
        """Return whether a site of another kind is removed with the layers."""
        ends = () if site.states else [value.producer for value in site.marks]
        return bool(ends) and all(node in self.gone for node in ends)

    @property
    def edits(self) -> dict[Edit, frozenset[str]]:
        """The edits, each with the layer that asks for it."""
        made: dict[Edit, frozenset[str]] = {}
        for layer in self.layers:
            for state in layer.states:
                made |= dict.fromkeys(self._edits(state.behind), frozenset({layer.name}))
        return made

    def _edits(self, behind: Value) -> Iterator[Edit]:
        front, node = self.fronts[behind].name, behind.producer
        for use in behind.consumers:
            yield SetInput(use.node.ref, use.input_index, front)
        if node is not None and is_sum(behind):
            yield from _norm(node, front)
        if node is not None and behind.is_graph_output:
            if len(node.results) == 1:
                yield DropNode(node.ref, node.op_type)
            elif not is_sum(behind):
                yield SetOutput(node.ref, behind.output_index, f"{behind.name}/{MARK}_removed")
            yield nodes.new(node.ref, "Identity", (front,), behind.name)

    def after(self, edits: Mapping[Edit, frozenset[str]]) -> dict[Edit, frozenset[str]]:
        """Merge other edits with these; those that read a removed layer's output read its replacement."""
        if not self.layers:
            return dict(edits)
        scopes = {scope.ref: scope for scope in self.view.scopes}

        def moved(ref: str, name: str) -> str:
            value = scopes[scope_of(ref)].lookup(name) if name else None
            return self.fronts[value].name if value is not None and value in self.fronts else name

        instead = _instead(self.view, edits)
        made: dict[Edit, frozenset[str]] = {}
        for edit, sites in self.edits.items():
            if isinstance(edit, SetInput):
                # An `Add` whose branch is removed is itself removed.
                value = scopes[scope_of(edit.node)].lookup(edit.value)
                edit = replace(edit, value=edit.value if value is None else instead.get(value, edit.value))
            made[edit] = sites
        for edit, sites in edits.items():
            if isinstance(edit, SetInput):
                edit = replace(edit, value=moved(edit.node, edit.value))
            elif isinstance(edit, InsertNode):
                edit = replace(edit, inputs=tuple(moved(edit.before, name) for name in edit.inputs))
            made[edit] = made.get(edit, frozenset()) | sites
        return made

    def names(self, edits: Iterable[Edit]) -> dict[str, str]:
        """The name of the value that replaces each removed one: a layer's output, or an `Add` whose branch is gone."""
        found = {
            value.name: name for value, name in _instead(self.view, edits).items() if value not in self.fronts
        }
        return found | {
            behind.name: found.get(front.name, front.name) for behind, front in self.fronts.items()
        }

    def kept(self) -> Iterator[str]:
        """Yield what is still computed of each layer for others, one sentence each."""
        for layer in self.layers:
            others = [
                f"{use.node.label} reads {value.name}"
                for node in sorted({*layer.cores} - self.gone, key=lambda node: node.index)
                for value in node.results
                for use in value.consumers
                if use.node not in layer.cores and use.node not in self.gone and value not in self.fronts
            ]
            if others:
                yield f"a part of {layer.key} is still computed: {first_few(others, 3)}"


def _instead(view: GraphView, edits: Iterable[Edit]) -> dict[Value, str]:
    """The name that all readers of a value, as far as they are left, read in its place, by that value."""
    some = list(edits)
    dropped = {edit.node for edit in some if isinstance(edit, DropNode)}
    read = {(edit.node, edit.index): edit.value for edit in some if isinstance(edit, SetInput)}
    found: dict[Value, str] = {}
    for node, index in read:
        inputs = view.by_ref[node].inputs
        value = inputs[index] if index < len(inputs) else None
        if value is None or value in found or value.is_graph_output:
            continue
        uses = [(use.node.ref, use.input_index) for use in value.consumers]
        left = [use for use in uses if use[0] not in dropped] or [use for use in uses if use in read]
        names = {read.get(use, value.name) for use in left}
        if len(names) == 1 and value.name not in names:
            found[value] = names.pop()
    return found


def _norm(node: Node, front: str) -> Iterator[Edit]:
    """Yield the edits with which an operator that adds and normalizes computes the norm of a state."""
    if any(value.is_read for value in node.results if value.output_index in (1, 2)):
        raise RefusedError(f"{node.label} outputs statistics of a sum that is removed with its layer")
    learned = learned_of_norm(node)
    stored = [value.name for index in learned if (value := node.input(index)) is not None]
    alone = nodes.normalized(node.ref, node, front, stored, node.out.name)
    known = any(other.op_type == alone.op_type for other in node.scope.nodes)
    if known or schema_of(alone.op_type, node.scope.opset) is not None:
        yield DropNode(node.ref, node.op_type)
        yield alone
        return
    # An operator of the runtime's own would make the file invalid by the standard.
    zeros = f"{node.out.name}/{MARK}_nothing"
    yield nodes.new(node.ref, "Sub", (front, front), zeros)
    yield SetInput(node.ref, 0, front)
    yield SetInput(node.ref, 1, zeros)
    for index, value in enumerate(node.inputs):
        if index > 1 and index not in learned and value is not None:
            yield SetInput(node.ref, index, "")


@dataclass(frozen=True, eq=False)
class Cut:
    """A cut of a viewed model."""

    view: GraphView
    sites: Sites
    units: Mapping[int, tuple[int, ...]]  # what each site loses, without what lies in a removed layer
    contract: Contract
    caches: CacheCut
    bypass: Bypass

    @cached_property
    def losing(self) -> tuple[Site, ...]:
        """The sites that lose units."""
        return self.sites.losing(self.units)

    @cached_property
    def emptied(self) -> frozenset[Node]:
        """The projections that sum over nothing, of several sites where those share one."""
        return emptied((item, self.units[site.index]) for site in self.losing for item in site.projections)

    @property
    def partly(self) -> list[Site]:
        """The sites that lose some units: one removed as a whole leaves its cache as it was."""
        return [site for site in self.losing if not self.loses_all(site)]

    def loses_all(self, site: Site) -> bool:
        """Return whether a site loses all its units."""
        return loses_all(site, self.units)

    def agreed(self, swept: Sweep) -> RecordedContract:
        """Changes of inputs and outputs that callers agreed to, in this cut and in earlier ones, and that were made."""
        before = record_of(self.view.model).contract
        keeping = [site for site in self.partly if site.movable and self.contract.keeps(site.index)]
        own = {value for site in self.partly if site not in keeping for value in site.movable}
        narrowed = {value.name for value, _ in swept.narrowed() if comes_or_goes(value) and value not in own}
        names = {self._name_after(name) for name in {*before.narrowed, *narrowed}}
        whole = {site.index for site in self.losing if self.loses_all(site)}
        kept = {*before.kept_caches, *(site.index for site in keeping)} - whole
        return RecordedContract(
            tuple(sorted(kept)),
            tuple(sorted({*before.dropped_caches, *self.caches.sites})),
            tuple(sorted(filter(None, names))),
        )

    def _name_after(self, name: str) -> str | None:
        """The name of an input or output after the cut, None where it is removed."""
        return self.caches.names.get(name, name)

    def _narrows(self, value: Value) -> bool:
        """Return whether the contract allows an input or output that is no cache to be narrowed."""
        return self.contract.narrows(self._name_after(value.name))

    def edits(self) -> tuple[Sweep, dict[Edit, frozenset[str]]]:
        """The liveness without the units, and the edits that follow, each with the sites that caused it."""
        swept = self._sweep()
        for site in self.losing:
            units = self.units[site.index]
            needed = site.needed(units, swept)
            if needed is not None:
                raise RefusedError(
                    f"{site.label} cannot lose {site.listed(site.original(units), named=True)}: {needed}"
                )
        edits = self._edits(swept)
        if _read_for_shape_only(swept, edits):
            # A shape of what vanishes is used elsewhere: what computes it stays unchanged, and is only not summed up.
            swept = self._sweep(self.emptied)
            edits = self._edits(swept)
            whole = filter(self.loses_all, self.losing)
            wide = [site for site in whole if any(item.sums_more for item in site.projections)]
            if wide and _read_for_shape_only(swept, edits):
                raise RefusedError(
                    f"{wide[0].label} cannot be removed as a whole: the shape of its context is used elsewhere; leave"
                    f" at least one {wide[0].KIND.unit}"
                )
        return swept, edits | self.caches.closing(self.view, edits)

    def _edits(self, swept: Sweep) -> dict[Edit, frozenset[str]]:
        """All edits of a sweep, those on the projections and around removed layers, and what dies with them."""
        edits = dict(realize(self.view, swept).edits) | self._detached() | self.caches.opening()
        for site in self.losing:
            left = [item for item in site.projections if item.node not in self.emptied]
            own = [edit for item in left for edit in item.edits(self.units[site.index])]
            edits |= dict.fromkeys(own, frozenset({site.name}))
        edits = self.bypass.after(edits)
        gone = [value for value in self.caches.gone if value.is_graph_input]
        return settled(self.view, edits, swept.kept, gone)

    def _sweep(self, without: Collection[Node] = ()) -> Sweep:
        units, contract = self.units, self.contract
        seeds = [seed for site in self.losing for seed in site.seeds(units[site.index], without)]
        for site in self.losing:
            held = sorted(value.name for value in site.maps if not self._narrows(value))
            if held and not self.loses_all(site):
                names = ", ".join(held)
                raise RefusedError(
                    f"{site.label} cannot lose heads while the model outputs attention weights per head"
                    f" ({names}); `allow_io_change` narrows that output"
                )
        narrowed = [site for site in self.partly if not contract.keeps(site.index)]
        free = frozenset[Value]().union(*(site.movable for site in narrowed))
        handed = caller_demands(self.sites, {site.index: units[site.index] for site in narrowed})
        every = self.view.main.values.values()
        free |= {value for value in every if comes_or_goes(value) and self._narrows(value)}
        called = {site.KIND.units for site in self.losing}
        masks = Masks(called.pop()) if len(called) == 1 else MASKS
        answers = {
            node: answer for site in self.losing for node, answer in site.answers(units[site.index]).items()
        }
        return sweep(seeds, free, masks, handed=handed, answers=answers)

    def _detached(self) -> dict[Edit, frozenset[str]]:
        """Edits that take the branches of projections without any unit off the residual stream."""
        edits: dict[Edit, frozenset[str]] = {}
        owners: dict[Node, list[Site]] = {}
        for site in self.losing:
            for projection in site.projections:
                if projection.node in self.emptied:
                    owners.setdefault(projection.node, []).append(site)
        if not owners:
            return edits
        from onnxheadprune.liveness.emptied import constants_for

        for made, projections in constants_for(sorted(owners, key=lambda node: node.index)):
            names = frozenset(site.name for node in projections for site in owners[node])
            if isinstance(made, Refusal):
                site = owners[projections[0]][0]
                if self.loses_all(site):
                    raise RefusedError(
                        f"{site.label} cannot be removed as a whole: {made}; leave at least one {site.KIND.unit}"
                    )
                raise RefusedError(
                    f"the {site.KIND.unit}s of {site.label} that {projections[0].label} projects alone cannot go:"
                    f" {made}"
                )
            for edit in made:
                edits[edit] = edits.get(edit, frozenset()) | names
        return edits


def caches_of(
    view: GraphView, sites: Sites, heads: Mapping[int, tuple[int, ...]], contract: Contract
) -> CacheCut:
    """The changes of the caches of sites removed as a whole.

    Raises:
        RefusedError: if a cache would stay that an earlier call narrowed, which one call alone leaves as it is.
    """
    whole = [site for site in sites.losing(heads) if loses_all(site, heads)]
    dropped = [site for site in whole if contract.drops(site.index)]
    caches = cache_cut(view, sites, dropped) if contract.cache == "renumber" else CacheCut()
    kept = {*record_of(view.model).contract.kept_caches, *caches.sites}
    for site in (site for site in sites.sites if site in whole):
        if site.movable and site.kv_num_heads < site.original_kv_num_heads and site.index not in kept:
            raise RefusedError(
                f"{site.label} lost {site.KIND.units} in an earlier call, and so did its cache, which stays when the"
                " site is removed as a whole: remove it from the original in one call, or its cache, too, with"
                f" `cache=renumber`"
            )
    return caches


def require_apart(sites: Sequence[Site], units: Mapping[int, tuple[int, ...]]) -> None:
    """Refuse what two sites that share a projection cannot lose together."""
    for site in sites:
        within = next((other for other in sites if other.numbers_by(site)), None)
        if within is not None:
            raise RefusedError(
                f"{site.label} and {within.label} are one operator, which numbers {within.KIND.units} by"
                f" {site.KIND.unit}: remove {site.KIND.units} first, and {within.KIND.units} of what is written in a"
                " second call"
            )
    shared: dict[Node, list[Site]] = {}
    for site in sites:
        for projection in site.projections:
            shared.setdefault(projection.node, []).append(site)
    gone = emptied((item, units[site.index]) for site in sites for item in site.projections)
    for node, readers in shared.items():
        if len(readers) > 1 and node not in gone and is_packed(node):
            names = " and ".join(site.label for site in readers)
            raise RefusedError(
                f"{node.label} packs the weights of {names} in blocks; cut one, then the other"
            )


def loses_all(site: Site, units: Mapping[int, tuple[int, ...]]) -> bool:
    """Return whether a site loses all its units."""
    return len(units.get(site.index, ())) == site.num_units


def _read_for_shape_only(sweep: Sweep, edits: Iterable[Edit]) -> list[Value]:
    """Values that nobody needs and somebody still reads: to look at their shape.

    What computes them must not be narrowed then, or it would not run, or show another shape.
    """
    edits = list(edits)
    dropped = {edit.node for edit in edits if isinstance(edit, DropNode)}
    ignored = {(edit.node, index) for edit in edits if isinstance(edit, DropInputs) for index in edit.indices}
    ignored |= {(edit.node, edit.index) for edit in edits if isinstance(edit, SetInput)}
    return [
        value
        for value, live in sweep.kept.items()
        if live.is_dead
        and not value.holds_tensor
        and any(
            use.node.ref not in dropped and (use.node.ref, use.input_index) not in ignored
            for use in value.consumers
        )
    ]
