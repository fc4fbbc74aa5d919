"""A cut of what PyTorch exports is proven on inputs made from the graph alone, whatever its inputs are called."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import onnx
import pytest

pytest.importorskip("torch")

from tests.conftest import Command
from tests.feeding import renamed

if TYPE_CHECKING:
    from tests.zoo.store import Store

pytestmark = pytest.mark.samples

CASES = ("bart", "bert", "cache-gpt2", "cache-llama-mha", "opt", "t5", "wav2vec2", "xlnet")


@pytest.mark.each_choice
@pytest.mark.parametrize("names", ["as exported", "x0, x1"])
@pytest.mark.parametrize("case", CASES)
def test_a_cut_is_proven_without_data(
    store: Store, case: str, names: str, tmp_path: Path, command: Command
) -> None:
    model = onnx.load(store.folder(case, "ts17") / "model.onnx")
    path = tmp_path / "model.onnx"
    onnx.save(model if names == "as exported" else renamed(model), path)
    answer = command("prune", str(path), "--heads", "0:1", "-o", str(tmp_path / "cut.onnx"), "--json")
    assert answer.exit_code == 0, answer.stderr
    assert answer.document["validation"]["verdict"] == "passed"
