"""Operators, one file for each close family: its shape, its numbers, its propagation rule, its cost.

Importing this package reads which file has which operators from their source, for the tables that others ask
(`model.graph.tables`, `liveness.registry`, `liveness.layouts`). A file is imported when one of its operators is first
looked up: for a model without convolutions nothing of them is loaded. Gradients in files of their own
(`…_gradients.py`) are loaded by training alone. Annotated views are made here, so whoever analyses a
model has imported this package.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from onnx import ModelProto

from onnxheadprune.errors import ModelError
from onnxheadprune.model.analysis_errors import analysing
from onnxheadprune.model.graph.facts import GRADIENTS, OPERATORS
from onnxheadprune.model.graph.infer import annotate
from onnxheadprune.model.graph.view import GraphView
from onnxheadprune.model.load import LoadedModel

_STATEMENTS = re.compile(r"\n(?=[^\s)\]}])")
_NAMES = re.compile(r'"([A-Z ][\w ]*)"')


def operators_in(source: str) -> Iterator[str]:
    """Yield the operators that a module registers.

    These are the capitalized words of strings in what stands at its left edge: registrations, decorators and lists.
    What functions write is no operator of theirs. A word too many costs no more than an import.
    """
    for statement in _STATEMENTS.split(source):
        if not statement.startswith(("def ", "class ", "from ", "import ", '"""')):
            for words in _NAMES.findall(statement):
                yield from words.split()


for _file in sorted(Path(__file__).parent.glob("[!_]*.py")):
    _catalog = GRADIENTS if _file.stem.endswith("_gradients") else OPERATORS
    _catalog.declare(f"{__name__}.{_file.stem}", operators_in(_file.read_text(encoding="utf-8")))


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
