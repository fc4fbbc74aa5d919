"""Checks of stored tensors: types, sizes, extents. Later code relies on them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import chain

from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto

from onnxheadprune.errors import ModelError
from onnxheadprune.model.storage.reading import Sources
from onnxheadprune.model.storage.tensors import (
    BITS,
    PRIVATE,
    Role,
    Span,
    Stored,
    bytes_needed,
    entries_of,
    is_outside,
    refer,
    span_of,
)
from onnxheadprune.model.storage.wire import EXPLICIT
from onnxheadprune.model.tensors import FIELDS

MAX_ELEMENTS = 2**48
"""More elements than any file has; declared sizes beyond are nonsense, also where one of them is 0."""
MAX_RANK = 64
_TWO_PER_ELEMENT = (TensorProto.COMPLEX64, TensorProto.COMPLEX128)


def check_tensors(tensors: Iterable[Stored], name: str, sources: Sources) -> None:
    """Check every stored tensor, and complete the references to files."""
    spans: list[tuple[Span, str]] = []
    for stored in tensors:
        if stored.role is Role.SPARSE and not stored.tensor.ByteSize():
            continue
        try:
            _check_declared(stored)
            if is_outside(stored.tensor):
                spans.append((_check_span(stored, sources), stored.label))
            else:
                _check_data(stored)
        except ModelError as error:
            raise ModelError(f"{name} is damaged: {error}") from None
    _check_overlaps(spans, name)


def check_private(tensors: Iterable[Stored], name: str) -> None:
    """Check that no entry uses a key that is reserved for this package."""
    for stored in tensors:
        keys = entries_of(stored.tensor).keys() - {EXPLICIT}
        if any(key.startswith(PRIVATE) for key in keys):
            raise ModelError(f"{name} is damaged: {stored.label} has external data of an unknown kind")


def _check_declared(stored: Stored) -> None:
    tensor = stored.tensor
    if tensor.data_type not in BITS and tensor.data_type != TensorProto.STRING:
        raise ModelError(f"{stored.label} has the unknown data type {tensor.data_type}")
    if (wrong := _impossible(tensor.dims)) is not None:
        raise ModelError(f"{stored.label} {wrong}")
    if tensor.HasField("segment"):
        raise ModelError(f"{stored.label} is stored in segments, which nothing supports")


def _impossible(dims: Sequence[int]) -> str | None:
    """Return why no tensor has a shape, None if one may."""
    if len(dims) > MAX_RANK:
        return f"has {len(dims)} axes"
    if any(dim < 0 for dim in dims) or math.prod(max(1, dim) for dim in dims) > MAX_ELEMENTS:
        return f"declares the impossible shape {list(dims)}"
    return None


def _check_data(stored: Stored) -> None:
    tensor = stored.tensor
    elements = math.prod(tensor.dims)
    if tensor.HasField("raw_data"):
        if tensor.data_type == TensorProto.STRING:
            raise ModelError(f"{stored.label} keeps strings as raw data")
        needed = bytes_needed(tensor.data_type, tuple(tensor.dims))
        if len(tensor.raw_data) != needed:
            raise ModelError(
                f"{stored.label} has {len(tensor.raw_data)} bytes where its shape {list(tensor.dims)} needs {needed}"
            )
        return
    filled = [len(getattr(tensor, field)) for field in FIELDS]
    if BITS.get(tensor.data_type, 8) < 8:
        # How elements share the entries of a typed field is told differently by different writers.
        if elements and not elements * BITS[tensor.data_type] // 8 <= sum(filled) <= elements:
            raise ModelError(f"{stored.label} has {sum(filled)} entries for {elements} elements")
        return
    wanted = 2 * elements if tensor.data_type in _TWO_PER_ELEMENT else elements
    if sum(filled) != wanted or sum(1 for count in filled if count) > 1:
        raise ModelError(
            f"{stored.label} has {sum(filled)} entries where its shape {list(tensor.dims)} needs {wanted}"
        )


def _check_span(stored: Stored, sources: Sources) -> Span:
    tensor = stored.tensor
    if tensor.HasField("raw_data") or any(len(getattr(tensor, field)) for field in FIELDS):
        raise ModelError(f"{stored.label} says that its data is external and has data too")
    if tensor.data_type == TensorProto.STRING:
        raise ModelError(f"{stored.label} keeps strings in a file, which ONNX does not allow")
    span = span_of(tensor)
    source = sources[span.location]
    needed = bytes_needed(tensor.data_type, tuple(tensor.dims))
    length = needed if span.length < 0 else span.length
    if length != needed:
        raise ModelError(
            f"{stored.label} has {length} bytes where its shape {list(tensor.dims)} needs {needed}"
        )
    if span.offset + needed > source.size:
        from onnxheadprune.model.storage.file_magic import in_place_of

        raise ModelError(
            f"{stored.label} needs bytes {span.offset} to {span.offset + needed} of {span.location}, which has"
            f" {source.size} bytes{in_place_of(source.path)}"
        )
    span = Span(span.location, span.offset, needed)
    if "length" not in entries_of(tensor) or "offset" not in entries_of(tensor):
        refer(tensor, span)
    return span


def _check_overlaps(spans: Iterable[tuple[Span, str]], name: str) -> None:
    """Check that tensors share all of their bytes (tied weights) or none."""
    ordered = sorted(spans, key=lambda item: (item[0].location, item[0].offset, item[0].length))
    reach: tuple[Span, str] | None = None
    for span, label in ordered:
        if not span.length:
            continue
        if reach is not None and reach[0].location == span.location:
            before = reach[0]
            if span.offset < before.offset + before.length and span != before:
                raise ModelError(f"{name} is damaged: the data of {reach[1]} and {label} overlap")
        reach = (span, label)


def check_names(model: ModelProto, name: str) -> None:
    """Check that names are text and unique in their graph. Invalid UTF-8 reaches Python as bytes."""
    _text([item.domain for item in model.opset_import], name)
    _text([text for entry in model.metadata_props for text in (entry.key, entry.value)], name)
    for function in model.functions:
        _text([function.name, function.domain, *function.input, *function.output], name)
        _check_nodes(function.node, set(function.input), name)
    _check_graph(model.graph, name)


def _check_graph(graph: GraphProto, model: str) -> None:
    _text([graph.name], model)
    initializers: set[str] = set()
    for tensor in graph.initializer:
        _once(tensor.name, initializers, "initializers", model)
    for sparse in graph.sparse_initializer:
        _once(sparse.values.name, initializers, "initializers", model)
    inputs: set[str] = set()
    for info in graph.input:
        _once(info.name, inputs, "inputs", model)
    _text([*initializers, *inputs], model)
    # One at a time: millions of them fit into memory, and what Python makes of each does not.
    for info in chain(graph.input, graph.output, graph.value_info):
        dims = info.type.tensor_type.shape.dim
        _text([info.name, *(dim.dim_param for dim in dims)], model)
        if (wrong := _impossible([dim.dim_value for dim in dims])) is not None:
            raise ModelError(f"{model} is not a valid ONNX model: {info.name[:80]!r} {wrong}")
    _check_nodes(graph.node, initializers | inputs, model)


def _check_nodes(nodes: Iterable[NodeProto], defined: set[str], model: str) -> None:
    for node in nodes:
        outputs = list(node.output)
        _text([node.name, node.op_type, node.domain, *node.input, *outputs], model)
        for output in outputs:
            if output:
                _once(output, defined, "values", model)
        if node.metadata_props:
            _text([text for entry in node.metadata_props for text in (entry.key, entry.value)], model)
        if node.attribute:
            _check_attributes(node, model)


def _check_attributes(node: NodeProto, model: str) -> None:
    seen: set[str] = set()
    for attribute in node.attribute:
        _text([attribute.name], model)
        _once(attribute.name, seen, f"attributes of one {node.op_type} node", model)
        if attribute.type == AttributeProto.GRAPH:
            _check_graph(attribute.g, model)


def _text(texts: list[str], model: str) -> None:
    try:
        "".join(texts)
    except TypeError:
        wrong = next(text for text in texts if not isinstance(text, str))
        raise ModelError(f"{model} is damaged: the name {wrong!r:.80} is not UTF-8") from None


def _once(name: str, seen: set[str], what: str, model: str) -> None:
    if name in seen:
        raise ModelError(f"{model} is not a valid ONNX model: two {what} have the name {name[:80]!r}")
    seen.add(name)
