"""`inspect`: all attention sites of a model, with the record of earlier pruning applied."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace

from onnx import ModelProto

from onnxheadprune.attention.sites import kinds
from onnxheadprune.attention.sites.fixed_sizes import FixedSizes
from onnxheadprune.attention.sites.history import with_history
from onnxheadprune.attention.sites.site import Sites
from onnxheadprune.attention.sites.structural import find_structural
from onnxheadprune.attention.sites.unit import Findings, Site
from onnxheadprune.edit.layer_records import layers_record
from onnxheadprune.edit.records import REMOVED_KEY, pruning_record, units_key, units_record
from onnxheadprune.errors import ModelError
from onnxheadprune.model.graph.collecting import paused
from onnxheadprune.model.graph.view import GraphView
from onnxheadprune.model.load import LoadedModel, ModelLike, model_name, open_structure
from onnxheadprune.model.soundness import analysing
from onnxheadprune.model.storage.tensors import stored_size
from onnxheadprune.operators import annotated


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
    return replace(sites_of(view_of(loaded), model_name(model)), elements=stored_size(loaded.proto).elements)


def view_of(model: ModelProto | LoadedModel, name: str = "the model") -> GraphView:
    """Return an annotated view.

    Args:
        model: the model; what is loaded brings its name and the files that its tensors refer to.
        name: what errors call a model in memory.

    Raises:
        ModelError: if the graph is not well formed, or not valid.
    """
    loaded = LoadedModel.of(model, name)
    with paused(), analysing(loaded.proto, loaded.name):
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
    with paused(), analysing(view.model, name):
        record = pruning_record(view.model)
        named = frozenset(name for entry in record for name in entry.projections)
        found, left_out = find_structural(view, named, FixedSizes(view.model).tells_heads)
        sites = tuple(with_history(found, record, REMOVED_KEY, complete=True))
    return Sites(
        name,
        sites,
        left_out.near_misses,
        left_out.no_heads,
        record,
        others=_others(view, name, sites),
        layered=layers_record(view.model),
        ignored_declarations=tuple(map(str, view.contradicted)),
    )


def _others(
    view: GraphView, name: str, attention: Sequence[Site]
) -> dict[type[Site], Callable[[], Findings]]:
    """Return what finds the sites of each other kind, once and when they are first asked for."""
    found: dict[type[Site], Callable[[], Findings]] = {}
    for kind in kinds.KINDS:
        before = tuple(found.values())
        found[kind] = functools.cache(functools.partial(_units_of, kind, view, name, attention, before))
    return found


def _units_of(
    kind: type[Site],
    view: GraphView,
    name: str,
    attention: Sequence[Site],
    before: Sequence[Callable[[], Findings]] = (),
) -> Findings:
    """The sites of one kind of an annotated view, with the record of earlier pruning applied, and near misses.

    Args:
        kind: the kind.
        view: the view.
        name: how to call the model in errors.
        attention: its attention sites.
        before: what finds the sites of the kinds that are listed before.

    Raises:
        ModelError: if the model is not valid, or its record of earlier pruning does not fit.
    """
    with analysing(view.model, name):
        record = units_record(view.model, kind.UNITS)
        found = kind.found(view, (*attention, *(site for find in before for site in find().sites)))
        return Findings(with_history(found.sites, record, units_key(kind.UNITS)), found.near_misses)
