"""`layer.N` is what a model's own names call layer N; where they tell nothing, an attention begins it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from onnxheadprune import inspect, plan_pruning, prune
from onnxheadprune.attention.layers import layers
from onnxheadprune.attention.sites.all_sites import Sites
from onnxheadprune.attention.sites.attention_site import AttentionSite
from onnxheadprune.attention.sites.neuron_site import CONVOLUTION, FEED_FORWARD, MLP
from onnxheadprune.attention.sites.site import Site
from tests import toys_scores
from tests.conftest import Command

STACK = inspect(toys_scores.stack(layers=12))
ATTENTION, BLOCK = STACK.sites[0], STACK.of("neurons")[0]
KINDS = {"f": FEED_FORWARD, "c": CONVOLUTION, "m": MLP}


def sites(names: Sequence[str]) -> Sites:
    """Sites of these names in graph order: "a encoder.layers.0.attn" is an attention, others a block of a kind."""
    made: list[Site] = []
    for place, text in enumerate(names):
        letter, name = text.split(" ", 1)
        # Each has a place of its own in the stream.
        like = STACK.sites[place] if letter == "a" else STACK.of("neurons")[place]
        kind = KINDS.get(letter, like.kind)
        # Convolutions of stems and classifiers are added to no stream.
        ends = like.projections if kind in (like.kind, FEED_FORWARD) else ()
        made.append(replace(like, index=like.FROM + place, name=name, kind=kind, projections=ends))
    places = {site.index: (0, place) for place, site in enumerate(made)}
    kinds = (AttentionSite, type(BLOCK))
    return Sites.gathered("m", made, kinds, places, {})


def keys(names: Sequence[str]) -> dict[str, list[str]]:
    return {key: [site.name for site in layer.sites] for key, layer in layers(sites(names)).items()}


def two(pattern: str) -> list[str]:
    """The names of an attention and a block in each of two layers; "@" is the layer's number."""
    attention, block = pattern.split()
    return [f"{kind} {name.replace('@', n)}" for n in "01" for kind, name in (("a", attention), ("f", block))]


SPELLED = [
    "bert.encoder.layer.@.attention bert.encoder.layer.@.output",
    "transformer.h.@.attn transformer.h.@.mlp",
    "model.layers.@.self_attn model.layers.@.mlp",
    "blocks.@.attn blocks.@",
    "encoder.block.@.layer.0.SelfAttention encoder.block.@.layer.1.DenseReluDense",
    "transformer.layers.@.0.to_out.0 transformer.layers.@.1.net.3",
    "stages.0.blocks.@.attn stages.0.blocks.@.mlp.fc",
    "model/encoder_layer_@/attention/dense_1 model/encoder_layer_@/dense_2",
    "encoder/layer_._@/attention encoder/layer_._@/intermediate",
    "layer@.attn layer@",
    "bert_3/transformer_layer_@_3/self_attention_3 bert_3/transformer_layer_@_3",
]


@pytest.mark.parametrize("pattern", SPELLED)
def test_a_layer_has_the_number_in_its_name(pattern: str) -> None:
    names = two(pattern)
    own = [name[2:] for name in names]
    assert keys(names) == {"0": own[:2], "1": own[2:]}


@pytest.mark.parametrize("pattern", SPELLED)
def test_a_layer_that_others_went_from_keeps_its_number(pattern: str) -> None:
    names = two(pattern)
    assert list(keys(names[2:])) == ["1"]


def test_the_number_in_the_name_of_a_whole_model_is_no_layer() -> None:
    """SpeechT5: its convolutions are in no layer, its decoder's layers have two attentions each."""
    stem = ["c speecht5.encoder.prenet.conv_layers"]
    encoder = two("speecht5.encoder.layers.@.attention speecht5.encoder.layers.@.feed_forward")
    decoder = two("speecht5.decoder.layers.@.self_attn speecht5.decoder.layers.@.feed_forward")
    cross = [f"a speecht5.decoder.layers.{number}.encoder_attn" for number in "01"]
    names = [*stem, *encoder, decoder[0], cross[0], *decoder[1:3], cross[1], decoder[3]]
    assert [len(found) for found in keys(names).values()] == [2, 2, 3, 3]
    assert list(keys(names)) == ["encoder.0", "encoder.1", "decoder.0", "decoder.1"]


