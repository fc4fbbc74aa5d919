"""Every architecture of the zoo without neurons and without layers; and that the check can fail."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper

pytest.importorskip("torch")

from onnxheadprune.edit.apply import apply_plan
from onnxheadprune.edit.edits import SliceTensor
from onnxheadprune.edit.plan import PrunePlan
from tests.zoo import analysed
from tests.zoo.row import Outcome
from tests.zoo.units import check as checking
from tests.zoo.units.check import check
from tests.zoo.units.cuts import LAYERS, NEURONS, Cut, cuts_of

if TYPE_CHECKING:
    from tests.zoo.store import Store

pytestmark = pytest.mark.samples


def test_without_units_is_silenced(store: Store, graph: tuple[str, str]) -> None:
    from tests.zoo.store import NotBuiltError
    from tests.zoo.units.originals import references

    try:
        folder = store.folder(*graph)
    except NotBuiltError as problem:
        pytest.skip(str(problem))
    row = check(folder, references)
    assert not row.failures, str(row)


@pytest.mark.parametrize("variant", ["ts17", "ts17+int8dyn"])
def test_other_neurons_are_wrong(store: Store, monkeypatch: pytest.MonkeyPatch, variant: str) -> None:
    """The graph loses the neighbours of the neurons that PyTorch, or the mask, silences."""
    from tests.zoo.units.originals import references

    def plan(model: Any, spec: dict[str, list[int] | str], name: str) -> Any:
        moved = {
            key: gone if isinstance(gone, str) else [neuron + 1 for neuron in gone]
            for key, gone in spec.items()
        }
        found = planned(model, moved, name)
        right = planned(model, spec, name)
        object.__setattr__(found, "heads", right.heads)
        return found

    planned = checking.analyse
    monkeypatch.setattr(checking, "analyse", plan)
    row = check(store.folder("bert", variant), references)
    assert row.verdicts[NEURONS].outcome is Outcome.WRONG
    assert ("masked reference" if "int8" in variant else "PyTorch") in row.verdicts[NEURONS].detail


def test_other_layers_are_wrong(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.zoo.units.originals import references

    def others(sites: Any) -> Iterable[Cut]:
        """Says that the first layer goes, and cuts the last one."""
        first, last = (
            next(cut for cut in cuts_of(sites) if (cut.kind, cut.name) == (LAYERS, name))
            for name in ("second", "last")
        )
        return [Cut(LAYERS, "swapped", last.spec, first.units)]

    monkeypatch.setattr(checking, "cuts_of", others)
    row = check(store.folder("bert", "ts17"), references)
    assert row.verdicts[LAYERS].outcome is Outcome.WRONG


def test_one_corrupted_weight_is_wrong(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def corrupting(plan: PrunePlan, model: ModelProto) -> ModelProto:
        pruned = apply_plan(plan, model)
        cut = {item.edit.target for item in plan.edits if isinstance(item.edit, SliceTensor)}
        weight = next((t for t in pruned.graph.initializer if t.name in cut and t.dims), None)
        if weight is None:  # where a layer goes as a whole
            return pruned
        array = numpy_helper.to_array(weight).copy()
        array.flat[0] += np.float32(1.0)
        weight.CopyFrom(numpy_helper.from_array(array, weight.name))
        return pruned

    monkeypatch.setattr(checking, "apply_plan", corrupting)
    assert check(store.folder("bert", "ts17")).verdicts[NEURONS].outcome is Outcome.WRONG


def test_a_cut_that_saves_nothing_is_wrong(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "apply_plan", lambda plan, model: model)
    row = check(store.folder("bert", "ts17"))
    assert "as much as before" in row.verdicts[NEURONS].detail


def test_a_crash_is_a_row(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def crashing(*_: object) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr(analysed, "sites_of", crashing)
    row = check(store.folder("bert", "ts17"))
    assert row.verdicts[NEURONS].outcome is Outcome.ERROR
    assert "KeyError: 'a bug' (test_matrix.py:" in row.verdicts[NEURONS].detail
