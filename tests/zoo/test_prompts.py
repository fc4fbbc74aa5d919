"""Decoders with caches out of PyTorch: a prompt is what PyTorch is given, and heads are chosen and refitted on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxheadprune import inspect
from onnxheadprune.data.text import text_data
from onnxheadprune.operators import view_of
from onnxheadprune.runtime import CPU, Provider, Session
from onnxheadprune.runtime.feeds.inputs import graph_inputs
from tests.calibration_files import tokenizer
from tests.conftest import Command
from tests.zoo.conftest import Zoo

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytestmark = pytest.mark.samples
WORDS = 40


def with_symbols(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with names in place of the sizes of its caches."""
    for value in (*model.graph.input, *model.graph.output):
        if value.name.startswith(("past", "present")):
            for axis, size in ((1, "kv_heads"), (3, "kv_cache_dim")):
                dim = value.type.tensor_type.shape.dim[axis]
                dim.Clear()
                dim.dim_param = size
    return model


@pytest.mark.filterwarnings("ignore:`past_key_values` is deprecated:FutureWarning")
@pytest.mark.parametrize("symbolic", [False, True], ids=["written down", "symbolic"])
@pytest.mark.parametrize("name", ["cache-gpt2", "cache-llama-gqa"])
def test_a_prompt_gives_what_pytorch_gives(zoo: Zoo, name: str, symbolic: bool, tmp_path: Path) -> None:
    model, proto = zoo(name).module, onnx.load(zoo(name).export("ts17"))
    proto = with_symbols(proto) if symbolic else proto
    text = lines(tmp_path)
    session = Session(proto, Provider(CPU, "test"))
    for feed in text_data(text, tmp_path, graph_inputs(view_of(proto))).feeds:
        ids, mask = (torch.tensor(feed[name]) for name in ("input_ids", "attention_mask"))
        pasts = [torch.tensor(array) for key, array in feed.items() if key.startswith("past")]
        assert all(past.shape[2] == 0 and past.shape[3] == 8 for past in pasts)
        with torch.no_grad():
            alone = [
                model(row[None, known.bool()], known[None, known.bool()], *(p[:1] for p in pasts))[0]
                for row, known in zip(ids, mask, strict=True)
            ]
        ours = session.run(feed)["logits"]
        for row, wanted in enumerate(alone):
            found = ours[row, : wanted.shape[1]]
            np.testing.assert_allclose(
                found, wanted[0].numpy(), rtol=1e-3, atol=1e-4 * float(wanted.abs().max())
            )


@pytest.mark.parametrize("name", ["cache-gpt2", "cache-llama-gqa"])
def test_heads_are_chosen_and_refitted_on_text(zoo: Zoo, name: str, command: Command, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    options = (
        "--ratio",
        "0.25",
        "--data",
        lines(tmp_path),
        "--tokenizer",
        tmp_path,
        "--provider",
        "cpu",
        "--json",
    )
    outcome = command("prune", zoo(name).export("ts17"), "-o", out, *options)
    assert outcome.exit_code == 0, outcome.stderr
    document = outcome.document
    assert document["validation"]["verdict"] == "passed"
    assert document["choice"]["selection"]["basis"] == "measured drift after refit"
    assert document["choice"]["compensation"]["tensors"]
    gone = sum(len(site.removed) for site in inspect(out))
    assert gone == round(0.25 * sum(site.original_num_heads for site in inspect(out)))


def lines(folder: Path) -> Path:
    """Text, with a tokenizer beside it."""
    tokenizer(folder, WORDS)
    random = np.random.default_rng(0)
    rows = (random.integers(0, WORDS - 1, random.integers(3, 12)) for _ in range(64))
    path = folder / "lines.txt"
    path.write_text("\n".join(" ".join(f"w{word}" for word in row) for row in rows), encoding="utf-8")
    return path
