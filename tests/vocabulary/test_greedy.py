"""A folder decodes greedily what the original decodes where the removed tokens have the lowest logits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from tokenizers import Tokenizer

from tests.conftest import Command
from tests.vocabulary.graphs import graph, session
from tests.vocabulary.tokenizers_made import byte_pairs, unigram, word_piece

STEPS = 8
FRONT = "x = Gather(table, input_ids)"
TIED = "turned = Transpose<perm = [1, 0]>(table)\nlogits = MatMul(y, turned)"
UNTIED = "made = MatMul(y, head)\nlogits = Add(made, bias)"
ARCHITECTURE = {"config.json": {"architectures": ["ToyForCausalLM"]}}
GENAI = {"genai_config.json": {"model": {"type": "toy", "decoder": {"filename": "model.onnx"}}}}


def folder_of(place: Path, made: Tokenizer, rows: int, width: int | None, speaking: dict[str, Any]) -> Path:
    """A decoder, its tokenizer and its configuration; `width` is that of a head of its own."""
    place.mkdir()
    own = "" if width is None else f", float[6, {width}] head, float[{width}] bias"
    wide = width or rows
    model = graph(
        FRONT,
        TIED if width is None else UNTIED,
        more=f"float[{rows}, 6] table{own}",
        output=f"float[batch, seq, {wide}] logits",
    )
    onnx.save(model, place / "model.onnx")
    made.save(str(place / "tokenizer.json"))
    size = made.get_vocab_size()
    named = {"eos_token_id": size - 1, "pad_token_id": 0, "bos_token_id": 2, "vocab_size": wide}
    documents: dict[str, Any] = {
        "config.json": dict(named),
        "generation_config.json": {"eos_token_id": [size - 1, 3]},
    }
    for name, more in speaking.items():
        documents[name] = {**documents.get(name, {}), **more}
    if "genai_config.json" in documents:
        documents["genai_config.json"]["model"] |= named
    for name, document in documents.items():
        (place / name).write_text(json.dumps(document), "utf-8")
    return place


def decoded(folder: Path, prompt: list[int], allowed: np.ndarray | None = None) -> list[int]:
    """The tokens that a folder's model appends; of those that are allowed, if they are said."""
    running, ids = session(folder / "model.onnx"), list(prompt)
    for _ in range(STEPS):
        (logits,) = running.run(None, {"input_ids": np.array([ids])})
        last = logits[0, -1]
        if allowed is not None:
            gone = np.setdiff1d(np.arange(len(last)), allowed)
            last[gone] = -np.inf
        ids.append(int(last.argmax()))
    return ids


FOLDERS = {
    "tied": (word_piece, 5, None, {}),
    "untied": (byte_pairs, 3, 3, {}),
    "more rows than logits": (unigram, 8, 0, ARCHITECTURE),
    "more logits than rows": (word_piece, 0, 8, ARCHITECTURE),
    "genai": (byte_pairs, 8, 0, GENAI),
}


@pytest.mark.first_case
@pytest.mark.parametrize("name", FOLDERS)
def test_greedy_decoding_of_the_written_folder(command: Command, tmp_path: Path, name: str) -> None:
    make, more_rows, more_logits, speaking = FOLDERS[name]
    old = make()
    size = old.get_vocab_size()
    width = None if more_logits is None else size + more_logits
    folder, out = folder_of(tmp_path / "in", old, size + more_rows, width, speaking), tmp_path / "out"
    keep = tmp_path / "keep.txt"
    special = [*range(5), *(size - back for back in range(1, 4))]
    keep.write_text("\n".join(map(str, sorted({*special, *range(0, size, 2)}))), "utf-8")
    shown = command("prune", folder, "-o", out, "--vocab", keep, "--provider", "cpu", "--json")
    assert shown.exit_code == 0, shown.stderr
    new = Tokenizer.from_file(str(out / "tokenizer.json"))
    kept = np.array(sorted(number for token, number in old.get_vocab().items() if token in new.get_vocab()))
    assert len(kept) < size and new.get_vocab_size() == len(kept)
    made = onnx.load(out / "model.onnx")
    assert made.graph.output[0].type.tensor_type.shape.dim[-1].dim_value == len(kept)
    for prompt in np.random.default_rng(0).integers(0, len(kept), (6, 4)):
        found = decoded(out, prompt.tolist())
        wanted = decoded(folder, kept[prompt].tolist(), kept)
        assert kept[found].tolist() == wanted
        assert [new.id_to_token(token) for token in found] == [old.id_to_token(token) for token in wanted]
    for document in ("config.json", "generation_config.json", *speaking):
        first, second = (json.loads((place / document).read_text("utf-8")) for place in (folder, out))
        first, second = (item.get("model", item) for item in (first, second))
        assert second.get("vocab_size") in (None, len(kept))
        for field in ("eos_token_id", "pad_token_id", "bos_token_id"):
            listed = [np.atleast_1d(item[field]) for item in (first, second) if field in item]
            assert not listed or (kept[listed[1]] == listed[0]).all()


def test_a_classifier_of_a_folder_keeps_its_classes(command: Command, tmp_path: Path) -> None:
    """It labels each token, with as many labels as there are tokens, and the configuration says so."""
    old = word_piece()
    size = old.get_vocab_size()
    folder = folder_of(
        tmp_path / "in", old, size, size, {"config.json": {"architectures": ["ToyForTokenClassification"]}}
    )
    keep = tmp_path / "keep.txt"
    keep.write_text("\n".join(map(str, [*range(5), *range(5, size, 2), size - 1])), "utf-8")
    shown = command("prune", folder, "-o", tmp_path / "out", "--vocab", keep, "--provider", "cpu")
    assert shown.exit_code == 0, shown.stderr
    made = onnx.load(tmp_path / "out" / "model.onnx")
    assert made.graph.output[0].type.tensor_type.shape.dim[-1].dim_value == size
