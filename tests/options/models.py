"""Tiny models, data and functions that options name, in one folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, helper, numpy_helper

from onnxheadprune import Curve, prune
from tests.calibration_files import pictures, tokenizer
from tests.graphs import exits, toys

FUNCTIONS = """
def worst(before, after, feed):
    return float(abs(before[min(before)] - after[min(after)]).max())

def mean(outputs, feed):
    return float(outputs[min(outputs)].mean())
"""


def write_models(folder: Path) -> Path:
    """A model per name, pruned once, with data that fits, alone in a folder too; and what else options want."""
    random = np.random.default_rng(3)
    ids = random.integers(0, toys.VOCABULARY, (20, 6))
    x = random.standard_normal((8, 6, toys.HIDDEN)).astype(np.float32)
    past = random.standard_normal((2, 8, toys.HEADS, 3, toys.HEAD_SIZE)).astype(np.float32)
    images = random.standard_normal((24, 1, 8, 8)).astype(np.float32)
    made: dict[str, tuple[ModelProto, dict[str, Any]]] = {
        "fixed": (_fixed(), {"input_ids": ids}),
        "toy": (toys.stack(), {"input_ids": ids}),
        "cache": (toys.attention(cache=True), {"x": x, "past_key": past[0], "past_value": past[1]}),
        "told": (_told(), {"x": x}),
        "silent": (toys.attention(out_scale=0.0), {"x": x}),
        "heavy": (toys.attention(extra_weight=1000), {"x": x}),
        "vision": (_vision(), {"images": images}),
        "leaving": (exits.nested(2), exits.samples()),
    }
    for name, (model, data) in made.items():
        path = folder / f"{name}.onnx"
        onnx.save(model, path)
        np.savez(folder / f"{name}.npz", **data)
        prune(path, folder / f"{name}-less.onnx", heads={0: [1]}, validate=False)
        job = f"model: {name}.onnx\noutput: out-of-{name}\nprune: {{heads: '0:1'}}\n"
        (folder / f"job-{name}.yaml").write_text(job, encoding="utf-8")
        (folder / f"folder-{name}").mkdir()
        onnx.save(model, folder / f"folder-{name}" / f"{name}.onnx")
        (folder / f"export-{name}").mkdir()
        onnx.save(model, folder / f"export-{name}" / "model.onnx")
    _linked(folder)
    curve = Curve("toy.onnx", heads=4, unit="kl", points=(), knee=None)
    (folder / "curve.json").write_text(
        json.dumps({"written_by": "onnxheadprune", **curve.document()}), encoding="utf-8"
    )
    (folder / "mine_for_options.py").write_text(FUNCTIONS, encoding="utf-8")
    (folder / "keep.txt").write_text("0-13\n", encoding="utf-8")
    (folder / "lines.txt").write_text("w1 w2 w3 w4\nw5 w6\nw7 w8 w9\nw3 w4\n", encoding="utf-8")
    lines = [{"text": f"w{row} w{row + 3}", "question": f"w{2 * row}"} for row in range(4)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    tokenizer(folder, words=toys.VOCABULARY)
    pictures(folder / "pictures", count=4, size=(8, 8))
    rows = [f"{site},{head},{50 * site + 3 * head % 8},own," for site in (0, 1) for head in range(4)]
    (folder / "scores.csv").write_text("site,unit,score,method,means\n" + "\n".join(rows), encoding="utf-8")
    return folder


def _fixed() -> ModelProto:
    """Two samples of six tokens, so that there is one size to measure."""
    model = toys.stack()
    for value in (*model.graph.input, *model.graph.output):
        for dim, size in zip(value.type.tensor_type.shape.dim, (2, 6), strict=False):
            dim.dim_value = size
    return model


def _linked(folder: Path) -> None:
    """A model whose weights lie elsewhere, behind a link, alone and in a folder."""
    model = toys.attention(extra_weight=1000)
    x = np.random.default_rng(3).standard_normal((8, 6, toys.HIDDEN)).astype(np.float32)
    np.savez(folder / "linked.npz", x=x)
    prune(model, folder / "linked-less.onnx", heads={0: [1]}, validate=False)
    elsewhere = folder.parent / f"{folder.name}-blobs"
    for place in (folder / "linked.onnx", folder / "export-linked" / "model.onnx"):
        place.parent.mkdir(exist_ok=True)
        (elsewhere / place.parent.name).mkdir(parents=True)
        onnx.save(toys.attention(extra_weight=1000), place, save_as_external_data=True, location="linked.bin")
        blob = elsewhere / place.parent.name / "linked.bin"
        (place.parent / "linked.bin").rename(blob)
        (place.parent / "linked.bin").symlink_to(blob)
    (folder / "folder-linked").mkdir()
    onnx.save(model, folder / "folder-linked" / "linked.onnx")


def _told() -> ModelProto:
    """One whose attention is an output, so that it changes with the heads."""
    model = toys.attention()
    shape = ["batch", toys.HEADS, "sequence", "sequence"]
    model.graph.output.append(helper.make_tensor_value_info("probabilities", onnx.TensorProto.FLOAT, shape))
    return model


def _vision() -> ModelProto:
    """Pairs of pictures of any height, whose rows of eight pixels are tokens."""
    model = toys.attention(hidden=8)
    model.graph.initializer.append(numpy_helper.from_array(np.array([0, -1, 8]), "rows"))
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.append(helper.make_node("Reshape", ["images", "rows"], ["x"], name="rows_of_pixels"))
    model.graph.node.extend(nodes)
    shape = [2, 1, "height", 8]
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, shape))
    return model
