"""A layer is all that is added to the residual stream between two states of it, whatever computes that.

The oracle is the same network, written without the layer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxheadprune as ohp
from onnxheadprune.attention import layers as layers_module
from onnxheadprune.attention.layers import layers
from onnxheadprune.attention.sites.find import inspect
from onnxheadprune.attention.unit_specs import combined
from onnxheadprune.errors import RefusedError, ValidationFailedError
from onnxheadprune.model.graph.facts import SUMS_VALUES
from tests.conftest import Command
from tests.graph_text import model_of, rename
from tests.liveness.one_node import run
from tests.toys_nbits import packed

FEED = {
    name: np.random.default_rng(seed).normal(size=(2, 5, 8)).astype(np.float32)
    for seed, name in enumerate("xtc")
}
GIVEN = {
    "an input": "branch@ = Identity(t)",
    "a part of an input": """
        first@ = Constant <value_ints = [0]>() piece@ = Gather <axis = 1>(t, first@)
        half@ = Constant <value_float = 0.5>() branch@ = Mul(piece@, half@)
    """,
}
OTHER = "from another input"
SHARED = "from what all layers read of another input"
GATE = "gates the stream"
HIGHWAY = "gates the stream and itself"
RECURRENT = "updates the stream as a gated recurrent unit"
GATES = (GATE, HIGHWAY, RECURRENT)
FUSED = "heads beside neurons"
ROUNDED = "gated and rounded"
ATTENTION = """
    q0@ = MatMul(in@, wq@) k0@ = MatMul(in@, wk@) v0@ = MatMul(in@, wv@)
    q1@ = Reshape(q0@, split) k1@ = Reshape(k0@, split) v1@ = Reshape(v0@, split)
    q@ = Transpose <perm = [0, 2, 1, 3]>(q1@) k@ = Transpose <perm = [0, 2, 3, 1]>(k1@)
    v@ = Transpose <perm = [0, 2, 1, 3]>(v1@)
    scores@ = MatMul(q@, k@) shares@ = Softmax <axis = -1>(scores@)
    context@ = MatMul(shares@, v@) back@ = Transpose <perm = [0, 2, 1, 3]>(context@)
    merged@ = Reshape(back@, merge) branch@ = MatMul(merged@, wo@)
