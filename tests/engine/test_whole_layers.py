"""A layer is all that is added to the residual stream between two states of it, whatever computes that.

The oracle is the same network, written without the layer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
import pytest

import onnxheadprune as ohp
from onnxheadprune.attention import layers as layers_module
from onnxheadprune.attention.layers import layers
from onnxheadprune.attention.sites.find import inspect
from onnxheadprune.errors import ValidationFailedError
from tests.engine.one_node import run
from tests.graph_text import model_of

FEED = {
    name: np.random.default_rng(seed).normal(size=(2, 5, 8)).astype(np.float32)
    for seed, name in enumerate("xt")
}
OTHER = "from another input"
ATTENTION = """
    q0@ = MatMul(in@, wq@) k0@ = MatMul(in@, wk@) v0@ = MatMul(in@, wv@)
    q1@ = Reshape(q0@, split) k1@ = Reshape(k0@, split) v1@ = Reshape(v0@, split)
    q@ = Transpose <perm = [0, 2, 1, 3]>(q1@) k@ = Transpose <perm = [0, 2, 3, 1]>(k1@)
    v@ = Transpose <perm = [0, 2, 1, 3]>(v1@)
    scores@ = MatMul(q@, k@) shares@ = Softmax <axis = -1>(scores@)
    context@ = MatMul(shares@, v@) back@ = Transpose <perm = [0, 2, 1, 3]>(context@)
    merged@ = Reshape(back@, merge) branch@ = MatMul(merged@, wo@)
