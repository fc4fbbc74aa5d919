"""Residual branches without units, and sites whose units only go together: removed as a whole, with the layer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxheadprune as ohp
from onnxheadprune.attention.layers import layers
from onnxheadprune.attention.sites.find import inspect
from onnxheadprune.errors import RefusedError
from tests import toys
from tests.conftest import Command
from tests.graph_text import model_of, rename
from tests.liveness.one_node import run

FEED = {"x": np.random.default_rng(0).normal(size=(2, 5, 8)).astype(np.float32)}

CONVOLUTION = """
    turned@ = Transpose <perm = [0, 2, 1]>(read@)
    mixed@ = Conv <group = 2, kernel_shape = [3], pads = [2, 0]>(turned@, wc)
    made@ = Transpose <perm = [0, 2, 1]>(mixed@)
"""
RECURRENCE = """
    first@ = Transpose <perm = [1, 0, 2]>(read@)
    steps@, last@ = RNN <hidden_size = 8>(first@, wi, wr)
    step@ = Squeeze(steps@, one)
    made@ = Transpose <perm = [1, 0, 2]>(step@)
"""
MIXERS = {"convolution": CONVOLUTION, "recurrence": RECURRENCE}
LAYER = """
    flat@ = MatMul(@in, layers_@_mixer_in_weight)
    read@ = Tanh(flat@)
    {mixer}
    out@ = MatMul(made@, layers_@_mixer_out_weight)
    mid@ = Add(@in, out@)
    up@ = MatMul(mid@, layers_@_ffn_up_weight)
    bent@ = Relu(up@)
    down@ = MatMul(bent@, layers_@_ffn_down_weight)
    @out = Add(mid@, down@)