"""
LOW_RANK = ATTENTION.replace("q0@ = MatMul(in@, wq@)", "few@ = MatMul(in@, wl@) q0@ = MatMul(few@, wr@)")
NETWORK = "up@ = MatMul(in@, wu@) bent@ = Relu(up@) branch@ = MatMul(bent@, wd@)"
BRANCHES = {
    "attention": ATTENTION,
    "low-rank queries": LOW_RANK,
    "network": NETWORK,
    "depthwise": """
        turned@ = Transpose <perm = [0, 2, 1]>(in@)
        mixed@ = Conv <group = 8, kernel_shape = [3], pads = [1, 1]>(turned@, wc@)
        branch@ = Transpose <perm = [0, 2, 1]>(mixed@)
    """,
    "pooled": """
        turned@ = Transpose <perm = [0, 2, 1]>(in@)
        mixed@ = AveragePool <kernel_shape = [3], pads = [1, 1]>(turned@)
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
    "toward an output": """
        up@ = MatMul(in@, wu@) bent@ = Relu(up@) down@ = MatMul(bent@, wd@) made@ = Add(down@, bd@)
        apart@ = Sub(made@, in@) part@ = Constant <value_float = 0.25>() branch@ = Mul(apart@, part@)
    """,
    "gated by its own neurons": """
        up@ = MatMul(in@, wu@) bent@ = Relu(up@)
        mean@ = ReduceMean <axes = [1]>(bent@) small@ = MatMul(mean@, ws@) some@ = Relu(small@)
        gate@ = MatMul(some@, wt@) open@ = Sigmoid(gate@)
        scaled@ = Mul(bent@, open@) branch@ = MatMul(scaled@, wd@)
    """,
    "gated stream of its own": """
        own@ = MatMul(in@, wq@) up@ = MatMul(own@, wu@) bent@ = Relu(up@) down@ = MatMul(bent@, wd@)
        inner@ = Add(own@, down@) raw@ = MatMul(in@, wk@) open@ = Sigmoid(raw@) gated@ = Mul(inner@, open@)
        branch@ = MatMul(gated@, wo@)
    """,
    FUSED: ATTENTION.replace(
        "branch@ = MatMul(merged@, wo@)",
        """
        up@ = MatMul(in@, wu@) bent@ = Relu(up@) both@ = Concat <axis = -1>(merged@, bent@)
        branch@ = MatMul(both@, wj@)
        """,
    ),
    "largest of pieces": """
        up@ = MatMul(in@, wu@) apart@ = Reshape(up@, pieces) most@ = ReduceMax <axes = [3], keepdims = 0>(apart@)
        branch@ = MatMul(most@, wm@)
    """,
    "hidden is an output": "up@ = MatMul(in@, wu@) h@ = Relu(up@) branch@ = MatMul(h@, wd@)",
    "no layer at its end": """
        up@ = MatMul(in@, wq@) one@ = Tanh(up@) other@ = MatMul(in@, wk@) branch@ = Mul(one@, other@)
    """,
    GATE: """
        up@ = MatMul(in@, wu@) bent@ = Relu(up@) branch@ = MatMul(bent@, wd@)
        raw@ = MatMul(in@, wq@) open@ = Sigmoid(raw@) kept@ = Mul(in@, open@)
    """,
    HIGHWAY: """
        up@ = MatMul(in@, wu@) bent@ = Relu(up@) down@ = MatMul(bent@, wd@)
        raw@ = MatMul(in@, wq@) open@ = Sigmoid(raw@) kept@ = Mul(in@, open@)
        one@ = Constant <value_float = 1.0>() shut@ = Sub(one@, open@) branch@ = Mul(down@, shut@)
    """,
    RECURRENT: """
        up@ = MatMul(in@, wu@) bent@ = Relu(up@) down@ = MatMul(bent@, wd@)
        first@ = MatMul(down@, wa@) second@ = MatMul(in@, wb@) new@ = Add(first@, second@) branch@ = Tanh(new@)
        raw@ = MatMul(in@, wq@) more@ = MatMul(down@, wk@) both@ = Add(raw@, more@) open@ = Sigmoid(both@)
        apart@ = Sub(in@, branch@) kept@ = Mul(apart@, open@)
    """,
    ROUNDED: """
        up@ = MatMul(in@, wu@) bent@ = Relu(up@) down@ = MatMul(bent@, wd@)
        whole@ = QuantizeLinear(down@, step, zero) made@ = DequantizeLinear(whole@, step, zero)
        raw@ = MatMul(in@, wq@) open@ = Sigmoid(raw@) branch@ = Mul(open@, made@)
    """,
    "mean of all tokens": "branch@ = ReduceMean <axes = [1], keepdims = 1>(in@)",
    "sum of earlier tokens": "axis@ = Constant <value_int = 1>() branch@ = CumSum(in@, axis@)",
    "Fourier transform": """
        last@ = Constant <value_ints = [3]>() real@ = Unsqueeze(in@, last@) both@ = DFT <axis = 1>(real@)
        first@ = Constant <value_int = 0>() branch@ = Gather <axis = 3>(both@, first@)
    """,
    "shifted tokens": """
        from@ = Constant <value_ints = [0]>() to@ = Constant <value_ints = [-1]>() on@ = Constant <value_ints = [1]>()
        most@ = Slice(in@, from@, to@, on@) pads@ = Constant <value_ints = [0, 1, 0, 0, 0, 0]>()
        branch@ = Pad(most@, pads@)
    """,
    "activation alone": "branch@ = Tanh(in@)",
    "with an input of its own": """
        up@ = MatMul(in@, wq@) bent@ = Tanh(up@) given@r = Relu(c) branch@ = Mul(bent@, given@r)
    """,
    **GIVEN,
    OTHER: "branch@ = MatMul(t, wq@)",
    SHARED: "branch@ = MatMul(bent, wq@)",
}
SUMMED = {
    ("", "Add"): "sum@ = Add(stream@, branch@)",
    ("", "Sum"): "sum@ = Sum(stream@, branch@)",
    ("com.microsoft", "QLinearAdd"): """
        stream@q = QuantizeLinear(stream@, step, zero) branch@q = QuantizeLinear(branch@, step, zero)
        sum@q = com.microsoft.QLinearAdd(stream@q, step, zero, branch@q, step, zero, step, zero)
        sum@ = DequantizeLinear(sum@q, step, zero)
    """,
    ("com.microsoft", "SkipLayerNormalization"): """
        read@, unused@a, unused@b, sum@ = com.microsoft.SkipLayerNormalization(stream@, branch@, gain, shift)
    """,
    ("com.microsoft", "SkipSimplifiedLayerNormalization"): """
        read@, unused@a, unused@b, sum@ = com.microsoft.SkipSimplifiedLayerNormalization(stream@, branch@, gain)
    """,
}
SIZES = {
    "wq": "8, 8", "wk": "8, 8", "wv": "8, 8", "wo": "8, 8", "wu": "8, 12", "wd": "12, 8", "wc": "8, 1, 3",
    "wf": "12, 8, 3", "wg": "8, 12, 3", "bd": "8", "ws": "12, 4", "wt": "4, 12", "wm": "6, 8",
    "wa": "8, 8", "wb": "8, 8", "wp": "8, 8", "wj": "20, 8", "wl": "8, 3", "wr": "3, 8",
    "wx": "2", "wy": "2, 1", "wz": "2, 2",
}  # fmt: skip


