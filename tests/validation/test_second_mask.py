"""Two masks, one model: heads silenced where they are made, and where the site says that they are projected."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper

from onnxheadprune import prune, validate
from onnxheadprune.attention.masking import masked_reference
from onnxheadprune.attention.planning import Planning, analyse
from onnxheadprune.attention.sites import find
from onnxheadprune.attention.sites.all_sites import Sites
from onnxheadprune.attention.sites.attention_site import AttentionSite
from onnxheadprune.attention.sites.core import Core
from onnxheadprune.attention.sites.find import inspect
from onnxheadprune.attention.sites.grouping import Block as SiteBlock
from onnxheadprune.attention.sites.projection import Projection
from onnxheadprune.edit.apply import apply_plan
from onnxheadprune.edit.plan import PrunePlan
from onnxheadprune.liveness.interface import AS_BEFORE
from onnxheadprune.model.load import LoadedModel
from onnxheadprune.operators import view_of
from onnxheadprune.runtime import CPU, Provider, Session
from onnxheadprune.runtime.feeds.generate import FeedMaker
from onnxheadprune.runtime.tolerances import FLOAT32
from onnxheadprune.validation.core_masks import silenced_cores
from onnxheadprune.validation.deployment import Models
from onnxheadprune.validation.second_mask import SecondMask
from tests import toys_scores
from tests.deploying import exports
from tests.graph_builder import GraphBuilder
from tests.toys import HEAD_SIZE, HEADS, HIDDEN

WIDTH = HEADS * HEAD_SIZE


class Block(GraphBuilder):
    """Self-attention whose way from the contexts to the projection is up to the test."""

    def heads(self, stream: str, name: str, count: int = HEADS) -> str:
        """[batch, heads, sequence, size] of a projection."""
        size = WIDTH // count
        flat = self.node("MatMul", [stream, self.weight(f"{name}.weight", HIDDEN, WIDTH)], f"{name}_flat")
        target = self.constant(f"{name}_target", np.array([0, 0, count, size]))
        self.node("Reshape", [flat, target], f"{name}_split")
        return self.node("Transpose", [f"{name}_split"], f"{name}_heads", perm=[0, 2, 1, 3])

    def context(self, count: int = HEADS) -> str:
        """[batch, heads, sequence, size]."""
        for name in "qkv":
            self.heads("x", name, count)
        self.node("Transpose", ["k_heads"], "k_turned", perm=[0, 1, 3, 2])
        self.node("MatMul", ["q_heads", "k_turned"], "scores")
        self.node("Softmax", ["scores"], "probabilities", axis=-1)
        return self.node("MatMul", ["probabilities", "v_heads"], "context")

    def merged(self, value: str, width: int = WIDTH) -> str:
        self.node("Transpose", [value], f"{value}_back", perm=[0, 2, 1, 3])
        target = self.constant(f"{value}_target", np.array([0, 0, width]))
        return self.node("Reshape", [f"{value}_back", target], f"{value}_merged")

    def built(self, context: str, width: int = WIDTH) -> ModelProto:
        self.node("MatMul", [context, self.weight("o.weight", width, HIDDEN)], "projected")
        self.node("Add", ["projected", "x"], "y")
        shape = ["batch", "sequence", HIDDEN]
        return self.model([self.info("x", shape)], [self.info("y", shape)])


def plain() -> ModelProto:
    block = Block()
    return block.built(block.merged(block.context()))


def value_bias_behind_the_core() -> ModelProto:
    """The weights of a softmax sum to one, so a bias of the values may be added to the context as well."""
    block = Block()
    return block.built(
        block.node("Add", [block.merged(block.context()), block.weight("v.bias", WIDTH)], "biased")
    )


def gate() -> ModelProto:
    block = Block()
    flat = block.node("MatMul", ["x", block.weight("gate.weight", HIDDEN, WIDTH)], "gate_flat")
    opened = block.node("Sigmoid", [flat], "gate_open")
    return block.built(block.node("Mul", [block.merged(block.context()), opened], "gated"))


def convolution_of_the_values() -> ModelProto:
    """CSWin's local enhancement: a convolution over the tokens of the values is added to the context."""
    block = Block()
    merged = block.merged(block.context())
    values = block.merged("v_heads")
    turned = block.node("Transpose", [values], "v_turned", perm=[0, 2, 1])
    weight, bias = block.weight("conv.weight", WIDTH, 1, 3), block.weight("conv.bias", WIDTH)
    local = block.node("Conv", [turned, weight, bias], "local", group=WIDTH, pads=[1, 1])
    back = block.node("Transpose", [local], "local_back", perm=[0, 2, 1])
    return block.built(block.node("Add", [merged, back], "enhanced"))


