"""Layers keep the numbers that they had in the original, whatever went before."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto

from onnxheadprune import apply_plan, inspect, plan_pruning, prune, validate
from onnxheadprune.attention.layers import layers
from onnxheadprune.edit.model_records import LAYERS_ENTRY, LAYERS_KEY
from onnxheadprune.errors import ModelError, UsageError
from tests import toys_exits, toys_scores
from tests.conftest import ROOT, Command
from tests.toys_seq2seq import HIDDEN, Block

DIGITS = ROOT / "sample_models" / "digits_vit.onnx"
"""Four layers."""


def cut(model: Any, spec: Mapping[str, Any]) -> ModelProto:
    return apply_plan(plan_pruning(model, heads=spec), model)


def keys(model: Any) -> dict[str, list[str]]:
    return {key: [site.key for site in layer.sites] for key, layer in layers(inspect(model)).items()}


def anonymous(model: ModelProto) -> ModelProto:
    """The model under names that tell no layers."""
    copy = ModelProto()
    copy.CopyFrom(model)
    for node in copy.graph.node:
        node.name = ""
    names = {tensor.name: f"w{place}" for place, tensor in enumerate(copy.graph.initializer)}
    for tensor in copy.graph.initializer:
        tensor.name = names[tensor.name]
    for node in copy.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
    return copy


def without_record(model: ModelProto) -> ModelProto:
    copy = ModelProto()
    copy.CopyFrom(model)
    (entry,) = (item for item in copy.metadata_props if item.key == LAYERS_KEY)
    copy.metadata_props.remove(entry)
    return copy


@pytest.fixture(scope="module")
def shorter() -> ModelProto:
    """The digits ViT without its second layer."""
    return cut(DIGITS, {"layer.1": "*"})


@pytest.mark.long
def test_a_layer_behind_one_that_went_has_the_same_number(shorter: ModelProto) -> None:
    assert keys(shorter) == {"0": ["0", "ffn.0"], "2": ["2", "ffn.2"], "3": ["3", "ffn.3"]}
    result = prune(shorter, heads={"layer.2": "*"}, provider="cpu")
    assert result.validation is not None and result.validation.verdict == "passed"
    assert keys(result.model) == {"0": ["0", "ffn.0"], "3": ["3", "ffn.3"]}
    at_once = cut(DIGITS, {"layer.1": "*", "layer.2": "*"})
    assert [list(t.dims) for t in at_once.graph.initializer] == [
        list(t.dims) for t in result.model.graph.initializer
    ]
    assert LAYERS_ENTRY.read(at_once) == LAYERS_ENTRY.read(result.model) == LAYERS_ENTRY.read(shorter)
    assert validate(DIGITS, result.model, provider="cpu").verdict == "passed"


def test_a_layer_that_is_gone_cannot_go_again(shorter: ModelProto) -> None:
    with pytest.raises(UsageError, match="there is no layer '1': this model's layers are 0 2-3"):
        plan_pruning(shorter, heads={"layer.1": "*"})


@pytest.mark.long
def test_a_sublayer_that_is_left_alone_stays_in_its_layer() -> None:
    """Without the block that ended its layer, attention would be taken for a part of the next one."""
    left = cut(DIGITS, {"ffn.1": "*"})
    assert keys(left) == {"0": ["0", "ffn.0"], "1": ["1"], "2": ["2", "ffn.2"], "3": ["3", "ffn.3"]}
    assert plan_pruning(left, heads={"layer.2": "*"}).removed == {2: tuple(range(8))}


@pytest.mark.one_in(2)
@pytest.mark.parametrize(
    ("spec", "left", "lacks"),
    [("ffn.1", "attn.1", "feed-forward block"), ("1", "ffn.1", "attention site")],
)
def test_a_layer_without_attention_or_network_says_so(
    command: Command, tmp_path: Path, spec: str, left: str, lacks: str
) -> None:
    onnx.save(cut(DIGITS, {spec: "*"}), tmp_path / "m.onnx")
    told = command("inspect", tmp_path / "m.onnx", "--json").document["layers"]
    assert [layer["lacks"] for layer in told] == [[], [lacks], [], []]
    assert f"blocks.1  {left} (no {lacks})" in command("inspect", tmp_path / "m.onnx").stdout


@pytest.mark.parametrize("spec", [{"0": [1]}, {"ffn.1": range(64)}])
def test_where_no_site_is_removed_as_a_whole_there_is_no_record(spec: Mapping[str, Any]) -> None:
    assert LAYERS_ENTRY.read(cut(DIGITS, spec)) == {}


def with_record(model: ModelProto, record: str) -> ModelProto:
    copy = without_record(model)
    copy.metadata_props.add(key=LAYERS_KEY, value=record)
    return copy


def test_names_tell_the_numbers_where_the_record_is_lost(shorter: ModelProto) -> None:
    assert keys(without_record(shorter)) == {"0": ["0", "ffn.0"], "2": ["2", "ffn.2"], "3": ["3", "ffn.3"]}


def test_a_site_that_the_record_does_not_know_is_in_no_layer(shorter: ModelProto) -> None:
    record = '{"version": 1, "layers": {"0": ["0", "ffn.0"], "1": ["9"], "3": ["3"]}}'
    assert keys(with_record(shorter, record)) == {"0": ["0", "ffn.0"], "3": ["3"]}


@pytest.mark.parametrize("content", ["3", '{"0": 3}', '[["0"]]'])
def test_a_record_that_cannot_be_read_is_refused(shorter: ModelProto, content: str) -> None:
    with pytest.raises(ModelError, match=r"onnxheadprune\.layers cannot be read"):
        inspect(with_record(shorter, f'{{"version": 1, "layers": {content}}}'))


def test_layers_beside_those_behind_an_exit_keep_their_numbers() -> None:
    """Two networks: the second layer of the first lies behind its exit."""
    left = prune(toys_exits.towers(), exit=1, validate=False).model
    assert keys(left) == {"x.0": ["0", "ffn.0"], "y.0": ["2", "ffn.2"], "y.1": ["3", "ffn.3"]}


@pytest.mark.long
def test_the_files_of_a_folder_agree_on_the_numbers(command: Command, tmp_path: Path) -> None:
    folder, once, twice = (tmp_path / name for name in ("in", "once", "twice"))
    folder.mkdir()
    for name in ("model.onnx", "model_fp16.onnx"):
        onnx.save(toys_scores.stack(layers=3), folder / name)
    for source, out, number in ((folder, once, 0), (once, twice, 1)):
        outcome = command("prune", source, "-o", out, "--layers", str(number), "--json")
        assert outcome.exit_code == 0, outcome.stderr
        assert list(outcome.document["heads"]) == [str(number)]
    for name in ("model.onnx", "model_fp16.onnx"):
        assert keys(twice / name) == {"2": ["2", "ffn.2"]}
    outcome = command("prune", twice, "-o", tmp_path / "more", "--layers", "0")
    assert outcome.exit_code == 2 and "this model's layers are 2" in outcome.stderr


def two_stacks(tangled: bool) -> ModelProto:
    """Two layers of an encoder and of a decoder; `tangled`, the decoder's first attention comes before the encoder."""
    block = Block()
    nothing = block.toy.constant("nothing", np.zeros((1, 1, 1, 1), np.float32))

    def attended(stream: str, source: str, name: str) -> str:
        keys, values = (block.heads(source, f"{name}.{part}") for part in "kv")
        return block.attended(stream, name, keys, values, nothing)

    encoded, decoded = "source", "target"
    if tangled:
        decoded = attended(decoded, decoded, "decoder.0")
    for number in range(2):
        encoded = block.fed(attended(encoded, encoded, f"encoder.{number}"), f"encoder.{number}.mlp")
    for number in range(2):
        if number or not tangled:
            decoded = attended(decoded, decoded, f"decoder.{number}")
        decoded = block.fed(attended(decoded, encoded, f"cross.{number}"), f"decoder.{number}.mlp")
    info = block.toy.info
    return block.toy.model(
        [info("source", [1, "s", HIDDEN]), info("target", [1, "t", HIDDEN])],
        [info(decoded, [1, "t", HIDDEN])],
    )


