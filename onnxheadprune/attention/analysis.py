"""A model as it was analysed, made once and handed on."""

from __future__ import annotations

from dataclasses import dataclass

from onnx import ModelProto

from onnxheadprune.attention.sites.find import sites_of, view_of
from onnxheadprune.attention.sites.site import Sites
from onnxheadprune.model.graph.view import GraphView
from onnxheadprune.model.load import LoadedModel


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
