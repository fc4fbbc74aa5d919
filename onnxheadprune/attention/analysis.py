"""A model as it was analysed, made once and handed on."""

from __future__ import annotations

from dataclasses import dataclass

from onnx import ModelProto

from onnxheadprune.attention.sites.find import sites_of, view_of
from onnxheadprune.attention.sites.site import Sites
from onnxheadprune.model.graph.view import NO_SOURCES, GraphView
from onnxheadprune.model.storage.sources import Sources


@dataclass(frozen=True, eq=False)
class Analysis:
    """A model, what its graph says, and where its heads are. The proof never takes one over: it makes its own.

    Attributes:
        model: the model.
        name: how to call it in errors.
        view: its graph, annotated.
        sites: its attention sites.
    """

    model: ModelProto
    name: str
    view: GraphView
    sites: Sites


def analysis_of(model: ModelProto, name: str, sources: Sources = NO_SOURCES) -> Analysis:
    """Analyses a model.

    Args:
        model: the model.
        name: how to call it in errors.
        sources: files that its tensors refer to.

    Raises:
        ModelError: if the graph is not valid, or its record of earlier pruning does not fit.
    """
    view = view_of(model, name, sources)
    return Analysis(model, name, view, sites_of(view, name))