@pytest.mark.parametrize("tangled", [False, True])
def test_without_names_the_layers_of_an_encoder_come_before_those_of_its_decoder(tangled: bool) -> None:
    first, second = ("1 2", "0 3") if tangled else ("0 1", "2 3")
    encoder = [[number, f"ffn.{place}"] for place, number in enumerate(first.split())]
    decoder = [[*second.split(), "ffn.2"], ["4", "5", "ffn.3"]]
    expected = {str(number): own for number, own in enumerate([*encoder, *decoder])}
    assert keys(anonymous(two_stacks(tangled))) == expected


def test_a_block_whose_nodes_have_no_path_has_that_of_the_sum_behind_it() -> None:
    model = anonymous(two_stacks(False))
    sums = [node for node in model.graph.node if node.output[0].endswith(".stream")]
    for number, node in enumerate(sums):
        node.name = f"net/block_{number}/add"
    names = [site.name for site in inspect(model).every]
    assert names == [f"net.block_{number}" for number in (0, 2, 4, 5, 7, 8, 1, 3, 6, 9)]


def test_calls_of_one_module_are_numbered_as_layers_are() -> None:
    """Each runs on the same weights, so its number is no layer's."""
    model = toys_scores.stack(layers=3)
    for node in model.graph.node:
        found = re.search(r"layer(\d)", node.output[0])
        if found is not None:
            node.name = f"net/group_0_inner_0_{2 * int(found[1]) + 1}/{node.op_type}"
        node.input[:] = [
            re.sub(r"^layer\d", "layer0", name) if name in stored else name
            for stored in [{tensor.name for tensor in model.graph.initializer}]
            for name in node.input
        ]
    assert keys(model) == {str(number): [str(number), f"ffn.{number}"] for number in range(3)}
