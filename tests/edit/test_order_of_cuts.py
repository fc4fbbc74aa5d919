"""A cut is a set: given in one call, or in several in any order, the same units leave the same file, byte for byte."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from functools import partial

import pytest
from onnx import ModelProto, numpy_helper

from onnxheadprune import HeadPruneError, apply_plan, plan_pruning, validate
from onnxheadprune.attention.sites.find import analysis_of
from onnxheadprune.model.load import load_model
from tests import toys_experts, toys_layers, toys_mixture, toys_scores
from tests.graph_text import model_of
from tests.tiny_samples import NAMES, TINY
from tests.toys_all import EACH, MODELS

Part = dict[str, str | list[int]]


def drawn(model: ModelProto, seed: int) -> list[Part]:
    """Some units of some sites, in parts that can go one after the other: groups of heads, neurons, whole sites."""
    chance = random.Random(seed)
    parts: list[Part] = []
    for site in analysis_of(model, "the model").sites.every:
        if chance.random() < 0.3 or not site.removable:
            continue
        units = [[unit] for unit in range(site.num_units)]
        together = list(map(list, getattr(site, "groups", units)))
        # A part of a group can go too: its keys stay till the last one does.
        groups = chance.sample(*([units] if chance.random() < 0.2 else [together]), k=min(3, len(together)))
        if chance.random() < 0.3 or len(together) == 1:
            parts.append({site.key: "*"})
        else:
            parts += [{site.key: group} for group in groups[: len(together) - 1]]
    return parts


def joined(parts: Sequence[Part]) -> Part:
    found: Part = {}
    for part in parts:
        for key, units in part.items():
            known = found.get(key, [])
            whole = isinstance(units, str) or isinstance(known, str)
            found[key] = "*" if whole else sorted({*known, *units})
    return found


def cut(model: ModelProto, spec: Part, renumber: bool) -> ModelProto | str:
    """The model without some units, or why that is refused."""
    try:
        return apply_plan(plan_pruning(model, heads=spec, cache="renumber" if renumber else "narrow"), model)
    except HeadPruneError as error:
        return str(error)


def check(
    model: ModelProto, parts: list[Part], order: list[Part], renumber: bool = False
) -> ModelProto | None:
    """One call gives what calls in an order give. What one of these refuses is refused in one call, too.

    Units that a removed layer has taken along cannot be named again.
    """
    step: ModelProto | str = model
    layers = {site.key for site in analysis_of(model).sites.of("layers")}
    for number, part in enumerate(order):
        assert isinstance(step, ModelProto)
        if any(layers & earlier.keys() for earlier in order[:number]):
            left = {site.key for site in analysis_of(step).sites.every}
            if not left & part.keys():
                continue
        step = cut(step, part, renumber)
        if isinstance(step, str):
            assert isinstance(cut(model, joined(order[: number + 1]), renumber), str), (order, step)
            return None
    once = cut(model, joined(parts), renumber)
    assert not isinstance(once, str), (order, once)
    assert isinstance(step, ModelProto)
    assert once.SerializeToString() == step.SerializeToString(), order
    return once


def check_some(name: str, seed: int, renumber: bool) -> ModelProto | None:
    model = MODELS[name]()
    parts = drawn(model, seed)
    # Heads in a removed layer say nothing more; in a call before, they narrow a cache, which then stays as it is.
    named = {key for part in parts for key in part}
    gone = {
        part.key
        for layer in analysis_of(model).sites.of("layers")
        if layer.key in named
        for part in layer.parts
        if part.free
    }
    parts = [part for part in parts if gone.isdisjoint(part)]
    return check(model, parts, random.Random(seed).sample(parts, len(parts)), renumber) if parts else None


@pytest.mark.slow
@pytest.mark.parametrize("name", EACH)
def test_calls_in_any_order_give_what_one_call_gives(name: str) -> None:
    check_some(name, 0, renumber=True)


@pytest.mark.slow
@pytest.mark.parametrize("renumber", [False, True], ids=("caches stay", "caches go"))
@pytest.mark.parametrize("name", MODELS)
def test_more_calls_in_any_order_give_what_one_call_gives(name: str, renumber: bool) -> None:
    """And what they give equals the masked original."""
    for seed in range(1, 50):
        made = check_some(name, seed, renumber)
        if made is not None and seed % 10 == 1:
            assert validate(MODELS[name](), made, provider="cpu").verdict in {"passed", "inconclusive"}


@pytest.mark.slow
def test_a_first_layer_and_a_head_of_every_other_one() -> None:
    """Exporters read the length of the past off the first cache; any other one tells it, however many heads it has."""
    model = toys_layers.decoder(5, cache=True, measured=0)
    parts: list[Part] = [{"layer.0": "*"}, *({str(layer): [layer % 2]} for layer in range(1, 5))]
    for order in (parts, parts[::-1]):
        made = check(model, parts, order, renumber=True)
        assert made is not None
        (reader,) = (node for node in made.graph.node if node.op_type == "Shape")
        assert reader.input[0] == "past_key_values.0.key"
        assert validate(model, made, provider="cpu").verdict == "passed"


@pytest.mark.slow
def test_layers_that_share_weights_keep_the_same_numbers() -> None:
    """How copies of weights are called, and whether equal ones are stored once, does depend on the order."""
    model = toys_scores.stack(shared=True)
    for order in ([{"0": [1]}, {"1": [2]}], [{"1": [2]}, {"0": [1]}]):
        once, step = cut(model, {"0": [1], "1": [2]}, False), model
        for part in order:
            made = cut(step, part, False)
            assert isinstance(made, ModelProto)
            step = made
        assert isinstance(once, ModelProto)
        assert by_content(once) == by_content(step)


def kinds_of(name: str) -> dict[str, Part]:
    """The first group of units of each kind that a model has, and its last layer."""
    sites = analysis_of(EVERY[name](), "the model").sites.every
    found: dict[str, Part] = {}
    for site in sites:
        groups = list(getattr(site, "groups", [[unit] for unit in range(site.num_units)]))
        if site.removable and len(groups) > 1:
            found.setdefault(site.UNITS, {site.key: list(groups[0])})
    return found


EVERY = {
    **MODELS,
    **{f"MoE, {name}": toys_mixture.RUNNABLE[name].model for name in ("relu", "4 bits, swiglu")},
    **{f"experts, {name}": toy.model for name, toy in toys_experts.TOYS.items()},
    **{f"sample {name}": partial(load_model, TINY / f"{name}.onnx") for name in NAMES if "sdpa" in name},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY)
def test_units_of_two_kinds_leave_the_same_file_in_any_order(name: str) -> None:
    """New nodes and tensors are named after what they serve, which no other cut moves."""
    parts = kinds_of(name)
    for pair in itertools.permutations(parts.values(), 2):
        check(EVERY[name](), list(pair), list(pair))


def edges() -> ModelProto:
    """Two blocks of attention whose values an operator without a rule reverses: each cut adds a Gather."""
    block = """
            qp# = MatMul(x#, q#)
            kp# = MatMul(x#, k#)
            vp# = MatMul(x#, v#)
            vr# = ReverseSequence<batch_axis = 0, time_axis = 1>(vp#, lengths)
            qs# = Reshape(qp#, split)
            ks# = Reshape(kp#, split)
            vs# = Reshape(vr#, split)
            qh# = Transpose<perm = [0, 2, 1, 3]>(qs#)
            kh# = Transpose<perm = [0, 2, 3, 1]>(ks#)
            vh# = Transpose<perm = [0, 2, 1, 3]>(vs#)
            scores# = MatMul(qh#, kh#)
            soft# = Softmax<axis = -1>(scores#)
            context# = MatMul(soft#, vh#)
            back# = Transpose<perm = [0, 2, 1, 3]>(context#)
            merged# = Reshape(back#, merge)
            projected# = MatMul(merged#, o#)
            new# = Add(projected#, x#)
    """
    first, second = block.replace("#", "1"), block.replace("#", "2")
    names = ", ".join(f"float[6,6] {name}{number}" for number in (1, 2) for name in "qkvo")
    return model_of(
        f"""
        <ir_version: 9, opset_import: ["" : 17]>
        blocks (float[2,3,6] x1) => (float[2,3,6] y)
        <int64[4] split = {{0, 0, 3, 2}}, int64[3] merge = {{0, 0, 6}}, int64[2] lengths = {{3, 2}}, {names}>
        {{
            {first}
            x2 = Identity(new1)
            {second}
            y = Identity(new2)
        }}
        """
    )


def test_names_of_new_nodes_are_those_of_what_they_serve() -> None:
    """An edge gather and a second cut in front of it: places in the graph are others by then."""
    model = edges()
    parts: list[Part] = [{"0": [0]}, {"1": [1]}]
    for order in (parts, parts[::-1]):
        made = check(model, parts, order)
        assert made is not None and any("/onnxheadprune_edge_" in node.output[0] for node in made.graph.node)


def by_content(model: ModelProto) -> list[tuple[object, ...]]:
    """Nodes with their stored inputs' numbers in place of names."""
    numbers = {
        tensor.name: (tensor.dims[:], numpy_helper.to_array(tensor).tobytes())
        for tensor in model.graph.initializer
    }
    return [(node.op_type, *(numbers.get(name, name) for name in node.input)) for node in model.graph.node]


