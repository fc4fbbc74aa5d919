"""Text for a decoder: short lines joined to windows and long ones divided, as far as the model's positions reach."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper, parser

from onnxheadprune import Calibration
from onnxheadprune.data.calibration import calibration_data
from onnxheadprune.data.sources import read_data
from onnxheadprune.data.text import LEAST, Windows
from onnxheadprune.operators import view_of
from onnxheadprune.settings.inputs import Running
from onnxheadprune.training.batches import BATCH, Batches
from tests.calibration_files import tokenizer

WORDS, POSITIONS = 30, 24
TEXT = """
<ir_version: 9, opset_import: ["" : 17]>
decoder (int64[batch, sequence] input_ids) => (float[batch, sequence, 30] logits)
<int64[1] first = {0}, int64 along = {1}>
{
    embedded = Gather(embed, input_ids)
    length = Shape<start=1, end=2>(input_ids)
    places = Slice(table, first, length, first)
    placed = Add(embedded, places)
    summed = CumSum<reverse=@>(placed, along)
    logits = MatMul(summed, head)
}
"""


def decoder(backwards: bool = False) -> ModelProto:
    """Sums of all tokens up to each one, or of all from it on; it knows 24 positions."""
    model = parser.parse_model(TEXT.replace("@", str(int(backwards))))
    random = np.random.default_rng(0)
    for name, shape in {"embed": (WORDS, 8), "table": (POSITIONS, 8), "head": (8, WORDS)}.items():
        array = random.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    return model


def lines(count: int, length: int) -> list[list[int]]:
    """Tokens of lines; 0 is in none of them."""
    return np.random.default_rng(1).integers(2, WORDS - 1, (count, length)).tolist()


def read(folder: Path, rows: list[list[int]], model: ModelProto, end: bool = True, **how: Any) -> Calibration:
    tokenizer(folder, WORDS)
    config = {"n_positions": POSITIONS} | ({"eos_token_id": [1, 0]} if end else {})
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "lines.txt").write_text("\n".join(" ".join(f"w{token - 1}" for token in row) for row in rows))
    from onnx import save

    save(model, folder / "model.onnx")
    found = read_data(folder / "model.onnx", Running(data=str(folder / "lines.txt"), **how, provider="cpu"))
    assert isinstance(found, Calibration)
    return found


@pytest.mark.parametrize("joins", [True, False])
@pytest.mark.parametrize("start", [[], [7]])
def test_windows_hold_every_token_once(joins: bool, start: list[int]) -> None:
    texts = [[*start, *row] for row in lines(9, 31)] + [[*start, 5]]
    windows = Windows(12, start, () if start else (1,), joins=joins)
    found = windows.of(texts)
    assert max(map(len, found)) <= 12 and all(window[: len(start)] == start for window in found)
    tokens = [token for window in found for token in window if token not in (*start, 1)]
    assert tokens == [token for text in texts for token in text if token not in start]
    if joins and not start:
        assert {len(window) for window in found} <= {11, 12}
        assert sum(window.count(1) for window in found) == len(texts) - 1


def test_steps_take_full_windows(tmp_path: Path) -> None:
    """What a choice, a refit and a training see is the same."""
    model = decoder()
    data = calibration_data(read(tmp_path, lines(6 * LEAST, 5), model), view_of(model))
    assert data.unit == "window" and data.count > LEAST
    batches = Batches(data)
    shapes = [feed["input_ids"].shape for feed in batches.round(0, np.random.default_rng(0))]
    assert len(shapes) == batches.count and shapes.count((BATCH, POSITIONS)) >= len(shapes) - 2 * 2
