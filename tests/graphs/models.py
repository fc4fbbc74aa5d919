"""Rows of whole models: decoders with caches, encoders and decoders, layers, exits, fused and quantized forms."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from onnx import ModelProto

from tests import (
    toys,
    toys_all,
    toys_exits,
    toys_experts,
    toys_layers,
    toys_recovery,
)
from tests.graphs.net import Cut, Graph, Mark, Skip, each, grouped
from tests.graphs.table import Found, Row, add
from tests.liveness.masks import Array

SIZES = {"past_length": 2, "past_sequence_length": 2, "past": 2, "kv_cache_dim": 16}
LENGTHS = {
    "total_length": 2 + 3,
    "total_sequence_length": 2 + 3,
    "encoder_sequence_length": 4,
    "batch": 2,
    "batch_size": 2,
}


def fed(model: ModelProto, **sizes: int) -> dict[str, Array]:
    """Inputs of a model: small integers, ones as masks, and numbers."""
    random, made, named = np.random.default_rng(3), {}, {**LENGTHS, **SIZES, **sizes}
    for info in model.graph.input:
        kind = info.type.tensor_type
        shape = [dim.dim_value or named.get(dim.dim_param, 3) for dim in kind.shape.dim]
        if kind.elem_type == 1:
            made[info.name] = random.uniform(-1, 1, shape).astype(np.float32)
        elif kind.elem_type == 9:
            made[info.name] = np.ones(shape, np.bool_)
        else:
            low, high = (1, 2) if "mask" in info.name else (0, 9)
            dtype = np.int64 if kind.elem_type == 7 else np.int32
            made[info.name] = random.integers(low, high, shape).astype(dtype)
    return made


def known(
    name: str,
    make: Callable[[], ModelProto],
    found: Sequence[Found],
    marks: Sequence[Mark | Skip],
    lies: Sequence[Mark] = (),
    cuts: Sequence[Cut] | None = None,
    sizes: Mapping[str, int] | None = None,
    **more: Any,
) -> None:
    """A row of a model that is written elsewhere, whose values are known by name."""

    def write(net: Any) -> Graph:
        model = make()
        return Graph(model, fed(model, **sizes or {}), marks, lies)

    add(Row(name, write, found=found, cuts=cuts, **more))


def caches(site: str, names: Sequence[str], groups: int, units: int) -> list[Mark]:
    """Caches `[batch, heads, length, size]` of a site."""
    return [Mark(site, name, -3, grouped(units, groups)) for name in names]


def pasts(number: int, site: str, groups: int, units: int) -> list[Mark]:
    names = [
        f"{tense}.{number}.{what}" for tense in ("past_key_values", "present") for what in ("key", "value")
    ]
    return caches(site, names, groups, units)


def heads(units: int, groups: int | None = None, size: int = 4) -> Found:
    return Found(units, groups, size=size)


def neurons(number: int, units: int) -> Found:
    return Found(units, key=f"ffn.{number}", of="neurons")


def layer(number: int) -> Found:
    return Found(1, key=f"layer.{number}", of="layers")


# Attention alone

known(
    "one block with a cache",
    lambda: toys.attention(cache=True),
    [heads(4)],
    [Mark("0", "context", -3, each(4))],
    caches("0", ["past_key", "past_value", "present_key", "present_value"], 4, 4),
)
known(
    "ids into one block",
    lambda: toys.attention(ids=True),
    [heads(4)],
    [Mark("0", "context", -3, each(4))],
)

# Decoders of several layers


def stacked(
    name: str,
    make: Callable[[], ModelProto],
    layers: int,
    names: Mapping[str, str],
    cache: bool = False,
    inner: int = 16,
    units: int = 2,
    groups: int | None = None,
    size: int = 4,
) -> None:
    """A stack of layers; `@` in a name is the number of its layer, `%` that of the next one."""

    def named(what: str, number: int) -> str:
        return names[what].replace("@", str(number)).replace("%", str(number + 1))

    found: list[Found] = []
    marks: list[Mark | Skip] = []
    lies: list[Mark] = []
    before = names["first"]
    for number in range(layers):
        marks.append(Mark(str(number), named("context", number), -3, each(units)))
        marks.append(Mark(f"ffn.{number}", named("active", number), -1, each(inner)))
        found += [heads(units, groups, size), neurons(number, inner), layer(number)]
        if "state" in names:
            marks.append(Skip(f"layer.{number}", named("state", number), before))
            before = named("state", number)
        if cache:
            lies += pasts(number, str(number), groups or units, units)
    found = [item for of in ("heads", "neurons", "layers") for item in found if item.of == of]
    if "state" not in names:
        found = [item for item in found if item.of != "layers"]
    last = str(layers - 1)
    cuts: list[Cut] = [
        {"0": _first(units, groups)},
        {"ffn.0": [1, 4]},
        {last: range(units), f"ffn.{last}": range(inner)},
        {"0": _first(units, groups), "1": list(range(units))[-len(_first(units, groups)) :], "ffn.1": [0]},
    ]
    if "state" in names:
        cuts += [{"layer.0": [0]}, {f"layer.{last}": [0]}, {"layer.1": [0], "0": _first(units, groups)}]
    known(name, make, found, marks, lies, cuts)


def _first(units: int, groups: int | None) -> list[int]:
    return list(range(units // (groups or units)))


POST = {
    "context": "layer@.attn.context",
    "active": "layer@.ffn.active",
    "state": "layer@.ffn.stream",
    "first": "embedded",
}
stacked("plain decoder", toys_layers.decoder, 3, POST)
stacked("pre-norm", toys_all.MODELS["pre-norm"], 3, POST)
stacked("norms of small operators", toys_all.MODELS["norms of small operators"], 3, POST)
stacked("post-norm", toys_all.MODELS["post-norm"], 3, POST | {"state": "layer@.ffn.norm.out"})
stacked(
    "caches",
    lambda: toys_layers.decoder(3, cache=True, measured=0),
    3,
    POST | {"first": "placed"},
    cache=True,
)
stacked("merged decoder", toys_layers.merged, 3, POST, cache=True)
PARALLEL = {"context": "context@", "active": "active@", "state": "stream%", "first": "stream0"}
for name in ("parallel", "parallel with biases"):
    stacked(name, toys_all.MODELS[name], 3, PARALLEL, units=3)
stacked("encoder", toys_recovery.encoder, 2, PARALLEL, units=4, inner=24)
PLAIN_STACK = {
    "context": "layer@.context",
    "active": "layer@.active",
    "state": "layer@.out",
    "first": "embedded",
}
for name, groups in (
    ("plain", 4),
    ("grouped", 2),
    ("one key for all", 1),
    ("grouped and gated", 2),
    ("quantized", 4),
):
    stacked(f"stack, {name}", toys_all.MODELS[name], 2, PLAIN_STACK, units=4, groups=groups, inner=20)

# An encoder and its decoder

known(
    "encoder of two",
    toys_all.MODELS["encoder of two"],
    [heads(4), neurons(0, 24)],
    [Mark("0", "enc.context", -3, each(4)), Mark("ffn.0", "enc.mlp.active", -1, each(24))],
)
OWN = [f"{tense}.0.decoder.{what}" for tense in ("past_key_values", "present") for what in ("key", "value")]
CROSS = [f"past_key_values.0.encoder.{what}" for what in ("key", "value")]
BOTH = [*CROSS, *(name.replace("past_key_values", "present") for name in CROSS)]
for name, cross in (("decoder of two", CROSS), ("merged decoder of two", BOTH)):
    known(
        name,
        toys_all.MODELS[name],
        [heads(4), heads(4), neurons(0, 24)],
        [
            Mark("0", "dec.context", -3, each(4)),
            Mark("1", "cross.context", -3, each(4)),
            Mark("ffn.0", "dec.mlp.active", -1, each(24)),
        ],
        [*caches("0", OWN, 4, 4), *caches("1", cross, 4, 4)],
    )

# Fused operators

for name in ("GroupQueryAttention", "MultiHeadAttention"):
    known(
        name,
        toys_all.MODELS[name],
        [Found(4, 2, size=16)],
        [Mark("0", "context", -1, each(4, 16))],
        pasts(0, "0", 2, 4),
        # Several tokens behind a cache are a sample of their own.
        sizes={"batch": 1},
    )
# Exits

for name, make in (("nested", toys_exits.nested), ("chain", toys_exits.chain)):
    known(
        f"exits, {name}",
        make,
        [Found(4, size=2)] * 3 + [neurons(number, 12) for number in range(3)],
        [Mark(str(number), f"l{number}/context", -3, each(4)) for number in range(3)]
        + [Mark(f"ffn.{number}", f"l{number}/active", -1, each(12)) for number in range(3)],
        cuts=[{"0": [1], "2": [0, 3]}, {"1": range(4)}, {"ffn.1": [2, 5]}],
    )
known(
    "exit of a loop",
    toys_exits.loop,
    [Found(4, size=2), neurons(0, 12)],
    [Mark("0", "l/context", -3, each(4)), Mark("ffn.0", "l/active", -1, each(12))],
)


# Mixtures: the router never chooses what is removed


def mixture(name: str, toy: toys_experts.Experts, gathers: int) -> None:
    def write(net: Any) -> Graph:
        x = toys_experts.tokens()
        return Graph(
            toy.model(),
            {"x": x},
            expected=lambda feed, cut: {"out": toy.expected(feed["x"], cut["moe.0"]).astype(np.float32)},
        )

    found = [Found(toys_experts.EXPERTS, key="moe.0", of="experts")]
    cuts = [{"moe.0": [1, 4]}, {"moe.0": [0, 5]}]
    least = 1 if toy.routing.startswith("all, ") else toys_experts.CHOSEN
    refused = [({"moe.0": range(toys_experts.EXPERTS - least + 1)}, "would be left")]
    add(
        Row(
            f"mixture, {name}",
            write,
            found=found,
            cuts=cuts,
            refused=refused,
            gathers=gathers,
            missed=None,
        )
    )


for name, toy in {
    **toys_experts.TOYS,
    **{f"by hand, {name}": toy for name, toy in toys_experts.BY_HAND.items()},
}.items():
    mixture(name, toy, int(toy.body == "each, one-hot"))
