"""By what a plan recognises the model that it was made for."""

from __future__ import annotations

import hashlib
from typing import Any

from onnx import AttributeProto, GraphProto, ModelProto


def fingerprint(model: ModelProto) -> str:
    """A hash of the graph's structure: operators, names and tensor shapes, not the weights."""
    digest = hashlib.sha256()
    _hash_graph(model.graph, digest)
    return digest.hexdigest()[:16]


def _hash_graph(graph: GraphProto, digest: Any) -> None:
    for tensor in graph.initializer:
        digest.update(f"{tensor.name}{tensor.data_type}{list(tensor.dims)}".encode())
    for node in graph.node:
        digest.update(f"{node.domain}{node.op_type}{list(node.input)}{list(node.output)}".encode())
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                _hash_graph(attribute.g, digest)
