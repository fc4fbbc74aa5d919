"""Whole transformers, written part by part: decoders and encoders whose parameters are columns of one builder."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, ValueInfoProto, helper, numpy_helper

from onnxheadprune import Calibration, Sites
from onnxheadprune.attention.sites.find import sites_of
from onnxheadprune.data.calibration import calibration_data
from onnxheadprune.model.graph.view import GraphView
from onnxheadprune.operators import view_of
from tests.graphs.net import Graph, Net, grouped
from tests.liveness.masks import Array

MICROSOFT, I64 = "com.microsoft", TensorProto.INT64
HEADS, HEAD_SIZE, HIDDEN, INNER, VOCABULARY, FEATURES = 4, 4, 12, 20, 19, 5
FIRST, LAST = 1, 2
"""Ids of the special tokens around every sentence."""
BLOCK, MIDDLE = 16, 8
"""Weights of a packed block, and the level that stands for zero."""
PAST = "past_sequence_length"


@dataclass(frozen=True)
class Columns:
    """What may differ between two stacks."""

    layers: int = 2
    hidden: int = HIDDEN
    heads: int = HEADS
    kv_heads: int = 0  # as many as of queries
    size: int = HEAD_SIZE
    inner: int = INNER  # neurons of a feed-forward block, 0 for none
    reads: str = "ids"  # into an embedding; or "x", the stream; or "features", which a layer reads
    answer: str = "logits"  # or the name of the last state
    norms: str = ""  # "pre" or "post" normalisations
    spelled: bool = False  # these in small operators
    biases: Sequence[str] = (
        "attn",
    )  # of "qkv", the projection of heads ("attn"), the second layer of a block ("ffn")
    activation: str = "Tanh"
    gated: bool = False  # two layers read what comes into a feed-forward block, as in Llama
    parallel: bool = False  # attention and feed-forward block are added together, as in GPT-NeoX
    shared: bool = False  # all layers read the same weights, as in ALBERT
    quantized: bool = False  # projections of heads are int8 behind DequantizeLinear
    masked: bool = False  # an attention_mask hides padding
    cache: str = ""  # names of pasts, with the number of the layer and "key" or "value"
    present: str = "present.{}.{}"
    first: int = 0  # the number of the first layer
    measured: int | None = None  # the layer whose past tells how many positions came before
    also_reads: int | None = None  # a second output reads the stream behind this layer
    silent: Sequence[
        int
    ] = ()  # heads whose rows of the projection are zero, so that removing them shows nowhere
    scale: float = 1.0  # of projections of heads
    extra: int = 0  # elements of a tensor that is added to the first layer, to make the file larger
    even: bool = False  # layers keep the size of what they read
    named: bool = False  # weights depend on their names alone, so that several files share them
    dims: tuple[str, str] = ("batch", "sequence")
    prefix: str = "layer@."  # of the names in a layer, `@` its number
    dtype: Any = np.float32
    seed: int = 0


class Stack(Net):
    """A graph under construction that knows how to write the parts of a transformer."""

    def __init__(self, **columns: Any) -> None:
        self.columns = own = Columns(**columns)
        super().__init__(dtype=own.dtype, seed=own.seed)
        self.outer, self.known = self.initializers, set[str]()
        self.ends: list[ValueInfoProto] = []
        self.attentions = self.networks = 0

    # Weights and names

    def random(self, *shape: int) -> Any:
        scale = 1 / np.sqrt(shape[0]) if self.columns.even and len(shape) > 1 else 0.5
        return (scale * self.rng.standard_normal(shape)).astype(self.dtype)

    def weight(self, name: str, *shape: int) -> str:
        return self.drawn_as(name, lambda: self.random(*shape))

    def drawn_as(self, name: str, make: Callable[[], Any]) -> str:
        """A weight; where all layers share theirs, the one that all of them read."""
        if self.columns.named:
            self.rng = np.random.default_rng(zlib.crc32(name.encode()))
        if self.columns.shared and name.startswith("layer"):
            return self.once(name.partition(".")[2], make())
        return self.constant(name, make())

    def node(self, op_type: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """A node; the values of a layer without a name have short ones."""
        short = output if self.columns.prefix else output.removeprefix("attn.")
        return super().node(op_type, inputs, short, **attributes)

    def once(self, name: str, value: Any) -> str:
        """A tensor of the main graph."""
        if name not in self.known:
            self.known.add(name)
            self.outer.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def linear_layer(self, read: str, name: str, rows: int, columns: int, made: str = "") -> str:
        return self.node("MatMul", [read, self.weight(f"{name}.weight", rows, columns)], made or name)

    def info(self, name: str, shape: Sequence[Any] | None, elem_type: int | None = None) -> ValueInfoProto:
        named = dict(zip(("batch", "sequence"), self.columns.dims, strict=True))
        return super().info(
            name, None if shape is None else [named.get(dim, dim) for dim in shape], elem_type
        )

    # Parts

    def heads(self, read: str, name: str, count: int = 0) -> str:
        """`[batch, count, length, size]` of a layer; the name is that of its weight, without the last part."""
        own, count = self.columns, count or self.columns.heads
        made = self.linear_layer(read, name, own.hidden, count * own.size, f"{name}_product")
        if "qkv" in own.biases:
            made = self.node("Add", [made, self.weight(f"{name}.bias", count * own.size)], f"{name}_biased")
        shape = self.once("split_shape" if count == own.heads else "kv_shape", [0, 0, count, own.size])
        parts = self.node("Reshape", [made, shape], f"{name}_split")
        return self.node("Transpose", [parts], f"{name}_heads", perm=[0, 2, 1, 3])

    def repeated(self, made: str, name: str, count: int) -> str:
        """Heads of keys or values, once for each of their query heads."""
        heads = self.columns.heads
        if count == heads:
            return made
        alone = self.node("Unsqueeze", [made, self.once("third_axis", [2])], f"{name}_alone")
        times = self.once("times", [1, 1, heads // count, 1, 1])
        copies = self.node("Tile", [alone, times], f"{name}_copies")
        return self.node(
            "Reshape", [copies, self.once("all", [0, heads, -1, self.columns.size])], f"{name}_all"
        )

    def attended(self, name: str, queries: str, keys: str, values: str, bias: str = "") -> str:
        """The contexts of heads, projected."""
        own, width = self.columns, self.columns.heads * self.columns.size
        turned = self.node("Transpose", [keys], f"{name}.k_turned", perm=[0, 1, 3, 2])
        scores = self.node("MatMul", [queries, turned], f"{name}.scores")
        scores = self.node("Add", [scores, bias], f"{name}.scores_masked") if bias else scores
        shares = self.node("Softmax", [scores], f"{name}.probabilities", axis=-1)
        context = self.node("MatMul", [shares, values], f"{name}.context")
        self.mark(context, -3, own.heads, str(self.attentions))
        self.attentions += 1
        back = self.node("Transpose", [context], f"{name}.context_back", perm=[0, 2, 1, 3])
        flat = self.node("Reshape", [back, self.once("merge_shape", [0, 0, width])], f"{name}.merged")
        return self.node("MatMul", [flat, self.projection(f"{name}.out", width)], f"{name}.projected")

    def projection(self, name: str, width: int) -> str:
        """The weight that sums up the heads."""
        own = self.columns
        if own.quantized:
            levels = self.rng.integers(-60, 61, (width, own.hidden)).astype(np.int8)
            tensors = {"weight": levels, "scale": np.array(0.01, self.dtype), "zero": np.int8(0)}
            stored = [self.constant(f"{name}.{what}", value) for what, value in tensors.items()]
            return self.node("DequantizeLinear", stored, f"{name}.float")

        def make() -> Any:
            weight = own.scale * self.random(width, own.hidden)
            weight[[head * own.size + at for head in own.silent for at in range(own.size)]] = 0
            return weight.astype(self.dtype)

        return self.drawn_as(f"{name}.weight", make)

    def attention(self, name: str, read: str, number: int = 0, bias: str = "") -> str:
        """Self-attention, with a cache where there is one."""
        own, count = self.columns, self.columns.kv_heads or self.columns.heads
        queries = self.heads(read, f"{name}.q")
        keys, values = (self.heads(read, f"{name}.{part}", count) for part in "kv")
        if own.cache:
            keys, values = self.cached(keys, number, "key"), self.cached(values, number, "value")
        keys, values = self.repeated(keys, f"{name}.k", count), self.repeated(values, f"{name}.v", count)
        return self.attended(name, queries, keys, values, bias)

    def crossed(self, stream: str, name: str, keys: str, values: str, bias: str = "") -> str:
        """The stream with what it reads of keys and values."""
        made = self.attended(name, self.heads(stream, f"{name}.q"), keys, values, bias)
        return self.node("Add", [stream, made], f"{name}.stream")

    def networked(self, stream: str, name: str) -> str:
        """The stream with what a feed-forward block adds to it."""
        return self.node("Add", [stream, self.fed(name, stream)], f"{name}.stream")

    def cached(self, made: str, number: int, what: str) -> str:
        """Keys or values behind those of the past."""
        own, count = self.columns, self.columns.kv_heads or self.columns.heads
        past, present = (pattern.format(number, what) for pattern in (own.cache, own.present))
        self.inputs.append(self.info(past, ["batch", count, PAST, own.size]))
        self.ends.append(self.info(present, ["batch", count, f"{PAST} + sequence", own.size]))
        for name in (past, present):
            self.lie(name, -3, grouped(own.heads, count), str(self.attentions))
        return self.node("Concat", [past, made], present, axis=2)

    def fed(self, name: str, read: str) -> str:
        """A feed-forward block."""
        own = self.columns
        up = self.linear_layer(read, f"{name}.up", own.hidden, own.inner)
        active = self.node(own.activation, [up], f"{name}.active")
        if own.gated:
            gate = self.linear_layer(read, f"{name}.gate", own.hidden, own.inner)
            active = self.node("Mul", [active, gate], f"{name}.gated")
        self.mark(active, -1, own.inner, f"ffn.{self.networks}")
        self.networks += 1
        return self.linear_layer(active, f"{name}.down", own.inner, own.hidden)

    def normed(self, name: str, value: str) -> str:
        """A layer normalisation."""
        spread = 0.3 * self.rng.standard_normal((2, self.columns.hidden))
        gain, shift = (
            self.drawn_as(f"{name}.{what}", lambda row=row: row.astype(self.dtype))
            for what, row in (("gain", 1 + spread[0]), ("shift", spread[1]))
        )
        if not self.columns.spelled:
            return self.node("LayerNormalization", [value, gain, shift], f"{name}.out", axis=-1, epsilon=1e-5)
        mean = self.node("ReduceMean", [value], f"{name}.mean", axes=[-1], keepdims=1)
        apart = self.node("Sub", [value, mean], f"{name}.apart")
        square = self.node("Mul", [apart, apart], f"{name}.square")
        variance = self.node("ReduceMean", [square], f"{name}.variance", axes=[-1], keepdims=1)
        safe = self.node("Add", [variance, self.once("epsilon", np.array(1e-5, self.dtype))], f"{name}.safe")
        unit = self.node("Div", [apart, self.node("Sqrt", [safe], f"{name}.size")], f"{name}.unit")
        return self.node("Add", [self.node("Mul", [unit, gain], f"{name}.scaled"), shift], f"{name}.out")

    def padding(self, mask: str) -> str:
        """What hides padding, `[batch, 1, 1, length]`."""
        known = self.node("Cast", [mask], "mask_known", to=TensorProto.FLOAT)
        hidden = self.node("Sub", [self.once("one", np.float32(1)), known], "mask_inverse")
        far = self.node("Mul", [hidden, self.once("far", np.float32(-1e4))], "mask_far")
        return self.node("Unsqueeze", [far, self.once("middle", [1, 2])], "mask_bias")

    def embedded(self) -> str:
        """The state in front of the first layer."""
        own = self.columns
        name = {"ids": "input_ids", "features": "input_features"}.get(own.reads, own.reads)
        end = {"ids": [], "features": [FEATURES]}.get(own.reads, [own.hidden])
        self.inputs.append(self.info(name, ["batch", "sequence", *end], I64 if own.reads == "ids" else None))
        if own.reads != "ids":
            return (
                "x"
                if own.reads == "x"
                else self.linear_layer(name, "features", FEATURES, own.hidden, "embedded")
            )
        return self.node("Gather", [self.weight("embed.weight", VOCABULARY, own.hidden), name], "embedded")

    def placed(self, stream: str, past: str) -> str:
        """The stream with an embedding of the place, which is counted from the length of a past on."""
        shape = self.node("Shape", [past], "past_shape")
        length = self.node("Gather", [shape, self.once("length_axis", 2)], "before")
        row = self.node("Gather", [self.weight("places.weight", 64, self.columns.hidden), length], "place")
        return self.node("Add", [stream, row], "placed")

    def branch(self, name: str, kind: str, read: str, number: int, bias: str) -> str:
        """What a sublayer adds to the stream."""
        own = self.columns
        made = self.attention(name, read, number, bias) if kind == "attn" else self.fed(name, read)
        if own.extra and self.attentions == 1 and kind == "attn":
            total = self.node(
                "ReduceSum", [self.weight("extra.weight", own.extra)], "extra_total", keepdims=0
            )
            made = self.node("Add", [made, total], f"{name}.more")
        if kind not in own.biases:
            return made
        stored = f"{name}.{'out' if kind == 'attn' else 'down'}.bias"
        return self.node("Add", [made, self.weight(stored, own.hidden)], f"{name}.biased")

    def layer(self, stream: str, prefix: str, number: int = 0, bias: str = "") -> str:
        """A layer, from state to state."""
        own, before = self.columns, stream
        kinds = ("attn", "ffn") if own.inner else ("attn",)
        if own.parallel:
            both = [self.branch(f"{prefix}{kind}", kind, stream, number, bias) for kind in kinds]
            stream = self.node("Add", [self.node("Add", both, f"{prefix}both"), stream], f"{prefix}stream")
        for kind in () if own.parallel else kinds:
            name = f"{prefix}{kind}"
            read = self.normed(f"{name}.norm", stream) if own.norms == "pre" else stream
            stream = self.node("Add", [stream, self.branch(name, kind, read, number, bias)], f"{name}.stream")
            stream = self.normed(f"{name}.norm", stream) if own.norms == "post" else stream
        return self.skip(stream, before, f"layer.{number - own.first}") if own.inner else stream

    def whole(self) -> Graph:
        """The whole stack."""
        own, ends = self.columns, list[ValueInfoProto]()

        def read_out(name: str, weight: str) -> None:
            self.linear_layer(stream, weight, own.hidden, VOCABULARY, name)
            ends.append(self.info(name, ["batch", "sequence", VOCABULARY]))

        stream = self.embedded()
        if own.masked:
            self.inputs.append(self.info("attention_mask", ["batch", "sequence"], I64))
        bias = self.padding("attention_mask") if own.masked else ""
        if own.measured is not None:
            stream = self.placed(stream, own.cache.format(own.first + own.measured, "key"))
        for layer in range(own.layers):
            stream = self.layer(stream, own.prefix.replace("@", str(layer)), own.first + layer, bias)
            if own.also_reads == layer:
                read_out("early", "early")
        if own.answer == "logits":
            read_out("logits", "head")
            ends.insert(0, ends.pop())
        else:
            self.nodes[-1].output[0] = own.answer
            self.marks = [replace(m, value=own.answer) if m.value == stream else m for m in self.marks]
            ends.append(self.info(own.answer, ["batch", "sequence", own.hidden]))
        made = self.model(self.inputs, [*ends, *self.ends])
        return Graph(made, fed(made), tuple(self.marks), tuple(self.lies))


def graph(**columns: Any) -> Graph:
    """A stack with all that is known of it."""
    return Stack(**columns).whole()


def stack(**columns: Any) -> ModelProto:
    """Token ids through layers to logits."""
    return graph(**columns).model


def attention(
    *,
    cache: bool = False,
    ids: bool = False,
    silent_heads: Sequence[int] = (),
    out_scale: float = 1.0,
    extra_weight: int = 0,
    **more: Any,
) -> ModelProto:
    """One attention block with a residual connection, `x [batch, sequence, hidden]` or token ids to `y`."""
    return stack(
        **BLOCK_OF_HEADS,
        reads="ids" if ids else "x",
        cache="past_{1}" if cache else "",
        present="present_{1}",
        silent=silent_heads,
        scale=out_scale,
        extra=extra_weight,
        **more,
    )


def decoder(
    layers: int = 3, *, cache: bool = False, pattern: str = "past_key_values.{}.{}", **more: Any
) -> ModelProto:
    """Token ids to logits, with biases, two heads a layer, and a past and a present of each where there are caches."""
    return stack(**DECODER, layers=layers, cache=pattern if cache else "", **more)


def parallel(layers: int = 3, *, bias: bool = False, **more: Any) -> ModelProto:
    """A decoder whose attention and feed-forward block are added to the stream together."""
    return stack(
        layers=layers, heads=3, inner=16, parallel=True, biases=("attn", "ffn") if bias else (), **more
    )


def encoder(layers: int = 2, **more: Any) -> ModelProto:
    """An encoder as BERT is: normalisations behind sublayers, padding hidden by a mask."""
    return stack(**{**ENCODER, "layers": layers, **more})


BLOCK_OF_HEADS: Mapping[str, Any] = {"layers": 1, "inner": 0, "answer": "y", "prefix": "", "biases": ("qkv",)}
DECODER: Mapping[str, Any] = {"hidden": 8, "heads": 2, "inner": 16, "biases": ("attn", "ffn")}
ENCODER: Mapping[str, Any] = {
    "hidden": 16,
    "inner": 24,
    "norms": "post",
    "masked": True,
    "even": True,
    "answer": "last_hidden_state",
}


def no_attention() -> ModelProto:
    """A single product with weights."""
    net = Net()
    net.node("MatMul", ["x", net.weight("w", 3, 5)], "y")
    return net.model([net.info("x", ["batch", 3])], [net.info("y", ["batch", 5])])


# Models of models


def without_past(model: ModelProto) -> ModelProto:
    """A decoder with caches as it is for the first tokens: presents, and no pasts."""
    made = ModelProto()
    made.CopyFrom(model)
    for node in made.graph.node:
        if node.op_type == "Concat":
            node.op_type = "Identity"
            del node.attribute[:]
            del node.input[0]
    del made.graph.input[1:]
    return made


def both(first: ModelProto, later: ModelProto) -> ModelProto:
    """A decoder for the first tokens and one for later ones in one, with a flag that says whether there is a cache."""
    tensors, inputs = (
        {item.name: item for model in (later, first) for item in getattr(model.graph, kind)}
        for kind in ("initializer", "input")
    )
    bodies = {
        name: helper.make_graph(list(model.graph.node), name, [], list(model.graph.output))
        for name, model in (("then_branch", later), ("else_branch", first))
    }
    outputs = list(first.graph.output)
    choice = helper.make_node(
        "If", ["use_cache_branch"], [item.name for item in outputs], name="choice", **bodies
    )
    flag = helper.make_tensor_value_info("use_cache_branch", TensorProto.BOOL, [1])
    made = helper.make_graph([choice], "merged", [*inputs.values(), flag], outputs, list(tensors.values()))
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def merged(layers: int = 3) -> ModelProto:
    """A decoder with caches, for the first tokens and for later ones."""
    later = decoder(layers, cache=True)
    return both(without_past(later), later)


def packed(model: ModelProto, accuracy_level: int) -> ModelProto:
    """A copy whose products with weights are `MatMulNBits` of 4 bits, as onnxruntime-genai writes int4 decoders."""
    copy = ModelProto()
    copy.CopyFrom(model)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in copy.graph.node:
        if node.op_type == "MatMul" and node.input[1] in weights:
            (source, name), tensor = node.input, weights.pop(node.input[1])
            stored = [f"{name}_q", f"{name}_scales"]
            rows, columns = tensor.dims
            sizes = {
                "K": rows,
                "N": columns,
                "bits": 4,
                "block_size": BLOCK,
                "accuracy_level": accuracy_level,
            }
            node.CopyFrom(
                helper.make_node(
                    "MatMulNBits", [source, *stored], list(node.output), node.name, domain=MICROSOFT, **sizes
                )
            )
            copy.graph.initializer.remove(tensor)
            copy.graph.initializer.extend(
                map(numpy_helper.from_array, _blocks(numpy_helper.to_array(tensor)), stored)
            )
    if all(item.domain != MICROSOFT for item in copy.opset_import):
        copy.opset_import.append(helper.make_opsetid(MICROSOFT, 1))
    return copy


def _blocks(matrix: Any) -> tuple[Array, Array]:
    """`[N, K / block, block / 2]` bytes and a scale per block."""
    inner, columns = matrix.shape
    filled = np.zeros((-(-inner // BLOCK) * BLOCK, columns), np.float32)
    filled[:inner] = matrix
    rows = filled.T.reshape(columns, -1, BLOCK)
    scales = np.abs(rows).max(axis=2, keepdims=True) / 7
    levels = (np.round(rows / scales) + MIDDLE).astype(np.uint8)
    return levels[..., 0::2] | levels[..., 1::2] << 4, scales.astype(np.float32).reshape(-1)


# Tensors and inputs


def set_initializer(model: ModelProto, name: str, array: Any) -> None:
    """Replace an initializer's data."""
    _stored(model, name).CopyFrom(numpy_helper.from_array(np.asarray(array), name))


