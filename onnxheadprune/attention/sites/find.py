"""All attention sites of a model, with the record of earlier pruning applied: `inspect` and `analysis_of`."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from onnx import ModelProto, ValueInfoProto

from onnxheadprune.attention.sites import kinds
from onnxheadprune.attention.sites.attention_site import AttentionSite, Sites
from onnxheadprune.attention.sites.site import Findings, Site
from onnxheadprune.attention.sites.stored_weights import weights_in
from onnxheadprune.attention.sites.structural import find_structural
from onnxheadprune.edit.model_records import LAYERS_ENTRY
from onnxheadprune.edit.records import RecordedUnits, units_entry
from onnxheadprune.errors import HeadPruneError, ModelError
from onnxheadprune.model.analysis_errors import NotAnalysed, analysing, attempted
from onnxheadprune.model.graph.restated import restated
from onnxheadprune.model.graph.view import GraphView, Node
from onnxheadprune.model.load import LoadedModel, ModelLike, model_name, open_structure
from onnxheadprune.model.spelling import many
from onnxheadprune.operators import annotated

Found = TypeVar("Found", bound=Site)


def _with_history(
    sites: Sequence[Found], record: Sequence[RecordedUnits], units: str, *, complete: bool = False
) -> list[Found]:
    """Original numbers, names and units of sites of one kind, from the record of earlier pruning.

    A site is recognised by the output names of its projections, which no cut changes, and its number of units must
    match the record. Where names do not help (older records, or names changed by another tool such as a
    quantizer), sites and entries of the record are matched by their order, if
    their numbers and sizes are equal. Where `complete`, every site that the record leaves units must be there;
    a feed-forward block may be hidden by another tool's changes.

    Returns:
        The sites in order of their number in the original. Sites that the record does not know, because the version
        that wrote it did not find them, are numbered after those that it knows.

    Raises:
        ModelError: if the record does not fit the sites.
    """
    if not record:
        return list(sites)
    matches = recognised(sites, record)
    rest = [entry for entry in record if entry.left and entry not in matches.values()]
    others = [site for site in sites if site.index not in matches]
    if [entry.left for entry in rest] == [site.num_units for site in others]:
        matches |= {site.index: entry for site, entry in zip(others, rest, strict=True)}
        rest, others = [], []
    told = f"the record of an earlier pruning ({units_entry(units).key} in the metadata)"
    if complete and (rest or (others and not all(entry.projections for entry in record))):
        raise ModelError(
            f"{told} does not fit the {many(len(sites), 'site')} of this model; was it changed since?"
        )
    behind = max(entry.number for entry in record) + 1
    found = [replace(site, index=site.FROM + behind + place) for place, site in enumerate(others)]
    for site in sites:
        entry = matches.get(site.index)
        if entry is None:
            continue
        if entry.left != site.num_units:
            raise ModelError(
                f"{told} says that {entry.name} has {entry.left} {site.UNITS}, and it has {site.num_units}; was the"
                " model changed since?"
            )
        found.append(site.with_record(entry))
    return sorted(found, key=lambda site: site.number)


def recognised(sites: Sequence[Site], entries: Sequence[RecordedUnits]) -> dict[int, RecordedUnits]:
    """The entries of a record by the index of their site, matched by names.

    Args:
        sites: of one kind, of the model or of its original.
        entries: of the record. Ambiguous entries are left out.
    """
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


TRIED = ((1, 16), (2, 12), (1, 64))
"""Lengths of the first axis of an input and of all others, where these are open, one try after the other."""


class _FixedSizes:
    """A copy of a model with fixed input sizes, analysed on first use.

    Args:
        model: the model.
    """

    def __init__(self, model: ModelProto) -> None:
        self._model = model
        self._known: dict[tuple[int, int], frozenset[str]] = {}

    def tells_heads(self, core: Node) -> bool:
        """Return whether a product of attention weights and values is the core of a site with several heads there."""
        return any(core.ref in self._cores(sizes) for sizes in TRIED)

    def _cores(self, sizes: tuple[int, int]) -> frozenset[str]:
        """The cores of all sites that are found with these sizes; none where the model rejects them."""
        if sizes not in self._known:
            fixed = restated(self._model, [_fixed(info, *sizes) for info in self._model.graph.input])
            try:
                sites, _ = find_structural(annotated(GraphView(fixed)))
            except (HeadPruneError, ValueError):
                sites = []
            self._known[sizes] = frozenset(
                core.ref for site in sites if site.num_units > 1 for core in site.cores
            )
        return self._known[sizes]


def _symbols(info: ValueInfoProto) -> list[int]:
    """The axes of an input with symbolic length."""
    dims = info.type.tensor_type.shape.dim
    return [axis for axis, dim in enumerate(dims) if not dim.HasField("dim_value")]


def _fixed(info: ValueInfoProto, batch: int, length: int) -> ValueInfoProto:
    made = ValueInfoProto()
    made.CopyFrom(info)
    for axis in _symbols(info):
        made.type.tensor_type.shape.dim[axis].dim_value = length if axis else batch
    return made


def inspect(model: ModelLike) -> Sites:
    """The attention sites of a model, in graph order of their cores.

    Args:
        model: a path, a `ModelProto`, a `gs.Graph` or an `onnx_ir.Model`.

    Returns:
        The sites with head counts, groups and sizes, and the near misses with their reasons.

    Raises:
        UsageError: if the path does not exist.
        ModelError: if the file cannot be read as an ONNX model.
    """
    loaded = open_structure(model)
    view = view_of(loaded)
    return replace(sites_of(view, model_name(model)), elements=weights_in(loaded.proto, view))


def view_of(model: ModelProto | LoadedModel) -> GraphView:
    """Return an annotated view.

    Args:
        model: the model; what is loaded brings its name and the files that its tensors refer to.

    Raises:
        ModelError: if the graph is not well formed, or not valid.
    """
    loaded = LoadedModel.of(model, "the model")
    with analysing(loaded.proto, loaded.name):
        try:
            view = GraphView(loaded.proto, loaded.sources)
        except ValueError as error:
            raise ModelError(f"the graph is not well formed: {error}") from error
        return annotated(view)


def sites_of(view: GraphView, name: str) -> Sites:
    """The sites of an annotated view.

    Raises:
        ModelError: if the model is not valid, or its record of earlier pruning does not fit.
    """
    with analysing(view.model, name):
        record = units_entry(AttentionSite.UNITS).read(view.model)
        named = frozenset(name for entry in record for name in entry.projections)
        are_open = any(map(_symbols, view.model.graph.input))
        fixed = _FixedSizes(view.model).tells_heads if are_open else None
        found, left_out = find_structural(view, named, fixed)
        sites = tuple(_with_history(found, record, AttentionSite.UNITS, complete=True))
    failed: list[NotAnalysed] = []
    return Sites(
        name,
        sites,
        left_out.near_misses,
        left_out.no_heads,
        others=_others(view, name, sites, failed),
        layered=LAYERS_ENTRY.read(view.model),
        ignored_declarations=tuple(map(str, view.contradicted)),
        failed=failed,
    )


def _others(
    view: GraphView, name: str, attention: Sequence[Site], failed: list[NotAnalysed]
) -> dict[type[Site], Callable[[], Findings]]:
    """Return functions that find the sites of each other kind, on first use, and add to `failed` where they cannot."""

    def search(kind: type[Site], before: Sequence[Callable[[], Findings]]) -> Findings:
        made = attempted(f"{kind.TITLE}s", lambda: _units_of(kind, view, name, attention, before))
        if isinstance(made, NotAnalysed):
            failed.append(made)
            return Findings((), (), made)
        return made

    found: dict[type[Site], Callable[[], Findings]] = {}
    for kind in kinds.KINDS:
        found[kind] = functools.cache(functools.partial(search, kind, tuple(found.values())))
    return found


def _units_of(
    kind: type[Site],
    view: GraphView,
    name: str,
    attention: Sequence[Site],
    before: Sequence[Callable[[], Findings]] = (),
) -> Findings:
    """The sites of one kind of an annotated view, with the record of earlier pruning applied, and near misses.

    Raises:
        ModelError: if the model is not valid, or its record of earlier pruning does not fit.
    """
    with analysing(view.model, name):
        record = units_entry(kind.UNITS).read(view.model)
        found = kind.found(view, (*attention, *(site for find in before for site in find().sites)))
        return Findings(_with_history(found.sites, record, kind.UNITS), found.near_misses)


@dataclass(frozen=True, eq=False)
class Analysis:
    """A model, its annotated graph and its sites. The proof never reuses one: it makes its own.

    Attributes:
        model: the model.
        name: its name in errors.
        view: its annotated graph.
        sites: its attention sites.
    """

    model: ModelProto
    name: str
    view: GraphView
    sites: Sites


def analysis_of(model: ModelProto | LoadedModel, name: str = "the model") -> Analysis:
    """Analyze a model.

    Args:
        model: the model; what is loaded brings its name and the files that its tensors refer to.
        name: what errors call a model in memory.

    Raises:
        ModelError: if the graph is not valid, or its record of earlier pruning does not fit.
    """
    loaded = LoadedModel.of(model, name)
    view = view_of(loaded)
    return Analysis(loaded.proto, loaded.name, view, sites_of(view, loaded.name))
