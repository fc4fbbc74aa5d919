"""A model without anything that tells where it comes from: names, texts, metadata."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TypeVar

import numpy as np
import onnx
from google.protobuf.message import Message
from onnx import (
    AttributeProto,
    FunctionProto,
    GraphProto,
    ModelProto,
    NodeProto,
    OperatorSetIdProto,
    TensorProto,
    TensorShapeProto,
    ValueInfoProto,
    helper,
    numpy_helper,
)

from onnxheadprune.model.constants import STORED, is_constant

PUBLIC_DOMAINS = frozenset(
    {
        "",
        "ai.onnx",
        "ai.onnx.ml",
        "ai.onnx.preview",
        "ai.onnx.preview.training",
        "ai.onnx.training",
        "com.microsoft",
        "com.microsoft.experimental",
        "com.microsoft.nchwc",
        "com.ms.internal.nhwc",
    }
)
"""Domains whose operators everybody knows."""
_KEYWORDS = frozenset(
    "activation activations approximate auto_pad coordinate_transformation_mode direction equation"
    " keep_aspect_ratio_policy layout mode nearest_mode padding_mode reduction".split()
)
"""Attributes of public operators that hold a word of the standard; any other text may be a user's."""
_TOLD = (
    "doc_string",
    "metadata_props",
    "denotation",
    "quantization_annotation",
    "producer_name",
    "producer_version",
    "model_version",
    "training_info",
    "configuration",
    "device_configurations",
)
"""Fields, of whichever message, that no computation reads."""
_IDENTIFIER = re.compile(r"[A-Za-z_][\w.]*")
_EXPRESSION = re.compile(r"[\w.\s+*/()-]*")
Found = TypeVar("Found", bound=Message)


def stripped(model: ModelProto) -> ModelProto:
    """A copy without metadata, documentation and other fields that no computation reads."""
    made = ModelProto()
    made.CopyFrom(model)
    made.ClearField("domain")
    for message in _messages(made):
        for field in _TOLD:
            if field in message.DESCRIPTOR.fields_by_name:
                message.ClearField(field)
    return made


def renamed(model: ModelProto) -> ModelProto:
    """A copy in which names are numbers, and texts that may be a user's are gone.

    Operators of public domains keep their names, and words of the standard stay ("linear", an equation of
    Einsum). A name that two things share is shared still, so the model computes the same.
    """
    made = ModelProto()
    made.CopyFrom(model)
    _Renaming(made).carry_out()
    return made


def names_in(model: ModelProto) -> set[str]:
    """All names that a sentence about a model may use."""
    return {name for kind in _Renaming(model).names().values() for name in kind}