@dataclass(frozen=True)
class Network:
    """Residual branches in layers.

    Attributes:
        layers: the names of their branches.
        norm: whether the stream is normalized after each sum.
        named: the branches whose nodes have the name of their layer, all or those of these kinds.
        without: a layer that is left out; what it outputs besides stays.
        behind: a branch that is added behind each layer, in the same sum; the module that computes it; and whether it
            stays where the layer is left out.
        mixed: the layers behind which all states of the stream are summed up, each by a factor of its own.
        added: the operator that adds the branches; where it normalizes the sum, branches read that.
        stem: whether the stream begins with the sum of two linear layers.
        parallel: whether all branches of a layer read the stream in front of it, and one sum adds them.
    """

    layers: Sequence[Sequence[str]]
    norm: bool = False
    named: Sequence[str] = tuple(BRANCHES)
    without: int | None = None
    behind: tuple[str, str, bool] | None = None
    mixed: Sequence[int] = ()
    added: tuple[str, str] = ("", "Add")
    stem: bool = False
    parallel: bool = False

    def model(self) -> onnx.ModelProto:
        text, stream, outputs, states = "", "x", ["float[B, S, 8] y"], ["x"]
        if self.stem:
            text = (
                "up = MatMul(x, wu_9_9) act = Relu(up) down = MatMul(act, wd_9_9) beside = MatMul(x, wq_9_9)"
            )
            text, stream = f"{text} begun = Add(down, beside)\n", "begun"
        read = stream
        for number, branches in enumerate(self.layers):
            for place, kind in enumerate(branches):
                key = f"_{number}_{place}"
                is_there = number != self.without
                if is_there or kind == "hidden is an output":
                    text += BRANCHES[kind].replace("in@", read).replace("@", key)
                    outputs += [f"float[B, S, 12] h{key}"] if kind == "hidden is an output" else []
                elif self.added[0]:
                    text += f" branch{key} = Sub({stream}, {stream})\n"
                if is_there or self.added[0]:
                    kept = f"kept{key}" if kind in GATES else stream
                    text += SUMMED[self.added].replace("stream@,", f"{kept},").replace("@", key)
                    stream = f"sum{key}"
                    read = read if self.parallel and place + 1 < len(branches) else stream
                    if "read@" in SUMMED[self.added]:
                        read = f"read{key}"
                if self.norm:
                    text += f" norm{key} = LayerNormalization({stream}, gain, shift)\n"
                    read = stream = f"norm{key}"
            if self.behind is not None and (number != self.without or self.behind[2]):
                key = f"_{number}_9"
                text += BRANCHES[self.behind[0]].replace("in@", stream).replace("@", key)
                text += f" sum{key} = Add({stream}, branch{key})\n"
                read = stream = f"sum{key}"
            states.append(stream)
            if number in self.mixed:
                for at, state in enumerate(states):
                    text += f"f{number}o{at} = Constant <value_float = {0.5 + at}>() "
                    text += f"p{number}o{at} = Mul({state}, f{number}o{at})\n"
                    earlier = f"m{number}o{at - 1}" if at > 1 else f"p{number}o0"
                    text += f" m{number}o{at} = Add({earlier}, p{number}o{at})\n" if at else ""
                read = stream = f"m{number}o{len(states) - 1}"
        if "(bent, " in text:
            text = "bent = Relu(t)\n" + text
        model = written(f"{text} y = MatMul({stream}, last)", outputs)
        for node in model.graph.node:
            node.output[:] = ["" if name.startswith("unused") else name for name in node.output]
            if node.output[0] == "bent":
                node.name = "/m/layers.0/bent"  # exporters compute it once, where it is first
            if node.output[0].endswith("r"):
                node.name = f"/m/{node.output[0]}"  # what is computed for one layer, outside of it
            found = re.search(r"_(\d)_(\d)$", node.output[0])
            if self.behind is not None and found and found[2] == "9":
                if self.behind[1]:
                    node.name = f"/m/{self.behind[1].replace('@', found[1])}/{node.output[0]}"
            elif found and self.layers[int(found[1])][int(found[2])] in self.named:
                node.name = f"/m/layers.{found[1]}/part{found[2]}/{node.output[0]}"
        return model


