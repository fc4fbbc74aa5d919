"""The check itself: it must say WRONG when something is wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, numpy_helper

pytest.importorskip("torch")

from onnxheadprune import PrunePlan
from onnxheadprune.attention.masking import masked_reference
from onnxheadprune.edit.apply import apply_plan
from onnxheadprune.edit.edits import SliceTensor
from tests.zoo import check as checking
from tests.zoo.core_masks import silenced_cores
from tests.zoo.cuts import Cut, cuts_of
from tests.zoo.folder import Folder
from tests.zoo.row import EXPERTS, HEADS, LAYERS, NEURONS, TOKENS, Outcome, Row, Verdict

if TYPE_CHECKING:
    from tests.zoo.store import Store

pytestmark = pytest.mark.samples
Changes = Callable[[dict[str, Any]], None]


def checked(path: Path, kind: str = HEADS) -> Verdict:
    """The verdict on one kind of unit, PyTorch being asked."""
    from tests.zoo.originals import references

    return checking.check(path, references, [kind]).verdicts[kind]


def other_heads(case: dict[str, Any]) -> None:
    """Removes the neighbours of the heads that the reference silenced."""
    for heads in case["head_sets"]:
        for gone, projection in zip(heads, case["projections"], strict=True):
            if len(gone) < projection["num_heads"]:
                gone[:] = [(head + 1) % projection["num_heads"] for head in gone]


def expecting(answer: str) -> Changes:
    return lambda case: case.update(expect=answer)


@pytest.fixture
def changed(store: Store, tmp_path: Path) -> Callable[[str, str, Changes], Path]:
    """Makes a copy of a folder with another description."""

    def copy(case: str, variant: str, change: Changes) -> Path:
        target = tmp_path / "changed"
        shutil.copytree(store.folder(case, variant), target)
        description = json.loads((target / "case.json").read_text())
        change(description)
        (target / "case.json").write_text(json.dumps(description))
        return target

    return copy


@pytest.mark.parametrize(
    ("case", "variant"), [("bert", "ts17"), ("bert", "ts17half"), ("vit", "dyn18"), ("gpt2", "ts17+fp16")]
)
def test_another_head_is_wrong(changed: Callable[..., Path], case: str, variant: str) -> None:
    verdict = checked(changed(case, variant, other_heads))
    assert verdict.outcome is Outcome.WRONG
    assert "PyTorch" in verdict.words


def test_another_group_is_wrong(changed: Callable[..., Path]) -> None:
    def other_group(case: dict[str, Any]) -> None:
        heads = case["projections"][0]["num_heads"]
        ratio = heads // case["projections"][0]["kv_num_heads"]
        for gone in case["head_sets"][0]:
            gone[:] = [(head + ratio) % heads for head in gone]

    assert checked(changed("cache-llama-gqa", "ts17", other_group)).outcome is Outcome.WRONG


@pytest.mark.parametrize(
    ("case", "variant", "place"),
    [("bert", "ts17+int8dyn", "masked reference"), ("cache-llama-gqa", "ts17", "decoding steps")],
)
def test_another_mask_is_wrong(
    store: Store, monkeypatch: pytest.MonkeyPatch, case: str, variant: str, place: str
) -> None:
    def other_mask(view: Any, sites: Any, heads: Any) -> ModelProto:
        count = {site.index: site.num_heads for site in sites}
        moved = {index: [(head + 1) % count[index] for head in gone] for index, gone in heads.items()}
        return masked_reference(view, sites, moved)

    monkeypatch.setattr(checking, "masked_reference", other_mask)
    verdict = checked(store.folder(case, variant))
    assert verdict.outcome is Outcome.WRONG
    assert place in verdict.words


def test_another_second_mask_is_wrong(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The heads are silenced where they are made, but others."""

    def other_mask(planning: Any) -> Any:
        moved = {
            site.index: [(head + 1) % site.num_heads for head in planning.heads[site.index]]
            for site in planning.touched
        }
        return silenced_cores(replace(planning, heads=moved))

    monkeypatch.setattr(checking, "silenced_cores", other_mask)
    verdict = checked(store.folder("hand-no-bias", "ts17"))
    assert verdict.outcome is Outcome.WRONG
    assert "the second mask" in verdict.words


@pytest.mark.parametrize("kind", [HEADS, NEURONS])
@pytest.mark.parametrize("variant", ["ts17", "dyn18", "ts17+int8dyn", "ts17+fp16"])
def test_one_corrupted_weight_is_wrong(
    store: Store, monkeypatch: pytest.MonkeyPatch, variant: str, kind: str
) -> None:
    def corrupting(plan: PrunePlan, model: ModelProto) -> ModelProto:
        pruned = apply_plan(plan, model)
        cut = {item.edit.target for item in plan.edits if isinstance(item.edit, SliceTensor)}
        for weight in [t for t in pruned.graph.initializer if t.name in cut and len(t.dims) == 2][:1]:
            weight.CopyFrom(corrupted(weight))
        return pruned

    monkeypatch.setattr(checking, "apply_plan", corrupting)
    assert checked(store.folder("bert", variant), kind).outcome is Outcome.WRONG


