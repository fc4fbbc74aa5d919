"""Gradients of exported encoders and decoders, decomposed and fused: PyTorch's, within 1e-4 of the largest."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

pytest.importorskip("torch")

from onnxheadprune.choosing.gradients.differentiate import differentiate
from onnxheadprune.fusion.fuse import fuse
from tests.liveness.one_node import run
from tests.zoo.conftest import Zoo, exported
from tests.zoo.runs import Array, Arrays

pytestmark = pytest.mark.samples

ENCODERS = ("bert", "distilbert", "roberta", "vit", "deit", "whisper-encoder")
DECODERS = ("gpt2", "llama-gqa", "t5", "bart", "whisper-decoder")
PLAIN = ("ts17", "dyn18")
FUSED = ("ts17+ort-extended", "ts17 contrib", "dyn18 contrib", "dyn18 onnx")
TOLERANCE = 1e-4
LOSS = "loss"
NEGLIGIBLE = 1e-3
"""Of the largest gradient of all: what is smaller than this is compared at this scale. A key's bias has none at all."""


@pytest.mark.each_choice
@pytest.mark.parametrize("variant", [*PLAIN, *FUSED])
@pytest.mark.parametrize("case", [*ENCODERS, *DECODERS])
def test_gradients_are_those_of_torch(zoo: Zoo, case: str, variant: str, pytestconfig: pytest.Config) -> None:
    """Of a random weighted sum of all outputs, by each stored tensor that is a parameter."""
    export, _, mode = variant.partition(" ")
    original = zoo(case)
    model = onnx.load(exported(original, export, pytestconfig))
    if mode == "contrib" or mode == "onnx":
        model, fusion = fuse(model, mode)
        assert fusion.made
    weights, wanted = by_torch(original)
    stored = {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in model.graph.initializer
        if tensor.data_type == TensorProto.FLOAT and np.prod(tensor.dims) > 1
    }
    made = differentiate(with_loss(model, weights), LOSS, list(stored))
    assert not made.constant
    values = original.case.arrays(0) | stored
    outputs = run(made.model, {item.name: values[item.name] for item in made.model.graph.input})
    parameters = {name: item.detach().numpy() for name, item in original.module.named_parameters()}
    largest = max(float(np.abs(grad).max(initial=0.0)) for grad in wanted.values())
    errors, seen = {}, set()
    for name, array in stored.items():
        owners = {
            key: order for key, item in parameters.items() if (order := order_of(item, array)) is not None
        }
        seen |= owners.keys()
        # Tied weights that the exporter stores twice share PyTorch's gradient.
        told = [
            wanted[key].transpose(owners[key]).reshape(array.shape) for key in owners.keys() & wanted.keys()
        ]
        if told:
            got = outputs[made.outputs[name]] if name in made.outputs else np.zeros_like(array)
            scale = max(float(np.abs(told[0]).max()), NEGLIGIBLE * largest)
            errors[name] = min(float(np.abs(got - item).max()) / scale for item in told)
    assert errors, "no weight was recognised"
    assert not {key for key, grad in wanted.items() if key not in seen and np.abs(grad).max() > 0}
    assert not {weight: error for weight, error in errors.items() if not error <= TOLERANCE}


def by_torch(original: Any) -> tuple[Arrays, Arrays]:
    """Return the weights of the outputs in the loss, and PyTorch's gradients per parameter."""
    import torch

    module, case = original.module, original.case
    module.requires_grad_(True).zero_grad(set_to_none=True)
    outputs = module(*(tensor.clone() for tensor in case.feeds[0].values()))
    outputs = dict(zip(case.outputs, outputs if isinstance(outputs, tuple) else (outputs,), strict=True))
    rng = np.random.default_rng(0)
    weights = {name: rng.normal(size=tuple(item.shape)).astype(np.float32) for name, item in outputs.items()}
    terms = [(item * torch.from_numpy(weights[name])).sum() for name, item in outputs.items()]
    torch.stack(terms).sum().backward()  # type: ignore[no-untyped-call]
    grads = {
        name: item.grad.numpy().copy() for name, item in module.named_parameters() if item.grad is not None
    }
    module.requires_grad_(False)
    return weights, grads


def with_loss(model: ModelProto, weights: Arrays) -> ModelProto:
    """Return a copy with the weighted sum of its outputs."""
    made = ModelProto()
    made.CopyFrom(model)
    for name, weight in weights.items():
        made.graph.initializer.append(numpy_helper.from_array(weight, f"{name}_weight"))
        made.graph.node.append(helper.make_node("Mul", [name, f"{name}_weight"], [f"{name}_weighted"]))
        made.graph.node.append(
            helper.make_node("ReduceSum", [f"{name}_weighted"], [f"{name}_sum"], keepdims=0)
        )
    made.graph.node.append(helper.make_node("Sum", [f"{name}_sum" for name in weights], [LOSS]))
    return made


def order_of(parameter: Array, array: Array) -> tuple[int, ...] | None:
    """Return how the axes of a parameter are ordered in a stored tensor; None if it is another one."""
    straight = tuple(range(parameter.ndim))
    for order in (straight, straight[::-1]):
        if parameter.size == array.size and np.array_equal(parameter.transpose(order).ravel(), array.ravel()):
            return order
    return None