def written(text: str, outputs: Sequence[str]) -> onnx.ModelProto:
    """The model of some nodes, with the inputs and weights that they read."""
    inputs = ", ".join(
        f"float[B, S, 8] {name}" for name in FEED if f"({name}," in text or f"({name})" in text
    )
    weights = dict.fromkeys(re.findall(r"\b(w\w|bd)(_\d_\d)\b", text))
    declared = "".join(f", float[{SIZES[name]}] {name}{key}" for name, key in weights)
    return model_of(
        f"""<ir_version: 9, opset_import: ["" : 17, "com.microsoft" : 1]>
        layered ({inputs}) => ({", ".join(outputs)})
        <int64[4] split = {{0, 0, 2, 4}}, int64[3] merge = {{0, 0, 8}}, int64[4] pieces = {{0, 0, 6, 2}},
         int64[1] axis = {{2}},         float[8] gain, float[8] shift, float[8, 8] last,
         float step = {{0.0625}}, uint8 zero = {{128}}{declared}>
        {{ {text} }}"""
    )


@dataclass(frozen=True)
class Joint:
    """Three layers with one attention to two streams, whose input another one scales and shifts (MMDiT).

    Attributes:
        both: whether both streams are outputs; else the second one ends in the last attention.
        without: a layer that is left out.
    """

    both: bool
    without: int | None = None

    def model(self) -> onnx.ModelProto:
        text, x, t = "", "x", "t"
        for number in range(3):
            if number == self.without:
                continue
            attended = ATTENTION.replace("in@", "all@").replace("MatMul(merged@, wo@)", "Identity(merged@)")
            text += f"""
                a@ = MatMul(c, wa@) b@ = MatMul(c, wb@)
                x0@ = LayerNormalization({x}, gain) x1@ = Mul(x0@, a@) x2@ = Add(x1@, b@)
                t0@ = LayerNormalization({t}, gain) t1@ = Mul(t0@, a@) t2@ = Add(t1@, b@)
                all@ = Concat <axis = 1>(x2@, t2@) {attended}
                x3@, t3@ = Split <axis = 1>(branch@) x4@ = MatMul(x3@, wo@) x5@ = Add({x}, x4@)
            """.replace("@", f"_{number}_0")
            text += NETWORK.replace("in@", f"x5_{number}_0").replace("@", f"_{number}_1")
            text += f" sum_{number}_1 = Add(x5_{number}_0, branch_{number}_1)"
            x = f"sum_{number}_1"
            if self.both or number < 2:
                text += f" t4@ = MatMul(t3@, wp@) t5@ = Add({t}, t4@)".replace("@", f"_{number}_0")
                text += NETWORK.replace("in@", f"t5_{number}_0").replace("@", f"_{number}_2")
                text += f" sum_{number}_2 = Add(t5_{number}_0, branch_{number}_2)"
                t = f"sum_{number}_2"
        outputs = ["float[B, S, 8] y"]
        if self.both:
            text += f" z = Identity({t})"
            outputs.append("float[B, S, 8] z")
        return renamed(
            written(f"{text} y = MatMul({x}, last)", outputs),
            lambda value, layer, _: f"/layers.{layer}/{value}",
        )