def norm_without_mixing_heads() -> ModelProto:
    """Every head is normalised by itself before the merge, with a scale and a bias."""
    block = Block()
    block.context()
    scale, bias = block.weight("norm.scale", HEAD_SIZE), block.weight("norm.bias", HEAD_SIZE)
    block.node("LayerNormalization", ["context", scale, bias], "context_normed", axis=-1)
    return block.built(block.merged("context_normed"))


def gate_behind_a_norm() -> ModelProto:
    """RetNet: every head is normalised by itself, and a gate of its own lets through the bias of the norm."""
    block = Block()
    block.context()
    scale, bias = block.weight("norm.scale", HEAD_SIZE), block.weight("norm.bias", HEAD_SIZE)
    block.node("LayerNormalization", ["context", scale, bias], "context_normed", axis=-1)
    flat = block.node("MatMul", ["x", block.weight("gate.weight", HIDDEN, WIDTH)], "gate_flat")
    opened = block.node("Sigmoid", [flat], "gate_open")
    return block.built(block.node("Mul", [block.merged("context_normed"), opened], "gated"))


def folded() -> ModelProto:
    """Heads lie on one symbolic axis with the batch, as nn.MultiheadAttention folds them."""
    block = Block()
    for name in "qkv":
        flat = block.node("MatMul", ["x", block.weight(f"{name}.weight", HIDDEN, WIDTH)], f"{name}_flat")
        apart = block.constant(f"{name}_apart", np.array([0, 0, HEADS, HEAD_SIZE]))
        block.node("Reshape", [flat, apart], f"{name}_split")
        block.node("Transpose", [f"{name}_split"], f"{name}_heads", perm=[0, 2, 1, 3])
        block.node("Shape", ["x"], f"{name}_shape")
        one, end = block.constant(f"{name}_one", np.array([1])), block.constant(f"{name}_end", np.array([2]))
        length = block.node("Slice", [f"{name}_shape", one, end], f"{name}_length")
        rest, size = (
            block.constant(f"{name}_rest", np.array([-1])),
            block.constant(f"{name}_size", np.array([4])),
        )
        block.node("Concat", [rest, length, size], f"{name}_target", axis=0)
        block.node("Reshape", [f"{name}_heads", f"{name}_target"], f"{name}_folded")
    block.node("Transpose", ["k_folded"], "k_turned", perm=[0, 2, 1])
    block.node("MatMul", ["q_folded", "k_turned"], "scores")
    block.node("Softmax", ["scores"], "probabilities", axis=-1)
    block.node("MatMul", ["probabilities", "v_folded"], "core")
    heads = block.constant("unfold_heads", np.array([HEADS]))
    block.node("Concat", ["q_rest", heads, "q_length", "q_size"], "unfold", axis=0)
    block.node("Reshape", ["core", "unfold"], "context")
    return block.built(block.merged("context"))


@pytest.mark.each_choice
@pytest.mark.parametrize("gone", [[1], [0, 2], [0, 1, 2, 3]])
@pytest.mark.parametrize(
    "build",
    [
        plain,
        value_bias_behind_the_core,
        gate,
        convolution_of_the_values,
        norm_without_mixing_heads,
        gate_behind_a_norm,
        folded,
    ],
)
def test_what_is_the_heads_own_passes(build: Any, gone: list[int]) -> None:
    model = build()
    planning = analyse(model, {0: gone}, "the model")
    assert planning.sites[0].num_heads == HEADS
    silenced = silenced_cores(planning)
    assert silenced.any and not silenced.skipped and len(silenced.taps) == 1
    found = validate(model, apply_plan(planning.plan, model), provider="cpu")
    assert found.verdict == "passed", found.reason
    assert not any("silenced" in note for note in found.notes)


# A wrong site