def test_a_name_that_something_else_has_is_left_to_it() -> None:
    """A model may come with any names, also with those that a cut would give."""
    model = model_of(
        """
        <ir_version: 9, opset_import: ["" : 17]>
        block (float[batch,sequence,4] x) => (float[batch,sequence,4] y)
        <int64[4] split = {0, 0, 3, 2}, int64[3] merge = {0, 0, 6}, int64[3] "merge/onnxheadprune_0_0_4" = {0, 0, 4},
         float[4,6] q, float[4,6] k, float[4,6] v, float[6,4] o>
        {
            qp = MatMul(x, q)
            kp = MatMul(x, k)
            vp = MatMul(x, v)
            qs = Reshape(qp, split)
            ks = Reshape(kp, split)
            "split/onnxheadprune_0_0_2_2" = Reshape(vp, split)
            qh = Transpose<perm=[0, 2, 1, 3]>(qs)
            kh = Transpose<perm=[0, 2, 3, 1]>(ks)
            vh = Transpose<perm=[0, 2, 1, 3]>("split/onnxheadprune_0_0_2_2")
            scores = MatMul(qh, kh)
            weights = Softmax<axis=-1>(scores)
            context = MatMul(weights, vh)
            back = Transpose<perm=[0, 2, 1, 3]>(context)
            merged = Reshape(back, merge)
            projected = MatMul(merged, o)
            same = Reshape(projected, "merge/onnxheadprune_0_0_4")
            y = Add(same, x)
        }
        """
    )
    made = check(model, [{"0": [0, 1]}], [{"0": [0]}, {"0": [1]}])
    assert made is None or validate(model, made, provider="cpu").verdict == "passed"
    assert all(tensor.name for tensor in model.graph.initializer)