def held(model: onnx.ModelProto) -> dict[str, list[str]]:
    return {key: [site.key for site in layer.sites] for key, layer in layers(inspect(model)).items()}


def check_removed(network: Network | Joint, key: str) -> None:
    """Remove a layer, and compare with the network that is written without it."""
    made = ohp.prune(network.model(), heads={f"layer.{key}": "*"}, provider="cpu")
    assert made.validation is not None and made.validation.verdict == "passed", made.validation
    oracle = replace(network, without=int(key)).model()
    names = {item.name for item in oracle.graph.input}
    feed = {name: value for name, value in FEED.items() if name in names}
    kept = {item.name for item in made.model.graph.input}
    ours, theirs = run(made.model, {name: feed[name] for name in kept}), run(oracle, feed)
    for name, value in theirs.items():
        np.testing.assert_allclose(ours[name], value, rtol=1e-5, atol=1e-5)


OTHERS = [
    name
    for name in BRANCHES
    if name not in ("attention", "low-rank queries", "network", FUSED, ROUNDED, *GATES, *GIVEN)
]


@pytest.mark.one_in(11)
@pytest.mark.parametrize(("place", "has_name"), [(0, True), (1, False), (2, False), (2, True)])
@pytest.mark.parametrize("kind", OTHERS)
def test_every_branch_of_a_layer_is_removed(kind: str, place: int, has_name: bool) -> None:
    """Between named branches and behind them a branch needs no name to be in their layer; in front of them it does."""
    branches = ["attention", "network"]
    branches.insert(place, kind)
    named = ("attention", "network", *([kind] if has_name else []))
    network = Network([branches, branches, branches], place == 1, named)
    assert list(held(network.model())) == ["0", "1", "2"]
    check_removed(network, "1")


@pytest.mark.one_in(7)
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("kind", OTHERS)
def test_the_last_branch_of_the_last_layer_is_removed(kind: str, norm: bool) -> None:
    """No residual sum is behind it."""
    check_removed(Network([["attention", "network", kind]] * 3, norm), "2")


@pytest.mark.one_in(7)
@pytest.mark.parametrize("module", ["positions", "layers.@/added"])
@pytest.mark.parametrize("kind", [kind for kind in OTHERS if kind != "hidden is an output"])
def test_what_another_module_adds_behind_a_layer_stays(kind: str, module: str) -> None:
    """An embedding of positions, say, which one sum adds with the layer's last branch."""
    layered = ["attention", "network"]
    stays = module == "positions"
    network = Network([layered, layered, layered], behind=(kind, module, stays))
    check_removed(network, "1")


@pytest.mark.one_in(2)
@pytest.mark.parametrize("named", [("attention", "network"), ()])
@pytest.mark.parametrize("kind", GIVEN)
def test_an_input_that_is_added_behind_a_layer_stays(kind: str, named: Sequence[str]) -> None:
    """The residuals of a ControlNet; features of an image that a decoder adds behind its first layers."""
    network = Network([["attention", "network"]] * 3, named=named, behind=(kind, "", True))
    assert held(network.model()) == {str(key): [str(key), f"ffn.{key}"] for key in range(3)}
    for key in "012":
        check_removed(network, key)


