"""The tokenizer follows: on texts whose tokens are all kept it is the old one, under new ids."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from onnxheadprune.workflow.requests import Tokens
from onnxheadprune.workflow.vocabulary.keep import kept_ids
from onnxheadprune.workflow.vocabulary.pieces import trimmed_pieces
from onnxheadprune.workflow.vocabulary.tokenizer import TokenizerFile
from tests.conftest import Outcome
from tests.vocabulary.graphs import graph, run

Command = Callable[..., Outcome]
WORDS = (
    "the cat sat on a mat while other cats were sitting nearby and the dogs barked at walking talkers who walked and"
    " talked about unbelievable things believing that things believed are thinkable thoughts of thoughtful thinkers"
).split()
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]


def texts(count: int, seed: int = 0) -> list[str]:
    chooser = random.Random(seed)
    made = []
    for _ in range(count):
        words = chooser.choices(WORDS, k=chooser.randint(2, 7))
        # Words that nobody has seen, and characters that no vocabulary has.
        words += ["".join(chooser.choices("abcdehknt", k=chooser.randint(1, 6)))] * (chooser.random() < 0.3)
        made.append(" ".join(words) + chooser.choice(["", ".", " é", " 字"]))
    return made


def word_piece() -> Tokenizer:
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.train_from_iterator(texts(400), trainers.WordPieceTrainer(vocab_size=180, special_tokens=SPECIAL))
    ids = [(token, made.token_to_id(token)) for token in ("[SEP]", "[CLS]")]
    made.post_processor = processors.BertProcessing(*ids)
    made.enable_padding(pad_id=made.token_to_id("[PAD]"), pad_token="[PAD]")
    return made


def byte_pairs() -> Tokenizer:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=["<s>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    made.train_from_iterator(texts(400), trainer)
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[(token, made.token_to_id(token)) for token in ("<s>", "</s>")]
    )
    return made


def byte_fallback() -> Tokenizer:
    """As Llama has it: pieces with ▁ for spaces, bytes for what no piece spells."""
    first = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    first.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    plain = trainers.BpeTrainer(vocab_size=200, special_tokens=["<unk>", "<s>", "</s>"])
    first.train_from_iterator(texts(400), plain)
    document = json.loads(first.to_str())
    vocab = document["model"]["vocab"]
    for byte in range(256):
        vocab[f"<0x{byte:02X}>"] = len(vocab)
    document["model"]["byte_fallback"] = True
    return Tokenizer.from_str(json.dumps(document))


def unigram() -> Tokenizer:
    made = Tokenizer(models.Unigram())
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=150, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>"
    )
    made.train_from_iterator(texts(400), trainer)
    made.add_special_tokens(["<extra_id_0>"])
    made.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", made.token_to_id("</s>"))]
    )
    return made


def words_only() -> Tokenizer:
    made = Tokenizer(
        models.WordLevel(
            {word: place for place, word in enumerate(["[UNK]", *dict.fromkeys(WORDS)])}, "[UNK]"
        )
    )
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return made


KINDS = [word_piece, byte_pairs, byte_fallback, unigram, words_only]


def saved(folder: Path, made: Tokenizer) -> TokenizerFile:
    made.save(str(folder / "tokenizer.json"))
    return TokenizerFile(folder / "tokenizer.json")


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("make", KINDS)
def test_texts_of_kept_tokens_are_spelled_as_before(
    make: Callable[[], Tokenizer], seed: int, tmp_path: Path
) -> None:
    old = make()
    file = saved(tmp_path, old)
    chosen = random.Random(seed).sample(sorted(file.tokens), k=len(file.tokens) * 3 // 4)
    kept = kept_ids(Tokens([*chosen, *file.always]), len(file.tokens), file)
    assert len(kept) < len(file.tokens)
    new = Tokenizer.from_str(json.dumps(file.trimmed(kept)))
    place = {token: position for position, token in enumerate(kept)}
    whole = 0
    for text in texts(500, seed + 10):
        before, after = old.encode(text), new.encode(text)
        # Whatever was spelled before is spelled now.
        unknown = [token for token in ("[UNK]", "<unk>") if token in after.tokens]
        assert all(token in before.tokens for token in unknown) or make is words_only
        if set(before.ids) <= place.keys():
            whole += 1
            assert after.tokens == before.tokens
            assert after.ids == [place[token] for token in before.ids]
    assert whole > 20
    assert len(new.get_vocab()) == len(kept) and set(new.get_vocab().values()) == set(range(len(kept)))


def test_what_a_token_is_merged_from_is_kept(tmp_path: Path) -> None:
    file = saved(tmp_path, byte_pairs())
    longest = max((token for token in file.ids if token not in file.added), key=len)
    made = [file.tokens[place] for place in file.made_of(file.ids[longest])]
    assert longest in made and len(made) > len(set(longest))
    new = Tokenizer.from_str(
        json.dumps(file.trimmed(kept_ids(Tokens([file.ids[longest], *file.always]), len(file.tokens), file)))
    )
    text = longest.replace("Ġ", " ")
    assert new.encode(text, add_special_tokens=False).tokens == [longest]


def test_bytes_characters_and_specials_always_stay(tmp_path: Path) -> None:
    for make, basic in (
        (byte_fallback, "<0x41>"),
        (unigram, "<extra_id_0>"),
        (word_piece, "##a"),
        (byte_pairs, "Ġ"),
    ):
        file = saved(tmp_path, make())
        assert file.ids[basic] in file.always, basic


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


@pytest.mark.long
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
    assert (out / "vocab.txt").read_text("utf-8").splitlines() == sorted(
        place, key=lambda token: place[token]
    )
    # New tokenizer and new model are the old tokenizer and the old model, bit by bit.
    whole = 0
    for line in texts(80, seed=7):
        before, after = old.encode(line), new.encode(line)
        if set(before.tokens) <= place.keys():
            whole += 1
            (logits,) = run(folder / "model.onnx", {"input_ids": np.array([before.ids])})
            (got,) = run(out / "onnx" / "model.onnx", {"input_ids": np.array([after.ids])})
            np.testing.assert_array_equal(got, logits[..., sorted(renumbered)])
    assert whole > 10
    spelling = shown.document["spelling"]
    assert 0 < spelling["unchanged_share"] <= 1 and spelling["samples"] == 60
    listed = command("prune", folder, "-o", tmp_path / "again", "--vocab-size", size, "--data", text).stdout
    assert "of the data are kept" in listed and "tokenizer.json" in listed


@pytest.mark.long
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
        (lambda folder, keep: (folder / "tokenizer.json").unlink(), "no tokenizer.json"),
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


def word_level(folder: Path, size: int) -> None:
    vocab = {f"w{place}": place for place in range(size)}
    Tokenizer(models.WordLevel(vocab, "w0")).save(str(folder / "tokenizer.json"))


def test_pieces_of_sentencepiece() -> None:
    def piece(text: str, score: bytes = b"\x15\x00\x00\x80\x3f") -> bytes:
        body = b"\x0a" + bytes([len(text.encode())]) + text.encode() + score + b"\x18\x01"
        return b"\x0a" + bytes([len(body)]) + body

    settings = b"\x12\x04\x08\x01\x10\x02"
    content = piece("<unk>") + piece("▁a") + piece("▁the") + settings
    assert trimmed_pieces(content, {"<unk>", "▁the"}) == piece("<unk>") + piece("▁the") + settings
    with pytest.raises(ValueError, match="no SentencePiece model"):
        trimmed_pieces(b"\x0a\xff\x01", set())
