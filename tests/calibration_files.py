"""Files that calibration reads: a tokenizer and a folder of pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers


def tokenizer(folder: Path, words: int = 30) -> Path:
    """Words w0, w1, ... in `tokenizer.json`."""
    vocabulary = {"[UNK]": 0} | {f"w{number}": number + 1 for number in range(words - 1)}
    built = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    built.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    path = folder / "tokenizer.json"
    built.save(str(path))
    return path


def pictures(folder: Path, count: int = 3, size: tuple[int, int] = (8, 8)) -> Path:
    """Random pictures of two classes, a folder each."""
    random = np.random.default_rng(1)
    for number in range(count):
        inner = folder / f"class{number % 2}"
        inner.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(inner / f"{number}.png")
    return folder
