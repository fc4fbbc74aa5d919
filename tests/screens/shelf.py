"""A folder of toys, data and broken files, in which commands of transcripts run."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper
from PIL import Image

from onnxheadprune import prune
from tests.deploying import exports
from tests.files.hostile_models import FILES, MODELS, WEIGHTS, stored_outside
from tests.graphs import exits, pairs, toys
from tests.options.models import write_models
from tests.recording import RECORD
from tests.vocabulary.refused import OPEN, REFUSED

FUNCTIONS = """
import numpy as np

def ids():
    return [{"input_ids": np.arange(12).reshape(2, 6) % 12 + row} for row in range(4)]

def nothing():
    return []

def fails():
    raise RuntimeError("it is broken")

def numbers():
    return [1, 2]

def wanting(more):
    return []

def text(before, after, feed):
    return "far"

NUMBER = 3
"""


def write_shelf(folder: Path) -> Path:
    """Write what transcripts name."""
    write_models(folder)
    (folder / "mine.py").write_text(FUNCTIONS, encoding="utf-8")
    models = {
        "plain": toys.no_attention(),
        "attention": toys.attention(),
        "five": toys.attention(heads=5),
        "double": toys.attention(dtype=np.float64),
        "grouped": toys.stack(kv_heads=2),
        "layers": toys.decoder(4, cache=True, measured=0),
        "encoder": pairs.encoder(),
        "decoder": pairs.decoder(past=False),
        "looping": exits.loop(),
        "newer": _with_entry({RECORD: '{"version": 99}'}),
        "earlier": _with_entry({"onnxheadprune.heads": '{"version": 2, "sites": []}'}),
        "unreadable": _with_entry({RECORD: "{"}),
        "texts": _with_texts(),
    }
    for name, model in models.items():
        onnx.save(model, folder / f"{name}.onnx")
    for name, model in {**OPEN, **REFUSED}.items():
        _save(model(), folder / "graphs" / "vocab" / f"{name}.onnx")
    for name, change in MODELS.items():
        model = toys.attention()
        change(model)
        _write(folder / "hostile" / f"{name}.onnx", model.SerializeToString())
    for name, content in FILES.items():
        _write(folder / "files" / name, content)
    for name, weights in WEIGHTS.items():
        stored_outside(folder / "weights" / name.replace(" ", "-"), weights)
    prune(folder / "attention.onnx", folder / "attention-less.onnx", heads={0: [1]}, validate=False)
    for name, more in {"changed": 0.5, "nan": np.nan}.items():
        onnx.save(_with_bias(onnx.load(folder / "attention-less.onnx"), more), folder / f"{name}.onnx")
    prune(folder / "toy.onnx", folder / "tokens-less.onnx", vocab=folder / "keep.txt", validate=False)
    prune(folder / "leaving.onnx", folder / "left.onnx", exit=1, validate=False)
    _write_folders(folder)
    _write_data(folder)
    return folder


def _save(model: ModelProto, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _with_bias(model: ModelProto, more: float) -> ModelProto:
    name = next(item.name for item in model.graph.initializer if item.name.endswith("v.bias"))
    toys.set_initializer(model, name, toys.get_initializer(model, name) + np.float32(more))
    return model


def _with_entry(entries: dict[str, str]) -> ModelProto:
    model = toys.attention()
    helper.set_model_props(model, entries)
    return model


def _with_texts() -> ModelProto:
    model = toys.attention()
    model.graph.input.append(helper.make_tensor_value_info("texts", TensorProto.STRING, ["batch"]))
    return model


def _write_folders(folder: Path) -> None:
    """Exports, and folders that are none."""
    exports.decoder(folder / "gpt")
    exports.deep_decoder(folder / "llama")
    exports.encoder_decoder(folder / "bart")
    pairs.folder(folder / "seq2seq")
    strangers = {
        "strangers": ("bert.onnx", "vit.onnx"),
        "precisions": ("model.onnx", "model_quantized.onnx"),
        "places": ("model.onnx", "onnx/model.onnx"),
    }
    for place, names in strangers.items():
        for seed, name in enumerate(names):
            _save(toys.stack(seed=seed), folder / place / name)
    (folder / "empty").mkdir()
    _write(folder / "torch" / "pytorch_model.bin", b"")
    _write(folder / "safetensors" / "model-00001-of-00002.safetensors", b"")
    for name in ("attention", "plain"):
        (folder / "several").mkdir(exist_ok=True)
        shutil.copy(folder / f"{name}.onnx", folder / "several")
    (folder / "several" / "broken.onnx").write_bytes((folder / "attention.onnx").read_bytes()[:500])
    (folder / "weights" / "pointer").mkdir()
    shutil.copy(folder / "weights" / "overlap" / "m.onnx", folder / "weights" / "pointer")
    (folder / "weights" / "pointer" / "w.bin").write_bytes(FILES["pointer.onnx"])
    (folder / "alias.onnx").symlink_to("toy.onnx")
    os.mkfifo(folder / "pipe")


def _write_data(folder: Path) -> None:
    """Data that fits no model."""
    bad = folder / "data"
    bad.mkdir()
    ids = np.arange(48).reshape(8, 6) % 12
    words = "\n".join(f"w{row % 9} w{row % 7} w3" for row in range(40))
    arrays = {
        "names": {"tokens": ids},
        "labelled": {"tokens": ids, "labels": np.zeros(3)},
        "rank": {"input_ids": ids[0]},
        "type": {"input_ids": ids.astype(np.float32)},
        "none": {"input_ids": ids[:0]},
        "unknown": {"input_ids": ids + 10**6},
        "same": {"input_ids": ids[:1].repeat(50, 0)},
        "counts": {"input_ids": ids, "labels": np.zeros(3)},
        "few": {"input_ids": ids[:1]},
        "nan": {"x": np.full((8, 6, toys.HIDDEN), np.nan, np.float32)},
    }
    for name, held in arrays.items():
        np.savez(bad / f"{name}.npz", **held)  # type: ignore[arg-type]
    past = np.zeros((8, toys.HEADS, 3, toys.HEAD_SIZE), np.float32)
    tokens = np.ones((8, 6, toys.HIDDEN), np.float32)
    np.savez(bad / "uneven.npz", x=tokens, past_key=past, past_value=past[:4])
    np.savez(bad / "without.npz", x=tokens, past_key=past)
    np.savez(bad / "objects.npz", input_ids=np.array([{}], dtype=object))
    contents = {
        "half.npz": (bad / "names.npz").read_bytes()[:200],
        "array.npz": b"\x93NUMPY\x01\x00",
        "pointer.npz": FILES["pointer.onnx"],
        "utf16.txt": words.encode("utf-16"),
        "latin.txt": "Größe\nMaß\n".encode("latin-1"),
        "binary.txt": bytes(range(256)) * 20,
        "zeros.txt": bytes(100),
        "late.txt": f"{words}\n".encode() * 400 + b"\xff",
        "empty.txt": b"",
        "space.txt": b" \n\t\n",
        "damaged.parquet": b"PAR1" + bytes(90),
    }
    for name, content in contents.items():
        (bad / name).write_bytes(content)
    for name, images in {"damaged": [b"\x89PNG\r\n\x1a\n"] * 2, "unreadable": [b""] * 2}.items():
        for number, content in enumerate(images):
            _write(bad / name / f"{number}.png", content)
    (bad / "album").mkdir()
    for number in range(8):
        Image.new("L", (8, 8), 77).save(bad / "album" / f"{number}.png")
    (bad / "both").mkdir()
    shutil.copy(bad / "album" / "0.png", bad / "both")
    shutil.copy(bad / "names.npz", bad / "both")
    rows = [{"text": f"w{row} w{row % 3}"} for row in range(8)]
    (bad / "late.jsonl").write_text("\n".join(map(json.dumps, [*rows, {"a": 1}])), encoding="utf-8")
