"""Folders as exporters write them, made of toys."""

from __future__ import annotations

import json
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, compose
from onnxruntime.quantization import QuantType, quantize_dynamic

from tests.graphs import toys


def quantized(model: ModelProto) -> ModelProto:
    """The model with the weights of its products in int8, as ONNX Runtime's dynamic quantization writes it."""
    with TemporaryDirectory() as place:
        made = Path(place, "model.onnx")
        quantize_dynamic(model, made, op_types_to_quantize=["MatMul"], weight_type=QuantType.QUInt8)
        return onnx.load(made)


def encoder(folder: Path, *, heads: int = toys.HEADS, inner: int = toys.INNER) -> Path:
    """An encoder in two precisions, with what stands beside it; the precise file has its weights in another one."""
    (folder / "onnx").mkdir(parents=True)
    model = toys.stack(heads=heads, kv_heads=heads, inner=inner)
    onnx.save(quantized(model), folder / "onnx" / "model_quantized.onnx")
    # This one changes the model: its weights are elsewhere then.
    onnx.save(
        model,
        folder / "onnx" / "model.onnx",
        save_as_external_data=True,
        location="model.onnx_data",
        size_threshold=100,
    )
    side_files(
        folder, {"model_type": "bert", "num_attention_heads": heads, "hidden_size": heads * toys.HEAD_SIZE}
    )
    return folder


def decoder(folder: Path) -> Path:
    """A decoder for the first tokens and one for those after them."""
    folder.mkdir(parents=True)
    model = toys.attention(cache=True)
    onnx.save(model, folder / "decoder_with_past_model.onnx")
    onnx.save(toys.without_past(model), folder / "decoder_model.onnx")
    config = {"model_type": "gpt2", "n_head": toys.HEADS, "n_embd": toys.HEADS * toys.HEAD_SIZE}
    side_files(folder, config)
    return folder


def deep_decoder(folder: Path) -> Path:
    """A decoder of two layers whose configuration counts KV heads and layers."""
    folder.mkdir(parents=True)
    second = compose.add_prefix(toys.attention(cache=True), "second_")
    weights = toys.get_initializer(second, "second_attn.out.weight")
    toys.set_initializer(second, "second_attn.out.weight", np.ascontiguousarray(weights[::-1]))
    model = compose.merge_models(toys.attention(cache=True), second, io_map=[("y", "second_x")])
    onnx.save(model, folder / "model.onnx")
    counted = {"num_attention_heads": toys.HEADS, "num_key_value_heads": toys.HEADS, "num_hidden_layers": 2}
    side_files(folder, {"model_type": "llama", **counted})
    return folder


def encoder_decoder(folder: Path) -> Path:
    """Two networks: an encoder, and the decoder of `decoder`."""
    decoder(folder)
    onnx.save(toys.stack(seed=5), folder / "encoder_model.onnx")
    return folder


def side_files(folder: Path, config: dict[str, Any]) -> None:
    """What stands beside the models."""
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    (folder / "tokenizer.json").write_text("a tokenizer")
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling": "mean"}')


WIDE = 64
"""Neurons that take more than a kilobyte: smaller tensors are written into the model."""


def as_hub_cache(folder: Path, place: Path) -> Path:
    """The folder as the cache of a hub keeps it: links into a folder of blobs."""
    blobs, snapshot = place / "blobs", place / "snapshots" / "0123"
    blobs.mkdir(parents=True)
    for number, path in enumerate(sorted(item for item in folder.rglob("*") if item.is_file())):
        blob = blobs / f"{number:064x}"
        blob.write_bytes(path.read_bytes())
        link = snapshot / path.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    return snapshot


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }
