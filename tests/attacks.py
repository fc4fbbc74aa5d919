"""Pruned models that were tampered with, each in one way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from onnxheadprune import Validation, apply_plan, plan_pruning, validate
from tests.graphs import toys

Attack = Callable[[ModelProto], None]


def text_model() -> ModelProto:
    """Ids and a mask into one attention block: embed, mask the scores, attend, project."""
    model = toys.attention(ids=True)
    graph = model.graph
    mask = helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ["batch", "sequence"])
    graph.input.append(mask)
    add = [
        ("one", np.array(1.0, dtype=np.float32)),
        ("far", np.array(-1e4, dtype=np.float32)),
        ("axes", np.array([1, 2])),
    ]
    graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in add)
    steps = [
        helper.make_node("Cast", ["attention_mask"], ["mask_float"], name="mask_cast", to=TensorProto.FLOAT),
        helper.make_node("Sub", ["one", "mask_float"], ["mask_inverse"], name="mask_inverse"),
        helper.make_node("Mul", ["mask_inverse", "far"], ["mask_far"], name="mask_far"),
        helper.make_node("Unsqueeze", ["mask_far", "axes"], ["mask_bias"], name="mask_bias"),
        helper.make_node("Add", ["scores", "mask_bias"], ["scores_masked"], name="scores_masked"),
    ]
    softmax = next(i for i, node in enumerate(graph.node) if node.op_type == "Softmax")
    graph.node[softmax].input[0] = "scores_masked"
    for step in reversed(steps):
        graph.node.insert(softmax, step)
    return model


def pruned(model: ModelProto, heads: Any = "0:1") -> ModelProto:
    """A right cut."""
    return apply_plan(plan_pruning(model, heads=heads), model)


def node(model: ModelProto, op_type: str) -> Any:
    """The first node of a kind."""
    return next(item for item in model.graph.node if item.op_type == op_type)


def add_constant(model: ModelProto, name: str, value: Any) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))


def behind(model: ModelProto, value: str, *steps: Any) -> None:
    """Puts nodes behind a value: they read `value/raw`, the last of them makes `value`."""
    for position, item in enumerate(model.graph.node):
        if value in item.output:
            item.output[list(item.output).index(value)] = f"{value}/raw"
            for step in reversed(steps):
                model.graph.node.insert(position + 1, step)
            return
    raise KeyError(value)


def doubled_beyond(tokens: int) -> Attack:
    """The result is doubled for sequences that are longer than `tokens`."""

    def attack(model: ModelProto) -> None:
        add_constant(model, "evil/limit", np.array(tokens))
        add_constant(model, "evil/axis", np.array(1))
        add_constant(model, "evil/two", np.array(2.0, dtype=np.float32))
        add_constant(model, "evil/unit", np.array(1.0, dtype=np.float32))
        behind(
            model,
            "y",
            helper.make_node("Shape", ["y/raw"], ["evil/shape"]),
            helper.make_node("Gather", ["evil/shape", "evil/axis"], ["evil/length"]),
            helper.make_node("Greater", ["evil/length", "evil/limit"], ["evil/long"]),
            helper.make_node("Where", ["evil/long", "evil/two", "evil/unit"], ["evil/factor"]),
            helper.make_node("Mul", ["y/raw", "evil/factor"], ["y"]),
        )

    attack.__name__ = f"doubled_beyond_{tokens}"
    return attack


def first_token_never_masked(model: ModelProto) -> None:
    """Whatever the mask says, the first token is attended to."""
    add_constant(model, "evil/zero", np.array([0]))
    add_constant(model, "evil/first", np.array([1]))
    add_constant(model, "evil/end", np.array([2**62]))
    add_constant(model, "evil/axes", np.array([1]))
    behind(
        model,
        "mask_float",
        helper.make_node("Slice", ["mask_float/raw", "evil/first", "evil/end", "evil/axes"], ["evil/rest"]),
        helper.make_node("Slice", ["mask_float/raw", "evil/zero", "evil/first", "evil/axes"], ["evil/head"]),
        helper.make_node("Mul", ["evil/head", "far"], ["evil/none"]),
        helper.make_node("Exp", ["evil/none"], ["evil/small"]),
        helper.make_node("Add", ["evil/head", "evil/small"], ["evil/on"]),
        helper.make_node("Concat", ["evil/on", "evil/rest"], ["mask_float"], axis=1),
    )


def table_cut(model: ModelProto) -> None:
    """The embedding has 12 rows of 19, under another name; later ids read the last."""
    table = toys.get_initializer(model, "embed.weight")
    add_constant(model, "evil/table", table[:12])
    add_constant(model, "evil/last", np.array(11))
    gather = node(model, "Gather")
    gather.input[0], gather.input[1] = "evil/table", "evil/ids"
    model.graph.node.insert(0, helper.make_node("Min", ["input_ids", "evil/last"], ["evil/ids"]))
    drop(model, "embed.weight")


def table_renamed_and_one_row_changed(model: ModelProto) -> None:
    table = toys.get_initializer(model, "embed.weight")
    table[17] += 0.5
    add_constant(model, "evil/table", table)
    node(model, "Gather").input[0] = "evil/table"
    drop(model, "embed.weight")


def drop(model: ModelProto, name: str) -> None:
    kept = [item for item in model.graph.initializer if item.name != name]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)


def weight_corrupted(model: ModelProto) -> None:
    weight = toys.get_initializer(model, "attn.k.weight")
    weight[2, 1] += 0.25
    toys.set_initializer(model, "attn.k.weight", weight)


def weight_corrupted_and_renamed(model: ModelProto) -> None:
    weight_corrupted(model)
    rename(model, "attn.k.weight", "evil/weight")


def rename(model: ModelProto, old: str, new: str) -> None:
    """Another name for a value of the main graph."""
    for tensor in model.graph.initializer:
        tensor.name = new if tensor.name == old else tensor.name
    for item in model.graph.node:
        for names in (item.input, item.output):
            for index, name in enumerate(names):
                if name == old:
                    names[index] = new
    for info in model.graph.value_info:
        info.name = new if info.name == old else info.name


def unnamed(model: ModelProto) -> ModelProto:
    """The model with other names of all tensors, as other tools write it: numbers alone decide."""
    for position, tensor in enumerate(list(model.graph.initializer)):
        rename(model, tensor.name, f"tensor_{position}")
    return model


def inputs_swapped(model: ModelProto) -> None:
    """Queries and keys change places."""
    product = next(item for item in model.graph.node if "scores" in item.output)
    queries, keys = product.input
    product.input[0], product.input[1] = "k_heads", "evil/queries"
    position = list(model.graph.node).index(product)
    model.graph.node.insert(
        position, helper.make_node("Transpose", [queries], ["evil/queries"], perm=[0, 1, 3, 2])
    )
    assert keys


def type_changed(model: ModelProto) -> None:
    """A weight is stored in float16 under its old name, and cast back."""
    weight = toys.get_initializer(model, "attn.v.weight")
    rename(model, "attn.v.weight", "evil/weight")
    drop(model, "evil/weight")
    add_constant(model, "attn.v.weight", weight.astype(np.float16))
    model.graph.node.insert(
        0, helper.make_node("Cast", ["attn.v.weight"], ["evil/weight"], to=TensorProto.FLOAT)
    )


def residual_dropped(model: ModelProto) -> None:
    last = next(item for item in model.graph.node if "y" in item.output)
    last.op_type, last.name = "Identity", "evil"
    del last.input[0]


def with_body(model: ModelProto, bias: float = 0.0) -> ModelProto:
    """The result goes through an `If` whose branches add a bias, or do not."""
    branches = []
    for name, value in (("then_branch", 1.0), ("else_branch", 2.0 + bias)):
        stored = numpy_helper.from_array(np.array(value, dtype=np.float32), "bias")
        made = helper.make_node("Add", ["inner", "bias"], ["out"], name=f"{name}_add")
        info = helper.make_tensor_value_info("out", TensorProto.FLOAT, None)
        branches.append(helper.make_graph([made], name, [], [info], [stored]))
    for item in model.graph.node:
        item.output[0] = "inner" if item.output[0] == "y" else item.output[0]
    add_constant(model, "nine", np.array(9))
    add_constant(model, "one_axis", np.array(1))
    model.graph.node.extend(
        [
            helper.make_node("Shape", ["inner"], ["inner_shape"]),
            helper.make_node("Gather", ["inner_shape", "one_axis"], ["inner_length"]),
            helper.make_node("Less", ["inner_length", "nine"], ["is_short"]),
            helper.make_node(
                "If", ["is_short"], ["y"], name="if", then_branch=branches[0], else_branch=branches[1]
            ),
        ]
    )
    return model


def with_function(model: ModelProto) -> ModelProto:
    """The result goes through a local function."""
    scale = helper.make_node("Constant", [], ["scale"], value_float=2.0)
    body = [scale, helper.make_node("Mul", ["a", "scale"], ["b"])]
    model.functions.append(
        helper.make_function("local", "Twice", ["a"], ["b"], body, [helper.make_opsetid("", 17)])
    )
    model.opset_import.append(helper.make_opsetid("local", 1))
    for item in model.graph.node:
        item.output[0] = "inner" if item.output[0] == "y" else item.output[0]
    model.graph.node.append(helper.make_node("Twice", ["inner"], ["y"], name="twice", domain="local"))
    return model


def verdict(model: Any, smaller: Any) -> Validation:
    return validate(model, smaller, provider="cpu")
