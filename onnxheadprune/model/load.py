"""Reading models from files, memory and other libraries, with clear errors."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import onnx
from google.protobuf.message import DecodeError
from onnx import ModelProto

from onnxheadprune.errors import ModelError, UsageError, first_line
from onnxheadprune.model.bodies import stored_tensor
from onnxheadprune.model.documents import require_model_file
from onnxheadprune.model.exchange import from_library, is_other, name_of
from onnxheadprune.model.messages import copied, replace_all, store_tensors
from onnxheadprune.model.prepare import prepared
from onnxheadprune.model.storage.checks import check_names, check_private, check_tensors
from onnxheadprune.model.storage.reading import Opened, Source, Sources, hydrated, inside, open_at_once
from onnxheadprune.model.storage.tensors import (
    BITS,
    Role,
    Stored,
    bytes_needed,
    hold,
    is_outside,
    own_location,
    span_of,
    tensor_bytes,
    tensors_of,
)
from onnxheadprune.model.storage.wire import BIG, WireError, structure

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs
    import onnx_ir

ModelLike: TypeAlias = "str | os.PathLike[str] | ModelProto | gs.Graph | onnx_ir.Model | LoadedModel"
INLINE_LIMIT = 2**31 - 2**25
"""Protobuf cannot hold a message of 2 GiB; beyond this, weights go beside the model. The rest is for nodes."""
MAPPED_FROM = 2**22
"""Bytes of weights from which on ONNX Runtime maps them from their files; smaller models are handed over whole."""
LARGE = 2**28
"""Bytes of weights from which on memory counts for more than time."""


@dataclass(frozen=True)
class LoadedModel:
    """A model, and its source.

    Only `of_file` sets a path, so that the file at `path` always equals `proto`: a model that is constructed, or
    derived from another one (`changed`, `dataclasses.replace`), has none, even if its tensors refer to files.
    """

    proto: ModelProto  # the model; its tensors are in memory, or refer to `sources`
    name: str  # its name in reports
    # the files that tensors of `proto` refer to, by their location
    sources: Mapping[str, Source] = field(default_factory=dict, repr=False)
    # the location that stands for data inside of a model file, None if all of that is in memory
    inline: str | None = None
    # the model with its local functions and its order of nodes, where `proto` has others
    stored: ModelProto | None = field(default=None, repr=False)
    # the file of exactly this model, None if there is none
    path: Path | None = field(default=None, init=False)
    data_files: tuple[Path, ...] = field(default=(), init=False)  # the external data files of `path`

    @classmethod
    def of(cls, model: ModelProto | LoadedModel, name: str) -> LoadedModel:
        """A model in memory, with a name."""
        return model if isinstance(model, LoadedModel) else cls(model, name)

    @classmethod
    def of_file(
        cls,
        path: Path,
        proto: ModelProto,
        name: str,
        *,
        data_files: tuple[Path, ...] = (),
        sources: Mapping[str, Source] | None = None,
        inline: str | None = None,
        stored: ModelProto | None = None,
    ) -> LoadedModel:
        """A model that was read from a file and equals it."""
        made = cls(proto, name, sources or {}, inline, stored)
        # Set past the constructor, which `dataclasses.replace` calls with other protos.
        object.__setattr__(made, "path", path)
        object.__setattr__(made, "data_files", data_files)
        return made

    @property
    def as_stored(self) -> ModelProto:
        """The model as in its file: with its local functions, and the file's order of nodes."""
        return self.proto if self.stored is None else self.stored

    def readable(self) -> LoadedModel:
        """This model, or an equal one whose `proto` can be analyzed: functions inlined, nodes sorted."""
        made = prepared(self.proto)
        same = made is self.proto
        return self if same else LoadedModel(made, self.name, self.sources, self.inline, self.proto)

    def changed(self, proto: ModelProto, name: str | None = None) -> LoadedModel:
        """A model derived from this one, whose tensors may refer to the same files; it has no path."""
        return LoadedModel(proto, name or self.name, self.sources, self.inline)


def load_model(source: ModelLike) -> ModelProto:
    """A model with its weights, from a path, a `ModelProto` (not copied) or a model of another library."""
    return open_model(source).proto


