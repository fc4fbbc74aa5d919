"""FastEmbed embeds with pruned folders, given as a custom model, what the silenced PyTorch model embeds."""

from __future__ import annotations

import tempfile
from importlib.metadata import version
from pathlib import Path

import cuts
import numpy as np
import onnxruntime
from environment import made_folder, tell
from fastembed import TextEmbedding
from fastembed.common.model_description import ModelSource, PoolingType
from smaller import prune_vocabulary, word_pieces

CLIENT = f"FastEmbed {version('fastembed')} (onnxruntime {onnxruntime.__version__})"
CLOSE = 1e-5
WIDTH = 32
BESIDE = ("uneven", "heads, neurons and a layer")
"""Cuts that are also made with the weights beside the model."""


def main() -> None:
    """Named heads against PyTorch, and a target on text against the file itself."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        made_folder(place)
        lines = (place / "lines.txt").read_text().splitlines()
        with np.load(place / "wanted.npz") as stored:
            wanted = dict(stored)
        cases = [(cut, cut, "never") for cut in cuts.BERT]
        cases += [(f"{cut}, weights beside the model", cut, "always") for cut in BESIDE]
        for name, cut, external in cases:
            out = place / name
            cuts.prune_folder(
                place / "folder", out, cuts.BERT[cut], "fastembed", ("--external-data", external)
            )
            assert (out / "model.onnx_data").is_file() == (external == "always")
            hidden, mask = wanted[cut], wanted["attention_mask"]
            assert np.abs(hidden - wanted["original"]).max() > 100 * CLOSE, "the cut shows nowhere"
            np.testing.assert_allclose(_embedded(out, name, lines), _means(hidden, mask), rtol=0, atol=CLOSE)
            tell(CLIENT, f"BERT, {name}", "embed()", [])
        out = place / "refitted"
        text = ("--ratio", "0.25", "--data", place / "lines.txt")
        cuts.prune(place / "folder", "-o", out, *text, "--runtime", "fastembed")
        ids, mask = wanted["input_ids"], wanted["attention_mask"]
        feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        session = onnxruntime.InferenceSession(str(out / "model.onnx"), providers=["CPUExecutionProvider"])
        hidden = session.run(None, feed)[0]
        np.testing.assert_allclose(
            _embedded(out, "refitted", lines), _means(hidden, mask), rtol=0, atol=CLOSE
        )
        tell(CLIENT, "BERT, a quarter of the heads, chosen and refitted on text", "embed()", [])
        smaller = prune_vocabulary(place / "folder", word_pieces(), "fastembed")
        found = [_embedded(folder, folder.name, smaller.lines) for folder in (smaller.before, smaller.after)]
        np.testing.assert_allclose(*found, rtol=0, atol=CLOSE)
        tell(CLIENT, f"BERT, {smaller.told}", "embed()", smaller.followed)


def _embedded(folder: Path, name: str, lines: list[str]) -> np.ndarray:
    beside = ["model.onnx_data"] if (folder / "model.onnx_data").is_file() else []
    TextEmbedding.add_custom_model(
        model=f"pruned/{name}",
        pooling=PoolingType.MEAN,
        normalization=True,
        sources=ModelSource(hf=f"pruned/{name}"),
        dim=WIDTH,
        model_file="model.onnx",
        additional_files=beside,
    )
    model = TextEmbedding(
        f"pruned/{name}", specific_model_path=str(folder), providers=["CPUExecutionProvider"]
    )
    return np.stack(list(model.embed(lines)))


def _means(hidden: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Normalised means over the tokens of each line."""
    means = (hidden * mask[:, :, None]).sum(1) / mask.sum(1, keepdims=True)
    return means / np.linalg.norm(means, axis=1, keepdims=True)


if __name__ == "__main__":
    main()
