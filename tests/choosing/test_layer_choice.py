"""Layers that are chosen are those whose bypass moves the outputs least.

The oracle of a bypass is the network written without the layer, and the measure is computed here.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest

import onnxheadprune as ohp
from onnxheadprune import RefusedError, inspect
from tests.attention.layered import BRANCHES, FEED, Joint, Network, pyramid
from tests.conftest import Command
from tests.graphs import toys
from tests.liveness.one_node import run

FEEDS: Any = [
    {name: np.random.default_rng(seed).normal(size=(2, 5, 8)).astype(np.float32) for name in FEED}
    for seed in range(4)
]


def chosen(model: onnx.ModelProto, **target: Any) -> Any:
    names = [item.name for item in model.graph.input]
    data = target.pop("data", None) or [{name: feed[name] for name in names} for feed in FEEDS]
    made = ohp.prune(
        model, data=data, provider="cpu", validate=False, **{"refit": False, "units": ("layers",), **target}
    )
    return made.chosen


def bypassed(network: Network | Joint, number: int) -> float:
    """Return the drift of the main output once a layer is the identity: the mean of 1 - cosine."""
    whole, oracle = network.model(), replace(network, without=[number]).model()
    found = []
    for feed in FEEDS:
        a, b = (
            run(model, {item.name: feed[item.name] for item in model.graph.input})["y"].astype(np.float64)
            for model in (whole, oracle)
        )
        lengths = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
        found.append(1 - (a * b).sum(-1) / lengths)
    return float(np.mean(found))


def check_choice(network: Network | Joint) -> None:
    """Compare what is chosen with all bypasses, for every number of layers."""
    model = network.model()
    layers = [layer for layer in inspect(model).of("layers") if layer.removable]
    costs = {layer.index: bypassed(network, layer.number) for layer in layers}
    ranked = sorted(costs.values())
    for kept in range(1, len(layers)):
        selection = chosen(model, keep=kept, drift="cosine").selection
        gone = [costs[index] for index in selection.heads]
        assert len(gone) == len(layers) - kept
        assert sum(gone) == pytest.approx(sum(ranked[: len(gone)]), rel=1e-4)
        for index, cost in selection.costs.items():
            assert cost == pytest.approx(costs[index], rel=1e-3, abs=1e-6)


SHAPES = [
    *(["attention", kind, "network"] for kind in BRANCHES if kind != "low-rank queries"),
    *([kind] for kind in BRANCHES),
]


@pytest.mark.first_case
@pytest.mark.parametrize("shape", SHAPES, ids="-".join)
def test_the_cheapest_bypasses_are_chosen_whatever_is_in_layers(shape: list[str]) -> None:
    check_choice(Network([shape] * 3))


@pytest.mark.first_case
@pytest.mark.parametrize("both", [False, True])
def test_the_cheapest_bypasses_of_two_streams_are_chosen(both: bool) -> None:
    check_choice(Joint(both))


def test_what_is_protected_inside_protects_the_layer() -> None:
    model = toys.decoder(3)
    free = chosen(model, keep=2, data=toys.ids(12)).selection.heads
    (taken,) = free
    number = next(layer.number for layer in inspect(model).of("layers") if layer.index == taken)
    for spec in (f"layer.{number}", f"{number}:0"):
        kept = chosen(model, keep=2, data=toys.ids(12), protect=spec).selection.heads
        assert len(kept) == 1 and taken not in kept
    for spec in ("*", "*:1"):
        with pytest.raises(RefusedError, match="fewer than the first cut"):
            chosen(model, keep=2, data=toys.ids(12), protect=spec)


def test_a_layer_without_identity_is_left_alone_and_named_once(command: Command, tmp_path: Any) -> None:
    path, data = tmp_path / "m.onnx", tmp_path / "d.npz"
    onnx.save(pyramid(), path)
    np.savez(data, x=np.concatenate([feed["x"] for feed in FEEDS]))
    words = ("prune", path, "--keep", 2, "--units", "layers", "--data", data, "--dry-run", "--json")
    selection = command(*words).document["choice"]["selection"]
    ((layer, why),) = selection["left_out"].items()
    assert layer.startswith("layer.0 ") and "it has no identity" in why and len(selection["heads"]) == 1


def test_the_same_share_of_every_site_is_no_layer() -> None:
    model = toys.decoder(3)
    target: Any = {"ratio": 0.4, "uniform": True, "data": toys.ids(12)}
    with pytest.raises(RefusedError, match="a layer has no share"):
        chosen(model, **target)
    selection = chosen(model, units=("heads", "layers"), **target).selection
    assert len(selection.heads) == 3 and len(selection.left_out) == 3