def no_projection(heads: int, norm: bool, mapped: bool) -> ModelProto:
    """The attention is added to its input, and a feed-forward layer reads the sum: that is no projection."""
    block = Block()
    width = WIDTH if mapped else HIDDEN
    spread = (
        block.node("MatMul", ["x", block.weight("in.weight", HIDDEN, width)], "stream") if mapped else "x"
    )
    for name in "qkv":
        flat = block.node("MatMul", [spread, block.weight(f"{name}.weight", width, width)], f"{name}_flat")
        target = block.constant(f"{name}_target", np.array([0, 0, heads, width // heads]))
        block.node("Reshape", [flat, target], f"{name}_split")
        block.node("Transpose", [f"{name}_split"], f"{name}_heads", perm=[0, 2, 1, 3])
    block.node("Transpose", ["k_heads"], "k_turned", perm=[0, 1, 3, 2])
    block.node("MatMul", ["q_heads", "k_turned"], "scores")
    block.node("Softmax", ["scores"], "probabilities", axis=-1)
    block.node("MatMul", ["probabilities", "v_heads"], "context")
    total = block.node("Add", [block.merged("context", width), spread], "total")
    if norm:
        scale, bias = block.weight("norm.scale", width), block.weight("norm.bias", width)
        total = block.node("LayerNormalization", [total, scale, bias], "normed", axis=-1)
    return block.built(total, width=width)


def named_site(model: ModelProto, heads: int, width: int) -> Planning:
    """A planning that takes the last product for the projection of all heads, whatever is between it and the core."""
    view = view_of(model)
    core = next(node for node in view.nodes if node.out.name == "context")
    last = next(node for node in view.nodes if node.out.name == "projected")
    size = width // heads
    channels = tuple(tuple(range(head * size, (head + 1) * size)) for head in range(heads))
    projection = Projection(last, (0, (2,)), (1, (0,)), (width,), channels)
    groups = tuple((head,) for head in range(heads))
    labels = tuple(frozenset(position + 1 for position in own) for own in channels)
    traced = Core(core, labels, (1,), (heads,), (3,))
    block = SiteBlock(
        (projection,), (traced,), tuple(frozenset({(core.index, head)}) for head in range(heads))
    )
    site = AttentionSite(
        index=0,
        name="it",
        kind="mha",
        num_units=heads,
        kv_num_heads=heads,
        head_size=size,
        v_head_size=size,
        groups=groups,
        projections=(projection,),
        cores=(core,),
        block=block,
    )
    plan = PrunePlan(model="the model", fingerprint="", cuts=(), edits=(), io_changes=(), elements_removed=0)
    return Planning(plan, view, Sites("the model", (site,)), {0: (0,)}, AS_BEFORE)


def second_look(model: ModelProto, planning: Planning) -> list[str]:
    """What the second mask says on one feed."""
    provider = Provider(CPU, "test")
    loaded = LoadedModel(model, "the model")
    mask = SecondMask(Models(loaded, loaded, loaded, planning, FLOAT32, provider, planning.view))
    maker = FeedMaker(planning.view)
    feed = next(maker.candidates(maker.cases[0]))[0]
    masked = Session(masked_reference(planning.view, planning.sites, planning.heads), provider).run(feed)
    mask.look(feed, masked, tuple(masked), maker.inputs)
    assert not mask.notes
    return mask.problems


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("mapped", [False, True])
def test_a_feed_forward_layer_is_no_projection(norm: bool, mapped: bool) -> None:
    """The site is named by hand, so that this holds whatever is thought of it when sites are found."""
    width = WIDTH if mapped else HIDDEN
    model = no_projection(1, norm, mapped)
    (problem,) = second_look(model, named_site(model, 1, width))
    assert "reads more than the heads of attn.0 (it)" in problem
    assert "not the heads' own" in problem


def test_a_site_that_is_named_rightly_has_no_problem() -> None:
    model = plain()
    assert second_look(model, named_site(model, HEADS, WIDTH)) == []


def test_heads_that_something_else_reads_are_not_the_projections_own() -> None:
    """The context also goes to an output by a way that is no product."""
    model = plain()
    model.graph.node.append(helper.make_node("Tanh", ["context"], ["also"], name="also"))
    model.graph.output.append(helper.make_tensor_value_info("also", TensorProto.FLOAT, [None] * 4))
    (problem,) = second_look(model, named_site(model, HEADS, WIDTH))
    assert "something else reads the heads" in problem


def test_validation_fails_where_a_site_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the site to the verdict: here inspect is made to be wrong."""
    model = no_projection(1, norm=True, mapped=False)
    wrong = named_site(model, 1, HIDDEN).sites
    assert not [site for site in inspect(model) if site.num_heads > 1]
    site = dataclasses.replace(wrong[0], original_num_units=1, original_kv_num_heads=1, units=((0,),))
    monkeypatch.setattr(find, "sites_of", lambda view, name: relocated(site, view))
    planning = analyse(model, {0: [0]}, "the model")
    found = validate(model, apply_plan(planning.plan, model), provider="cpu")
    assert found.verdict == "failed" and "not the heads' own" in found.reason


def relocated(site: AttentionSite, view: Any) -> Sites:
    """The same site in another view of the model."""
    nodes = {node.ref: node for node in view.nodes}
    own = [dataclasses.replace(item, node=nodes[item.node.ref]) for item in site.projections]
    cores = tuple(nodes[core.ref] for core in site.cores)
    assert site.block is not None
    traced = tuple(dataclasses.replace(item, node=nodes[item.node.ref]) for item in site.block.cores)
    block = dataclasses.replace(site.block, cores=traced)
    return Sites("the model", (dataclasses.replace(site, projections=tuple(own), cores=cores, block=block),))


def test_a_zero_that_moves_with_the_input_is_no_rest_of_a_head() -> None:
    """Integers that are quantized at run time have another zero for each input; a silenced head is that zero."""
    model = exports.quantized(toys_scores.stack())
    result = prune(model, heads={0: [1], 1: [0, 3]})
    assert result.validation is not None and result.validation.passed, result.validation
