"""Networks of layers with branches of every kind, as text: the oracle of a removed layer is the text without it."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from tests.graph_text import model_of

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
        mean@ = ReduceMean(bent@, axis1) small@ = MatMul(mean@, ws@) some@ = Relu(small@)
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
        up@ = MatMul(in@, wu@) apart@ = Reshape(up@, pieces) most@ = ReduceMax <keepdims = 0>(apart@, axis3)
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
    "mean of all tokens": "branch@ = ReduceMean <keepdims = 1>(in@, axis1)",
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
    "Add": "sum@ = Add(stream@, branch@)",
    "Sum": "sum@ = Sum(stream@, branch@)",
    "Sub": "minus@ = Neg(branch@) sum@ = Sub(stream@, minus@)",
    "Mean": "half@ = Mean(stream@, branch@) two@ = Constant <value_float = 2.0>() sum@ = Mul(half@, two@)",
    "ReduceSum": """
        last@ = Constant <value_ints = [3]>() one@ = Unsqueeze(stream@, last@) other@ = Unsqueeze(branch@, last@)
        both@ = Concat <axis = 3>(one@, other@) sum@ = ReduceSum <keepdims = 0>(both@, last@)
    """,
    "Where": """
        whole@ = Add(stream@, branch@) huge@ = Constant <value_float = 1e9>() never@ = Greater(stream@, huge@)
        sum@ = Where(never@, stream@, whole@)
    """,
    "pieces": """
        s1@, s2@ = Split <axis = 2, num_outputs = 2>(stream@) b1@, b2@ = Split <axis = 2, num_outputs = 2>(branch@)
        a1@ = Add(s1@, b1@) a2@ = Add(s2@, b2@) sum@ = Concat <axis = 2>(a1@, a2@)
    """,
    "Cast": """
        one@ = Cast <to = 11>(stream@) other@ = Cast <to = 11>(branch@) wide@ = Add(one@, other@)
        sum@ = Cast <to = 1>(wide@)
    """,
    "flat": """
        rows@ = Constant <value_ints = [-1, 8]>() one@ = Reshape(stream@, rows@) other@ = Reshape(branch@, rows@)
        long@ = Add(one@, other@) size@ = Shape(stream@) sum@ = Reshape(long@, size@)
    """,
    "projected": "moved@ = MatMul(stream@, wv@) sum@ = Add(moved@, branch@)",
    "QLinearAdd": """
        whole@ = QuantizeLinear(stream@, step, zero) other@ = QuantizeLinear(branch@, step, zero)
        both@ = com.microsoft.QLinearAdd(whole@, step, zero, other@, step, zero, step, zero)
        sum@ = DequantizeLinear(both@, step, zero)
    """,
    "SkipLayerNormalization": """
        read@, unused@a, unused@b, sum@ = com.microsoft.SkipLayerNormalization(stream@, branch@, gain, shift)
    """,
    "SkipSimplifiedLayerNormalization": """
        read@, unused@a, unused@b, sum@ = com.microsoft.SkipSimplifiedLayerNormalization(stream@, branch@, gain)
    """,
}
"""How a stream takes a branch in."""
NORMS = {
    "layer": "read@ = LayerNormalization <epsilon = 1e-12>(stream@, gain, shift)",
    "rms": """
        square@ = Mul(stream@, stream@) mean@ = ReduceMean(square@, axis2) tiny@ = Constant <value_float = 1e-12>()
        safe@ = Add(mean@, tiny@) root@ = Sqrt(safe@) unit@ = Div(stream@, root@) read@ = Mul(unit@, gain)
    """,
}
FUSED_NORMS = {"SkipLayerNormalization": "layer", "SkipSimplifiedLayerNormalization": "rms"}
SIZES = {
    "wq": "8, 8", "wk": "8, 8", "wv": "8, 8", "wo": "8, 8", "wu": "8, 12", "wd": "12, 8", "wc": "8, 1, 3",
    "wf": "12, 8, 3", "wg": "8, 12, 3", "bd": "8", "ws": "12, 4", "wt": "4, 12", "wm": "6, 8",
    "wa": "8, 8", "wb": "8, 8", "wp": "8, 8", "wj": "20, 8", "wl": "8, 3", "wr": "3, 8",
    "wn": "8", "wx": "2", "wy": "2, 1", "wz": "2, 2",
}  # fmt: skip


@dataclass(frozen=True)
class Network:
    """Residual branches in layers.

    Attributes:
        layers: the names of their branches.
        norm: the norm of the stream after each sum.
        without: the layers that are the identity.
        behind: a branch that is added behind each layer, and the module that computes it.
        added: the operator that adds the branches; where it normalizes the sum, branches read that.
        parallel: whether all branches of a layer read the stream in front of it.
    """

    layers: Sequence[Sequence[str]]
    norm: str = ""
    without: Collection[int] = ()
    behind: tuple[str, str] | None = None
    added: str = "Add"
    parallel: bool = False

    def model(self) -> onnx.ModelProto:
        text, stream, outputs = "", "x", ["float[B, S, 8] y"]
        read = stream
        for number, branches in enumerate(self.layers):
            for place, kind in enumerate(branches):
                key = f"_{number}_{place}"
                if number not in self.without:
                    text += BRANCHES[kind].replace("in@", read).replace("@", key)
                    kept = f"kept{key}" if kind in GATES else stream
                    text += SUMMED[self.added].replace("stream@", kept).replace("@", key)
                    stream = f"sum{key}"
                    read = read if self.parallel and place + 1 < len(branches) else stream
                    if "read@" in SUMMED[self.added]:
                        read = f"read{key}"
                    if self.norm:
                        own = re.sub(r"(\w+)@", r"n\1@", NORMS[self.norm]).replace("gain", "wn@")
                        text += own.replace("nstream@", stream).replace("@", key)
                        read = stream = f"nread{key}"
                elif "read@" in SUMMED[self.added] and not self.norm:
                    # The norm of the next layer is computed with the sum of this one.
                    text += NORMS[FUSED_NORMS[self.added]].replace("stream@", stream).replace("@", key)
                    read = f"read{key}"
            if self.behind is not None:
                key = f"_{number}_9"
                text += BRANCHES[self.behind[0]].replace("in@", stream).replace("@", key)
                text += f" sum{key} = Add({stream}, branch{key})\n"
                read = stream = f"sum{key}"
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
            elif found:
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
        f"""<ir_version: 9, opset_import: ["" : 18, "com.microsoft" : 1]>
        layered ({inputs}) => ({", ".join(outputs)})
        <int64[4] split = {{0, 0, 2, 4}}, int64[3] merge = {{0, 0, 8}}, int64[4] pieces = {{0, 0, 6, 2}},
         int64[1] axis1 = {{1}}, int64[1] axis2 = {{2}}, int64[1] axis3 = {{3}},
         float[8] gain, float[8] shift, float[8, 8] last,
         float step = {{0.0625}}, uint8 zero = {{128}}{declared}>
        {{ {text} }}"""
    )


def pyramid() -> onnx.ModelProto:
    """Three layers, of which the first projects its stream to fewer channels, as between the stages of a pyramid."""
    model = Network([["network"]] * 3, added="projected").model()
    sizes = {"wv_0_0": (8, 6), "wd_0_0": (12, 6), "last": (6, 8)}
    for number in (1, 2):
        sizes |= {f"wv_{number}_0": (6, 6), f"wd_{number}_0": (12, 6), f"wu_{number}_0": (6, 12)}
    for tensor in model.graph.initializer:
        if tensor.name in sizes:
            array = np.random.default_rng(0).normal(size=sizes[tensor.name]).astype(np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    return model


@dataclass(frozen=True)
class Joint:
    """Three layers with one attention to two streams, whose input another one scales and shifts (MMDiT).

    Attributes:
        both: whether both streams are outputs; else the second one ends in the last attention.
        without: the layers that are left out.
    """

    both: bool
    without: Collection[int] = ()

    def model(self) -> onnx.ModelProto:
        text, x, t = "", "x", "t"
        for number in range(3):
            if number in self.without:
                continue
            attended = ATTENTION.replace("in@", "all@").replace("MatMul(merged@, wo@)", "Identity(merged@)")
            text += f"""
                a@ = MatMul(c, wa@) b@ = MatMul(c, wb@)
                x0@ = LayerNormalization({x}, gain) x1@ = Mul(x0@, a@) x2@ = Add(x1@, b@)
                t0@ = LayerNormalization({t}, gain) t1@ = Mul(t0@, a@) t2@ = Add(t1@, b@)
                all@ = Concat <axis = 1>(x2@, t2@) {attended}
                x3@, t3@ = Split <axis = 1, num_outputs = 2>(branch@) x4@ = MatMul(x3@, wo@) x5@ = Add({x}, x4@)
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


def renamed(model: onnx.ModelProto, name: Callable[[str, int, int], str]) -> onnx.ModelProto:
    """The model under other names of nodes: made of the name of a value, and of the numbers of its layer and branch."""
    for node in model.graph.node:
        found = re.search(r"_(\d)_(\d)$", node.output[0])
        if found:
            node.name = name(node.output[0], int(found[1]), int(found[2]))
    return model