def corrupted(tensor: TensorProto) -> TensorProto:
    array = numpy_helper.to_array(tensor).copy()
    array.flat[0] = array.flat[0] + 1.0 if array.dtype.kind == "f" else array.flat[0] ^ 0x40
    return numpy_helper.from_array(array, tensor.name)


def test_a_cache_of_other_heads_is_wrong(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Folder.kept_caches

    def others(self: Folder, heads: Any) -> Any:
        count = {p["kv_num_heads"] for p in self.projections}.pop()
        kept = whole(self, heads)
        return {name: (axis, [(k + 1) % count for k in left]) for name, (axis, left) in kept.items()}

    monkeypatch.setattr(Folder, "kept_caches", others)
    assert checked(store.folder("cache-llama-gqa", "ts17")).outcome is Outcome.WRONG


def test_expectations_are_held(store: Store, changed: Callable[..., Path]) -> None:
    refused = store.folder("sub-layer-norm", "ts17")
    assert checked(refused).outcome is Outcome.REFUSED
    assert checked(changed("sub-layer-norm", "ts17", expecting("exact"))).outcome is Outcome.UNEXPECTED


@pytest.mark.parametrize("answer", ["refused", "no-site"])
def test_what_should_not_be_cut_and_is(changed: Callable[..., Path], answer: str) -> None:
    assert HEADS in checking.check(changed("bert", "ts17", expecting(answer)), kinds=[HEADS]).problems


def test_a_crash_is_a_row(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def crashing(*_: object) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr(checking, "sites_of", crashing)
    row = checking.check(store.folder("bert", "ts17"))
    assert {verdict.outcome for verdict in row.verdicts.values()} == {Outcome.ERROR}
    assert "KeyError: 'a bug' (test_check.py:" in row.verdicts[NEURONS].words


@pytest.mark.parametrize("variant", ["ts17", "ts17+int8dyn"])
def test_other_neurons_are_wrong(store: Store, monkeypatch: pytest.MonkeyPatch, variant: str) -> None:
    """The graph loses the neighbours of the neurons that PyTorch, or the mask, silences."""
    planned = checking.analyse

    def plan(model: Any, spec: dict[str, list[int] | str], name: str) -> Any:
        moved = {
            key: gone if isinstance(gone, str) else [neuron + 1 for neuron in gone]
            for key, gone in spec.items()
        }
        found = planned(model, moved, name)
        object.__setattr__(found, "heads", planned(model, spec, name).heads)
        return found

    monkeypatch.setattr(checking, "analyse", plan)
    verdict = checked(store.folder("bert", variant), NEURONS)
    assert verdict.outcome is Outcome.WRONG
    assert ("masked reference" if "int8" in variant else "PyTorch") in verdict.words


def test_other_layers_are_wrong(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def others(sites: Any, kind: str) -> list[Cut]:
        """Says that the first layer goes, and cuts the last one."""
        cuts = {cut.name: cut for cut in cuts_of(sites, kind)}
        return [Cut(LAYERS, "swapped", cuts["last"].spec, cuts["second"].units)]

    monkeypatch.setattr(checking, "cuts_of", others)
    assert checked(store.folder("bert", "ts17"), LAYERS).outcome is Outcome.WRONG


def test_another_expert_is_wrong(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def others(sites: Any, kind: str) -> list[Cut]:
        (cut,) = cuts_of(sites, kind)
        moved = {
            site: tuple((gone + 1) % site.num_units for gone in units) for site, units in cut.units.items()
        }
        return [replace(cut, units=moved)]

    folder = store.folder("experts-all", "ts17")
    assert checked(folder, EXPERTS).torch == 1
    monkeypatch.setattr(checking, "cuts_of", others)
    assert checked(folder, EXPERTS).outcome is Outcome.WRONG


@pytest.mark.parametrize("case", ["bert", "cache-gpt2"])
def test_other_tokens_are_wrong(store: Store, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    def others(*given: Any) -> Any:
        made = trimmed(*given)
        return replace(made, kept=np.roll(made.kept, 1))

    trimmed = checking.trimming
    folder = store.folder(case, "ts17")
    assert checked(folder, TOKENS).torch == 1
    monkeypatch.setattr(checking, "trimming", others)
    assert checked(folder, TOKENS).outcome is Outcome.WRONG


def test_a_cut_that_saves_nothing_is_wrong(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "apply_plan", lambda plan, model: model)
    assert "as much as before" in checked(store.folder("bert", "ts17"), NEURONS).words


def test_a_row_survives_its_file() -> None:
    verdicts = {
        HEADS: Verdict(Outcome.GATHERS, 2, 3, 3, 3, 0, ("a",), ("b", "c"), (), 1e-6, True),
        NEURONS: Verdict(Outcome.WRONG, 2, 3, 1, wrong=("third: off",)),
        LAYERS: Verdict(Outcome.NO_SITE),
    }
    row = Row("bert", "ts17", "encoders", expect="refused", verdicts=verdicts)
    assert Row.from_json(row.to_json()) == row