def get_initializer(model: ModelProto, name: str) -> Any:
    """An initializer as an array that may be changed."""
    return numpy_helper.to_array(_stored(model, name)).copy()


def _stored(model: ModelProto, name: str) -> TensorProto:
    for tensor in model.graph.initializer:
        if tensor.name == name:
            return tensor
    raise KeyError(name)


def ids(feeds: int = 10, rows: int = 8, length: int = 6, seed: int = 3) -> list[dict[str, Any]]:
    """Token ids without padding."""
    random = np.random.default_rng(seed)
    return [{"input_ids": random.integers(0, VOCABULARY, (rows, length))} for _ in range(feeds)]


def sentences(count: int = 48, batch: int = 8, seed: int = 5) -> list[dict[str, Any]]:
    """Sentences of several lengths, special tokens at both ends, padded on the right."""
    random = np.random.default_rng(seed)
    lengths = np.sort(random.integers(5, 12, count))
    feeds = []
    for start in range(0, count, batch):
        part = lengths[start : start + batch]
        made = np.zeros((len(part), int(part.max())), np.int64)
        for row, length in zip(made, part, strict=True):
            row[1 : length - 1] = random.integers(3, VOCABULARY, length - 2)
            row[0], row[length - 1] = FIRST, LAST
        feeds.append({"input_ids": made, "attention_mask": (made != 0).astype(np.int64)})
    return feeds


