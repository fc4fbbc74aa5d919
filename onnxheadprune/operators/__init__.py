"""Operators, one file for each close family: its shape, its numbers, its propagation rule, its cost.

Importing this package fills the tables that others ask (`model.graph.tables`, `liveness.registry`, `liveness.layouts`).
Annotated views are made here, so whoever analyses a model has imported it. Gradients that have files of their own
(`…_gradients.py`) are loaded by `choosing.gradients` alone.
"""

import importlib
import pkgutil

from onnx import ModelProto

from onnxheadprune.errors import ModelError
from onnxheadprune.model.analysis_errors import analysing
from onnxheadprune.model.graph.infer import annotate
from onnxheadprune.model.graph.view import GraphView
from onnxheadprune.model.load import LoadedModel

GRADIENTS = "_gradients"


def load(gradients: bool = False) -> None:
    """Import the files of operators, or those of their gradients."""
    for module in pkgutil.iter_modules(__path__):
        if module.name.endswith(GRADIENTS) == gradients:
            importlib.import_module(f"{__name__}.{module.name}")


def annotated(view: GraphView) -> GraphView:
    """Give every value of `view` its symbolic shape, element type and known elements."""
    return annotate(view)


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
        return annotated(view)


load()
