"""Conversion of models of other libraries: onnx-graphsurgeon graphs and onnx_ir models, in and out.

Neither library is imported to check the type of a source: if it is theirs, the library is loaded already. onnx_ir
need not be installed.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypeGuard

from onnx import ModelProto, helper

from onnxheadprune.errors import ModelError, require_packages
from onnxheadprune.model.storage.reading import Source, inside

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs
    import onnx_ir

OtherModel: TypeAlias = "gs.Graph | onnx_ir.Model"
METADATA = "metadata_props"
"""The attribute of a `gs.Graph` that holds a model's metadata, for which graphsurgeon has no place of its own."""


def _is_onnx_ir(source: object) -> TypeGuard[onnx_ir.Model]:
    library = sys.modules.get("onnx_ir")
    return library is not None and isinstance(source, library.Model)


def is_other(source: object) -> TypeGuard[OtherModel]:
    """Return whether a source is a model of another library."""
    library = sys.modules.get("onnx_graphsurgeon")
    return _is_onnx_ir(source) or (library is not None and isinstance(source, library.Graph))


def name_of(source: OtherModel) -> str:
    """Return the name of a model in reports."""
    if _is_onnx_ir(source):
        return source.graph.name or "model"
    graph: gs.Graph = source
    return str(graph.name or "model")


def from_library(source: OtherModel, name: str) -> tuple[ModelProto, dict[str, Source]]:
    """The model as a new ModelProto, and the files that its tensors refer to."""
    if not _is_onnx_ir(source):
        import onnx_graphsurgeon as gs

        model = gs.export_onnx(source)
        helper.set_model_props(model, dict(getattr(source, METADATA, {})))
        return model, {}
    import onnx_ir

    try:
        model = onnx_ir.to_proto(source)
    except onnx_ir.serde.SerdeError as error:
        raise ModelError(f"onnx_ir cannot write {name} as ONNX: {error}") from error
    return model, _files_of(source, name)


def _files_of(source: onnx_ir.Model, name: str) -> dict[str, Source]:
    """The files of the initializers of all graphs, by their location."""
    import onnx_ir

    folders: dict[str, Path] = {}
    for graph in source.graphs():
        for value in graph.initializers.values():
            tensor = value.const_value
            if isinstance(tensor, onnx_ir.ExternalTensor):
                location, folder = str(tensor.location), Path(tensor.base_dir)
                if folders.setdefault(location, folder) != folder:
                    raise ModelError(
                        f"{name} keeps weights in two files called {location!r}; load them first"
                        " (onnx_ir.external_data.load_to_model)"
                    )
    return {location: inside(folder, location, name) for location, folder in folders.items()}


def to_graphsurgeon(model: ModelProto) -> gs.Graph:
    """A graph of onnx-graphsurgeon; its attribute `metadata_props` has the model's metadata."""
    import onnx_graphsurgeon as gs

    graph = gs.import_onnx(model)
    setattr(graph, METADATA, {entry.key: entry.value for entry in model.metadata_props})
    return graph


def to_onnx_ir(model: ModelProto) -> onnx_ir.Model:
    """A model of onnx_ir."""
    require_packages("a model of onnx_ir", "ir", "onnx_ir")
    import onnx_ir

    return onnx_ir.from_proto(model)
