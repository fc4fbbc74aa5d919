"""All sites of a model, with the record of earlier pruning applied: `inspect` and `analysis_of`."""

from __future__ import annotations

import functools
import importlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from onnx import ModelProto

from onnxheadprune.attention.sites.all_sites import Sites
from onnxheadprune.attention.sites.site import AnySite, Findings, Site
from onnxheadprune.attention.sites.stored_weights import weights_in
from onnxheadprune.attention.sites.structural import find_structural
from onnxheadprune.display.spelling import many
from onnxheadprune.edit.records import RECORD_KEY, RecordedUnits, record_of
from onnxheadprune.errors import ModelError, RefusedError
from onnxheadprune.model.analysis_errors import NotAnalysed, analysing, try_analysis
from onnxheadprune.model.graph.operator import GENERATES
from onnxheadprune.model.graph.view import GraphView
from onnxheadprune.model.load import LoadedModel, ModelLike, open_structure
from onnxheadprune.operators import view_of
from onnxheadprune.settings.units import HEAD, KINDS, UnitKind


def inspect(model: ModelLike) -> Sites:
    """The attention sites of a model, in graph order of their cores."""
    return inspect_loaded(open_structure(model))


def inspect_loaded(loaded: LoadedModel) -> Sites:
    """The attention sites of a model that is read, with the number of its elements."""
    view = view_of(loaded)
    return replace(sites_of(view, loaded.name), elements=weights_in(loaded.proto, view))


def sites_of(view: GraphView, name: str) -> Sites:
    """The sites of an annotated view."""
    with analysing(view.model, name):
        generating = next((node for node in view.nodes if node in GENERATES), None)
        if generating is not None:
            raise RefusedError(
                f"{generating.label} runs decoders of its own, of whose caches it knows the number of heads: prune the"
                " decoder before it is put into the operator"
            )
        record = record_of(view.model).of(HEAD.units)
        named = frozenset(name for entry in record for name in entry.projections)
        found, left_out = find_structural(view, named)
        sites = tuple(with_history(found, record, complete=True))
    failed: list[NotAnalysed] = []
    return Sites(
        name,
        sites,
        left_out.near_misses,
        left_out.no_heads,
        others=_others(view, name, sites, failed),
        ignored_declarations=tuple(map(str, view.contradicted)),
        failed=failed,
    )


def _others(
    view: GraphView, name: str, attention: Sequence[Site], failed: list[NotAnalysed]
) -> dict[UnitKind, Callable[[], Findings]]:
    """Return functions that find the sites of each other kind, on first use, and add to `failed` where they cannot."""

    def search(kind: UnitKind, before: Sequence[Callable[[], Findings]]) -> Findings:
        made = try_analysis(f"{kind.title}s", lambda: _units_of(kind, view, name, attention, before))
        if isinstance(made, NotAnalysed):
            failed.append(made)
            return Findings((), (), made)
        return made

    found: dict[UnitKind, Callable[[], Findings]] = {}
    for kind in KINDS[1:]:
        found[kind] = functools.cache(functools.partial(search, kind, tuple(found.values())))
    return found


def _units_of(
    kind: UnitKind,
    view: GraphView,
    name: str,
    attention: Sequence[Site],
    before: Sequence[Callable[[], Findings]] = (),
) -> Findings:
    """The sites of one kind of an annotated view, with the record of earlier pruning applied, and near misses."""
    with analysing(view.model, name):
        record = record_of(view.model).of(kind.units)
        found: Findings = importlib.import_module(kind.finder).found(
            view, (*attention, *(site for find in before for site in find().sites))
        )
        return Findings(with_history(found.sites, record), found.near_misses)


@dataclass(frozen=True, eq=False)
class Analysis:
    """A model, its annotated graph and its sites. The proof never reuses one: it makes its own."""

    model: ModelProto
    name: str  # its name in errors
    view: GraphView  # its annotated graph
    sites: Sites  # its attention sites


def analysis_of(model: ModelProto | LoadedModel, name: str = "the model") -> Analysis:
    """Analyze a model.

    Args:
        model: the model; what is loaded brings its name and the files that its tensors refer to.
    """
    loaded = LoadedModel.of(model, name)
    view = view_of(loaded)
    return Analysis(loaded.proto, loaded.name, view, sites_of(view, loaded.name))


def with_history(
    sites: Sequence[AnySite], record: Sequence[RecordedUnits], *, complete: bool = False
) -> list[AnySite]:
    """Original numbers, names and units of sites of one kind, from the record of earlier pruning.

    A site is recognised by the output names of its projections, which no cut changes, and its number of units must
    match the record. Where another tool such as a quantizer changed the names, sites and entries of the record are
    matched by their order, if their numbers and sizes are equal. Where `complete`, every site that the record leaves
    units must be there; a feed-forward block may be hidden by another tool's changes.

    The sites in order of their number in the original. Sites that the record does not know, because the version that
    wrote it did not find them, are numbered after those that it knows.
    """
    if not record:
        return list(sites)
    matches = recognised(sites, record)
    rest = [entry for entry in record if entry.left and entry not in matches.values()]
    others = [site for site in sites if site.index not in matches]
    if [entry.left for entry in rest] == [site.num_units for site in others]:
        matches |= {site.index: entry for site, entry in zip(others, rest, strict=True)}
        rest, others = [], []
    told = f"the record of an earlier pruning ({RECORD_KEY} in the metadata)"
    if complete and (rest or (others and not all(entry.projections for entry in record))):
        raise ModelError(
            f"{told} does not fit the {many(len(sites), 'site')} of this model; was it changed since?"
        )
    behind = max(entry.number for entry in record) + 1
    found = [replace(site, index=site.KIND.first + behind + place) for place, site in enumerate(others)]
    for site in sites:
        entry = matches.get(site.index)
        if entry is None:
            continue
        if entry.left != site.num_units:
            raise ModelError(
                f"{told} says that {entry.name} has {entry.left} {site.KIND.units}, and it has {site.num_units}; was"
                " the model changed since?"
            )
        found.append(site.with_record(entry))
    return sorted(found, key=lambda site: site.number)


def recognised(sites: Sequence[Site], entries: Sequence[RecordedUnits]) -> dict[int, RecordedUnits]:
    """The entries of a record by the index of their site, matched by names."""
    owners: dict[str, RecordedUnits] = {}
    for entry in entries:
        owners |= dict.fromkeys(entry.projections, entry)
    found: dict[int, RecordedUnits] = {}
    for site in sites:
        named = {owners[name].number: owners[name] for name in site.projection_names if name in owners}
        if len(named) == 1:
            found[site.index] = next(iter(named.values()))
    times = Counter(entry.number for entry in found.values())
    return {index: entry for index, entry in found.items() if times[entry.number] == 1}
