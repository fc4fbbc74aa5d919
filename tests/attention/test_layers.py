"""A layer lies between two states of its stream, and is the identity once it is removed.

The oracle is the same network, written without the layer.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import onnxheadprune as ohp
from onnxheadprune import RefusedError, inspect
from onnxheadprune.attention.planning import planned
from onnxheadprune.attention.sites.find import analysis_of
from onnxheadprune.model.load import open_structure
from tests.attention.layered import (
    BRANCHES,
    FEED,
    FUSED_NORMS,
    GIVEN,
    NORMS,
    OTHER,
    SHARED,
    Joint,
    Network,
    renamed,
)
from tests.conftest import Command
from tests.graphs import exits, toys
from tests.liveness.one_node import run

KINDS = [kind for kind in BRANCHES if kind not in GIVEN]
PLAIN = [["attention", "network"]] * 3


def held(model: Any) -> dict[str, list[str]]:
    """The sites of each layer, by its key."""
    return {
        layer.key.removeprefix("layer."): [site.tag for site in layer.parts]
        for layer in inspect(model).of("layers")
    }


def anonymous(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model under names that tell no layers."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    names = {tensor.name: f"w{place}" for place, tensor in enumerate(copy.graph.initializer)}
    for tensor in copy.graph.initializer:
        tensor.name = names[tensor.name]
    for node in copy.graph.node:
        node.name = ""
        node.input[:] = [names.get(name, name) for name in node.input]
    return copy


def check_removed(network: Network | Joint, number: int, has_names: bool = True) -> None:
    """Remove a layer, and compare with the network that is written without it."""
    whole = network.model()
    made = ohp.prune(whole if has_names else anonymous(whole), layers=str(number), validate=False)
    oracle = replace(network, without=[number]).model()
    theirs = run(oracle, {item.name: FEED[item.name] for item in oracle.graph.input})
    ours = run(made.model, {item.name: FEED[item.name] for item in made.model.graph.input})
    for name, value in theirs.items():
        np.testing.assert_allclose(ours[name], value, rtol=1e-5, atol=1e-5)


@pytest.mark.each_choice
@pytest.mark.parametrize("has_names", [True, False])
@pytest.mark.parametrize("norm", [*NORMS, ""])
@pytest.mark.parametrize("place", range(3))
@pytest.mark.parametrize("kind", KINDS)
def test_every_branch_of_a_layer_is_removed(kind: str, place: int, norm: str, has_names: bool) -> None:
    # Without names nothing shows that what is added of another input belongs to a layer, that an attention behind a
    # network is not the next layer's, or that one number a channel is not that of a norm.
    has_names = (
        has_names
        or kind in (OTHER, SHARED, "mean of all tokens")
        or ("Softmax" in BRANCHES[kind] and place != 1)
    )
    branches = ["attention", "network"]
    branches.insert(place, kind)
    check_removed(Network([branches] * 3, norm), place, has_names)


@pytest.mark.each_choice
@pytest.mark.parametrize("norm", [*NORMS, ""])
@pytest.mark.parametrize("other", ["network", "attention"])
@pytest.mark.parametrize("kind", KINDS)
def test_without_names_a_layer_lies_between_two_states(kind: str, other: str, norm: str) -> None:
    """It is one branch or several in a row, with their norms; what begins or ends elsewhere is not listed."""
    network = Network([[kind], [other]] * 3, norm)
    model = anonymous(network.model())
    some = [range(start, stop) for stop in range(7) for start in range(stop)]
    oracles = [output_of(replace(network, without=without).model()) for without in some]
    known = analysis_of(open_structure(model))
    for layer in known.sites.of("layers"):
        made = output_of(ohp.apply_plan(planned(known, {layer.key: "*"}).plan, model))
        assert any(np.allclose(made, oracle, rtol=1e-5, atol=1e-5) for oracle in oracles), layer.key


def output_of(model: onnx.ModelProto) -> Any:
    return run(model, {item.name: FEED[item.name] for item in model.graph.input})["y"]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in (OTHER, SHARED)])
def test_a_layer_needs_no_unit_inside(kind: str) -> None:
    check_removed(Network([[kind]] * 3), 1)


def test_a_state_that_is_an_output_is_that_in_front() -> None:
    model = Network(PLAIN).model()
    model.graph.output.append(onnx.helper.make_tensor_value_info("sum_1_1", 1, ["B", "S", 8]))
    made = ohp.prune(model, layers="1", provider="cpu").model
    feed = {"x": FEED["x"]}
    assert np.array_equal(run(made, feed)["sum_1_1"], run(_reading(model, "sum_0_1"), feed)["sum_0_1"])


def _reading(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.output.append(onnx.helper.make_tensor_value_info(name, 1, ["B", "S", 8]))
    return copy


def test_what_other_layers_read_of_a_removed_one_stays_and_is_said() -> None:
    """The position bias that a first layer makes for all, of the stream in front of it."""
    model = Network(PLAIN).model()
    for number in (1, 2):
        (scores,) = (node for node in model.graph.node if node.output[0] == f"scores_{number}_0")
        scores.output[0] = f"raw_{number}"
        at = list(model.graph.node).index(scores) + 1
        names = [f"raw_{number}", "scores_0_0"], [f"scores_{number}_0"]
        both = onnx.helper.make_node("Add", *names, name=f"{scores.name}/biased")
        model.graph.node.insert(at, both)
    made = ohp.prune(model, layers="0", provider="cpu")
    assert any("layer.0 is still computed" in note and "scores_0_0" in note for note in made.plan.notes)
    assert held(model)["0"] == ["attn.0", "ffn.0"] and made.validation is not None
    assert made.validation.verdict == "passed"


@pytest.mark.parametrize("between", ["Transpose", "Cast"])
def test_a_stream_that_goes_on_in_another_form_is_not_cut_off(between: str) -> None:
    """Exporters drop what turns a sum back and forth: the next layer adds to the turned one."""
    model = Network(PLAIN).model()
    (late,) = (node for node in model.graph.node if node.output[0] == "sum_1_0")
    (early,) = (node for node in model.graph.node if node.output[0] == "sum_0_1")
    there, back = ({"perm": [1, 0, 2]},) * 2 if between == "Transpose" else ({"to": 11}, {"to": 1})
    for node in (early, late):
        module, made = node.name.rpartition("/")[0], node.output[0]

        def other_form(name: str, output: str, how: dict[str, Any], module: str = module) -> onnx.NodeProto:
            return onnx.helper.make_node(between, [name], [output], name=f"{module}/{output}", **how)

        # The state behind layer 0 is read in the other form as it is.
        forms = {name: "sum_0_1_form" if name == "sum_0_1" else f"{name}_{made}" for name in node.input}
        before = [other_form(name, form, there) for name, form in forms.items() if name != "sum_0_1"]
        node.input[:], node.output[0] = forms.values(), f"{made}_form"
        at = list(model.graph.node).index(node)
        model.graph.node.insert(at + 1, other_form(f"{made}_form", made, back))
        for added in reversed(before):
            model.graph.node.insert(at, added)
    with pytest.raises(RefusedError, match="has no identity"):
        ohp.plan_pruning(model, layers="0")


@pytest.mark.parametrize("has_names", [True, False])
@pytest.mark.parametrize("added", FUSED_NORMS)
def test_a_norm_stands_for_its_sum_only_behind_a_norm(added: str, has_names: bool) -> None:
    """The final norm of a pre-norm model, fused with the last sum, would go with the last layer."""
    network = Network(PLAIN, added=added)
    model = network.model()
    (*_, last) = (node for node in model.graph.node if node.op_type == added)
    model.graph.node[-1].input[0] = last.output[0]
    del last.output[1:]
    model = model if has_names else anonymous(model)
    with pytest.raises(RefusedError, match="is a norm whose sum is no output"):
        ohp.plan_pruning(model, layers="2")
    assert ohp.prune(model, layers="1", provider="cpu").validation


def test_a_chain_without_any_stream_has_no_layers() -> None:
    model = Network([["network"]] * 3).model()
    for node in model.graph.node:
        if node.op_type == "Add":
            node.op_type = "Identity"
            del node.input[0]
    assert held(model) == {} and held(anonymous(model)) == {}


SPELLED = [
    "bert.encoder.layer.@.attention bert.encoder.layer.@.output",
    "transformer.h.@.attn transformer.h.@.mlp",
    "encoder.block.@.layer.0.SelfAttention encoder.block.@.layer.1.DenseReluDense",
    "transformer.layers.@.0.to_out.0 transformer.layers.@.1.net.3",
    "stages.0.blocks.@.attn stages.0.blocks.@.mlp.fc",
    "model/encoder_layer_@/attention/dense_1 model/encoder_layer_@/dense_2",
    "encoder/layer_._@/attention encoder/layer_._@/intermediate",
    "bert_3/transformer_layer_@_3/self_attention_3 bert_3/transformer_layer_@_3/dense",
    "/blocks/blocks.@/attn /blocks/blocks.@/mlp",
]


@pytest.mark.parametrize("pattern", SPELLED)
def test_a_layer_has_the_number_in_its_name(pattern: str) -> None:
    first, second = pattern.split()

    def name(value: str, layer: int, place: int) -> str:
        path = (second if place else first).replace("@", str(layer))
        return f"{path}/{value}"

    model = renamed(Network(PLAIN).model(), name)
    expected = {str(n): [f"attn.{n}", f"ffn.{n}"] for n in range(3)}
    assert held(model) == expected
    left = ohp.prune(model, layers="1", validate=False).model
    del expected["1"]
    assert held(left) == expected
    del left.metadata_props[:]
    assert list(held(left)) == ["0", "2"]


@pytest.mark.parametrize(
    ("stacks", "labels"),
    [
        (("model/encoder.layers", "model/decoder.layers"), ("encoder", "decoder")),
        (("layers.0.blocks", "layers.1.blocks"), ("0", "1")),
        (("blocks", "blocks_token_only"), ("blocks", "blocks_token_only")),
        # Exporters leave out modules that are never called.
        (("layers", "layers"), ("layers", "layers#2")),
    ],
)
def test_layers_of_several_stacks_are_named_with_their_stack(
    stacks: tuple[str, str], labels: tuple[str, str]
) -> None:
    network = Network([["attention", "network"]] * 4)
    model = renamed(network.model(), lambda value, layer, _: f"/{stacks[layer // 2]}.{layer % 2}/{value}")
    assert list(held(model)) == [f"{label}.{number}" for label in labels for number in "01"]
    made = ohp.prune(model, layers=f"{labels[1]}.0", provider="cpu").model
    oracle = replace(network, without=[2]).model()
    ours, theirs = (run(item, {"x": FEED["x"]})["y"] for item in (made, oracle))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("norm", NORMS)
def test_the_number_of_a_call_of_two_stacks_is_that_of_no_layer(norm: str) -> None:
    """Keras numbers the call of an encoder-decoder, and each stack ends with a norm of its own."""
    stacks = ("encoder", "decoder")

    def name(value: str, layer: int, place: int) -> str:
        stack, number = stacks[layer // 2], layer % 2
        ends = number == 1 and place == 1 and value.startswith("n")
        return f"net_1/{stack}_{'norm_1' if ends else f'layer_{number}_1'}/{value}"

    network = Network([["attention", "network"]] * 4, norm=norm)
    assert list(held(renamed(network.model(), name))) == [f"{s}_layer.{n}" for s in stacks for n in "01"]


@pytest.mark.parametrize("named", ["1", "layers.1", "layer.1", "1,1"])
def test_layers_take_every_name_that_inspect_prints(named: str) -> None:
    plan = ohp.plan_pruning(Network(PLAIN).model(), layers=named)
    assert [cut.key for cut in plan.blocks if cut.removed] == ["ffn.1", "layer.1"]
    assert plan.removed == {1: (0, 1)}


def test_layers_beside_those_behind_an_exit_keep_their_numbers() -> None:
    """Two networks: the second layer of the first lies behind its exit."""
    left = ohp.prune(exits.towers(), exit=1, validate=False).model
    assert held(left) == {"x.0": ["attn.0", "ffn.0"], "y.0": ["attn.2", "ffn.2"], "y.1": ["attn.3", "ffn.3"]}


@pytest.mark.slow
def test_inspect_tells_what_each_layer_holds_and_what_it_costs(command: Command, digits: Path) -> None:
    told = command("inspect", digits, "--json").document["layers"]
    assert [(layer["key"], layer["name"], layer["sites"]) for layer in told] == [
        (str(n), f"blocks.{n}", [f"attn.{n}", f"ffn.{n}"]) for n in range(4)
    ]
    result = ohp.prune(digits, heads={"layer.2": "*"}, provider="cpu")
    saved = result.operations
    assert saved is not None
    assert told[2]["operations_share"] == pytest.approx(1 - saved.after / saved.before)
    gone = (result.before.elements - result.after.elements) / result.before.elements
    # Constants that repeated nodes read go with any cut.
    assert told[2]["params_share"] == pytest.approx(gone, rel=1e-3)
    assert "blocks.2  attn.2 ffn.2" in command("inspect", digits).stdout


@pytest.mark.parametrize("model", [Network(PLAIN).model(), toys.parallel(), toys.parallel(bias=True)])
def test_of_a_layer_whose_branches_all_go_nothing_is_left(model: onnx.ModelProto) -> None:
    made = ohp.prune(model, heads={"attn.1": "*", "ffn.1": "*"}, provider="cpu")
    assert made.validation is not None and made.validation.verdict == "passed"
    assert not {site for sites in (held(made.model)[key] for key in "02") for site in sites} & {
        "attn.1",
        "ffn.1",
    }
    assert held(made.model).get("1", []) == []


def two_stacks(tangled: bool) -> onnx.ModelProto:
    """Two layers of an encoder and of a decoder; `tangled`, the decoder's first attention comes before the encoder."""
    net = toys.Stack(inner=24, biases=())

    def attended(stream: str, source: str, name: str) -> str:
        return net.crossed(stream, name, *(net.heads(source, f"{name}.{part}") for part in "kv"))

    encoded, decoded = "source", "target"
    if tangled:
        decoded = attended(decoded, decoded, "decoder.0")
    for number in range(2):
        encoded = net.networked(attended(encoded, encoded, f"encoder.{number}"), f"encoder.{number}.mlp")
    for number in range(2):
        if number or not tangled:
            decoded = attended(decoded, decoded, f"decoder.{number}")
        decoded = net.networked(attended(decoded, encoded, f"cross.{number}"), f"decoder.{number}.mlp")
    infos = [net.info("source", [1, "s", toys.HIDDEN]), net.info("target", [1, "t", toys.HIDDEN])]
    return net.model(infos, [net.info(decoded, [1, "t", toys.HIDDEN])])


def test_a_block_whose_nodes_have_no_path_has_that_of_the_sum_behind_it() -> None:
    model = anonymous(two_stacks(False))
    sums = [node for node in model.graph.node if node.output[0].endswith(".stream")]
    for number, node in enumerate(sums):
        node.name = f"net/block_{number}/add"
    found = inspect(model)
    names = [site.name for site in (*found, *found.of("neurons"))]
    assert names == [f"net.block_{number}" for number in (0, 2, 4, 5, 7, 8, 1, 3, 6, 9)]


def test_calls_of_one_module_are_numbered_as_layers_are() -> None:
    """Each runs on the same weights, so its number is no layer's."""
    model = toys.stack(layers=3)
    stored = {tensor.name for tensor in model.graph.initializer}
    for node in model.graph.node:
        call = re.search(r"layer(\d)", node.output[0])
        if call is not None:
            node.name = f"net/group_0_inner_0_{2 * int(call[1]) + 1}/{node.op_type}"
        node.input[:] = [
            re.sub(r"^layer\d", "layer0", name) if name in stored else name for name in node.input
        ]
    assert held(model) == {str(number): [f"attn.{number}", f"ffn.{number}"] for number in range(3)}