"""
NETWORK = "up@ = MatMul(in@, wu@) bent@ = Relu(up@) branch@ = MatMul(bent@, wd@)"
BRANCHES = {
    "attention": ATTENTION,
    "network": NETWORK,
    "depthwise": """
        turned@ = Transpose <perm = [0, 2, 1]>(in@)
        mixed@ = Conv <group = 8, kernel_shape = [3], pads = [1, 1]>(turned@, wc@)
        branch@ = Transpose <perm = [0, 2, 1]>(mixed@)
    """,
    "convolution": """
        turned@ = Transpose <perm = [0, 2, 1]>(in@)
        wide@ = Conv <kernel_shape = [3], pads = [1, 1]>(turned@, wf@) bent@ = Relu(wide@)
        made@ = Conv <kernel_shape = [3], pads = [1, 1]>(bent@, wg@)
        branch@ = Transpose <perm = [0, 2, 1]>(made@)
    """,
    "gated by the stream": """
        up@ = MatMul(in@, wu@) bent@ = Relu(up@) down@ = MatMul(bent@, wd@) made@ = Add(down@, bd@)
        raw@ = MatMul(in@, wq@) open@ = Sigmoid(raw@) branch@ = Mul(open@, made@)
    """,
    "gated by its own neurons": """
        up@ = MatMul(in@, wu@) bent@ = Relu(up@)
        mean@ = ReduceMean <axes = [1]>(bent@) small@ = MatMul(mean@, ws@) some@ = Relu(small@)
        gate@ = MatMul(some@, wt@) open@ = Sigmoid(gate@)
        scaled@ = Mul(bent@, open@) branch@ = MatMul(scaled@, wd@)
    """,
    "largest of pieces": """
        up@ = MatMul(in@, wu@) apart@ = Reshape(up@, pieces) most@ = ReduceMax <axes = [3], keepdims = 0>(apart@)
        branch@ = MatMul(most@, wm@)
    """,
    "hidden is an output": "up@ = MatMul(in@, wu@) h@ = Relu(up@) branch@ = MatMul(h@, wd@)",
    "no layer at its end": """
        up@ = MatMul(in@, wq@) one@ = Tanh(up@) other@ = MatMul(in@, wk@) branch@ = Mul(one@, other@)
    """,
    OTHER: "branch@ = MatMul(t, wq@)",
}
SIZES = {
    "wq": "8, 8", "wk": "8, 8", "wv": "8, 8", "wo": "8, 8", "wu": "8, 12", "wd": "12, 8", "wc": "8, 1, 3",
    "wf": "12, 8, 3", "wg": "8, 12, 3", "bd": "8", "ws": "12, 4", "wt": "4, 12", "wm": "6, 8",
}  # fmt: skip


@dataclass(frozen=True)
class Network:
    """Residual branches in layers.

    Attributes:
        layers: the names of their branches.
        norm: whether the stream is normalized after each sum.
        named: the branches whose nodes have the name of their layer, all or those of these kinds.
        without: a layer that is left out; what it outputs besides stays.
    """

    layers: Sequence[Sequence[str]]
    norm: bool = False
    named: Sequence[str] = tuple(BRANCHES)
    without: int | None = None

    def model(self) -> onnx.ModelProto:
        text, stream, outputs = "", "x", ["float[B, S, 8] y"]
        for number, branches in enumerate(self.layers):
            for place, kind in enumerate(branches):
                key = f"_{number}_{place}"
                is_there = number != self.without
                if is_there or kind == "hidden is an output":
                    text += BRANCHES[kind].replace("in@", stream).replace("@", key)
                    outputs += [f"float[B, S, 12] h{key}"] if kind == "hidden is an output" else []
                if is_there:
                    text += f" sum{key} = Add({stream}, branch{key})\n"
                    stream = f"sum{key}"
                if self.norm:
                    text += f" norm{key} = LayerNormalization({stream}, gain, shift)\n"
                    stream = f"norm{key}"
        inputs = "float[B, S, 8] x" + ", float[B, S, 8] t" * any(OTHER in kinds for kinds in self.layers)
        weights = dict.fromkeys(re.findall(r"\b(w\w|bd)(_\d_\d)\b", text))
        declared = "".join(f", float[{SIZES[name]}] {name}{key}" for name, key in weights)
        model = model_of(
            f"""<ir_version: 9, opset_import: ["" : 17]>
            layered ({inputs}) => ({", ".join(outputs)})
            <int64[4] split = {{0, 0, 2, 4}}, int64[3] merge = {{0, 0, 8}}, int64[4] pieces = {{0, 0, 6, 2}},
             float[8] gain, float[8] shift, float[8, 8] last{declared}>
            {{ {text} y = MatMul({stream}, last) }}"""
        )
        for node in model.graph.node:
            found = re.search(r"_(\d)_(\d)$", node.output[0])
            if found and self.layers[int(found[1])][int(found[2])] in self.named:
                node.name = f"/layers.{found[1]}/part{found[2]}/{node.output[0]}"
        return model


def held(model: onnx.ModelProto) -> dict[str, list[str]]:
    return {key: [site.key for site in layer.sites] for key, layer in layers(inspect(model)).items()}


def check_removed(network: Network, key: str) -> None:
    """Remove a layer, and compare with the network that is written without it."""
    made = ohp.prune(network.model(), {f"layer.{key}": "*"}, provider="cpu")
    assert made.validation is not None and made.validation.verdict == "passed", made.validation
    oracle = replace(network, without=int(key)).model()
    names = {item.name for item in oracle.graph.input}
    feed = {name: value for name, value in FEED.items() if name in names}
    kept = {item.name for item in made.model.graph.input}
    ours, theirs = run(made.model, {name: feed[name] for name in kept}), run(oracle, feed)
    for name, value in theirs.items():
        np.testing.assert_allclose(ours[name], value, rtol=1e-5, atol=1e-5)


OTHERS = [name for name in BRANCHES if name not in ("attention", "network")]


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("kind", OTHERS)
def test_every_branch_of_a_layer_is_removed(kind: str, place: int) -> None:
    """Between named branches and behind them a branch needs no name to be in their layer; in front of them it does."""
    branches = ["attention", "network"]
    branches.insert(place, kind)
    named = ("attention", "network", *([] if place else [kind]))
    network = Network([branches, branches, branches], place == 1, named)
    assert list(held(network.model())) == ["0", "1", "2"]
    check_removed(network, "1")


@pytest.mark.parametrize("kind", OTHERS)
def test_a_stem_and_a_head_are_in_no_layer(kind: str) -> None:
    """What has a name elsewhere, and what lies in front of the first layer."""
    layered = ["attention", "network"]
    network = Network([[kind], layered, layered], named=("attention", "network"))
    assert list(held(network.model())) == ["1", "2"]
    check_removed(network, "1")


def test_a_branch_that_is_forgotten_fails_the_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference of a layer is read off the stream, not off the sites that lose units."""
    network = Network([["attention", "depthwise", "network"]] * 2)
    right = layers_module.Layer.removed.func
    for forgotten in range(3):
        with monkeypatch.context() as patched:
            patched.setattr(
                layers_module.Layer,
                "removed",
                property(
                    lambda layer, out=forgotten: tuple(
                        site for at, site in enumerate(right(layer)) if at != out
                    )
                ),
            )
            patched.setattr(layers_module.Layer, "obstacle", None)
            with pytest.raises(ValidationFailedError):
                ohp.prune(network.model(), {"layer.0": "*"}, provider="cpu")
    check_removed(network, "0")
