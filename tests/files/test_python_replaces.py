"""Functions of Python replace nothing that this tool has not written, as commands do."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import onnxheadprune as ohp
from onnxheadprune.api.functions import CALLS
from tests.graphs import toys

WRITING = [
    call.name
    for call in CALLS
    # A new folder is never replaced, whatever is asked for.
    if "output" in inspect.signature(getattr(ohp, call.name)).parameters and call.name != "prune_folder"
]
GIVEN: dict[str, dict[str, Any]] = {
    "prune": {"heads": "0:1"},
    "recover": {"budget": 1, "data": {"x": np.zeros((2, 3, 8), np.float32)}},
    "quantize": {"to": "int8-dynamic"},
}


@pytest.mark.parametrize("name", WRITING)
def test_a_foreign_file_is_replaced_with_force_only(name: str, tmp_path: Path) -> None:
    model, cut, place = tmp_path / "model.onnx", tmp_path / "cut.onnx", tmp_path / "out.onnx"
    onnx.save(toys.attention(), model)
    place = place.with_suffix(".json") if name == "score" else place
    place.write_text("somebody's", encoding="utf-8")
    function, given = getattr(ohp, name), GIVEN.get(name, {})
    if name == "recover":
        ohp.prune(model, cut, heads="0:1", validate=False)
        function = _on(function, cut)
    with pytest.raises(ohp.UsageError, match=r"not written by this tool.*replace it with force=True"):
        function(model, place, **given)
    assert place.read_text(encoding="utf-8") == "somebody's"


CODE = {"data": "mine_early:feeds", "drift": "mine_early:far"}
"""Settings by which a call imports the user's code."""


@pytest.mark.parametrize("name", [*WRITING, "prune_folder"])
def test_outputs_are_refused_before_the_users_code_is_imported(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine_early.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    models = tmp_path / "models"
    models.mkdir()
    onnx.save(toys.attention(), models / "model.onnx")
    ohp.prune(models / "model.onnx", tmp_path / "cut.onnx", heads="0:1", validate=False)
    source = models if name == "prune_folder" else models / "model.onnx"
    target = tmp_path / "missing" / ("out.json" if name == "score" else "out.onnx")
    function, settings = getattr(ohp, name), inspect.signature(getattr(ohp, name)).parameters
    given = {key: value for key, value in CODE.items() if key in settings}
    given |= {"ratio": 0.5} if name.startswith("prune") else {"budget": 1} if name == "recover" else {}
    given |= {"to": "int8-dynamic"} if name == "quantize" else {}
    given |= {"method": "ablation"} if name == "score" else {}
    function = _on(function, tmp_path / "cut.onnx") if name == "recover" else function
    with pytest.raises(ohp.UsageError, match=r"the folder .* does not exist"):
        function(source, target, **given)


def _on(function: Any, cut: Path) -> Any:
    return lambda model, output, **given: function(model, cut, output, **given)