def open_model(source: ModelLike) -> LoadedModel:
    """Like `load_model`, and returns the source of the weights."""
    light = open_structure(source)
    proto = hydrated(light.proto, light.sources)
    if light.path is None:
        return LoadedModel(proto, light.name)
    return LoadedModel.of_file(light.path, proto, light.name, data_files=light.data_files)


def open_structure(source: ModelLike, *, follow_links: bool = False) -> LoadedModel:
    """A model whose large weights stay on disk: its tensors refer to the files that hold them.

    Small tensors, which shapes may depend on, are in memory, so a model can be planned, cut and written without
    its weights. `storage.reading` reads the bytes of a tensor. A model that is in memory stays so.

    Args:
        follow_links: read weights through links that lead out of its folder, as in a hub's cache.
    """
    if isinstance(source, LoadedModel):
        return source
    if isinstance(source, ModelProto) or is_other(source):
        return _from_memory(source)
    if not isinstance(source, (str, os.PathLike)):
        raise UsageError(
            "a model is a path, an onnx.ModelProto, an onnx_graphsurgeon Graph or an onnx_ir Model, not"
            f" {type(source).__module__}.{type(source).__name__}; convert it first"
        )
    path = Path(source)
    parsed = parse_structure(path)
    if _refers_to(parsed.model, parsed.own) > parsed.references:
        raise ModelError(f"{path} is damaged: its external data is in the model file itself")
    return structure_of(parsed.model, str(path), path, {parsed.own: parsed.source}, follow_links=follow_links)


def structure_of(
    model: ModelProto,
    name: str,
    path: Path,
    known: Mapping[str, Source],
    *,
    follow_links: bool = False,
) -> LoadedModel:
    """A parsed structure, checked and with its small weights read."""
    check_names(model, name)
    tensors = list(tensors_of(model))
    check_private(tensors, name)
    sources = dict(known)
    for stored in tensors:
        if is_outside(stored.tensor):
            location = span_of(stored.tensor).location
            if location not in sources:
                sources[location] = inside(path.parent, location, name, follow_links=follow_links)
    own = next(iter(known))
    check_tensors(tensors, name, sources)
    _read_small(tensors, sources)
    beside = tuple(item.path for location, item in sources.items() if location != own)
    made = prepared(model)
    kept = None if made is model else model
    return LoadedModel.of_file(path, made, name, data_files=beside, sources=sources, inline=own, stored=kept)


def _from_memory(source: ModelProto | gs.Graph | onnx_ir.Model) -> LoadedModel:
    """A checked model from memory; large weights of onnx_ir models stay in their files."""
    name = model_name(source)
    model, sources = (source, {}) if isinstance(source, ModelProto) else from_library(source, name)
    if not sources:
        _check_in_memory(model, name)
    check_names(model, name)
    tensors = list(tensors_of(model))
    check_tensors(tensors, name, sources)
    _read_small(tensors, sources)
    made = prepared(model)
    return LoadedModel(made, name, sources, stored=None if made is model else model)


def _read_small(tensors: Iterable[Stored], sources: Sources) -> None:
    """Read small tensors, since shapes may depend on them, and sparse ones."""
    with Opened(sources) as opened:
        for stored in tensors:
            if not is_outside(stored.tensor):
                continue
            span = span_of(stored.tensor)
            if span.length < BIG or stored.role is Role.SPARSE:
                hold(stored.tensor, opened.read(span), outside=span.offset)


def _refers_to(model: ModelProto, location: str) -> int:
    """The number of tensors that refer to a file."""
    outside = (item.tensor for item in tensors_of(model) if is_outside(item.tensor))
    return sum(1 for tensor in outside if span_of(tensor).location == location)


def _check_in_memory(model: ModelProto, name: str) -> None:
    for stored in tensors_of(model):
        if is_outside(stored.tensor):
            raise ModelError(
                f"the weights of {name} are not in memory ({stored.label} is external);"
                " give the path, or load it with its external data"
            )


def stored_bytes(model: ModelProto) -> int:
    """Bytes of the weights by their types and shapes. Asking protobuf would serialize the whole model."""
    # Where the data is in typed fields, an element takes up to ten bytes on disk.
    total = 0
    for tensor, _ in tensors_of(model):
        raw = tensor.HasField("raw_data") or is_outside(tensor)
        total += math.prod(tensor.dims) * (BITS.get(tensor.data_type, 128) if raw else 80) // 8
    return total