"""


def network(mixer: str, *, named: bool = True, count: int = 3) -> onnx.ModelProto:
    """`x [B, S, 8]` through layers of a mixer and a feed-forward block each."""
    stack, declared = "", ""
    for number in range(count):
        text = LAYER.format(mixer=MIXERS[mixer]).replace("@in", "x" if number == 0 else f"s{number - 1}")
        text = text.replace("@out", "y" if number == count - 1 else f"s{number}").replace("@", str(number))
        stack += text
        for part, shape in (
            ("mixer_in", "8, 8"),
            ("mixer_out", "8, 8"),
            ("ffn_up", "8, 12"),
            ("ffn_down", "12, 8"),
        ):
            declared += f", float[{shape}] layers_{number}_{part}_weight"
    model = model_of(
        f"""<ir_version: 9, opset_import: ["" : 17]>
        mixers (float[B, S, 8] x) => (float[B, S, 8] y)
        <int64[1] one = {{1}}, float[8, 4, 3] wc, float[1, 8, 8] wi, float[1, 8, 8] wr{declared}> {{ {stack} }}"""
    )
    if named:
        weights = [item.name for item in model.graph.initializer if item.name.startswith("layers_")]
        rename(model, {name: name.replace("_", ".") for name in weights})
    used = {name for node in model.graph.node for name in node.input}
    for tensor in [item for item in model.graph.initializer if item.name not in used]:
        model.graph.initializer.remove(tensor)
    return model


@pytest.mark.one_in(3)
@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("mixer", MIXERS)
def test_a_layer_holds_its_mixer_and_goes_with_it(mixer: str, named: bool) -> None:
    """The oracle knows nothing of sites: zeros in the last weights of both branches of the layer."""
    model = network(mixer, named=named)
    held = {
        key: [site.label.split(" ")[0] for site in layer.sites]
        for key, layer in layers(inspect(model)).items()
    }
    assert held == {str(n): [f"sublayer.{n}", f"ffn.{n}"] for n in range(3)}
    made = ohp.prune(model, heads={"layer.1": "*"}, provider="cpu")
    assert made.validation is not None and made.validation.verdict == "passed", made.validation
    other = onnx.ModelProto()
    other.CopyFrom(model)
    for part in ("mixer.out", "ffn.down"):
        name = f"layers.1.{part}.weight" if named else f"layers.1.{part}.weight".replace(".", "_")
        toys.set_initializer(other, name, np.zeros_like(toys.get_initializer(other, name)))
    np.testing.assert_allclose(run(made.model, FEED)["y"], run(other, FEED)["y"], rtol=1e-5, atol=1e-6)
    left = layers(inspect(made.model))
    assert list(left) == ["0", "2"] and not any("layers.1" in t.name for t in made.model.graph.initializer)


def test_the_gate_of_a_branch_is_no_branch() -> None:
    """RWKV multiplies a network with a sigmoid of another layer, which is no term of the sum."""
    model = model_of(
        """<ir_version: 9, opset_import: ["" : 17]>
        gated (float[B, S, 8] x) => (float[B, S, 8] y)
        <float[8, 12] up, float[12, 8] down, float[8, 8] gate, int64[1] one = {1}> {
            wide = MatMul(x, up)
            bent = Relu(wide)
            made = MatMul(bent, down)
            raw = MatMul(x, gate)
            opened = Sigmoid(raw)
            branch = Mul(opened, made)
            y = Add(x, branch)
        }"""
    )
    sites = inspect(model)
    assert [site.label for site in sites.of("sublayers")] == [] and len(sites.neurons) == 1


@pytest.mark.long
def test_a_sublayer_goes_only_where_it_is_named(tmp_path: Path, command: Command) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(network("recurrence"), path)
    shown = command("inspect", path).stdout
    assert "3 other sublayers" in shown and "sublayer.1 ffn.1" in shown
    cut = command("prune", path, "-o", tmp_path / "o.onnx", "--layers", "sublayer.1", "-v")
    assert cut.exit_code == 0 and "sublayer.1" in cut.stdout
    checked = command("validate", path, tmp_path / "o.onnx", "-v")
    assert checked.exit_code == 0 and "without sublayer.1" in " ".join(checked.stdout.split())


COUPLED = """<ir_version: 9, opset_import: ["" : 17]>
attention (float[B, S, 8] x) => (float[B, S, 8] y)
<float[8, 8] wq, float[8, 8] wk, float[8, 8] wv, float[8, 8] wo, float[8, 8] tail, float[8] g, float[8] b,
 int64[4] split = {0, 0, 2, 4}, int64[3] merge = {0, 0, 8}> {
    q0 = MatMul(x, wq)
    k0 = MatMul(x, wk)
    v0 = MatMul(x, wv)
    q1 = Reshape(q0, split)
    k1 = Reshape(k0, split)
    v1 = Reshape(v0, split)
    q = Transpose <perm = [0, 2, 1, 3]>(q1)
    k = Transpose <perm = [0, 2, 3, 1]>(k1)
    v = Transpose <perm = [0, 2, 1, 3]>(v1)
    scores = MatMul(q, k)
    shares = Softmax <axis = -1>(scores)
    context = MatMul(shares, v)
    back = Transpose <perm = [0, 2, 1, 3]>(context)
    merged = Reshape(back, merge)
    normal = LayerNormalization(merged, g, b)
    out = MatMul(normal, wo)
    s = Add(x, out)
    y = MatMul(s, tail)
}"""


def test_what_mixes_heads_goes_with_all_of_them() -> None:
    """A normalisation over all heads keeps each of them; without any it computes nothing that depends on an input."""
    model = model_of(COUPLED)
    (site,) = inspect(model)
    assert not site.removable and site.removable_whole
    with pytest.raises(RefusedError, match="LayerNormalization mixes values across heads"):
        ohp.prune(model, heads={"0": [1]}, provider="cpu")
    made = ohp.prune(model, heads={"attn.0": "*"}, provider="cpu")
    assert made.validation is not None and made.validation.verdict == "passed"
    other = onnx.ModelProto()
    other.CopyFrom(model)
    toys.set_initializer(other, "wo", np.zeros((8, 8), np.float32))
    np.testing.assert_allclose(run(made.model, FEED)["y"], run(other, FEED)["y"], rtol=1e-5, atol=1e-6)
    assert not {node.op_type for node in made.model.graph.node} & {"Softmax", "LayerNormalization"}


def test_a_projection_that_reads_the_stream_is_not_removed_with_the_heads() -> None:
    """An attention without an output projection: the layer behind the next normalisation reads the stream, too."""
    text = COUPLED.replace(
        "normal = LayerNormalization(merged, g, b)",
        "more = Add(x, merged)\nnormal = LayerNormalization(more, g, b)",
    )
    sites = inspect(model_of(text))
    assert not any(site.removable_whole for site in sites)
    for site in sites:
        with pytest.raises(RefusedError):
            ohp.prune(model_of(text), heads={site.called(site.number): "*"}, provider="cpu")


INSIDE = """
    other = MatMul(x, w1)
    weighed = Mul(other, q0)
    wide = MatMul(weighed, w2)
    most = Softmax <axis = -1>(wide)
    plain = MatMul(x, w3)
    second = Mul(most, plain)
    normal = Concat <axis = -1>(merged, second)
"""


def test_a_block_inside_an_attention_goes_with_the_layer() -> None:
    """ConvBERT has a second branch in its attention whose neurons are queries: they cannot go alone, and need not."""
    text = COUPLED.replace("normal = LayerNormalization(merged, g, b)", INSIDE)
    text = text.replace(
        "y = MatMul(s, tail)", "up = MatMul(s, fu) bent = Relu(up) down = MatMul(bent, fd) y = Add(s, down)"
    )
    text = text.replace(
        "float[8, 8] tail, float[8] g, float[8] b",
        "float[8, 8] w1, float[8, 8] w2, float[8, 8] w3, float[8, 12] fu, float[12, 8] fd",
    )
    model = model_of(text.replace("float[8, 8] wo", "float[16, 8] wo"))
    parts = {"wo": "attn.out", "w1": "attn.self", "w2": "attn.self", "fu": "ffn.up", "fd": "ffn.down"}
    rename(model, {name: f"layers.0.{part}.{name}.weight" for name, part in parts.items()})
    sites = inspect(model)
    inner = {site for site in sites.neurons if not site.removable_whole}
    assert any("also needed elsewhere" in str(site.reason) for site in inner)
    (layer,) = layers(sites).values()
    assert inner <= {*layer.sites} and inner.isdisjoint(layer.removed)
    made = ohp.prune(model, heads={"layer.0": "*"}, provider="cpu")
    assert made.validation is not None and made.validation.verdict == "passed"
