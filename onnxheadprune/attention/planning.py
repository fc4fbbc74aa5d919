"""Planning: from named heads to an immutable list of edits."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from onnx import ModelProto

from onnxheadprune.attention.analysis import Analysis, analysis_of
from onnxheadprune.attention.block_cuts import block_cuts, block_records
from onnxheadprune.attention.contract import AS_IT_IS, Cache, Contract
from onnxheadprune.attention.cut_edits import caches_of, require_apart, swept_edits
from onnxheadprune.attention.head_cuts import head_cuts, head_record
from onnxheadprune.attention.heads import HeadSpec
from onnxheadprune.attention.io_changes import io_changes, io_sentence, narrowed_io, renamed_sentence
from onnxheadprune.attention.joint_cuts import with_readers
from onnxheadprune.attention.layers import layers_kept
from onnxheadprune.attention.sites.generation import why_uneven
from onnxheadprune.attention.sites.site import Sites
from onnxheadprune.attention.sites.unit import Site
from onnxheadprune.attention.sites.whole import going_whole
from onnxheadprune.attention.units import names_all, resolve_units
from onnxheadprune.edit.edits import Edit, SetMetadata
from onnxheadprune.edit.fingerprint import fingerprint
from onnxheadprune.edit.fresh_names import with_fresh_names
from onnxheadprune.edit.plan import LeftOutNode, PlannedEdit, PrunePlan
from onnxheadprune.edit.records import CACHES_KEY, caches_record, caches_text
from onnxheadprune.edit.removed import elements_removed
from onnxheadprune.errors import RefusedError
from onnxheadprune.liveness.interface import Interface
from onnxheadprune.model.graph.collecting import paused
from onnxheadprune.model.graph.view import GraphView
from onnxheadprune.model.load import LoadedModel, ModelLike, model_name, open_structure
from onnxheadprune.model.soundness import analysing


@dataclasses.dataclass(frozen=True, eq=False)
class Planning:
    """A plan together with the analysis it came from, for those who need more than the edits.

    Attributes:
        plan: the edits.
        view: the model as it was analysed.
        sites: its sites.
        heads: units to remove per site index, as *present* indices; heads, or what else a site has.
        io: what the cut leaves of graph inputs and outputs.
    """

    plan: PrunePlan
    view: GraphView
    sites: Sites
    heads: Mapping[int, tuple[int, ...]]
    io: Interface

    @property
    def concerned(self) -> tuple[Site, ...]:
        """All attention sites, and those of other kinds that lose units."""
        return self.sites.concerned(self.heads)

    @property
    def touched(self) -> tuple[Site, ...]:
        """The sites that lose units, of all kinds."""
        return self.sites.losing(self.heads)


def plan_pruning(
    model: ModelLike,
    heads: HeadSpec,
    *,
    exit: int | None = None,  # noqa: A002 the option's own name; nothing here leaves the interpreter
    cache: Cache = "narrow",
    allow_io_change: bool = False,
) -> PrunePlan:
    """What removing `heads` changes in a model. The model itself is not touched.

    Args:
        model: a path, a `ModelProto`, a `gs.Graph` or an `onnx_ir.Model`.
        heads: a head spec ("0:1,3 5:0-3"), a mapping `{0: [1, 3]}` or the path of a JSON file.
        exit: the early exit that is made permanent first, by its number; None for none.
        cache: what happens to past and present inputs and outputs; see `prune`.
        allow_io_change: also narrow graph inputs and outputs that are no cache, where they carry heads.

    Raises:
        UsageError: if the spec or the path is wrong.
        RefusedError: if the heads cannot be removed exactly, or there is no such exit.
        ModelError: if the model cannot be read.
    """
    loaded = open_structure(model)
    contract = Contract(cache, allow_io_change)
    if exit is None:
        return analyse(loaded.proto, heads, model_name(model), contract).plan
    from onnxheadprune.attention.exits.leave import leaving

    left = leaving(loaded, (exit,))
    return left.on(analyse(left.model.proto, heads, model_name(model), contract).plan)


def analyse(
    model: ModelProto,
    heads: HeadSpec,
    name: str,
    contract: Contract = AS_IT_IS,
) -> Planning:
    """Like `plan_pruning`, and keeps the analysis."""
    with analysing(model, name):
        return planned(analysis_of(model, name), heads, contract)


def planned(analysis: Analysis, heads: HeadSpec, contract: Contract = AS_IT_IS) -> Planning:
    """What removing heads changes in a model that is analysed already.

    Args:
        analysis: of the model.
        heads: a head spec.
        contract: what may happen to inputs and outputs.

    Raises:
        HeadPruneError: as `plan_pruning` does.
    """
    with paused(), analysing(analysis.model, analysis.name):
        return _planned(analysis, heads, contract)


def _planned(analysis: Analysis, heads: HeadSpec, contract: Contract) -> Planning:
    view, sites = analysis.view, with_readers(heads, analysis.sites)
    chosen = resolve_units(heads, sites)
    present = {site.index: site.present(chosen[site.index]) for site in sites.losing(chosen)}
    require_apart(sites.losing(present), present)
    uneven = None if contract.cache == "keep" else why_uneven(sites, present)
    if uneven is not None:
        raise RefusedError(uneven)
    caches = caches_of(view, sites, present, contract)
    swept, edits = swept_edits(view, sites, present, contract, caches)
    cuts = head_cuts(sites, chosen, present)
    edits[head_record(cuts, sites)] = frozenset()
    blocks = block_cuts(view, sites, chosen)
    edits |= dict.fromkeys(block_records(blocks, view, sites), frozenset())
    edits |= dict.fromkeys(layers_kept(sites, going_whole(sites, present)), frozenset())
    if caches.sites:
        went = (*caches_record(view.model), *caches.sites)
        edits[SetMetadata(CACHES_KEY, caches_text(went))] = frozenset()
    io = Interface(narrowed_io(swept), caches.names)
    interface = [io_changes(view, name, live) for name, live in sorted(io.live.items())]
    renamed = caches.changes(view)
    plan = PrunePlan(
        analysis.name,
        fingerprint(analysis.model),
        cuts,
        _planned_edits(view, edits),
        (*(io_sentence(changes) for changes in interface), *map(renamed_sentence, renamed)),
        elements_removed(view, edits),
        _left_out(sites) if names_all(heads) else (),
        tuple(change for changes in interface for change in changes),
        blocks,
        renamed,
        notes=(*([caches.idle] if caches.idle else []), *_held(sites.losing(present), contract)),
    )
    return Planning(plan, view, sites, present, io)


def _planned_edits(view: GraphView, edits: Mapping[Edit, frozenset[str]]) -> tuple[PlannedEdit, ...]:
    """Edits under names that the model does not use yet, with the names of their sites in order."""
    named = with_fresh_names(view, edits)
    return tuple(PlannedEdit(edit, tuple(sorted(sites))) for edit, sites in named.items())


def _held(touched: Sequence[Site], contract: Contract) -> list[str]:
    """Why caches of sites that lose units keep their shape."""
    return (
        []
        if contract.cache == "keep"
        else [
            f"the cache of {site.label} keeps all its heads: {site.held.sentence}"
            for site in touched
            if site.held
        ]
    )


def _left_out(sites: Sites) -> tuple[LeftOutNode, ...]:
    """What attends and is no site."""
    return tuple(
        LeftOutNode(item.node, item.reason.sentence) for item in (*sites.near_misses, *sites.no_heads)
    )


def planned_on(plan: PrunePlan, loaded: LoadedModel) -> LoadedModel:
    """The model that the edits of a plan are for: with the exits and the vocabulary that the plan gives it first.

    Args:
        plan: made for `loaded`.
        loaded: the model as it is.

    Raises:
        HeadPruneError: as `leaving` and `trimming` do.
    """
    if plan.exit is not None:
        from onnxheadprune.attention.exits.leave import leaving

        loaded = leaving(loaded, plan.exit.numbers).model
    if plan.vocabulary is not None:
        from onnxheadprune.attention.vocabulary.trim import trimming

        tokens = plan.vocabulary.tokens
        loaded = trimming(loaded, tokens.kept, tokens.inputs, tokens.rows).model
    return loaded


def require_something(plan: PrunePlan) -> None:
    """Refuses a plan that removes nothing.

    Raises:
        RefusedError: if no unit goes.
    """
    if not plan.changes_something:
        raise RefusedError("no heads were named, so there is nothing to remove")


__all__ = ["Planning", "analyse", "plan_pruning", "planned", "planned_on", "require_something"]
