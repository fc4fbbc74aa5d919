"""Rows of whole models: decoders with caches, encoders and decoders, layers, exits, fused and quantized forms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, helper

from tests.graphs import exits, experts, fused, pairs
from tests.graphs.net import Cut, Graph, Mark, Skip, each, grouped
from tests.graphs.table import Found, Row, add
from tests.graphs.toys import (
    BLOCK_OF_HEADS,
    DECODER,
    ENCODER,
    MICROSOFT,
    Columns,
    decoder,
    fed,
    graph,
    merged,
    packed,
    stack,
)

MODELS: dict[str, Callable[[], ModelProto]] = {}
"""All models here by name, for laws that hold for every model."""


def known(
    name: str, make: Callable[[], Graph], found: Sequence[Found], cuts: Sequence[Cut] | None = None
) -> None:
    """A row of a model whose builder knows where its units are."""
    MODELS[name] = lambda: make().model
    add(Row(name, lambda net: make(), found=found, cuts=cuts))


def named(model: ModelProto, marks: Sequence[Mark | Skip], lies: Sequence[Mark] = (), **sizes: int) -> Graph:
    """A model that is written elsewhere, whose values are known by name."""
    return Graph(model, fed(model, **sizes), tuple(marks), tuple(lies))


def caches(site: str, names: Sequence[str], groups: int, units: int) -> list[Mark]:
    """Caches `[batch, heads, length, size]` of a site."""
    return [Mark(site, name, -3, grouped(units, groups)) for name in names]


def heads(units: int, groups: int | None = None, size: int = 4) -> Found:
    return Found(units, groups, size=size)


def neurons(number: int, units: int) -> Found:
    return Found(units, key=f"ffn.{number}", of="neurons")


def layer(number: int) -> Found:
    return Found(1, key=f"layer.{number}", of="layers")


# Attention alone

for name, columns in {
    "one block with a cache": {"reads": "x", "cache": "past_{1}", "present": "present_{1}"},
    "ids into one block": {},
}.items():
    known(name, lambda columns=columns: graph(**BLOCK_OF_HEADS, **columns), [heads(4)])

# Stacks of several layers


def stacked(name: str, change: Callable[[Graph], Graph] = lambda made: made, **columns: Any) -> None:
    """A stack whose parameters are given."""
    own = Columns(**columns)
    last, groups = str(own.layers - 1), own.kv_heads or own.heads
    found = [heads(own.heads, groups, own.size) for _ in range(own.layers)]
    found += [neurons(number, own.inner) for number in range(own.layers)] + [
        layer(n) for n in range(own.layers)
    ]
    gone = list(range(own.heads // groups))
    cuts: list[Cut] = [
        {"0": gone},
        {"ffn.0": [1, 4]},
        {last: range(own.heads), f"ffn.{last}": range(own.inner)},
        {"0": gone, "1": list(range(own.heads))[-len(gone) :], "ffn.1": [0]},
        {"layer.0": [0]},
        {f"layer.{last}": [0]},
        {"layer.1": [0], "0": gone},
    ]
    known(name, lambda: change(graph(**columns)), found, cuts)


three = {**DECODER, "layers": 3}
cached = {**three, "cache": "past_key_values.{}.{}"}
stacked("plain decoder", **three)
stacked("pre-norm", **three, norms="pre")
stacked("norms of small operators", **three, norms="pre", spelled=True)
stacked("post-norm", **three, norms="post")
stacked("caches", **cached, measured=0)
stacked("merged decoder", lambda made: replace(made, model=merged(), feed=fed(merged())), **cached)
stacked("parallel", layers=3, heads=3, inner=16, parallel=True, biases=())
stacked("parallel with biases", layers=3, heads=3, inner=16, parallel=True, biases=("attn", "ffn"))
stacked("encoder", **ENCODER)
stacked("stack, plain")
stacked("stack, grouped", kv_heads=2)
stacked("stack, one key for all", kv_heads=1)
stacked("stack, grouped and gated", kv_heads=2, gated=True)
stacked("stack, quantized", quantized=True)
MODELS["4 bits"] = lambda: packed(stack(), 0)


def fused_at_the_end() -> ModelProto:
    """A decoder whose last sum and the normalisation behind it are one operator, as ONNX Runtime fuses them."""
    model = decoder(3, norms="pre")
    last = next(node for node in model.graph.node if node.output[0] == "layer2.ffn.stream")
    inputs = [*last.input, "layer2.ffn.norm.gain", "layer2.ffn.norm.shift"]
    ends = {"domain": MICROSOFT, "epsilon": 1e-5}
    last.CopyFrom(helper.make_node("SkipLayerNormalization", inputs, list(last.output), name="end", **ends))
    model.opset_import.append(helper.make_opsetid(MICROSOFT, 1))
    return model


MODELS["fused at the end"] = fused_at_the_end

# An encoder and its decoder

OWN = [f"{tense}.0.decoder.{what}" for tense in ("past_key_values", "present") for what in ("key", "value")]
CROSS = [f"past_key_values.0.encoder.{what}" for what in ("key", "value")]
BOTH = [*CROSS, *(name.replace("past_key_values", "present") for name in CROSS)]
FED = {"layers": 1, "inner": 24, "masked": True, "biases": (), "named": True, "even": True, "prefix": "enc."}
known("encoder of two", lambda: graph(**FED), [heads(4), neurons(0, 24)])
for name, make, cross in (
    ("decoder of two", lambda: pairs.decoder(past=True, feed=True), CROSS),
    ("merged decoder of two", lambda: pairs.merged(feed=True), BOTH),
):
    marks = [Mark("0", "dec.context", -3, each(4)), Mark("1", "cross.context", -3, each(4))]
    marks.append(Mark("ffn.0", "dec.mlp.active", -1, each(24)))
    lies = [*caches("0", OWN, 4, 4), *caches("1", cross, 4, 4)]
    known(
        name,
        lambda make=make, marks=marks, lies=lies: named(make(), marks, lies),
        [heads(4), heads(4), neurons(0, 24)],
    )

# Fused operators

for name, options in {
    "GroupQueryAttention": {},
    "MultiHeadAttention": {"repeated": True, "bias": True},
}.items():
    lies = caches(
        "0",
        [f"{tense}.0.{what}" for tense in ("past_key_values", "present") for what in ("key", "value")],
        2,
        4,
    )
    known(
        name,
        # Several tokens behind a cache are a sample of their own.
        lambda options=options, lies=lies: named(
            fused.decoder(**options), [Mark("0", "context", -1, each(4, 16))], lies, batch=1
        ),
        [Found(4, 2, size=16)],
    )

# Exits


def exiting(
    name: str, make: Callable[[], ModelProto], tags: Sequence[str], cuts: Sequence[Cut] | None = None
) -> None:
    marks = [
        mark
        for number, tag in enumerate(tags)
        for mark in (
            Mark(str(number), f"{tag}/attn.context", -3, each(4)),
            Mark(f"ffn.{number}", f"{tag}/ffn.active", -1, each(12)),
        )
    ]
    found = [heads(4, size=2) for _ in tags] + [neurons(number, 12) for number in range(len(tags))]
    known(name, lambda: named(make(), marks), found, cuts)


TAGS = ("l0", "l1", "l2")
SEVERAL: list[Cut] = [{"0": [1], "2": [0, 3]}, {"1": range(4)}, {"ffn.1": [2, 5]}]
exiting("exits, nested", exits.nested, TAGS, SEVERAL)
exiting("exits, chain", exits.chain, TAGS, SEVERAL)
exiting("exits, weights outside", exits.FORMS["weights outside"], TAGS, SEVERAL)
exiting("exits, negated", exits.FORMS["negated"], TAGS, SEVERAL)
exiting("exit of a loop", exits.loop, ("l",))

_QUICK = (
    "one block with a cache",
    "caches",
    "parallel with biases",
    "merged decoder of two",
    "MultiHeadAttention",
)
EACH = [pytest.param(name, marks=() if name in _QUICK else pytest.mark.slow) for name in MODELS]
"""All names, for laws that take seconds a model: a few in every run of the tests, the others with the long ones."""

# Mixtures: the router never chooses what is removed


def mixture(name: str, toy: experts.Experts, gathers: int) -> None:
    def write(net: Any) -> Graph:
        x = experts.tokens()
        return Graph(
            toy.model(),
            {"x": x},
            expected=lambda feed, cut: {"out": toy.expected(feed["x"], cut["moe.0"]).astype(np.float32)},
        )

    found = [Found(experts.EXPERTS, key="moe.0", of="experts")]
    least = {"all": 1, "one more": experts.CHOSEN + 1}.get(toy.routing.partition(",")[0], experts.CHOSEN)
    cuts: list[Cut] = [{"moe.0": [1, 4]}, {"moe.0": [0, 5]}]
    refused: list[tuple[Cut, str]] = [({"moe.0": range(experts.EXPERTS - least + 1)}, "would be left")]
    if "groups" in toy.routing:
        refused.append(({"moe.0": [2]}, "groups of its router with different numbers"))
    else:
        cuts.append({"moe.0": range(experts.EXPERTS - least)})
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
    **experts.TOYS,
    **{f"by hand, {name}": toy for name, toy in experts.BY_HAND.items()},
}.items():
    mixture(name, toy, int(toy.body == "each, one-hot"))
