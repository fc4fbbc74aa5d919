"""A place with a model whose tokens are removed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx

from tests.graphs import toys

KEPT = (*range(10), 11, 17)


def fill(folder: Path) -> Path:
    """Write a model, a list of tokens and data, of which a part has tokens that are removed."""
    (folder / "models").mkdir()
    onnx.save(toys.stack(), folder / "models" / "m.onnx")
    (folder / "keep.txt").write_text("\n".join(map(str, KEPT)), "utf-8")
    ids = np.random.default_rng(0).choice(KEPT, (24, 6))
    ids[:5, 2] = 18
    np.savez(folder / "d.npz", input_ids=ids)
    return folder
