"""`--data` takes every kind of inputs; which one is told by the content, whatever a file is called."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from onnxheadprune import UsageError
from onnxheadprune.data.formats import format_of
from onnxheadprune.settings.inputs import DataFormat

ROWS = [{"text": f"w{row} w3"} for row in range(4)]


def arrays(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, ids=np.zeros((2, 3), np.int64))


def image(path: Path) -> None:
    from PIL import Image

    Image.new("L", (8, 8)).save(path, "PNG")


def parquet(path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = importlib.import_module("pyarrow.parquet")
    parquet.write_table(pyarrow.table({"text": [row["text"] for row in ROWS]}), path)


WRITERS: dict[DataFormat, Callable[[Path], object]] = {
    "npz": arrays,
    "text": lambda path: path.write_text("one line\n{and another}\n", encoding="utf-8"),
    "jsonl": lambda path: path.write_text("\n" + "\n".join(map(json.dumps, ROWS)), encoding="utf-8"),
    "parquet": parquet,
    "images": image,
}


@pytest.mark.parametrize("kind", get_args(DataFormat))
@pytest.mark.parametrize("suffix", ["", ".bin", ".txt"])
def test_the_content_tells_the_kind(kind: DataFormat, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"data{suffix}"
    WRITERS[kind](path)
    assert format_of(path) == kind


@pytest.mark.parametrize("kind", ["npz", "images"])
def test_folders(kind: DataFormat, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"holds neither \.npz files nor images"):
        format_of(tmp_path)
    (tmp_path / "deep").mkdir()
    WRITERS[kind](tmp_path / ("0.npz" if kind == "npz" else "deep/0.png"))
    assert format_of(tmp_path) == kind
    for other in ("1.npz", "deep/1.png"):
        WRITERS["npz" if other.endswith("npz") else "images"](tmp_path / other)
    with pytest.raises(UsageError, match="choose with `data_format=npz` or `data_format=images`"):
        format_of(tmp_path)


def test_what_is_no_file_has_no_kind() -> None:
    assert format_of("module:function") is None
