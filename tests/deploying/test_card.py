"""Every pruned folder has a model card that says what was removed, on what data it was judged, and how to repeat it."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import onnx
import pytest
from markdown_it import MarkdownIt

from onnxheadprune import prune_folder
from tests.conftest import Command
from tests.deploying import exports
from tests.graphs import toys

CARD = "README.md"
FRONT = "---\nlicense: mit\ntags:\n- tiny\n---\n"


def test_a_folder_without_a_card_gets_one(command: Command, tmp_path: Path) -> None:
    folder, out = exports.encoder(tmp_path / "in"), tmp_path / "out"
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"_name_or_path": "somebody/tiny"}))
    data = tmp_path / "d.npz"
    np.savez(data, input_ids=np.random.default_rng(3).integers(0, toys.VOCABULARY, (32, 6)))
    words = ("prune", folder, "-o", out, "--heads", "0:1 1:0,3", "--data", data)
    outcome = command(*words)
    assert outcome.exit_code == 0, outcome.stderr
    assert "model card" not in outcome.stdout
    card = (out / CARD).read_text()
    assert card.startswith("---\nbase_model: somebody/tiny\ntags:\n- onnx\n- pruned\n---\n\n# out\n")
    for part in (
        "3 of 8 heads",
        "| 1 | 3 of 4 |",
        "| 0,3 | 2 of 4 |",
        " exact, ",
        str(data),
    ):
        assert part in card
    assert "drift of onnx/model.onnx" in card and "random" not in card
    assert f"    {shlex.join(['onnxheadprune', *map(str, words)])}\n" in card
    assert not (folder / CARD).exists()


@pytest.mark.slow
def test_the_card_of_the_folder_is_kept_below(command: Command, tmp_path: Path) -> None:
    folder = exports.encoder(tmp_path / "in")
    (folder / CARD).write_text(f"{FRONT}# Tiny\n\nA *model*.\n")
    outcome = command("prune", folder, "-o", tmp_path / "once", "--heads", "0:1", "--json")
    assert outcome.exit_code == 0, outcome.stderr
    assert outcome.document["card"] and CARD not in outcome.document["copied"]
    once = (tmp_path / "once" / CARD).read_text()
    assert once.startswith(f"{FRONT}\n# once\n") and once.endswith("# Tiny\n\nA *model*.\n")
    command("prune", tmp_path / "once", "-o", tmp_path / "twice", "--heads", "1:0")
    twice = (tmp_path / "twice" / CARD).read_text()
    assert twice.startswith(f"{FRONT}\n# twice\n") and twice.endswith(once.removeprefix(f"{FRONT}\n"))


@pytest.mark.slow
def test_names_open_no_markup(tmp_path: Path) -> None:
    folder = exports.encoder(tmp_path / "in")
    model = onnx.load(folder / "onnx" / "model.onnx")
    for node in model.graph.node:
        node.name = f"[x](http://x) | <b>*{node.name}*</b>`"
    onnx.save(model, folder / "onnx" / "model.onnx")
    for name in ("model_quantized.onnx", "model.onnx_data"):
        (folder / "onnx" / name).unlink()
    prune_folder(folder, tmp_path / "out", heads="0:1", provider="cpu")
    card = (tmp_path / "out" / CARD).read_text()
    shown = MarkdownIt("gfm-like", {"html": True, "linkify": False}).render(card)
    assert "<a " not in shown and "<b>" not in shown and "    onnxheadprune.prune_folder(" in card
    assert shown.count(">attn.0</td>") == 1
