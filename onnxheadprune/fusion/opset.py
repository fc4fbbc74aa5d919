"""Raising a model's opset to the one that has `Attention`, and importing ONNX Runtime's domain."""

from __future__ import annotations

import onnx
from onnx import ModelProto, helper

from onnxheadprune.errors import RefusedError
from onnxheadprune.model_io import INLINE_LIMIT, stored_bytes

ATTENTION_OPSET = 23
ATTENTION_IR = 11


def opset_of(model: ModelProto) -> int:
    """The version of the standard operators that a model uses."""
    return next((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), 0)


def raised(model: ModelProto, name: str) -> ModelProto:
    """The model at the first opset that has `Attention`.

    `onnx.version_converter` rewrites operators whose definition changed, each into an equal one. What it
    leaves out of the file (metadata, names of dimensions) is put back.

    Raises:
        RefusedError: if it cannot, with its reason.
    """
    foreign = sorted({item.domain for item in model.opset_import} - {"", "ai.onnx"})
    if any(node.domain in foreign for node in model.graph.node):
        raise RefusedError(_sentence(model, name, f"it uses operators of {', '.join(foreign)}"))
    if stored_bytes(model) > INLINE_LIMIT:
        raise RefusedError(_sentence(model, name, "it is larger than 2 GiB"))
    try:
        converted = onnx.version_converter.convert_version(model, ATTENTION_OPSET)
    except Exception as error:  # the converter raises plain RuntimeErrors, and protobuf its own
        reason = str(error).strip().splitlines()
        raise RefusedError(_sentence(model, name, reason[0] if reason else type(error).__name__)) from error
    converted.ir_version = max(converted.ir_version, ATTENTION_IR)
    del converted.metadata_props[:]
    converted.metadata_props.extend(model.metadata_props)
    del converted.graph.metadata_props[:]
    converted.graph.metadata_props.extend(model.graph.metadata_props)
    for field in ("producer_name", "producer_version", "domain", "model_version", "doc_string"):
        setattr(converted, field, getattr(model, field))
    return converted


def _sentence(model: ModelProto, name: str, reason: str) -> str:
    return (
        f"{name} has opset {opset_of(model)}, Attention needs {ATTENTION_OPSET}, and the opset cannot be"
        f" raised: {reason}; use --fuse contrib"
    )


def import_microsoft(model: ModelProto) -> None:
    """Declares the domain of ONNX Runtime's own operators."""
    if all(item.domain != "com.microsoft" for item in model.opset_import):
        model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
