"""One node in float64, its gradients, and what central differences say about them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnxruntime
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnxruntime.capi.onnxruntime_pybind11_state import Fail
from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented as NoKernel

from onnxheadprune.choosing.gradients.differentiate import Gradient, differentiate
from tests.gradients.foreign import FOREIGN
from tests.liveness.masks import Array
from tests.liveness.one_node import Case, onnx_type, run

STEP = 1e-5
TOLERANCE = 1e-4
LOSS = "loss"


@dataclass(frozen=True)
class Outcome:
    """What a case gave.

    Attributes:
        checked: inputs whose gradients equal central differences.
        constant: what was held, by input.
    """

    checked: frozenset[int]
    constant: Mapping[str, str]


def check(case: Case, open_axes: bool, seed: int) -> Outcome:
    """Compares the gradients of a random sum of a node's outputs with central differences along random directions.

    Args:
        case: the node.
        open_axes: declare first axes, and axes of size 1, by name.
        seed: of the sum and the directions.
    """
    rng = np.random.default_rng(seed)
    given = {f"x{i}": array for i, array in enumerate(case.inputs) if array is not None}
    real = {name: array for name, array in given.items() if array.dtype == np.float32}
    want = _outputs(case)
    factors = {
        name: rng.normal(size=array.shape) for name, array in want.items() if array.dtype == np.float32
    }
    if not factors:
        return Outcome(frozenset(), {})
    model = _model(case, given, factors, open_axes)
    grads = differentiate(model, LOSS, list(real))
    if not grads.outputs:
        return Outcome(frozenset(), grads.constant)
    feed: dict[str, Array] = {name: array.astype(np.float64) for name, array in real.items()}
    feed |= {
        name: array for name, array in given.items() if name not in real and int(name[1:]) not in case.fixed
    }
    feed |= {f"{name}_shape": np.array(array.shape, np.int64) for name, array in real.items()}
    evaluate = evaluator(grads.model, feed)
    expected = sum(float((want[name] * factor).sum()) for name, factor in factors.items())
    loss = _scalar(evaluate(feed)[LOSS])
    size = sum(float(np.abs(want[name] * factor).sum()) for name, factor in factors.items())
    # Where a group has one element, a normalization in float32 multiplies its rounding by 1 / sqrt(epsilon).
    assert abs(loss - expected) <= 2e-4 * max(size, 1.0), "the forward graph is another function"
    compare(grads, evaluate, feed, rng)
    return Outcome(frozenset(int(name[1:]) for name in grads.outputs), grads.constant)


def compare(
    grads: Gradient,
    evaluate: Callable[[Mapping[str, Array]], Mapping[str, Array]],
    feed: Mapping[str, Array],
    rng: np.random.Generator,
) -> None:
    """Directional derivatives of the loss against products with the gradients."""
    values = evaluate(feed)
    for name, output in grads.outputs.items():
        grad = values[output]
        assert np.shape(grad) == feed[name].shape, f"the gradient of {name} has another shape"
        direction = rng.normal(size=np.shape(grad))
        ahead, behind = (
            _scalar(evaluate({**feed, name: feed[name] + sign * STEP * direction})[LOSS]) for sign in (1, -1)
        )
        told = (ahead - behind) / (2 * STEP)
        size = float(np.sqrt((grad**2).sum() * np.sum(direction**2)))
        assert abs(told - float((grad * direction).sum())) <= TOLERANCE * max(size, 1e-3), (
            f"the gradient of {name}"
        )


def _scalar(array: Array) -> float:
    return float(np.asarray(array).reshape(-1)[0])


def _outputs(case: Case) -> dict[str, Array]:
    """The outputs of the node itself, in float32 by ONNX Runtime."""
    inputs = [
        helper.make_tensor_value_info(f"x{i}", onnx_type(array), array.shape)
        for i, array in enumerate(case.inputs)
        if array is not None
    ]
    outputs = [helper.make_tensor_value_info(name, kind, None) for name, kind in _declared(case)]
    graph = helper.make_graph([_node(case)], "node", inputs, outputs)
    feed = {f"x{i}": array for i, array in enumerate(case.inputs) if array is not None}
    model = helper.make_model(graph, opset_imports=_imports(case), ir_version=10)
    return run(model, feed)


def _declared(case: Case) -> list[tuple[str, int]]:
    first = next(array for array in case.inputs if array is not None)
    types = case.types or (onnx_type(first),)
    return [(f"y{index}", kind) for index, kind in enumerate(types)]


def _node(case: Case) -> object:
    names = ["" if array is None else f"x{i}" for i, array in enumerate(case.inputs)]
    outputs = [name for name, _ in _declared(case)]
    return helper.make_node(case.op_type, names, outputs, domain=case.domain, **case.attributes)


def _imports(case: Case) -> list[object]:
    return [helper.make_opsetid("", case.opset), helper.make_opsetid("com.microsoft", 1)]


def _model(
    case: Case, given: Mapping[str, Array], factors: Mapping[str, Array], open_axes: bool
) -> ModelProto:
    """The node in float64 with a loss; real inputs are initializers, maybe behind a Reshape that hides their sizes."""
    inputs, stored, before, infos = [], [], [], []
    node = _node(case)
    for index, name in enumerate(node.input):
        if not name:
            continue
        array = given[name]
        if array.dtype == np.float32:
            array = array.astype(np.float64)
        elif index not in case.fixed:
            inputs.append(helper.make_tensor_value_info(name, onnx_type(array), array.shape))
            continue
        stored.append(numpy_helper.from_array(array, name))
        if open_axes and array.dtype == np.float64 and index not in case.fixed:
            node.input[index] = f"{name}_open"
            inputs.append(helper.make_tensor_value_info(f"{name}_shape", TensorProto.INT64, [array.ndim]))
            before.append(helper.make_node("Reshape", [name, f"{name}_shape"], [f"{name}_open"]))
            dims = [
                f"{name}.{axis}" if size == 1 or not axis else size for axis, size in enumerate(array.shape)
            ]
            infos.append(helper.make_tensor_value_info(f"{name}_open", TensorProto.DOUBLE, dims))
    for attribute in node.attribute:
        if attribute.name == "to" and attribute.i == TensorProto.FLOAT:
            attribute.i = TensorProto.DOUBLE
    after = []
    for name, factor in factors.items():
        stored.append(numpy_helper.from_array(factor, f"{name}_factor"))
        after += [
            helper.make_node("Cast", [name], [f"{name}_real"], to=TensorProto.DOUBLE),
            helper.make_node("Mul", [f"{name}_real", f"{name}_factor"], [f"{name}_weighted"]),
            helper.make_node("ReduceSum", [f"{name}_weighted"], [f"{name}_sum"], keepdims=0),
        ]
    after.append(helper.make_node("Sum", [f"{name}_sum" for name in factors], [LOSS]))
    output = helper.make_tensor_value_info(LOSS, TensorProto.DOUBLE, [])
    graph = helper.make_graph([*before, node, *after], "node", inputs, [output], stored, value_info=infos)
    return helper.make_model(graph, opset_imports=_imports(case), ir_version=10)


def evaluator(
    model: ModelProto, feed: Mapping[str, Array]
) -> Callable[[Mapping[str, Array]], dict[str, Array]]:
    """Runs a float64 model: ONNX Runtime where it has the kernels, otherwise onnx's reference implementation."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    names = [output.name for output in model.graph.output]
    inputs = {info.name for info in model.graph.input}

    def own(values: Mapping[str, Array]) -> dict[str, Array]:
        return {name: np.asarray(value) for name, value in values.items() if name in inputs}

    try:
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        return lambda values: dict(zip(names, session.run(names, own(values)), strict=True))
    except (NoKernel, Fail):
        # No kernel for float64, or a function in its place whose causal mask is float32 (Attention).
        reference = ReferenceEvaluator(model, new_ops=FOREIGN)
        return lambda values: dict(zip(names, reference.run(names, own(values)), strict=True))
