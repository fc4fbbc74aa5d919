"""Layers of random structures: each that is removed is the identity of PyTorch, whatever operators write its sums."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator
from itertools import combinations
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("torch")

from onnxheadprune import RefusedError, apply_plan, plan_pruning
from onnxheadprune.attention.planning import analyse
from tests.zoo.row import LAYERS
from tests.zoo.runs import Runner, distance

if TYPE_CHECKING:
    from torch import nn

    from tests.zoo.structures import Model, Structure

pytestmark = pytest.mark.samples

COUNT = 126
"""As many as the ways to write a sum, recipes and wraps need to meet."""
TOLERANCE = 2e-4


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Lists structures only where samples were asked for: that imports torch."""
    if "structure" in metafunc.fixturenames:
        found: list[Structure] = []
        if metafunc.config.getoption("markexpr") == "samples":
            from tests.zoo.structures import structures

            found = list(structures(COUNT))
        metafunc.parametrize("structure", found, ids=str)


@pytest.fixture(scope="module")
def exports() -> Iterator[Counter[bool]]:
    """How many exports compute what PyTorch does: where the exporter is wrong, there is nothing to compare with."""
    right: Counter[bool] = Counter()
    yield right
    assert right[False] <= 0.1 * right.total()


def test_a_removed_layer_is_the_identity(structure: Structure, exports: Counter[bool]) -> None:
    from tests.zoo.structures import exported, feed_of, model_of

    model, feed = model_of(structure), feed_of(structure)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = exported(model)
    whole = model.without([], feed)
    is_right = distance(Runner(graph)(feed)["logits"], whole, "logits") < TOLERANCE
    exports[is_right] += 1
    if not is_right:
        pytest.skip("the exporter is wrong")
    references = {name: model.without(parts, feed) for name, parts in _identities(model).items()}
    sites = analyse(graph, {}, "the model").sites
    wrong, removed = [], 0
    for layer in sites.of(LAYERS):
        try:
            cut = apply_plan(plan_pruning(graph, heads={layer.key: "*"}), graph)
        except RefusedError:
            continue
        removed += 1
        output = Runner(cut)(feed)["logits"]
        equal = [
            name
            for name, reference in references.items()
            if output.shape == reference.shape and distance(output, reference, "logits") < TOLERANCE
        ]
        expected = [path for path in model.by_path if f".{path}".endswith(f".{layer.name}")]
        # Names of all nodes tell the layer; of some weights, or none, what lies between two states is one, as
        # each run is of a module that runs several times.
        if not (
            set(expected) & set(equal)
            if expected and structure.names == "module" and structure.wrap != "shared"
            else equal
        ):
            wrong.append(f"{layer.key} ({layer.name}) is {equal or 'nothing that lies between two states'}")
    assert not wrong
    if structure.names == "module" and structure.wrap == "plain" and structure.extra != "dense":
        assert removed == len(model.by_path)


def _identities(model: Model) -> dict[str, list[nn.Module]]:
    """The parts of the module between any two of its states, the layers by their paths."""
    found: dict[str, list[nn.Module]] = {path: [layer] for path, layer in model.by_path.items()}
    if len(model.runs) > len(found):
        found = {path: [*model.runs] for path in found}
    states = model.states
    for first, last in combinations(range(len(states) + 1), 2):
        found[f"{first} to {last}"] = states[first:last]
    return found
