"""The tokenizer follows: on texts whose tokens are all kept it is the old one, under new ids."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from onnxheadprune import RefusedError
from onnxheadprune.workflow.requests import Tokens
from onnxheadprune.workflow.vocabulary.keep import kept_ids
from onnxheadprune.workflow.vocabulary.tokenizer import TokenizerFile, require_same_spelling
from tests.vocabulary.tokenizers_made import (
    KINDS,
    byte_fallback,
    byte_pairs,
    texts,
    unigram,
    word_piece,
    word_piece_with_gaps,
    words_only,
)


def saved(folder: Path, made: Tokenizer) -> TokenizerFile:
    made.save(str(folder / "tokenizer.json"))
    return TokenizerFile(folder / "tokenizer.json")


@pytest.mark.first_case
@pytest.mark.parametrize("make", KINDS)
def test_texts_of_kept_tokens_are_spelled_as_before(make: Callable[[], Tokenizer], tmp_path: Path) -> None:
    file = saved(tmp_path, make())
    for seed in range(3):
        _require_the_law(make, file, seed)


def _require_the_law(make: Callable[[], Tokenizer], file: TokenizerFile, seed: int) -> None:
    old = Tokenizer.from_str(json.dumps(file.document))
    chosen = random.Random(seed).sample(sorted(file.tokens), k=len(file.tokens) * 3 // 4)
    kept = kept_ids(Tokens([*chosen, *file.always]), len(file.tokens), file)
    assert len(kept) < len(file.tokens)
    new = Tokenizer.from_str(json.dumps(file.trimmed(kept)))
    place = {token: position for position, token in enumerate(kept)}
    assert new.get_vocab() == {
        token: place[number] for token, number in old.get_vocab().items() if number in place
    }
    whole = 0
    for text in texts(300, seed + 10):
        before, after = old.encode(text, text[:9]), new.encode(text, text[:9])
        # Whatever was spelled before is spelled now, as far as characters are tokens.
        unknown = [token for token in ("[UNK]", "<unk>") if token in after.tokens]
        assert all(token in before.tokens for token in unknown) or make in (words_only, word_piece_with_gaps)
        if set(before.ids) <= place.keys():
            whole += 1
            assert after.tokens == before.tokens
            assert after.ids == [place[token] for token in before.ids]
            assert new.decode(after.ids) == old.decode(before.ids)
    assert whole > 20
    assert require_same_spelling(file, file.trimmed(kept), kept) > 200


@pytest.mark.parametrize("make", [word_piece_with_gaps, byte_pairs, unigram])
def test_a_tokenizer_that_spells_otherwise_is_seen(make: Callable[[], Tokenizer], tmp_path: Path) -> None:
    """The proof knows nothing of kinds: a token is gone that the record has, or two have changed places."""
    file = saved(tmp_path, make())
    kept = sorted(file.always | set(list(file.tokens)[::2]))
    kept = kept_ids(Tokens(kept), len(file.tokens), file)
    document = file.trimmed(kept)
    vocab = document["model"]["vocab"]
    if isinstance(vocab, list):
        vocab[30][1], vocab[31:] = 0.0, [[token, score - 9] for token, score in vocab[31:]]
    elif "merges" in document["model"]:
        document["model"]["merges"].reverse()
    else:
        document["model"]["max_input_chars_per_word"] = 3
    with pytest.raises(RefusedError, match="would be spelled otherwise"):
        require_same_spelling(file, document, kept)
    fewer = {**document, "added_tokens": document["added_tokens"][:-1]}
    first, second = sorted(file.added.values())[:2] if len(file.added) > 1 else kept[:2]
    swapped = [second if token == first else first if token == second else token for token in kept]
    with pytest.raises(RefusedError, match="cannot lose these tokens"):
        require_same_spelling(file, fewer, swapped)


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
