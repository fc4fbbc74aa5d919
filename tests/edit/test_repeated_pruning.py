"""A model that was pruned is a model: its sites are found, and more heads go from it, under names that are free."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import numpy_helper

from onnxheadprune import inspect, prune
from onnxheadprune.edit.edits import AddConstant
from tests import golden_file

CASES = sorted(
    path
    for path in (Path(__file__).parents[1] / "golden").glob("*.txt")
    if "== refused" not in path.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_more_heads_go_from_what_is_left(path: Path) -> None:
    case = golden_file.read(path)
    once = prune(case.model, heads=case.heads, provider="cpu", validate=False, **case.flags)
    found = inspect(once.model)
    assert [site.num_heads for site in found] == [cut.heads_left for cut in once.plan.cuts if cut.heads_left]
    left = [site for site in found if site.num_heads > 1]
    if not left:
        return
    site = left[0]
    heads = site.original(site.groups[0] if site.kv_num_heads > 1 else [0])
    twice = prune(once.model, heads={site.index: list(heads)}, provider="cpu", **case.flags)
    assert twice.validation is not None and twice.validation.verdict == "passed"
    made = [name for node in twice.model.graph.node for name in node.output if name]
    made += [tensor.name for tensor in twice.model.graph.initializer]
    assert len(set(made)) == len(made)


def test_names_of_others_are_not_taken() -> None:
    """The name of a constant that holds something else stays its own; a second cut finds those of the first."""
    path = Path(__file__).parents[1] / "golden" / "packed_slice.txt"
    model = golden_file.read(path).model
    model.graph.initializer.append(numpy_helper.from_array(np.array([1]), "k/onnxheadprune_4"))
    once = prune(model, heads="0:0", provider="cpu")
    names = [item.edit.name for item in once.plan.edits if isinstance(item.edit, AddConstant)]
    assert "k/onnxheadprune_4.2" in names
    twice = prune(once.model, heads="0:1", provider="cpu")
    held = {tensor.name: numpy_helper.to_array(tensor).tolist() for tensor in twice.model.graph.initializer}
    assert [1] in held.values() and held["k/onnxheadprune_4"] == [4]
    assert {result.validation.verdict for result in (once, twice) if result.validation} == {"passed"}
