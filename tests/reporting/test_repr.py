"""The `repr` of every public result is one line, whatever its fields hold; it prints as its command does."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, save

import onnxheadprune as ohp
from onnxheadprune.model.one_line import MOST
from tests.conftest import Command
from tests.graphs import toys

PUBLIC = [getattr(ohp, name) for name in ohp.__all__ if name != "__version__"]
RESULTS = [kind for kind in PUBLIC if is_dataclass(kind)]
FILLINGS: dict[str, Any] = {
    "text of many lines": "first\nsecond \x1b[31m\u202e" * 40,
    "a list of models": [ModelProto()] * 1000,
    "an array": np.zeros((100, 100)),
    "sites by number": {number: tuple(range(64)) for number in range(200)},
    "results": [ohp.Ratio(1.0, 0.9, 1.1)] * 300,
    "nothing": None,
}


@pytest.mark.parametrize("filling", FILLINGS)
def test_a_result_is_shown_in_one_line(filling: str) -> None:
    for kind in RESULTS:
        result = object.__new__(kind)
        for item in fields(kind):
            object.__setattr__(result, item.name, FILLINGS[filling])
        line = repr(result)
        assert line.startswith(f"{kind.__name__}(") and line.endswith(")") and line.isprintable()
        assert len(line) <= MOST


def test_a_result_prints_as_the_lines_of_its_command(command: Command, tmp_path: Path) -> None:
    model, output = tmp_path / "model.onnx", tmp_path / "pruned.onnx"
    save(toys.attention(), model)
    printed = str(ohp.prune(model, output, heads="0:1"))
    outcome = command("prune", model, "-o", output, "--heads", "0:1")
    lines = outcome.stdout.partition("\nnext ")[0].rstrip("\n").replace("labels in --data", "labels in data=")
    assert printed == lines and "heads " in printed
    for result in (ohp.validate(model, output), ohp.inspect(model), ohp.score(model)):
        assert str(result).count("\n") > 1 and "\n" not in repr(result)
