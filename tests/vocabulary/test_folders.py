"""A folder loses tokens as a whole: its tokenizer and everything that speaks of tokens follow."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from tokenizers import Tokenizer, models

from onnxheadprune.deploying.folders.vocabulary import changes, named_ids
from onnxheadprune.workflow.vocabulary.tokenizer import TokenizerFile
from tests.conftest import Command
from tests.vocabulary.graphs import graph, session
from tests.vocabulary.tokenizers_made import SPECIAL, byte_pairs, texts, unigram, word_piece


def folder_of(place: Path, made: Tokenizer, rows: int | None = None) -> Path:
    """A model of a vocabulary with its tokenizer, and every file that speaks of tokens."""
    place.mkdir()
    size = made.get_vocab_size()
    rows = rows or size + 3
    front = "x = Gather(table, input_ids)"
    model = graph(
        front,
        "turned = Transpose<perm = [1, 0]>(table)\nlogits = MatMul(y, turned)",
        more=f"float[{rows}, 6] table",
        output=f"float[batch, seq, {rows}] logits",
    )
    onnx.save(model, place / "model.onnx")
    (place / "onnx").mkdir()
    onnx.save(model, place / "onnx" / "model.onnx")
    made.save(str(place / "tokenizer.json"))
    vocab = sorted(made.get_vocab(), key=made.token_to_id)
    (place / "vocab.txt").write_text("".join(f"{token}\n" for token in vocab), "utf-8")
    last = size - 1
    config = {
        "vocab_size": rows,
        "hidden_size": 6,
        "eos_token_id": 3,
        "pad_token_id": None,
        "text_config": {"vocab_size": rows, "bos_token_id": [2, last]},
    }
    generation = {
        "suppress_tokens": [5, last, 6],
        "forced_decoder_ids": [[1, 40], [2, None]],
        "lang_to_id": {"<|en|>": 41},
        "max_length": 20,
    }
    genai = {
        "model": {"vocab_size": rows, "eos_token_id": [3, 2], "decoder": {"head_size": 3}},
        "search": {"top_k": 50},
    }
    settings = {"added_tokens_decoder": {"2": {"content": vocab[2]}}, "model_max_length": 512}
    for name, document in (
        ("config.json", config),
        ("generation_config.json", generation),
        ("genai_config.json", genai),
        ("tokenizer_config.json", settings),
    ):
        (place / name).write_text(json.dumps(document), "utf-8")
    return place


def read(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


@pytest.mark.slow
@pytest.mark.parametrize("make", [word_piece, byte_pairs, unigram])
def test_a_folder_is_the_unit(command: Command, tmp_path: Path, make: Callable[[], Tokenizer]) -> None:
    old = make()
    folder, out, text = folder_of(tmp_path / "in", old), tmp_path / "out", tmp_path / "text.txt"
    text.write_text("\n".join(texts(60)), "utf-8")
    file = TokenizerFile(folder / "tokenizer.json")
    size = len(file.always) + (len(file.tokens) - len(file.always)) * 3 // 4
    shown = command(
        "prune", folder, "-o", out, "--vocab-size", size, "--data", text, "--provider", "cpu", "--json"
    )
    assert shown.exit_code == 0, shown.stderr
    assert [item["validation"]["verdict"] for item in shown.document["files"]] == ["passed"] * 2
    new = Tokenizer.from_file(str(out / "tokenizer.json"))
    config, generation, genai = (
        read(out / f"{name}.json") for name in ("config", "generation_config", "genai_config")
    )
    place = {token: new.token_to_id(token) for token in new.get_vocab()}
    renumbered = {old.token_to_id(token): number for token, number in place.items()}
    assert (
        config["vocab_size"]
        == config["text_config"]["vocab_size"]
        == genai["model"]["vocab_size"]
        == len(place)
    )
    assert config["eos_token_id"] == renumbered[3] and config["pad_token_id"] is None
    assert config["text_config"]["bos_token_id"] == [renumbered[2], renumbered[old.get_vocab_size() - 1]]
    assert generation["forced_decoder_ids"] == [[1, renumbered[40]], [2, None]]
    assert generation["lang_to_id"] == {"<|en|>": renumbered[41]} and generation["max_length"] == 20
    wanted = [renumbered[token] for token in (5, old.get_vocab_size() - 1, 6) if token in renumbered]
    assert generation["suppress_tokens"] == wanted
    assert genai["search"] == {"top_k": 50}
    (added,) = read(out / "tokenizer_config.json")["added_tokens_decoder"]
    assert int(added) == renumbered[2]
    assert not (out / "vocab.txt").exists(), "it has the tokens before the cut"
    assert any("vocab.txt" in warning for warning in shown.document["warnings"])
    # New tokenizer and new model are the old tokenizer and the old model, bit by bit.
    whole, sessions = 0, [session(path) for path in (folder / "model.onnx", out / "onnx" / "model.onnx")]
    for line in texts(80, seed=7):
        before, after = old.encode(line), new.encode(line)
        if set(before.tokens) <= place.keys():
            whole += 1
            (logits,) = sessions[0].run(None, {"input_ids": np.array([before.ids])})
            (got,) = sessions[1].run(None, {"input_ids": np.array([after.ids])})
            np.testing.assert_array_equal(got, logits[..., sorted(renumbered)])
    assert whole > 10
    spelling = shown.document["spelling"]
    assert 0 < spelling["unchanged_share"] <= 1 and spelling["samples"] == 60
    listed = command(
        "prune", folder, "-o", tmp_path / "again", "--vocab-size", size, "--data", text, "-v"
    ).stdout
    assert "of the data's tokens kept" in " ".join(listed.split()) and "tokenizer.json" in listed


@pytest.mark.slow
def test_a_list_of_tokens(command: Command, tmp_path: Path) -> None:
    made = word_piece()
    folder, out, keep = folder_of(tmp_path / "in", made), tmp_path / "out", tmp_path / "keep.txt"
    keep.write_text(
        "\n".join(
            [
                *SPECIAL,
                "the",
                "cat",
                made.id_to_token(40),
                made.id_to_token(41),
                made.id_to_token(made.get_vocab_size() - 1),
            ]
        ),
        "utf-8",
    )
    assert command("prune", folder, "-o", out, "--vocab", keep, "--heads", "0:1").exit_code == 0
    new = Tokenizer.from_file(str(out / "tokenizer.json"))
    assert new.encode("the cat").tokens == ["[CLS]", "the", "cat", "[SEP]"]
    assert new.token_to_id("walked") is None and "##d" in new.get_vocab()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda folder, keep: keep.write_text("the\ncat", "utf-8"),
            "loses special tokens: [PAD] (0), [UNK] (1)",
        ),
        (lambda folder, keep: keep.write_text("notthere", "utf-8"), "lists 'notthere'"),
        (lambda folder, keep: word_level(folder, 1000), "does not belong to the model"),
        (lambda folder, keep: (folder / "tokenizer.json").write_text("{", "utf-8"), "is not JSON"),
        (
            lambda folder, keep: (folder / "tokenizer.json").write_text("{}", "utf-8"),
            "no tokenizer of the tokenizers",
        ),
        (lambda folder, keep: older(folder, "spiece.model"), "holds spiece.model and no tokenizer.json"),
        (lambda folder, keep: older(folder, "vocab.txt"), "holds vocab.txt and no tokenizer.json"),
        (lambda folder, keep: keep.write_text("the \ncat", "utf-8"), "lists 'the '"),
        (lambda folder, keep: keep.write_text("[PAD]\n\n", "utf-8"), "loses special tokens"),
        (lambda folder, keep: keep.write_bytes(b"the\x00\n"), "lists 'the\\x00'"),
    ],
)
def test_bad_input_is_one_sentence(
    command: Command, tmp_path: Path, change: Callable[[Path, Path], object], sentence: str
) -> None:
    folder, keep, out = folder_of(tmp_path / "in", word_piece()), tmp_path / "keep.txt", tmp_path / "out"
    keep.write_text("\n".join([*SPECIAL, "the"]), "utf-8")
    change(folder, keep)
    shown = command("prune", folder, "-o", out, "--vocab", keep)
    assert shown.exit_code == 2 and sentence in shown.stderr, shown.stderr
    assert shown.stderr.count("\n") == 1 and not out.exists()


def older(folder: Path, name: str) -> None:
    """Leave a folder with a tokenizer in an older form alone."""
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").rename(folder / name)


def word_level(folder: Path, size: int) -> None:
    vocab = {f"w{place}": place for place in range(size)}
    Tokenizer(models.WordLevel(vocab, "w0")).save(str(folder / "tokenizer.json"))


def test_fields_of_configurations() -> None:
    """Every field that holds ids or counts them follows; what only looks alike stays."""
    document = {
        "vocab_size": 10,
        "text_config": {"vocab_size_per_layer_input": 10},
        "n_words": 10,
        "image_token_index": 9,
        "pad_index": 4,
        "label_to_id": {"no": 4},
        "type_vocab_size": 2,
        "sequence_bias": [[[4, 6], -1.5], [[3], 2.0]],
        "bad_words_ids": [[6, 4], [3, 4]],
        "task_to_id": {"translate": 6},
        "stop_token_ids": [9],
        "hidden_size": 9,
    }
    new = {4: 0, 6: 1, 9: 2}
    assert named_ids(document, 10) == {4, 6, 9}
    made = {change.field[-1]: change.after for change in changes("config.json", document, new, {10: 3})}
    assert made == {
        "vocab_size": 3,
        "vocab_size_per_layer_input": 3,
        "n_words": 3,
        "image_token_index": 2,
        "pad_index": 0,
        "sequence_bias": [[[0, 1], -1.5]],
        "bad_words_ids": [[1, 0]],
        "task_to_id": {"translate": 1},
        "stop_token_ids": [2],
    }