def file_bytes(model: LoadedModel) -> int | None:
    """Bytes of a model's file and of those with its weights; None for a model that was not read from a file."""
    if model.path is None:
        return None
    return sum(file.stat().st_size for file in (model.path, *model.data_files) if file.is_file())


def serialized(model: LoadedModel) -> int:
    """Bytes of a model as it is serialized, and of the tensors that it refers to."""
    inside: int = model.proto.ByteSize()
    outside = (tensor_bytes(item.tensor) for item in tensors_of(model.proto) if is_outside(item.tensor))
    return inside + sum(outside)


def model_name(source: ModelLike) -> str:
    """Return the name of a model in reports."""
    if isinstance(source, LoadedModel):
        return source.name
    if isinstance(source, ModelProto):
        return source.graph.name or "model"
    if is_other(source):
        return name_of(source)
    return str(source)


class Parsed(NamedTuple):
    """The contents of a model file."""

    model: ModelProto  # the structure
    own: str  # the location that stands for the file itself
    references: int  # the number of tensors that use it
    source: Source  # the file that was read; a later replacement of it is detected


def _not_a_model(path: Path, reason: str) -> ModelError:
    from onnxheadprune.model.storage.file_magic import not_a_model

    return not_a_model(path, reason)


def parse_structure(path: Path) -> Parsed:
    """The structure of a file."""
    require_model_file(path)
    model = ModelProto()
    try:
        light, references, source = _structure_of(path)
        model.ParseFromString(light)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}") from error
    except (DecodeError, WireError) as error:
        reason = first_line(error)
        raise _not_a_model(path, f", or is truncated: {reason}") from error
    if not model.graph.node and not model.opset_import:
        raise _not_a_model(path, ": it holds no graph")
    if not model.graph.node:
        raise ModelError(f"the graph of {path} has no nodes, so there is nothing to prune or measure")
    if not model.opset_import:
        raise ModelError(
            f"{path} has no opset_import, which states the versions of the operators that its nodes use; export it"
            " again, or add the opset that it was exported for with onnx.helper.make_opsetid"
        )
    return Parsed(model, own_location(path), references, source)


def _structure_of(path: Path) -> tuple[bytes, int, Source]:
    with os.fdopen(open_at_once(path), "rb") as stream:
        return *structure(stream.fileno(), own_location(path)), Source.at(path, os.fstat(stream.fileno()))


def check_model(model: ModelProto, name: str, *, full: bool = False) -> None:
    """Runs `onnx.checker`."""
    try:
        onnx.checker.check_model(_checkable(model), full_check=full)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError) as error:
        raise ModelError(f"{name} is not a valid ONNX model: {first_line(error)}") from error


def _checkable(model: ModelProto) -> ModelProto:
    """The model, or one whose weights are declared as inputs where it refers to files or is too large.

    The checker takes no 2 GiB message, and looks for external data in the working directory.
    """
    touched = any(item.tensor.external_data for item in tensors_of(model))
    if not touched and stored_bytes(model) <= INLINE_LIMIT:
        return model
    skeleton = copied(model)
    del skeleton.graph.initializer[:]
    store_tensors(
        skeleton.graph, model.graph.initializer, lambda item: is_outside(item) or len(item.raw_data) >= BIG
    )
    nodes = []
    for node in skeleton.graph.node:
        tensor = stored_tensor(node)
        if tensor is None or not is_outside(tensor):
            nodes.append(node)
            continue
        info = onnx.helper.make_tensor_value_info(node.output[0], tensor.data_type, list(tensor.dims))
        skeleton.graph.input.append(info)
    if len(nodes) < len(skeleton.graph.node):
        replace_all(skeleton.graph.node, nodes)
    for tensor, _ in tensors_of(skeleton):
        outside = is_outside(tensor)
        tensor.ClearField("data_location")
        del tensor.external_data[:]
        if outside:
            # In a body there is no declaring, and the checker counts the bytes, whatever they are.
            tensor.raw_data = bytes(bytes_needed(tensor.data_type, tuple(tensor.dims)))
    return skeleton