SIZES = {
    "past_sequence_length": 2,
    "past": 2,
    "kv_cache_dim": 16,
    "encoder_sequence_length": 4,
    "batch": 2,
    "total_sequence_length": 2 + 3,
    "batch_size": 2,
}
"""Lengths of named dimensions; others are 3."""


def fed(model: ModelProto, **sizes: int) -> dict[str, Array]:
    """Inputs of a model: small integers, ones as masks, and numbers."""
    random, made, named = np.random.default_rng(3), {}, {**SIZES, **sizes}
    for info in model.graph.input:
        kind = info.type.tensor_type
        shape = [dim.dim_value or named.get(dim.dim_param, 3) for dim in kind.shape.dim]
        dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type)
        if kind.elem_type == TensorProto.BOOL:
            made[info.name] = np.ones(shape, np.bool_)
        elif dtype.kind in "iu":
            low, high = (1, 2) if "mask" in info.name else (0, 9)
            made[info.name] = random.integers(low, high, shape).astype(dtype)
        else:
            made[info.name] = random.uniform(-1, 1, shape).astype(dtype)
    return made


def parts(model: ModelProto, feeds: Any = None) -> tuple[GraphView, Sites, Calibration]:
    """A model's annotated view, its sites, and data for it."""
    view = view_of(model)
    return view, sites_of(view, "the model"), calibration_data(ids() if feeds is None else feeds, view)