def test_all_residual_branches_of_a_layer_are_in_it() -> None:
    """Blocks in front of the attention, several attentions, layers without any (Conformer, TimeSformer, LFM2)."""
    names = [
        "f encoder.conv.1",
        "f layers.0.ffn1",
        "a layers.0.temporal",
        "a layers.0.spatial",
        "f layers.0.ffn2",
        "f layers.1.conv",
        "f layers.1.mlp",
        "a layers.2.attn",
        "f layers.2.mlp",
        "f head.0",
    ]
    assert keys(names) == {
        "0": ["layers.0.ffn1", "layers.0.temporal", "layers.0.spatial", "layers.0.ffn2"],
        "1": ["layers.1.conv", "layers.1.mlp"],
        "2": ["layers.2.attn", "layers.2.mlp"],
    }


@pytest.mark.parametrize(
    ("stacks", "labels"),
    [
        (("model.encoder.layers", "model.decoder.layers"), ("encoder", "decoder")),
        (("vision_model.encoder.layers", "text_model.encoder.layers"), ("vision_model", "text_model")),
        (("layers.0.blocks", "layers.1.blocks"), ("0", "1")),
        (("blocks", "blocks_token_only"), ("blocks", "blocks_token_only")),
        (("encoder.block.0", "encoder.block.1"), ("0", "1")),
        (
            ("encoder_model/encoder.block", "decoder_model/decoder.block"),
            ("encoder_model.encoder", "decoder_model.decoder"),
        ),
    ],
)
def test_layers_of_several_stacks_are_named_with_their_stack(
    stacks: tuple[str, str], labels: tuple[str, str]
) -> None:
    names = [name for stack in stacks for name in two(f"{stack}.@.attn {stack}.@.mlp")]
    assert list(keys(names)) == [f"{label}.{number}" for label in labels for number in "01"]


def test_a_number_that_repeats_or_counts_sublayers_counts_no_layers() -> None:
    """ALBERT runs one module several times, x-transformers numbers attention and network one after the other."""
    albert = [
        f"{kind} groups.0.layers.0.{part}#{n}" for n in (1, 2) for kind, part in (("a", "attn"), ("f", "ffn"))
    ]
    alternating = ["a layers.0.1", "f layers.1.1", "a layers.2.1", "f layers.3.1"]
    for names in (albert, alternating):
        own = [name[2:] for name in names]
        assert keys(names) == {"0": own[:2], "1": own[2:]}


def test_single_branches_that_do_not_alternate_are_layers() -> None:
    """Nemotron-H calls each of its mixers, attentions and networks a layer."""
    names = ["a layers.0.mixer", "a layers.1.mixer", "f layers.2.mixer", "a layers.3.mixer"]
    assert keys(names) == {n: [name[2:]] for n, name in enumerate(names) for n in [str(n)]}


def test_the_number_of_a_call_is_no_layer() -> None:
    """Keras calls its modules in scopes that TensorFlow numbers by entry, whatever the modules hold."""
    assert list(keys(["f net_1/mixer_layer_0_1", "f net_1/mixer_layer_1_1", "f net_1/mixer_layer_2_1"])) == [
        "0",
        "1",
        "2",
    ]
    stages = [
        f"{kind} net/block_0_{n}/{part}" for n in (1, 2) for kind, part in (("a", "attn"), ("f", "mlp"))
    ]
    assert list(keys(stages)) == ["1", "2"]


