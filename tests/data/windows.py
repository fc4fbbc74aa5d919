"""A decoder that knows few positions, and so much text for it that a sample of it is full windows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx

from onnxheadprune import Calibration
from onnxheadprune.data.sources import read_data
from onnxheadprune.data.text import LEAST
from onnxheadprune.settings.inputs import Running
from tests.calibration_files import tokenizer
from tests.graph_text import model_of

WORDS, POSITIONS = 30, 24
DECODER = f"""
<ir_version: 9, opset_import: ["" : 17]>
decoder (int64[batch, sequence] input_ids) => (float[batch, sequence, {WORDS}] logits)
<int64[1] first = {{0}}, int64 along = {{1}},
 float[{WORDS}, 8] embed, float[{POSITIONS}, 8] table, float[8, {WORDS}] head>
{{
    embedded = Gather(embed, input_ids)
    length = Shape<start=1, end=2>(input_ids)
    places = Slice(table, first, length, first)
    placed = Add(embedded, places)
    summed = CumSum(placed, along)
    logits = MatMul(summed, head)
}}
"""
"""Sums of all tokens up to each one."""


def lines(count: int, length: int) -> list[list[int]]:
    """Tokens of lines; 0 is in none of them."""
    return np.random.default_rng(1).integers(2, WORDS - 1, (count, length)).tolist()


def windows(folder: Path) -> Calibration:
    """Short lines as the decoder is fed them."""
    tokenizer(folder, WORDS)
    (folder / "config.json").write_text(json.dumps({"n_positions": POSITIONS, "eos_token_id": [1, 0]}))
    rows = lines(6 * LEAST, 5)
    (folder / "lines.txt").write_text("\n".join(" ".join(f"w{token - 1}" for token in row) for row in rows))
    onnx.save(model_of(DECODER), folder / "model.onnx")
    found = read_data(folder / "model.onnx", Running(data=str(folder / "lines.txt"), provider="cpu"))
    assert isinstance(found, Calibration) and found.unit == "window" and found.count > LEAST
    return found
