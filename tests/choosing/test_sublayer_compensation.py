"""Maps in front of dropped sublayers stand in for them: found by structure, proven like any refit."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, helper, numpy_helper

from onnxheadprune import Compensation, Refit, plan_pruning, prune, validate
from onnxheadprune.choosing.activations.linear import Linear
from onnxheadprune.choosing.compensation.record import sealed
from onnxheadprune.choosing.compensation.targets import Link, aim, normalised
from onnxheadprune.model.graph.operator import ADDS_AND_NORMALIZES
from onnxheadprune.model.load import open_structure
from onnxheadprune.operators import view_of
from tests.conftest import SAMPLES
from tests.graph_builder import GraphBuilder
from tests.graphs import toys
from tests.recording import recorded, rewritten

DATA: Any = toys.ids(12)
LAYER: dict[str, Any] = {"layer.1": "*"}
BLOCKS: dict[str, Any] = {"1": "*", "ffn.1": "*"}


def refit(model: ModelProto, spec: Any = LAYER) -> Compensation:
    made = prune(model, heads=spec, data=DATA, refit=True, validate=False, provider="cpu")
    assert made.chosen is not None and made.chosen.compensation is not None
    return made.chosen.compensation


def told(model: ModelProto, *keys: str) -> list[tuple[str, tuple[str, ...]]]:
    """The layers that are to stand in when sites with some keys go as a whole, and for which."""
    found = refit(model, dict.fromkeys(keys, "*"))
    return [(item.node, item.stands_in) for item in found.refits if item.stands_in]


def standing(compensation: Compensation) -> list[Refit]:
    return [item for item in compensation.refits if item.stands_in]


# What a map adds to


def shapes() -> Iterator[tuple[Any, ...]]:
    """Of three axes, each long or of one element."""
    return itertools.product(("batch", 1), (3, 1), (4, 1))


@pytest.mark.parametrize("key", ["Add", *sorted(ADDS_AND_NORMALIZES)])
def test_a_map_adds_to_a_stream_where_neither_is_spread_over_the_other(key: str) -> None:
    domain, _, op_type = key.rpartition(".")
    for own, others, place in itertools.product(shapes(), shapes(), (0, 1)):
        operands = ["y", "stream"][:: 1 - 2 * place]
        gains = ["gain"] if domain else []
        toy = GraphBuilder(np.float32, 0)
        toy.weight("gain", 4)
        toy.node("MatMul", ["x", toy.weight("w", 5, own[2])], "y")
        toy.node(op_type, operands + gains, "z", domain=domain)
        inputs = [toy.info("x", [*own[:2], 5]), toy.info("stream", list(others))]
        model = toy.model(inputs, [toy.info("z", ["a", "b", "c"])])
        linear = next(filter(None, map(Linear.at, view_of(model).main.nodes)))
        alike = [dim == 1 for dim in own] == [dim == 1 for dim in others]
        assert (linear.other is not None) == alike, (own, others, place)


def test_a_map_that_is_spread_over_what_it_is_added_to_is_refitted_to_what_it_gave() -> None:
    model = toys.stack()
    model.graph.node[-1].output[0] = "classes"
    quality = numpy_helper.from_array(np.linspace(-1, 1, 12, dtype=np.float32)[:, None], "quality.weight")
    model.graph.initializer.append(quality)
    model.graph.node.append(helper.make_node("MatMul", ["layer1.ffn.stream", "quality.weight"], ["quality"]))
    model.graph.node.append(helper.make_node("Add", ["classes", "quality"], ["logits"]))
    result = prune(model, heads="0:1 1:3", data=toys.ids(24), refit=True, provider="cpu")
    assert result.chosen is not None and result.chosen.compensation is not None
    assert "quality.weight" in result.chosen.compensation.stored
    assert result.validation is not None and result.validation.verdict == "passed"


# Which map stands in for what


def test_nothing_stands_in_where_others_read_the_stream_in_between() -> None:
    """An early exit behind layer 0 wants the stream as it was; one behind the run gets what stands in."""
    assert not told(toys.decoder(3, norms="pre", also_reads=0), "1", "ffn.1")
    assert told(toys.decoder(3, norms="pre", also_reads=1), "1", "ffn.1")


def test_a_cache_of_what_goes_is_no_reader() -> None:
    assert told(toys.decoder(3, norms="pre", cache=True), "1", "ffn.1")


# What it should give


@pytest.mark.each_choice
@pytest.mark.parametrize("spelled", [False, True])
@pytest.mark.parametrize("norms", ["", "pre", "post"])
@pytest.mark.parametrize(("spec", "keys"), [(LAYER, ("layer.1",)), (BLOCKS, ("attn.1", "ffn.1"))])
def test_the_stream_behind_comes_nearer_to_the_originals(
    spec: dict[str, Any], keys: tuple[str, ...], norms: Any, spelled: bool
) -> None:
    model = toys.decoder(3, norms=norms, spelled=spelled, seed=2)
    (front,) = standing(refit(model, spec))
    assert front.stands_in == keys and front.site is None
    assert front.after < 0.8 * front.before


def gone_backwards(norms: int) -> tuple[Any, Any, list[Link], list[Any]]:
    """A stream in front of some normalisations with additions, and what comes out behind."""
    random = np.random.default_rng(norms)
    stream = random.standard_normal((30, 12)) * random.uniform(0.5, 3, (30, 1))
    links, added, behind = [], [], stream
    for _ in range(norms):
        links.append(Link(random.uniform(0.5, 2, 12), random.standard_normal(12) * 0.3, True))
        added.append(random.standard_normal(12) * 0.1)
        behind = normalised(behind, True) * links[-1].gain + links[-1].offset + added[-1]
    return stream, behind, links, added


@pytest.mark.parametrize("norms", [1, 2, 4])
def test_normalisations_are_gone_through_backwards_exactly(norms: int) -> None:
    stream, behind, links, added = gone_backwards(norms)
    scaled = 3 * behind + 2  # A normalisation follows, so only the direction counts.
    np.testing.assert_allclose(aim(scaled, stream, links, added), stream, atol=1e-9)
    other = aim(scaled, 5 * stream, links, added)
    np.testing.assert_allclose(other, 5 * stream, atol=1e-9)


def test_without_normalisations_only_what_is_left_is_taken_off() -> None:
    stream, bias = np.arange(12.0).reshape(3, 4), np.arange(4.0)
    links = [Link(None, np.zeros(4)), Link(None, np.zeros(4))]
    assert np.array_equal(aim(stream, stream * 0, links, [bias, bias]), stream - 2 * bias)


def test_what_is_no_normalisation_leaves_the_map_as_it_is() -> None:
    """A tanh on the stream itself is passed by dataflow, and is nothing that can be gone through backwards."""
    model = toys.decoder(3)
    for node in model.graph.node:
        if node.name.startswith("Add_layer0.ffn.stream"):
            node.output[0] = "straight"
            squashed = onnx.helper.make_node("Tanh", ["straight"], ["layer0.ffn.stream"], name="squash")
            at = list(model.graph.node).index(node) + 1
            model.graph.node.insert(at, squashed)
            break
    (left,) = [item for item in refit(model, BLOCKS).refits if item.node.startswith("MatMul_layer0.ffn.down")]
    assert left.skipped is not None and "lies more than a normalisation" in left.skipped


# From end to end


@pytest.mark.slow
@pytest.mark.parametrize("norms", ["pre", "post"])
def test_a_cut_with_a_stand_in_is_proven_and_names_its_tensors(norms: Any) -> None:
    model = toys.decoder(3, norms=norms, seed=2)
    result = prune(model, heads=LAYER, data=DATA, refit=True, provider="cpu")
    assert result.validation is not None and result.validation.verdict == "passed"
    (front,) = standing(result.chosen.compensation)
    assert "layer0.ffn.down.weight" in recorded(result.model)["refit"]["tensors"]
    assert len(result.model.graph.node) < len(model.graph.node)
    assert result.to_dict()["choice"]["compensation"]["refits"][0]["stands_in"] == list(front.stands_in)
    again = validate(model, result.model, provider="cpu")
    assert again.verdict == "passed" and "layer0.ffn.down.weight" in again.refitted


@pytest.mark.slow
def test_a_front_that_stands_in_for_nothing_may_not_come_from_the_file() -> None:
    """The same tensor, in a cut that has no run behind it, is an altered weight."""
    model = toys.decoder(3, norms="pre")
    result = prune(model, heads=LAYER, data=DATA, refit=True, provider="cpu")
    changed = toys.get_initializer(result.model, "layer0.ffn.down.weight")
    other = prune(model, heads={"layer.0": "*"}, data=DATA, refit=True, provider="cpu").model
    assert all(tensor.name != "layer0.ffn.down.weight" for tensor in other.graph.initializer)
    part = {"1": [0]}
    partly = prune(model, heads=part, data=DATA, refit=True, provider="cpu").model
    toys.set_initializer(partly, "layer0.ffn.down.weight", changed)
    with rewritten(partly) as record:
        record["refit"]["tensors"].append("layer0.ffn.down.weight")
    sealed(open_structure(partly), plan_pruning(model, heads=part))
    refused = validate(model, partly, provider="cpu")
    assert refused.verdict == "failed" and "which no refit of this cut changes" in refused.reason


@pytest.mark.slow
def test_a_stand_in_that_makes_the_outputs_drift_more_is_given_up() -> None:
    """Two of four layers of the digits: what stands in overwrites what the last layer makes more of."""
    path, data = SAMPLES / "digits_vit.onnx", str(SAMPLES / "digits_calibration.npz")
    spec: dict[str, Any] = {"layer.1": "*", "layer.2": "*"}
    chosen = prune(path, heads=spec, data=data, refit=True, validate=False, provider="cpu").chosen
    assert chosen is not None and chosen.compensation is not None and not standing(chosen.compensation)
    (left,) = [item for item in chosen.compensation.refits if item.skipped]
    assert left.skipped is not None and "layer.1, layer.2" in left.skipped
