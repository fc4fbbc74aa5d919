"""Heads are chosen and refitted on text or data with one command, and the client generates from the new folder."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
import tiny_hf
from cuts import prune

from onnxheadprune import inspect
from onnxheadprune.data.beside import beside, supplied
from onnxheadprune.data.text import text_data
from onnxheadprune.model.load import load_model
from onnxheadprune.operators import view_of
from onnxheadprune.runtime import CPU, Provider
from onnxheadprune.runtime.feeds.data import load_data
from onnxheadprune.runtime.feeds.generate import Feed
from onnxheadprune.runtime.feeds.inputs import graph_inputs

CLOSE = 1e-4
RATIO = "0.25"
PROVIDER = Provider(CPU, "the client runs there")
Logits = npt.NDArray[np.float32]


def write_lines(path: Path, count: int = 64) -> Path:
    """Lines of the words that the tokenizers of tiny_hf know."""
    random = np.random.default_rng(0)
    rows = (random.integers(0, tiny_hf.WORDS, random.integers(4, 16)) for _ in range(count))
    path.write_text("\n".join(" ".join(f"w{word}" for word in row) for row in rows), encoding="utf-8")
    return path


def prompts(model: Path, text: Path) -> list[Feed]:
    """What `--data` makes for a model."""
    inputs = graph_inputs(view_of(load_model(model)))
    return [*text_data(text, model.parent, inputs, beside=beside(model, PROVIDER)).feeds]


def completed(model: Path, arrays: Feed) -> Feed:
    """What `--data` makes for a model of one feed."""
    inputs = graph_inputs(view_of(load_model(model)))
    (sample,) = load_data(supplied([arrays], inputs, beside(model, PROVIDER)), inputs)
    return sample.feed


def logits(model: Path, feed: Feed) -> Logits:
    """What ONNX Runtime gives for a feed, run by hand."""
    session = _session(model)
    names = {item.name for item in session.get_inputs()}
    (found,) = session.run(["logits"], {name: array for name, array in feed.items() if name in names})
    return np.asarray(found, np.float32)


@functools.cache
def _session(model: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])


def require_same(ours: Logits, theirs: Logits, mask: npt.NDArray[np.bool_], what: str) -> None:
    """Whether two runs agree where there are tokens.

    Raises:
        AssertionError: if not.
    """
    assert ours.shape == theirs.shape, f"{what}: {ours.shape} is not {theirs.shape}"
    off = np.abs(ours - theirs)[mask].max() / np.abs(theirs[mask]).max()
    assert off < CLOSE, f"{what}: the client's logits are {off:.1e} away"


def pruned(folder: Path, out: Path, *options: object) -> list[str]:
    """Prunes a folder, and looks whether heads went that were chosen on what was measured.

    Returns:
        What followed in its configuration.

    Raises:
        AssertionError: if they were chosen otherwise.
    """
    report = out.with_suffix(".json")
    with report.open("w") as stream:
        prune(folder, "-o", out, "--ratio", RATIO, "--json", *options, stdout=stream)
    document = json.loads(report.read_text())
    leaders = [item for item in document["files"] if item["leads"]]
    assert leaders and not any("weights alone" in text for text in document["warnings"]), document["warnings"]
    for item in leaders:
        choice = item["choice"]
        assert choice["selection"]["basis"] == "measured drift after refit", choice["selection"]["basis"]
        assert "int4" in folder.name or choice["compensation"]["tensors"], (
            f"{item['file']}: nothing is refitted"
        )
    assert any(site.removed for item in document["files"] for site in inspect(out / item["file"]))
    if not (folder / "config.json").is_file():
        return []
    before, after = (json.loads((place / "config.json").read_text()) for place in (folder, out))
    return [f"{key} {before.get(key)} -> {after[key]}" for key in after if before.get(key) != after[key]]


def require_continued(
    model: Path, feed: Feed, sequence: Sequence[int], start: int, name: str = "input_ids"
) -> None:
    """Whether a sequence is what the model itself goes on with, all of it run at once without a cache.

    Args:
        model: the file.
        feed: for one sample; its tokens are replaced.
        sequence: tokens.
        start: how many of them were given.
        name: of the tokens.

    Raises:
        AssertionError: if not.
    """
    ids = np.asarray([sequence], dtype=np.int64)
    whole = {**feed, name: ids}
    if "attention_mask" in feed and name == "input_ids" and "encoder_hidden_states" not in feed:
        whole["attention_mask"] = np.ones_like(ids)
    if "position_ids" in feed:
        whole["position_ids"] = np.arange(ids.shape[1])[None]
    wanted = logits(model, whole)[0, start - 1 : -1].argmax(-1).tolist()
    assert wanted == list(sequence[start:]), f"{model}: {list(sequence[start:])} is not {wanted}"