@pytest.mark.one_in(7)
@pytest.mark.parametrize("kind", OTHERS)
def test_a_stem_and_a_head_are_in_no_layer(kind: str) -> None:
    """What has a name elsewhere, and what lies in front of the first layer."""
    layered = ["attention", "network"]
    network = Network([[kind], layered, layered], named=("attention", "network"))
    assert list(held(network.model())) == ["1", "2"]
    check_removed(network, "1")


@pytest.mark.one_in(2)
@pytest.mark.parametrize("kind", [OTHER, SHARED])
def test_the_first_layer_has_what_its_module_adds_in_front_of_its_first_branch(kind: str) -> None:
    """A time embedding; what it is added to comes from outside the module."""
    network = Network([[kind, "attention", "network"]] * 2)
    assert list(held(network.model())) == ["0", "1"]
    check_removed(network, "0")


def test_a_layer_whose_heads_and_neurons_share_a_projection_is_removed() -> None:
    """As one layer of Flux's single blocks ends them."""
    network = Network([[FUSED]] * 3, named=())
    assert held(network.model()) == {"0": ["0", "ffn.0"], "1": ["1", "ffn.1"], "2": ["2", "ffn.2"]}
    check_removed(network, "1")


@pytest.mark.one_in(5)
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("mixed", [[2], [0, 1, 2], [1]])
@pytest.mark.parametrize("key", "012")
def test_a_sum_of_states_of_the_stream_is_no_branch(key: str, mixed: list[int], norm: bool) -> None:
    """A weighted sum of all layers' outputs (ELMo), and one in front of each layer (DenseFormer)."""
    network = Network([["attention", "network"]] * 3, norm, mixed=mixed)
    assert held(network.model()) == {"0": ["0", "ffn.0"], "1": ["1", "ffn.1"], "2": ["2", "ffn.2"]}
    check_removed(network, key)


@pytest.mark.parametrize("added", sorted(key for key in SUMS_VALUES if key[0] != "ai.onnx"))
def test_a_layer_is_all_that_is_added_by_whatever_operator(added: tuple[str, str]) -> None:
    """Without names; a sum that is normalized in the same operator is read by branches, and the stream goes on."""
    network = Network([["attention", "network"]] * 3, named=(), added=added)
    assert held(network.model()) == {"0": ["0", "ffn.0"], "1": ["1", "ffn.1"], "2": ["2", "ffn.2"]}
    check_removed(network, "1")


def test_low_rank_queries_are_in_the_layer_of_their_attention() -> None:
    """Latent attention, without names: they lie in front of it; a stem that leads past it into the stream does not."""
    network = Network([["low-rank queries", "network"]] * 3, named=(), stem=True)
    own = {str(key): [f"ffn.{2 * key + 1}", str(key), f"ffn.{2 * key + 2}"] for key in range(3)}
    assert held(network.model()) == own
    for key in own:
        check_removed(network, key)


def test_parallel_branches_are_in_one_layer_in_any_order() -> None:
    """Without names; one sum adds them, so what is computed in front of an attention is not of the layer before."""
    network = Network([["network", "attention"]] * 3, named=(), parallel=True)
    assert held(network.model()) == {str(key): [f"ffn.{key}", str(key)] for key in range(3)}
    check_removed(network, "1")


def test_a_gated_branch_that_is_rounded_goes_with_its_layer() -> None:
    """As a mixture with quantized activations: a layer that outputs zeros still does so behind a quantizer."""
    network = Network([["attention", ROUNDED]] * 2, named=())
    assert held(network.model()) == {"0": ["0", "ffn.0"], "1": ["1", "ffn.1"]}
    check_removed(network, "1")


def test_a_layer_of_packed_weights_is_found() -> None:
    """Without names, and with inputs as long as one block."""
    network = Network([["attention", "network"]] * 3, named=())
    assert held(packed(network.model(), 0)) == held(network.model())


