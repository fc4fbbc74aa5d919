"""sentence-transformers loads a pruned folder, and encodes what the silenced PyTorch model encodes."""

from __future__ import annotations

import copy
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path

import cuts
import numpy as np
import onnxruntime
import tiny_hf
from environment import tell
from lines import LINES, written
from optimum.exporters.onnx import main_export
from readme import run_readme
from sentence_transformers import SentenceTransformer, models
from smaller import prune_vocabulary, word_pieces
from transformers import AutoTokenizer

CLIENT = f"sentence-transformers {version('sentence-transformers')} (onnxruntime {onnxruntime.__version__})"
CLOSE = 1e-5
CUTS = {
    "uneven, weights inside the model": ("uneven", "auto"),
    "uneven, weights beside the model": ("uneven", "always"),
    "uniform": ("uniform", "auto"),
    "neurons": ("neurons", "auto"),
    "a layer": ("a layer", "auto"),
    "heads, neurons and a layer, weights beside the model": ("heads, neurons and a layer", "always"),
}
"""Names of cuts, and where weights go."""


def main() -> None:
    """Named heads, and a target on text."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "folder"
        model = _made(folder)
        original = model.encode(LINES)
        for name, (cut, external) in CUTS.items():
            silenced = copy.deepcopy(model)
            tiny_hf.silence_cut(silenced[0].auto_model, cuts.BERT[cut], tiny_hf.BERT)
            wanted = silenced.encode(LINES)
            assert np.abs(wanted - original).max() > 100 * CLOSE, "the cut shows nowhere"
            out = Path(place) / name
            options = ("--external-data", external)
            cuts.prune_folder(folder, out, cuts.BERT[cut], "sentence-transformers", options)
            found = SentenceTransformer(str(out), backend="onnx").encode(LINES)
            np.testing.assert_allclose(found, wanted, rtol=0, atol=CLOSE)
            tell(CLIENT, f"BERT, {name}", "encode()", [])
        _other_places(folder.with_name("uneven, weights inside the model"), original)
        out = Path(place) / "chosen"
        text = ("--ratio", "0.25", "--data", written(Path(place)))
        cuts.prune(folder, "-o", out, *text, "--runtime", "sentence-transformers")
        found = SentenceTransformer(str(out), backend="onnx").encode(LINES)
        np.testing.assert_allclose(found, _by_hand(out), rtol=0, atol=CLOSE)
        tell(CLIENT, "BERT, a quarter of the heads, chosen and refitted on text", "encode()", [])
        smaller = prune_vocabulary(folder, word_pieces(), "sentence-transformers")
        both = [
            SentenceTransformer(str(each), backend="onnx").encode(smaller.lines)
            for each in (smaller.before, smaller.after)
        ]
        np.testing.assert_allclose(*both, rtol=0, atol=CLOSE)
        tell(CLIENT, f"BERT, {smaller.told}", "encode()", smaller.followed)
        folder.rename(Path(place) / "minilm")  # as README.md calls its folders
        written(Path(place)).rename(Path(place) / "sentences.txt")
        run_readme(Path(__file__).name, Path(place))


def _other_places(pruned: Path, original: np.ndarray) -> None:
    """The model beside the configuration is loaded too; where there is none, PyTorch's weights are, unpruned."""
    wanted = SentenceTransformer(str(pruned), backend="onnx").encode(LINES)
    root, without = pruned.with_name("root"), pruned.with_name("without")
    for out in (root, without):
        shutil.copytree(pruned, out, ignore=shutil.ignore_patterns("onnx"))
    shutil.copy(pruned / "onnx" / "model.onnx", root)
    np.testing.assert_array_equal(SentenceTransformer(str(root), backend="onnx").encode(LINES), wanted)
    tell(CLIENT, "BERT, uneven, model.onnx beside config.json", "encode()", [])
    found = SentenceTransformer(str(without), backend="onnx").encode(LINES)
    np.testing.assert_allclose(found, original, rtol=0, atol=CLOSE)
    tell(
        CLIENT,
        "BERT, no ONNX file in the folder",
        "encode() gives what the unpruned model gives, exported anew",
        [],
    )


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