def test_a_module_that_holds_all_layers_is_none() -> None:
    """The encoder of docTR is the second module of a `Sequential`, and has lists of attentions and of networks."""
    names = [
        f"{kind} 1.{part}.{n}" for n in (0, 1) for kind, part in (("a", "attention"), ("f", "feed_forward"))
    ]
    own = [name[2:] for name in names]
    assert keys(names) == {"0": own[:2], "1": own[2:]}
    decoder = ["a block.0.layer.0", "a block.0.layer.1", "f block.0.layer.2"]
    assert keys(decoder) == {"0": [name[2:] for name in decoder]}


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("afaf", ["af", "af"]),
        ("faf", ["af"]),
        ("aafaaf", ["aaf", "aaf"]),
        ("aff", ["aff"]),
        ("aaa", ["a", "a", "a"]),
        ("ffaf", ["af"]),
        ("ff", ["f", "f"]),
        ("cafafmm", ["af", "af"]),
        ("acfacf", ["acf", "acf"]),
        ("cfm", ["f"]),
    ],
)
def test_without_names_an_attention_begins_a_layer(order: str, expected: list[str]) -> None:
    """Stems in front of the first one and heads behind the last are no layers; without attention each block is one.

    "f" is a feed-forward block, "c" a convolution and "m" a classifier.
    """
    names = [
        f"{kind} {(ATTENTION if kind == 'a' else BLOCK).UNNAMED}_{place}" for place, kind in enumerate(order)
    ]
    found = layers(sites(names))
    assert list(found) == [str(number) for number in range(len(expected))]
    letters = {kind: letter for letter, kind in KINDS.items()}
    told = ["".join(letters.get(site.kind, "a") for site in layer.sites) for layer in found.values()]
    assert told == expected


@pytest.mark.long
def test_inspect_tells_what_each_layer_holds_and_what_it_costs(command: Command, digits: Path) -> None:
    layers_told = command("inspect", digits, "--json").document["layers"]
    assert [(layer["key"], layer["name"], layer["sites"]) for layer in layers_told] == [
        (str(n), f"blocks.{n}", [f"attn.{n}", f"ffn.{n}"]) for n in range(4)
    ]
    result = prune(digits, heads={"layer.2": "*"}, provider="cpu")
    saved = result.operations
    assert saved is not None
    assert layers_told[2]["operations_share"] == pytest.approx(1 - saved.after / saved.before)
    gone = (result.before.elements - result.after.elements) / result.before.elements
    # The biases of the last maps of a sublayer stay, as one.
    assert layers_told[2]["params_share"] == pytest.approx(gone, rel=0.01)
    printed = command("inspect", digits).stdout
    assert "4 layers (--layers)" in printed and "blocks.2  attn.2 ffn.2" in printed


@pytest.mark.long
@pytest.mark.parametrize(("model", "warned"), [({"layers": 1, "inner": 200}, 1), ({"layers": 3}, 0)])
@pytest.mark.parametrize("spec", ["layer.0", "ffn.0"])
def test_a_layer_that_holds_most_operations_is_named(spec: str, model: dict[str, int], warned: int) -> None:
    result = prune(toys_scores.stack(**model), heads={spec: "*"}, provider="cpu")  # type: ignore[arg-type]
    assert sum("of all operations: make sure" in text for text in result.warnings) == warned


@pytest.mark.parametrize("spec", ["0 2", "0,2", " 0, 2,"])
def test_layers_are_listed_with_spaces_or_commas(spec: str) -> None:
    plan = plan_pruning(toys_scores.stack(layers=3), layers=spec)
    assert [cut.index for cut in plan.cuts if cut.removed] == [0, 2]


def test_what_there_is_is_said_of_a_layer_that_is_not_there(command: Command, digits: Path) -> None:
    assert (
        "there is no layer '9': this model's layers are 0-3"
        in command("prune", digits, "--layers", "9", "-o", "o.onnx").stderr
    )
