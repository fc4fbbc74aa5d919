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


def _on(function: Any, cut: Path) -> Any:
    return lambda model, output, **given: function(model, cut, output, **given)
