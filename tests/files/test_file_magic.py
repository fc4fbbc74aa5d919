"""What was taken for a model, for weights or for data, and is something else, is called by its name."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from onnxheadprune import ModelError, UsageError, inspect
from onnxheadprune.runtime.feeds.arrays import read_npz
from tests import toys

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
ZIP = b"PK\x03\x04" + b"\0" * 22


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (POINTER, "git lfs pull"),
        (b"/annex/objects/SHA256E-s100--abcd.onnx\n", "git annex get"),
        (b"\x10\0\0\0ORTM" + b"\0" * 64, r"\.ort"),
        (b"\x3f\0\0\0\0\0\0\0" + b'{"w":{"dtype":"F32"}}', "safetensors file"),
        (ZIP + b"\x10\0\0\0archive/data.pkl", "file of PyTorch"),
        (ZIP + b"\x0a\0\0\0jit/data/0", "file of PyTorch"),
        (ZIP + b"\x06\0\0\0m.onnx", "zip archive; unpack"),
        (b"\x1f\x8b\x08" + b"\0" * 20, "gzip; unpack"),
        (b"GGUF\x03\0\0\0", "GGUF"),
        (b"<!DOCTYPE html><html>404</html>", "download that failed"),
        (b'{"model_type": "bert"}', "JSON"),
        (b"<\n  ir_version: 10\n>\ng (float[1] x) => (float[1] y) { y = Relu (x) }\n", "onnxtxt"),
        (b"ir_version: 8\ngraph {\n}\n", "textproto"),
        (b"", "an empty file"),
    ],
)
def test_what_is_no_model_is_called_by_its_name(tmp_path: Path, content: bytes, what: str) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=f"is not an ONNX model but .*{what}"):
        inspect(path)


def test_a_model_that_is_cut_short_is_called_a_model(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(toys.attention().SerializeToString()[:-5])
    with pytest.raises(ModelError, match="is not an ONNX model, or is truncated"):
        inspect(path)


def test_weights_that_were_not_fetched_are_told(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(
        toys.attention(), path, save_as_external_data=True, location="model.onnx_data", size_threshold=0
    )
    (tmp_path / "model.onnx_data").write_bytes(POINTER)
    with pytest.raises(ModelError, match=r"bytes: it is a pointer of Git LFS.*; run: git lfs pull"):
        inspect(path)


def test_data_that_were_not_fetched_are_told(tmp_path: Path) -> None:
    path = tmp_path / "feeds.npz"
    path.write_bytes(POINTER)
    with pytest.raises(UsageError, match=r"is no \.npz file: it is a pointer of Git LFS"):
        read_npz(path)
