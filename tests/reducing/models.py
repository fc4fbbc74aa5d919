"""Models that something is wrong with, full of names and numbers that must not be told."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from onnxheadprune.cli.attempting import attempt
from onnxheadprune.model.storage.tensors import tensors_of
from onnxheadprune.workflow.reducing.ending import Ending
from onnxheadprune.workflow.reducing.running import runs
from tests.toys import Toy

HEADS, HEAD_SIZE, HIDDEN = 6, 8, 48
SECRET = "acme"
"""In every name and text of the models."""


class InProcess:
    """Runs command lines without a process of its own, for tests of what is searched."""

    def __init__(self) -> None:
        self.renewed = 0

    def run(self, arguments: tuple[str, ...]) -> Ending:
        return attempt(arguments)

    def runs(self, model: str) -> bool:
        return runs(model)

    def renew(self) -> None:
        self.renewed += 1


def stack(layers: int = 3, *, mixing: int | None = 1, projected: bool = True) -> ModelProto:
    """Self-attention blocks one after the other.

    Args:
        layers: how many.
        mixing: the block whose context a normalisation over all heads goes across.
        projected: whether contexts go through a projection; if not, no block has a site.
    """
    toy, stream, width = Toy(), f"{SECRET}.tokens", HEADS * HEAD_SIZE
    split = toy.constant(f"{SECRET}.split", np.array([0, 0, HEADS, HEAD_SIZE]))
    merge = toy.constant(f"{SECRET}.merge", np.array([0, 0, width]))
    for layer in range(layers):
        path = f"{SECRET}.layer.{layer}"
        for name in "qkv":
            product = toy.node(
                "MatMul", [stream, toy.weight(f"{path}.{name}", HIDDEN, width)], f"{path}.{name}_x"
            )
            biased = toy.node("Add", [product, toy.weight(f"{path}.{name}.bias", width)], f"{path}.{name}_y")
            toy.node("Reshape", [biased, split], f"{path}.{name}_z")
            perm = [0, 2, 3, 1] if name == "k" else [0, 2, 1, 3]
            toy.node("Transpose", [f"{path}.{name}_z"], f"{path}.{name}_heads", perm=perm)
        scores = toy.node("MatMul", [f"{path}.q_heads", f"{path}.k_heads"], f"{path}.scores")
        scale = toy.constant(f"{path}.scale", np.float32(0.3141592))
        scores = toy.node("Mul", [scores, scale], f"{path}.scaled")
        weights = toy.node("Softmax", [scores], f"{path}.weights", axis=-1)
        context = toy.node("MatMul", [weights, f"{path}.v_heads"], f"{path}.context")
        context = toy.node("Transpose", [context], f"{path}.back", perm=[0, 2, 1, 3])
        context = toy.node("Reshape", [context, merge], f"{path}.merged")
        if layer == mixing:
            scales = [toy.weight(f"{path}.norm", width), toy.weight(f"{path}.norm.bias", width)]
            context = toy.node("LayerNormalization", [context, *scales], f"{path}.normed", axis=-1)
        if projected:
            context = toy.node(
                "MatMul", [context, toy.weight(f"{path}.out", width, HIDDEN)], f"{path}.projected"
            )
        stream = toy.node("Add", [stream, context], f"{path}.stream")
    shape = [f"{SECRET}_batch", f"{SECRET}_length", HIDDEN]
    model = toy.model([toy.info(f"{SECRET}.tokens", shape)], [toy.info(stream, shape)])
    told(model)
    return model


def told(model: ModelProto) -> None:
    """Writes the secret wherever a model has room for text."""
    model.doc_string = model.graph.doc_string = model.producer_name = f"{SECRET}, confidential"
    model.domain = model.graph.name = f"com.{SECRET}"
    helper.set_model_props(model, {f"{SECRET}.key": f"{SECRET} value"})
    for node in model.graph.node:
        node.name, node.doc_string = f"{SECRET}/{node.output[0]}", f"{SECRET}.py"
        node.metadata_props.add(key="source", value=SECRET)
    for tensor in model.graph.initializer:
        tensor.doc_string = SECRET


def numbers_of(model: ModelProto) -> Iterator[float]:
    """All real numbers that a model stores."""
    for tensor, _ in tensors_of(model):
        if tensor.data_type == TensorProto.FLOAT:
            yield from numpy_helper.to_array(tensor).reshape(-1).tolist()
