"""`find_sites`: all attention sites of a model, with the record of earlier pruning applied."""

from __future__ import annotations

from dataclasses import replace

from onnx import ModelProto

from onnxheadprune.attention.sites.site import AttentionSite, Sites
from onnxheadprune.attention.sites.structural import find_structural
from onnxheadprune.edit.plan import REMOVED_KEY, REMOVED_VERSION, SiteCut, read_record
from onnxheadprune.errors import ModelError
from onnxheadprune.model.graph.collecting import paused
from onnxheadprune.model.graph.view import NO_SOURCES, GraphView
from onnxheadprune.model.load import ModelLike, model_name, open_structure
from onnxheadprune.model.soundness import analysing
from onnxheadprune.model.storage.sources import Sources
from onnxheadprune.operators import annotated


def find_sites(model: ModelLike) -> Sites:
    """The attention sites of a model, in graph order of their cores.

    Args:
        model: a path, a `ModelProto` or a `gs.Graph`.

    Returns:
        The sites with head counts, groups and sizes, and the near misses with their reasons.

    Raises:
        UsageError: if the path does not exist.
        ModelError: if the file cannot be read as an ONNX model.
    """
    proto, name = open_structure(model).proto, model_name(model)
    return sites_of(view_of(proto, name), name)


def view_of(model: ModelProto, name: str = "the model", sources: Sources = NO_SOURCES) -> GraphView:
    """An annotated view.

    Args:
        model: the model.
        name: how to call it in errors.
        sources: files that its tensors refer to.

    Raises:
        ModelError: if the graph is not well formed, or not valid.
    """
    with paused(), analysing(model, name):
        try:
            view = GraphView(model, sources)
        except ValueError as error:
            raise ModelError(f"the graph is not well formed: {error}") from error
        return annotated(view)


def sites_of(view: GraphView, name: str) -> Sites:
    """The sites of an annotated view.

    Raises:
        ModelError: if the model is not valid, or its record of earlier pruning does not fit.
    """
    with analysing(view.model, name):
        found, left_out = find_structural(view)
        sites = tuple(_with_history(found, pruning_record(view.model)))
        return Sites(name, sites, left_out.near_misses, left_out.no_heads)


def pruning_record(model: ModelProto) -> list[SiteCut]:
    """What earlier pruning wrote into the model's metadata: one entry per site of the original.

    Raises:
        ModelError: if it cannot be read, or a newer version of this tool wrote it.
    """
    content = read_record(model, REMOVED_KEY, REMOVED_VERSION)
    try:
        return [
            SiteCut(
                int(item["index"]),
                str(item["name"]),
                int(item["num_heads"]),
                int(item["kv_num_heads"]),
                tuple(int(head) for head in item["removed"]),
            )
            for item in ([] if content is None else content["sites"])
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"the metadata entry {REMOVED_KEY} cannot be read") from error


def _with_history(sites: list[AttentionSite], record: list[SiteCut]) -> list[AttentionSite]:
    """Original indices, names and head numbers, from the record of earlier pruning."""
    alive = [cut for cut in record if cut.heads_left]
    if not record:
        return sites
    if [cut.heads_left for cut in alive] != [site.num_heads for site in sites]:
        raise ModelError(
            f"the record of an earlier pruning ({REMOVED_KEY} in the metadata) does not fit the"
            f" {len(sites)} attention sites of this model; was it changed since?"
        )
    return [
        replace(
            site,
            index=cut.index,
            name=cut.name,
            removed=cut.removed,
            original_num_heads=cut.num_heads,
            original_kv_num_heads=cut.kv_num_heads,
        )
        for site, cut in zip(sites, alive, strict=True)
    ]
