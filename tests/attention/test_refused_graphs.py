"""One small graph per reason why a block cannot lose heads, and what stays exact in spite of an unknown operator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from onnxheadprune import plan_pruning
from onnxheadprune.attention.planning import analyse
from onnxheadprune.attention.sites.find import inspect
from onnxheadprune.errors import RefusedError
from onnxheadprune.liveness.refusals import Reason
from tests.attention.block_graph import Net
from tests.attention.blueprint import PLAIN
from tests.attention.cuts import check_exact
from tests.attention.net_parts import WIDTH, B, D, H, S, talk
from tests.liveness.masks import Array

Step: TypeAlias = Callable[[Net, Any], Any]


def same(net: Net, data: Any) -> Any:
    return data


@dataclass
class Steps:
    """What happens to the flat query, the flat value, the scores, the weights and the flat context."""

    query: Step = same
    value: Step = same
    scores: Step = same
    softmax_axis: int = -1
    weights: Step = same
    context: Step = same
    projected: bool = True
    extra_outputs: list[str] = field(default_factory=list)


def attention(steps: Steps) -> tuple[ModelProto, dict[str, Array]]:
    net = Net(PLAIN)
    x = net.input("x", (B, S, WIDTH), "---")
    flat = [net.op("MatMul", x, net.weight(name, WIDTH, H * D)) for name in "qkv"]
    flat[0], flat[2] = steps.query(net, flat[0]), steps.value(net, flat[2])
    q, k, v = (
        net.op("Transpose", net.op("Reshape", f, net.ints(0, 0, H, D)), perm=[0, 2, 1, 3]) for f in flat
    )
    scores = steps.scores(net, net.op("MatMul", q, net.op("Transpose", k, perm=[0, 1, 3, 2])))
    weights = steps.weights(net, net.op("Softmax", scores, axis=steps.softmax_axis))
    context = net.op("Transpose", net.op("MatMul", weights, v), perm=[0, 2, 1, 3])
    merged = steps.context(net, net.op("Reshape", context, net.ints(0, 0, H * D)))
    result = net.op("MatMul", merged, net.weight("o", H * D, WIDTH)) if steps.projected else merged
    extra = [merged] if steps.extra_outputs else []
    return net.export([result, *extra]), net.feed


def layer_norm(net: Net, data: Any) -> Any:
    return net.op("LayerNormalization", data, net.weight("gain", H * D), axis=-1)


def rms_norm(net: Net, data: Any) -> Any:
    mean = net.op("ReduceMean", net.op("Mul", data, data), axes=[-1], keepdims=1)
    root = net.op("Sqrt", net.op("Add", mean, net.stored("eps", np.array(1e-6, np.float32))))
    return net.op("Mul", net.op("Div", data, root), net.weight("gain", H * D))


def unknown(net: Net, data: Any) -> Any:
    """An operator without a rule, on [b, s, H * D]."""
    return net.op("ReverseSequence", data, net.ints(*[S] * B), batch_axis=0, time_axis=1)


REFUSED: dict[str, tuple[Steps, Reason]] = {
    "layer norm over the context": (Steps(context=layer_norm), Reason.COUPLED),
    "decomposed rms norm over the context": (Steps(context=rms_norm), Reason.COUPLED),
    "layer norm over all query heads": (Steps(query=layer_norm), Reason.COUPLED),
    "decomposed rms norm over all query heads": (Steps(query=rms_norm), Reason.COUPLED),
    "softmax over heads": (Steps(softmax_axis=1), Reason.COUPLED),
    "talking heads before the softmax": (Steps(scores=talk), Reason.COUPLED),
    "talking heads after the softmax": (Steps(weights=talk), Reason.COUPLED),
    "context is also a graph output": (Steps(extra_outputs=["context"]), Reason.NO_PROJECTION),
}


@pytest.mark.parametrize("name", REFUSED)
def test_site_is_refused(name: str) -> None:
    steps, reason = REFUSED[name]
    model, _ = attention(steps)
    sites = inspect(model)
    reasons = [site.reason for site in sites] or [miss.reason for miss in sites.near_misses]
    assert [refusal.reason for refusal in reasons if refusal] == [reason]
    with pytest.raises(RefusedError):
        plan_pruning(model, heads={0: [1]})


def test_no_output_projection_is_a_near_miss() -> None:
    model, _ = attention(Steps(projected=False))
    sites = inspect(model)
    assert len(sites) == 0
    assert [miss.reason.reason for miss in sites.near_misses] == [Reason.NO_PROJECTION]


@pytest.mark.parametrize("where", ["none", "query", "value"])
def test_unknown_operator_costs_an_edge_gather_and_stays_exact(where: str) -> None:
    steps = {"none": Steps(), "query": Steps(query=unknown), "value": Steps(value=unknown)}[where]
    model, feed = attention(steps)
    assert [(site.num_heads, site.head_size, site.reason) for site in inspect(model)] == [(H, D, None)]
    planning = analyse(model, {0: [1, 2]}, where)
    assert len(planning.plan.edge_gathers) == (where != "none")
    check_exact(planning, model, feed)


def test_unknown_operator_before_the_projection_hides_the_heads() -> None:
    """Labels do not pass it, so nobody knows which rows of the projection belong to which head."""
    model, _ = attention(Steps(context=unknown))
    sites = inspect(model)
    assert len(sites) == 0
    assert len(sites.near_misses) == 1


def test_heads_along_a_symbolic_axis_are_not_taken_for_one_head() -> None:
    """`[heads * batch, S, D]` with the heads outside: pieces as long as another axis become columns."""
    net = Net(PLAIN)
    x = net.input("x", (B, S, WIDTH), "b--")
    flat = [net.op("MatMul", x, net.weight(name, WIDTH, H * D)) for name in "qkv"]
    q, k, v = (
        net.op(
            "Concat",
            *(net.op("Slice", f, net.ints(h * D), net.ints(h * D + D), net.ints(2)) for h in range(H)),
            axis=0,
        )
        for f in flat
    )
    weights = net.op("Softmax", net.op("MatMul", q, net.op("Transpose", k, perm=[0, 2, 1])), axis=-1)
    context = net.op("MatMul", weights, v)
    other = net.input("other", (B,), "p")
    bounds = [net.op("Mul", net.op("Shape", other, end=1), net.ints(h)) for h in range(H + 1)]
    pieces = [net.op("Slice", context, bounds[h], bounds[h + 1], net.ints(0)) for h in range(H)]
    merged = net.op("Concat", *pieces, axis=-1)
    sites = inspect(net.export([net.op("MatMul", merged, net.weight("o", H * D, WIDTH))]))
    assert [site.num_heads for site in sites] == []
    assert [miss.reason.reason for miss in sites.near_misses] == [Reason.INEXPRESSIBLE]


def test_packed_weights_that_no_head_fills_are_refused() -> None:
    """Blocks of 16 inputs share a scale, and a head has two."""
    net = Net(PLAIN)
    model, _ = attention(Steps())
    projection = model.graph.node[-1]
    del projection.input[1:], projection.attribute[:]
    projection.op_type, projection.domain = "MatMulNBits", "com.microsoft"
    weight = np.zeros((WIDTH, 1, 8), dtype=np.uint8)
    for name, array in (("packed", weight), ("scales", net.random(WIDTH))):
        model.graph.initializer.append(numpy_helper.from_array(array, name))
        projection.input.append(name)
    for name, value in {"K": H * D, "N": WIDTH, "bits": 4, "block_size": 16}.items():
        projection.attribute.append(helper.make_attribute(name, value))
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    sites = inspect(model)
    assert [site.reason.reason for site in sites if site.reason] == [Reason.OPAQUE_WEIGHTS]
    with pytest.raises(RefusedError):
        plan_pruning(model, heads={0: [1]})


def test_a_shape_that_the_caller_decides_costs_an_edge_gather() -> None:
    """The query takes the shape that an input names: nobody knows which axis is which."""
    shape = np.array([B, S, H * D], dtype=np.int64)

    def vague(net: Net, data: Any) -> Any:
        net.inputs.append(net.info("target", [3], TensorProto.INT64))
        net.feed["target"] = shape
        return net.op("Reshape", data, "target")

    model, feed = attention(Steps(query=vague))
    planning = analyse(model, {0: [1]}, "vague")
    assert len(planning.plan.edge_gathers) == 1
    check_exact(planning, model, feed)


def test_sizes_that_some_targets_spell_and_others_do_not() -> None:
    """Keys folded with a literal batch, values with one of unknown length: which rows are whose is not known."""
    net = Net(PLAIN)
    x = net.input("x", (B, S, WIDTH), "bs-")
    folded = [net.ints(B * H, S, D), net.ints(B * H, S, D), net.ints(-1, S, D)]
    q, k, v = (
        net.op(
            "Reshape",
            net.op(
                "Transpose",
                net.op("Reshape", net.op("MatMul", x, net.weight(name, WIDTH, H * D)), net.ints(0, 0, H, D)),
                perm=[0, 2, 1, 3],
            ),
            target,
        )
        for name, target in zip("qkv", folded, strict=True)
    )
    weights = net.op("Softmax", net.op("MatMul", q, net.op("Transpose", k, perm=[0, 2, 1])), axis=-1)
    context = net.op("Reshape", net.op("MatMul", weights, v), net.ints(B, H, S, D))
    merged = net.op("Reshape", net.op("Transpose", context, perm=[0, 2, 1, 3]), net.ints(0, 0, H * D))
    sites = inspect(net.export([net.op("MatMul", merged, net.weight("o", H * D, WIDTH))]))
    (miss,) = sites.near_misses
    assert not sites and "cannot be followed" in miss.reason.sentence
