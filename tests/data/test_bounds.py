"""What a text, a tokenizer or a picture may cost: seconds that are bounded, and a sentence for what cannot be read."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import ModelProto

from onnxheadprune import UsageError
from onnxheadprune.data.images import image_data
from onnxheadprune.data.text import text_data
from onnxheadprune.operators import view_of
from onnxheadprune.runtime.feeds.inputs import graph_inputs
from tests.calibration_files import tokenizer
from tests.conftest import SAMPLES
from tests.files.unreadable import FILES, IMPOSSIBLE
from tests.graphs import toys
from tests.limits import within


@pytest.fixture
def words(tmp_path: Path) -> Path:
    return tokenizer(tmp_path, words=19)


def text_in(place: Path) -> Path:
    path = place / "lines.txt"
    path.write_text("w1 w2 w3\nw4 w5", encoding="utf-8")
    return path


def inputs_of(model: ModelProto) -> Any:
    return graph_inputs(view_of(model))


@pytest.mark.parametrize("name", FILES)
def test_files_that_are_no_text(name: str, tmp_path: Path, words: Path) -> None:
    make, sentence = FILES[name]
    path, lines = make(tmp_path / "x.json"), text_in(tmp_path)
    ids = inputs_of(toys.attention(ids=True))
    for read in (lambda: text_data(path, words, ids), lambda: text_data(lines, path, ids)):
        with within(10), pytest.raises(UsageError, match=sentence):
            read()


def picture(path: Path, width: int, height: int) -> None:
    def piece(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes(1000))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + piece(b"IHDR", head) + piece(b"IDAT", rows) + piece(b"IEND", b""))


@pytest.mark.parametrize("size", [(50_000, 50_000), (10_000, 8_000), (2**31 - 1, 1)])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_pictures_that_are_too_large(size: tuple[int, int], tmp_path: Path) -> None:
    picture(tmp_path / "a.png", *size)
    inputs = inputs_of(onnx.load(SAMPLES / "digits_vit.onnx"))
    with within(5), pytest.raises(UsageError, match=r"(50,000,000|pixels).*scale it down|cannot be read"):
        image_data(tmp_path, inputs)


def test_a_long_line(tmp_path: Path, words: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_text("w1 " * 1_000_000)
    with within(5), pytest.raises(UsageError, match=r"line 1 of .* put one sample on a line"):
        text_data(path, words, inputs_of(toys.attention(ids=True)))


@pytest.mark.parametrize("path", IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_paths_that_cannot_be(path: str, tmp_path: Path, words: Path) -> None:
    ids, pixels = inputs_of(toys.attention(ids=True)), inputs_of(onnx.load(SAMPLES / "digits_vit.onnx"))
    readers: list[Callable[[], Any]] = [
        lambda: text_data(path, words, ids),
        lambda: text_data(text_in(tmp_path), path, ids),
        lambda: image_data(path, pixels),
    ]
    for read in readers:
        with pytest.raises(UsageError, match=r"does not exist|cannot be read"):
            read()
