"""Operators, one file for each close family, in which each operator has one record (`record.operator`).

Importing this package makes the records (`model.graph.operator.OPERATORS`). Annotated views are made here, so whoever
analyses a model has imported it. Gradients have files of their own (`…_gradients.py`), which training alone imports.
"""

import importlib
import pkgutil

from onnx import ModelProto

from onnxheadprune.errors import ModelError
from onnxheadprune.model.analysis_errors import analysing
from onnxheadprune.model.graph.infer import annotate
from onnxheadprune.model.graph.view import GraphView
from onnxheadprune.model.load import LoadedModel
from onnxheadprune.settings import plugins

GRADIENTS = "_gradients"


def load(gradients: bool = False) -> None:
    """Import the files of operators, with those of other packages, or the files of gradients."""
    for module in pkgutil.iter_modules(__path__):
        if module.name.endswith(GRADIENTS) == gradients:
            importlib.import_module(f"{__name__}.{module.name}")
    if not gradients:
        plugins.load("operators")


def view_of(model: ModelProto | LoadedModel) -> GraphView:
    """Return an annotated view.

    Args:
        model: the model; what is loaded brings its name and the files that its tensors refer to.
    """
    loaded = LoadedModel.of(model, "the model")
    with analysing(loaded.proto, loaded.name):
        try:
            view = GraphView(loaded.proto, loaded.sources)
        except ValueError as error:
            raise ModelError(f"the graph is not well formed: {error}") from error
        return annotate(view)


load()
