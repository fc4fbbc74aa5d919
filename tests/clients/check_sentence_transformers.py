"""sentence-transformers loads a pruned folder, and encodes what the silenced PyTorch model encodes."""

from __future__ import annotations

import copy
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnxruntime
import tiny_hf
from environment import tell
from lines import LINES, written
from optimum.exporters.onnx import main_export
from sentence_transformers import SentenceTransformer, models
from transformers import AutoTokenizer

CLIENT = f"sentence-transformers {version('sentence-transformers')} (onnxruntime {onnxruntime.__version__})"
CLOSE = 1e-5
CUTS = {
    "uneven, weights inside the model": ({0: (1,), 1: (0, 2, 3)}, "auto"),
    "uneven, weights beside the model": ({0: (1,), 1: (0, 2, 3)}, "always"),
    "uniform": ({0: (1,), 1: (0,), 2: (3,)}, "auto"),
}
"""Heads per layer, and where weights go."""


def main() -> None:
    """Named heads, and a wish on text."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "folder"
        model = _made(folder)
        original = model.encode(LINES)
        for name, (heads, external) in CUTS.items():
            silent = {f"encoder.layer.{layer}.attention.output.dense": gone for layer, gone in heads.items()}
            silenced = copy.deepcopy(model)
            tiny_hf.silence(silenced[0].auto_model, silent, 8)
            wanted = silenced.encode(LINES)
            assert np.abs(wanted - original).max() > 100 * CLOSE, "silencing the heads shows nowhere"
            out = Path(place) / name
            spec = " ".join(f"{layer}:{','.join(map(str, gone))}" for layer, gone in heads.items())
            options = ("--heads", spec, "--for", "sentence-transformers", "--external-data", external)
            tiny_hf.prune(folder, "-o", out, *options)
            found = SentenceTransformer(str(out), backend="onnx").encode(LINES)
            np.testing.assert_allclose(found, wanted, rtol=0, atol=CLOSE)
            tell(CLIENT, f"BERT, {name}", "encode()", [])
        out = Path(place) / "chosen"
        text = ("--ratio", "0.25", "--text", written(Path(place)))
        tiny_hf.prune(folder, "-o", out, *text, "--for", "sentence-transformers")
        found = SentenceTransformer(str(out), backend="onnx").encode(LINES)
        np.testing.assert_allclose(found, _by_hand(out), rtol=0, atol=CLOSE)
        tell(CLIENT, "BERT, a quarter of the heads, chosen and refitted on text", "encode()", [])


def _made(folder: Path) -> SentenceTransformer:
    tiny_hf.saved(tiny_hf.bert, folder.with_name("torch"))
    transformer = models.Transformer(str(folder.with_name("torch")))
    model = SentenceTransformer(modules=[transformer, models.Pooling(32, "mean")], device="cpu")
    model.save(str(folder))
    main_export(
        str(folder.with_name("torch")),
        output=str(folder / "onnx"),
        task="feature-extraction",
        do_validation=False,
    )
    for path in (folder / "onnx").iterdir():
        if path.suffix != ".onnx":
            path.unlink()
    return model


def _by_hand(folder: Path) -> np.ndarray:
    """The means of what the file itself gives."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    session = onnxruntime.InferenceSession(
        str(folder / "onnx" / "model.onnx"), providers=["CPUExecutionProvider"]
    )
    names = {item.name for item in session.get_inputs()}
    found = []
    for line in LINES:
        feed = {name: value for name, value in tokenizer(line, return_tensors="np").items() if name in names}
        found.append(session.run(None, {k: v.astype(np.int64) for k, v in feed.items()})[0][0].mean(axis=0))
    return np.stack(found)


if __name__ == "__main__":
    main()
