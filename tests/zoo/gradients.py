"""Gradients of a graph beside PyTorch's own, of the same loss on the same inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper
from torch import nn

from onnxheadprune.choosing.gradients.differentiate import differentiate
from tests.zoo.case import Case

Arrays = dict[str, npt.NDArray[np.float32]]
LOSS = "loss"
NEGLIGIBLE = 1e-3
"""Of the largest gradient of all: what is smaller than this is compared at this scale. A key's bias has none at all."""


@dataclass(frozen=True)
class Comparison:
    """Gradients of a graph beside PyTorch's.

    Attributes:
        errors: per initializer that is a parameter the largest difference, relative to the tensor's largest gradient.
        missing: parameters of the module that have a gradient and are no initializer of the graph as they are.
        constant: what the graph's gradient holds constant.
        unmatched: initializers of two axes that are no parameter.
    """

    errors: Mapping[str, float]
    missing: tuple[str, ...]
    constant: Mapping[str, str]
    unmatched: tuple[str, ...]


def compare(module: nn.Module, case: Case, model: ModelProto) -> Comparison:
    """Differentiates a random weighted sum of all outputs, in the graph and in PyTorch.

    Args:
        module: from which the graph was exported.
        case: its inputs and outputs.
        model: the graph, weights in float32.
    """
    feed = case.feeds[0]
    torch_grads, weights = _by_torch(module, case)
    lossy = _with_loss(model, weights)
    stored = {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in model.graph.initializer
        if tensor.data_type == TensorProto.FLOAT and np.prod(tensor.dims) > 1
    }
    grads = differentiate(lossy, LOSS, list(stored))
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(
        grads.model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    known = {item.name for item in session.get_inputs()}
    values = {name: tensor.numpy() for name, tensor in feed.items()} | stored
    names = list(grads.outputs)
    made = session.run(
        [LOSS, *(grads.outputs[name] for name in names)],
        {name: value for name, value in values.items() if name in known},
    )
    found = dict(zip(names, made[1:], strict=True))
    parameters = {name: item.detach().numpy() for name, item in module.named_parameters()}
    return _matched(stored, found, parameters, torch_grads, grads.constant)


def _by_torch(module: nn.Module, case: Case) -> tuple[Arrays, Arrays]:
    """Gradients per parameter, and the weights of the outputs in the loss."""
    module.requires_grad_(True)
    module.zero_grad(set_to_none=True)
    outputs = module(*(case.feeds[0][name].clone() for name in case.inputs))
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    rng = np.random.default_rng(0)
    weights = {
        name: rng.normal(size=tuple(output.shape)).astype(np.float32)
        for name, output in zip(case.outputs, outputs, strict=True)
        if output.is_floating_point()
    }
    terms = [
        (out * torch.from_numpy(weights[name])).sum() for name, out in zip(case.outputs, outputs, strict=True)
    ]
    torch.stack(terms).sum().backward()  # type: ignore[no-untyped-call]
    grads = {n: p.grad.numpy().copy() for n, p in module.named_parameters() if p.grad is not None}
    module.requires_grad_(False)
    return grads, weights


def _with_loss(model: ModelProto, weights: Arrays) -> ModelProto:
    made = ModelProto()
    made.CopyFrom(model)
    graph = made.graph
    for name, weight in weights.items():
        graph.initializer.append(numpy_helper.from_array(weight, f"{name}_weight"))
        graph.node.append(helper.make_node("Mul", [name, f"{name}_weight"], [f"{name}_weighted"]))
        graph.node.append(helper.make_node("ReduceSum", [f"{name}_weighted"], [f"{name}_sum"], keepdims=0))
    graph.node.append(helper.make_node("Sum", [f"{name}_sum" for name in weights], [LOSS]))
    return made


def _matched(
    stored: Arrays, found: Arrays, parameters: Arrays, wanted: Arrays, constant: Mapping[str, str]
) -> Comparison:
    largest = max(float(np.abs(grad).max(initial=0.0)) for grad in wanted.values())
    errors: dict[str, float] = {}
    seen: set[str] = set()
    unmatched: list[str] = []
    for name, array in stored.items():
        owners = [
            (key, order) for key, order in ((k, _order(p, array)) for k, p in parameters.items()) if order
        ]
        if not owners:
            unmatched += [name] if array.ndim > 1 else []
            continue
        seen.update(key for key, _ in owners)
        # Tied weights that the exporter stores twice share PyTorch's gradient.
        told = [wanted[key].transpose(order).reshape(array.shape) for key, order in owners if key in wanted]
        if not told:
            continue
        got = found.get(name, np.zeros_like(array))
        scale = max(float(np.abs(told[0]).max()), NEGLIGIBLE * largest)
        errors[name] = min(float(np.abs(got - item).max()) / scale for item in told)
    missing = tuple(key for key, grad in wanted.items() if key not in seen and np.abs(grad).max() > 0)
    return Comparison(errors, missing, constant, tuple(unmatched))


def _order(parameter: npt.NDArray[np.float32], array: npt.NDArray[np.float32]) -> tuple[int, ...] | None:
    """How the axes of a parameter are ordered in a stored tensor; None if it is another one."""
    if parameter.size != array.size:
        return None
    straight, turned = tuple(range(parameter.ndim)), tuple(reversed(range(parameter.ndim)))
    for order in (straight, turned):
        if np.array_equal(parameter.transpose(order).reshape(-1), array.reshape(-1)):
            return order
    return None
