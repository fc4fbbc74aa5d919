"""The check itself: it must say WRONG when something is wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, numpy_helper

pytest.importorskip("torch")

from onnxheadprune.attention.masking import masked_reference
from onnxheadprune.edit.apply import apply_plan
from onnxheadprune.edit.edits import SliceTensor
from onnxheadprune.edit.plan import PrunePlan
from tests.zoo import analysed
from tests.zoo import check as checking
from tests.zoo.check import check
from tests.zoo.folder import Folder
from tests.zoo.row import Outcome, Row

if TYPE_CHECKING:
    from tests.zoo.store import Store

pytestmark = pytest.mark.samples
Changes = Callable[[dict[str, Any]], None]


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
    row = check(changed(case, variant, other_heads))
    assert row.outcome is Outcome.WRONG
    assert "PyTorch" in row.detail


def test_another_group_is_wrong(changed: Callable[..., Path]) -> None:
    def other_group(case: dict[str, Any]) -> None:
        heads = case["projections"][0]["num_heads"]
        ratio = heads // case["projections"][0]["kv_num_heads"]
        for gone in case["head_sets"][0]:
            gone[:] = [(head + ratio) % heads for head in gone]

    assert check(changed("cache-llama-gqa", "ts17", other_group)).outcome is Outcome.WRONG


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
    row = check(store.folder(case, variant))
    assert row.outcome is Outcome.WRONG
    assert place in row.detail


@pytest.mark.parametrize("variant", ["ts17", "dyn18", "ts17+int8dyn", "ts17+fp16"])
def test_one_corrupted_weight_is_wrong(store: Store, monkeypatch: pytest.MonkeyPatch, variant: str) -> None:
    def corrupting(plan: PrunePlan, model: ModelProto) -> ModelProto:
        pruned = apply_plan(plan, model)
        cut = {item.edit.target for item in plan.edits if isinstance(item.edit, SliceTensor)}
        weight = next(t for t in pruned.graph.initializer if t.name in cut and len(t.dims) == 2)
        weight.CopyFrom(corrupted(weight))
        return pruned

    monkeypatch.setattr(checking, "apply_plan", corrupting)
    assert check(store.folder("bert", variant)).outcome is Outcome.WRONG


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
    assert check(store.folder("cache-llama-gqa", "ts17")).outcome is Outcome.WRONG


def test_expectations_are_held(store: Store, changed: Callable[..., Path]) -> None:
    refused = store.folder("sub-layer-norm", "ts17")
    assert check(refused).outcome is Outcome.REFUSED
    assert check(changed("sub-layer-norm", "ts17", expecting("exact"))).outcome is Outcome.UNEXPECTED


def test_what_should_be_refused_and_is_not(changed: Callable[..., Path]) -> None:
    assert check(changed("bert", "ts17", expecting("refused"))).outcome is Outcome.UNEXPECTED


def test_what_should_be_no_site_and_is(changed: Callable[..., Path]) -> None:
    assert check(changed("bert", "ts17", expecting("no-site"))).outcome is Outcome.UNEXPECTED


def test_a_crash_is_a_row(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def crashing(*_: object) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr(analysed, "sites_of", crashing)
    row = check(store.folder("bert", "ts17"))
    assert row.outcome is Outcome.ERROR
    assert "KeyError: 'a bug' (test_check.py:" in row.detail


def test_a_row_survives_its_file() -> None:
    row = Row("bert", "ts17", "encoders", Outcome.GATHERS, ("a",), ("b", "c"), "", 1e-6, True)
    assert Row.from_json(row.to_json()) == row
    assert np.isclose(Row.from_json(row.to_json()).error, 1e-6)
