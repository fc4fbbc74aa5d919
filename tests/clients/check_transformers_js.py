"""transformers.js loads pruned folders, and gives what the silenced PyTorch model gives."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cuts
import numpy as np
import onnxruntime
import tiny_hf
import torch
from cuts import Cut
from environment import tell
from lines import written
from optimum.exporters.onnx import main_export
from oracle import WholeSequences
from smaller import prune_vocabulary, word_pieces

NODE = Path(os.environ["CLIENT_NODE"])
PACKAGES = ("@huggingface/transformers", "onnxruntime-node")
IDS = [[2, 11, 12, 13, 14, 15]]
NEW = 12
CLOSE = 1e-4


@dataclass(frozen=True)
class Case:
    """A model and a cut.

    Attributes:
        make: makes the model.
        task: as Optimum calls it.
        where: its projections.
        cut: what goes; None for a quarter of the heads, chosen and refitted on text.
        options: more of `prune`.
    """

    make: Callable[[], Any]
    task: str
    where: tiny_hf.Projections
    cut: Cut | None
    options: tuple[str, ...] = ()


TEXT = "text-generation-with-past"
BESIDE = ("--external-data", "always")
BERT, LLAMA, GPT2 = (
    partial(Case, tiny_hf.bert, "feature-extraction", tiny_hf.BERT),
    partial(Case, tiny_hf.llama, TEXT, tiny_hf.LLAMA),
    partial(Case, tiny_hf.gpt2, TEXT, tiny_hf.GPT2),
)
CASES = {
    "BERT, uneven": BERT(cuts.BERT["uneven"]),
    "BERT, uneven, weights beside the model": BERT(cuts.BERT["uneven"], BESIDE),
    "BERT, neurons": BERT(cuts.BERT["neurons"]),
    "BERT, a layer": BERT(cuts.BERT["a layer"]),
    "Llama, one KV head of each layer": LLAMA(Cut(heads={0: (0, 1), 1: (4, 5), 2: (6, 7)})),
    "Llama, uneven caches, weights beside the model": LLAMA(
        Cut(heads={0: (0, 1), 1: (2, 3, 4, 5, 6, 7)}), BESIDE
    ),
    "Llama, neurons and a layer": LLAMA(Cut(neurons={0: range(32), 2: range(16)}, layers=(1,))),
    "BERT, a quarter of the heads, refitted": BERT(None),
    "Llama, a quarter of the heads, refitted": LLAMA(None),
    "GPT-2, uneven caches": GPT2(Cut(heads={0: (0,), 2: (1, 3)})),
    "GPT-2, heads, neurons and a layer": GPT2(Cut(heads={0: (0,)}, neurons={1: range(64)}, layers=(2,))),
}


def main() -> None:
    """Runs every case."""
    with tempfile.TemporaryDirectory() as place:
        for number, (name, case) in enumerate(CASES.items()):
            _check(name, case, Path(place) / str(number))
        _check_vocabulary(Path(place) / str(list(CASES).index("BERT, uneven")))


def _check_vocabulary(place: Path) -> None:
    """The client makes tokens of texts itself."""
    smaller = prune_vocabulary(place / "folder", word_pieces(), "transformers.js")
    before, after = (_run(folder, "texts", smaller.lines) for folder in (smaller.before, smaller.after))
    for one, other in zip(before, after, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=CLOSE)
    tell(_versions(), f"BERT, {smaller.told}", "texts to the last hidden state", smaller.followed)


def _check(name: str, case: Case, place: Path) -> None:
    model = tiny_hf.saved(case.make, place / "torch")
    main_export(str(place / "torch"), output=str(place / "made"), task=case.task, do_validation=False)
    (place / "folder" / "onnx").mkdir(parents=True)
    for path in (place / "made").iterdir():
        path.rename(place / "folder" / ("onnx" if path.suffix == ".onnx" else ".") / path.name)
    with torch.no_grad():
        original = _wanted(model, case)
    if case.cut is None:
        target = ("--ratio", "0.25", "--data", written(place))
        cuts.prune(
            place / "folder", "-o", place / "pruned", *target, "--runtime", "transformers.js", *case.options
        )
        wanted = _of_file(place / "pruned" / "onnx" / "model.onnx", case)
    else:
        cuts.prune_folder(place / "folder", place / "pruned", case.cut, "transformers.js", case.options)
        tiny_hf.silence_cut(model, case.cut, case.where)
        with torch.no_grad():
            wanted = _wanted(model, case)
    assert np.abs(wanted - original).max() > 100 * CLOSE, f"{name}: the cut shows nowhere"
    found = np.array(_found(place / "pruned", case))
    assert found.shape == wanted.shape and np.allclose(found, wanted, rtol=0, atol=CLOSE), f"{name}: {found}"
    before, after = (
        json.loads((place / which / "config.json").read_text()) for which in ("folder", "pruned")
    )
    followed = [f"{key} {after[key]}" for key in after if before.get(key) != after[key]]
    ran = "last hidden state" if case.task != TEXT else f"generate(), {NEW} tokens through the cache"
    tell(_versions(), name, ran, followed)


def _wanted(model: Any, case: Case) -> np.ndarray:
    ids = torch.tensor(IDS)
    if case.task != TEXT:
        return model(input_ids=ids)[0].numpy()
    made = model.generate(ids, max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False, pad_token_id=0)
    return made.numpy()


def _of_file(model: Path, case: Case) -> np.ndarray:
    """What the pruned file gives in onnxruntime, for whole sequences."""
    if case.task == TEXT:
        return np.array([WholeSequences(model).generated(IDS[0], NEW)])
    ids = np.array(IDS)
    feed = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    return onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"]).run(None, feed)[0]


def _found(folder: Path, case: Case) -> Any:
    mask = [[1] * len(row) for row in IDS]
    return _run(folder, "generate" if case.task == TEXT else "encode", IDS, mask, NEW)


def _run(folder: Path, what: str, *arguments: object) -> Any:
    script = Path(__file__).with_name("run_transformers_js.mjs")
    # Packages are looked for from where the script is.
    here = NODE / script.name
    here.write_bytes(script.read_bytes())
    words = ["node", str(here), str(folder), what, *map(json.dumps, arguments)]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
    line = next(line for line in done.stdout.splitlines() if line.startswith("outputs: "))
    return json.loads(line.removeprefix("outputs: "))


def _versions() -> str:
    first, second = (
        json.loads((NODE / "node_modules" / name / "package.json").read_text())["version"]
        for name in PACKAGES
    )
    return f"transformers.js {first} (onnxruntime-node {second})"


if __name__ == "__main__":
    main()