def test_a_layer_that_neither_a_name_nor_a_sum_shows_is_refused() -> None:
    """Stored matrices mix copies of the stream (hyper-connections): no copy that branches read is an addend."""
    text, stream = "first = Unsqueeze(x, axis) copies = Concat <axis = 2>(first, first)", "copies"
    for at, kind in enumerate((ATTENTION, NETWORK) * 2):
        key = f"_{at // 2}_{at % 2}"
        text += f"""
            in@ = Einsum <equation = "bsnd,n->bsd">({stream}, wx@) {kind} own@ = Unsqueeze(branch@, axis)
            new@ = Mul(own@, wy@) mixed@ = Einsum <equation = "bsnd,nm->bsmd">({stream}, wz@)
            sum@ = Add(mixed@, new@)
        """.replace("@", key)
        stream = f"sum{key}"
    text += f' one = Einsum <equation = "bsnd->bsd">({stream}) y = MatMul(one, last)'
    model = written(text, ["float[B, S, 8] y"])
    with pytest.raises(RefusedError, match=r"layer 0 cannot be removed .* no residual sum"):
        ohp.prune(model, heads={"layer.0": "*"}, provider="cpu")


@pytest.mark.one_in(3)
@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("key", "012")
def test_a_joint_attention_goes_from_each_of_its_streams(key: str, both: bool) -> None:
    network = Joint(both)
    assert list(held(network.model())) == ["0", "1", "2"]
    check_removed(network, key)


@pytest.mark.long
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
                ohp.prune(network.model(), heads={"layer.0": "*"}, provider="cpu")
    check_removed(network, "0")


@pytest.mark.one_in(11)
@pytest.mark.parametrize("kind", GATES)
@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_layer_that_multiplies_its_stream_is_refused(at: int, place: int, kind: str) -> None:
    """Without its branches the gate of the stream would stay (the gateway of D-FINE's decoder, GTrXL)."""
    layers = [["attention", "network"] for _ in range(3)]
    # In front of the first sum, a sum of linear layers may be the stream itself.
    place = max(place, 1) if kind == RECURRENT and at == 0 else place
    layers[at].insert(place, kind)
    network = Network(layers)
    for key in range(3):
        if key == at:
            told = rf"layer {at} cannot be removed .* multiplies its stream with (open|apart)_{at}_{place}"
            with pytest.raises(RefusedError, match=told):
                ohp.prune(network.model(), heads={f"layer.{key}": "*"}, provider="cpu")
        else:
            check_removed(network, str(key))


def test_inspect_says_which_layers_have_gates(command: Command, tmp_path: Path) -> None:
    network = Network([["attention", "network"], ["attention", GATE], ["attention", "network"]])
    onnx.save(network.model(), tmp_path / "m.onnx")
    told = command("inspect", tmp_path / "m.onnx", "--json").document["layers"]
    assert [layer["reason"] is None for layer in told] == [True, False, True]


def renamed(model: onnx.ModelProto, name: Callable[[str, int, int], str]) -> onnx.ModelProto:
    """The model under other names of nodes: made of the name of a value, and of the numbers of its layer and branch."""
    for node in model.graph.node:
        found = re.search(r"_(\d)_(\d)$", node.output[0])
        if found:
            node.name = name(node.output[0], int(found[1]), int(found[2]))
    return model


def test_one_vocabulary_names_sites() -> None:
    """In scopes TorchScript calls `encoders.0` of a Sequential `encoders.encoders.0`; weights keep their names."""
    model = Network([["attention", "convolution", "network"]] * 2).model()
    renamed(model, lambda value, layer, place: f"/encoders/encoders.{layer}/part{place}/{value}")
    stored = [tensor for tensor in model.graph.initializer if tensor.name.startswith(("wf", "wg"))]
    rename(model, {item.name: f"encoders.{item.name[3]}.part1.{item.name[:2]}.weight" for item in stored})
    assert held(model) == {"0": ["0", "ffn.0", "ffn.1"], "1": ["1", "ffn.2", "ffn.3"]}
    assert [layer.name for layer in layers(inspect(model)).values()] == [
        "encoders.encoders.0",
        "encoders.encoders.1",
    ]