class _Renaming:
    """New names for what a model calls its parts, kind by kind."""

    def __init__(self, model: ModelProto) -> None:
        self.model = model
        self.new: dict[str, dict[str, str]] = {}
        self.own = {(function.domain, function.name) for function in model.functions}

    def name(self, kind: str, old: str) -> str:
        """The new name for an old one; what has none gets none."""
        known = self.new.setdefault(kind, {})
        return known.setdefault(old, f"{kind}{len(known)}") if old else ""

    def names(self) -> dict[str, dict[str, str]]:
        """The renaming of a copy, which is thrown away."""
        copy = ModelProto()
        copy.CopyFrom(self.model)
        self.model = copy
        self.carry_out()
        return self.new

    def carry_out(self) -> None:
        """Renames everything, in the model itself."""
        for node in list(_those(self.model, NodeProto)):
            _as_tensor(node)
        # Domains are asked of nodes and functions, so they are renamed last.
        for node in list(_those(self.model, NodeProto)):
            self._node(node)
        for info in list(_those(self.model, ValueInfoProto)):
            info.name = self.name("v", info.name)
        for tensor in list(_those(self.model, TensorProto)):
            if tensor.name:
                tensor.name = self.name("v", tensor.name)
        for dim in list(_those(self.model, TensorShapeProto.Dimension)):
            if dim.dim_param:
                dim.dim_param = self._dimension(dim.dim_param)
        for graph in list(_those(self.model, GraphProto)):
            graph.name = "graph"
        for function in self.model.functions:
            self._function(function)
        for opset in list(_those(self.model, OperatorSetIdProto)):
            opset.domain = self._domain(opset.domain)

    def _domain(self, domain: str) -> str:
        return domain if domain in PUBLIC_DOMAINS else self.name("domain", domain)

    def _dimension(self, spelled: str) -> str:
        """Factors and terms of an expression are renamed one by one, since they are read ("4*batch")."""
        if _EXPRESSION.fullmatch(spelled):
            return _IDENTIFIER.sub(lambda match: self.name("d", match[0]), spelled)
        return self.name("d", spelled)

    def _is_public(self, node: NodeProto) -> bool:
        if node.domain not in PUBLIC_DOMAINS or (node.domain, node.op_type) in self.own:
            return False
        return node.domain not in ("", "ai.onnx") or onnx.defs.has(node.op_type)

    def _node(self, node: NodeProto) -> None:
        public = self._is_public(node)
        for attribute in node.attribute:
            self._attribute(attribute, public)
        # A field that is not there stays so: errors of onnx tell a node without a name from one whose name is empty.
        if node.name:
            node.name = self.name("n", node.name)
        if not public:
            node.op_type = self.name("Op", node.op_type)
        if node.overload:
            node.overload = self.name("overload", node.overload)
        if node.domain:
            node.domain = self._domain(node.domain)
        for names in (node.input, node.output):
            names[:] = [self.name("v", name) for name in names]

    def _attribute(self, attribute: AttributeProto, public: bool) -> None:
        if attribute.ref_attr_name:
            attribute.ref_attr_name = self.name("a", attribute.ref_attr_name)
        if not public or attribute.name not in _KEYWORDS:
            if attribute.s:
                attribute.s = b"text"
            attribute.strings[:] = [b"text"] * len(attribute.strings)
        if not public:
            attribute.name = self.name("a", attribute.name)
            if attribute.type == AttributeProto.FLOAT:
                attribute.f = 1.0
            attribute.floats[:] = [1.0] * len(attribute.floats)

    def _function(self, function: FunctionProto) -> None:
        function.name = self.name("Op", function.name)
        function.overload = self.name("overload", function.overload)
        function.domain = self._domain(function.domain)
        for names in (function.input, function.output):
            names[:] = [self.name("v", name) for name in names]
        function.attribute[:] = [self.name("a", name) for name in function.attribute]
        for attribute in function.attribute_proto:
            self._attribute(attribute, public=False)


def _as_tensor(node: NodeProto) -> None:
    """Lets a Constant that holds bare numbers or texts hold a tensor of them, as all others are."""
    if not is_constant(node) or not node.attribute:
        return
    (attribute,) = node.attribute[:1]
    if attribute.ref_attr_name:
        return
    if attribute.name in ("value_string", "value_strings"):
        texts = [attribute.s] if attribute.name == "value_string" else list(attribute.strings)
        dims = [] if attribute.name == "value_string" else [len(texts)]
        tensor = TensorProto(data_type=TensorProto.STRING, dims=dims, string_data=texts)
    elif attribute.name in ("value_float", "value_floats"):
        numbers = attribute.f if attribute.name == "value_float" else list(attribute.floats)
        tensor = numpy_helper.from_array(np.asarray(numbers, np.float32))
    elif attribute.name == "value_ints":
        tensor = numpy_helper.from_array(np.asarray(attribute.ints, np.int64))
    else:
        return
    attribute.CopyFrom(helper.make_attribute(STORED, tensor))


def _messages(message: Message) -> Iterator[Message]:
    """A message and all messages in it."""
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for item in [value] if isinstance(value, Message) else value:
                yield from _messages(item)


def _those(message: Message, kind: type[Found]) -> Iterator[Found]:
    """All messages of a kind in a message."""
    return (item for item in _messages(message) if isinstance(item, kind))