def test_blocks_of_a_stage_are_layers_without_attention_too() -> None:
    """ConvNeXt: a stage is no layer where each of its blocks has a number of its own."""
    model = Network([["network"]] * 4).model()
    renamed(model, lambda value, layer, place: f"/stages.{layer // 3}/blocks.{layer % 3}/{value}")
    assert held(model) == {"0.0": ["ffn.0"], "0.1": ["ffn.1"], "0.2": ["ffn.2"], "1.0": ["ffn.3"]}
    mixed = Network([["network", "network"]] * 2).model()
    renamed(mixed, lambda value, layer, place: f"/blocks.{layer}/{place}/{value}")
    assert held(mixed) == {"0": ["ffn.0", "ffn.1"], "1": ["ffn.2", "ffn.3"]}


def test_stacks_are_counted_each_by_itself() -> None:
    """A voice: lists of attentions and of networks in its encoder, numbered blocks of convolutions in its vocoder."""
    blocks = [["hidden is an output", "convolution"]] * 2
    model = Network([["attention", "network"], ["attention", "network"], *blocks]).model()
    cut = next(node for node in model.graph.node if node.output[0] == "up_2_0")
    stored = onnx.numpy_helper.from_array(np.ones((8, 8), np.float32), "between")
    model.graph.initializer.append(stored)
    between = onnx.helper.make_node("MatMul", ["sum_1_1", "between"], ["middle"])
    model.graph.node.insert([*model.graph.node].index(cut), between)
    for node in [*model.graph.node][[*model.graph.node].index(between) + 1 :]:
        node.input[:] = ["middle" if name == "sum_1_1" else name for name in node.input]

    def name(value: str, layer: int, place: int) -> str:
        part = f"enc/encoder/{'ffn' if place else 'attn'}_layers.{layer}"
        return f"/{part if layer < 2 else f'dec/resblocks.{layer - 2}/convs.{place}'}/{value}"

    found = held(renamed(model, name))
    assert list(found) == ["dec.resblocks.0", "dec.resblocks.1", "enc.encoder.0", "enc.encoder.1"]
    assert found["enc.encoder.1"] == ["1", "ffn.1"]
    assert found["dec.resblocks.0"] == ["sublayer.0", "ffn.2"]


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    ("named", "removed"),
    [
        ("m.layers.1", ["attn.1", "ffn.1"]),
        ("m.layers.0-1", ["attn.0", "attn.1", "ffn.0", "ffn.1"]),
        ("m.layers.1.part1", ["ffn.1"]),
        ("attn.1", ["attn.1"]),
        ("ffn.0", ["ffn.0"]),
        ("1", ["attn.1", "ffn.1"]),
    ],
)
def test_layers_take_every_name_that_inspect_prints(named: str, removed: list[str]) -> None:
    model = Network([["attention", "network"]] * 2).model()
    spec = combined(None, {}, named)
    assert spec is not None
    assert list(ohp.plan_pruning(model, heads=spec).called_whole) == removed


@pytest.mark.parametrize("named", ["layer.0-1", "layer.0,layer.1", "m.layer.0 m.layer.1"])
def test_a_stack_may_be_called_layer(named: str) -> None:
    """As LXMERT's, beside `r_layers`."""
    model = Network([["attention", "network"]] * 3).model()
    for node in model.graph.node:
        node.name = node.name.replace("layers.2", "r_layers.0").replace("/layers.", "/layer.")
    spec = combined(None, {}, named)
    assert spec is not None and list(held(model)) == ["layer.0", "layer.1", "r_layers.0"]
    assert list(ohp.plan_pruning(model, heads=spec).called_whole) == ["attn.0", "attn.1", "ffn.0", "ffn.1"]


def test_layers_together_that_hold_most_operations_are_named() -> None:
    model = Network([["attention", "network"]] * 3).model()
    made = ohp.prune(model, heads={f"layer.{number}": "*" for number in range(3)}, provider="cpu")
    (warning,) = (text for text in made.warnings if "of all operations" in text)
    assert warning.startswith("the 3 removed layers together held 9") and "none of them is a stem" in warning
