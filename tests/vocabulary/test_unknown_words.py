"""WordPiece: a word that has no spelling has none afterwards, whatever tokens are removed."""

from __future__ import annotations

import json
import random
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models

from onnxheadprune.errors import RefusedError, UsageError
from onnxheadprune.workflow.requests import Tokens
from onnxheadprune.workflow.vocabulary.keep import kept_ids
from onnxheadprune.workflow.vocabulary.otherwise import require_same_spelling
from onnxheadprune.workflow.vocabulary.tokenizer import TokenizerFile
from onnxheadprune.workflow.vocabulary.unknown import hiding

LETTERS = "abcd"
WORDS = ["".join(word) for size in range(1, 7) for word in product(LETTERS, repeat=size)]
"""All of up to six letters."""


def vocabulary(seed: int) -> list[str]:
    """Some tokens of up to four letters; within a word one letter or two are none."""
    chooser = random.Random(seed)
    longer = ["".join(chooser.choices(LETTERS, k=chooser.randint(2, 4))) for _ in range(24)]
    alone = [*LETTERS, *(f"##{letter}" for letter in chooser.sample(LETTERS, chooser.randint(2, 3)))]
    return list(dict.fromkeys(["[UNK]", *alone, *(chooser.choice(("", "##")) + word for word in longer)]))


def tokenizer(tokens: list[str]) -> Tokenizer:
    vocab = {token: place for place, token in enumerate(tokens)}
    return Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))


def spelled(tokens: list[str]) -> list[list[str]]:
    return [item.tokens for item in tokenizer(tokens).encode_batch(WORDS)]


@pytest.mark.parametrize("seed", [5, 8, 13])
def test_unknown_words_stay_unknown(seed: int, tmp_path: Path) -> None:
    """All words over a small alphabet: those whose tokens are kept, of which [UNK] is one, are spelled as before."""
    tokens = vocabulary(seed)
    tokenizer(tokens).save(str(tmp_path / "tokenizer.json"))
    file, before, more = TokenizerFile(tmp_path / "tokenizer.json"), spelled(tokens), 0
    for some in range(3):
        asked = random.Random(some).sample(range(len(tokens)), len(tokens) // 2)
        try:
            kept = kept_ids(Tokens([*asked, *file.always]), len(tokens), file)
        except UsageError as error:
            # What these words need may be all there is.
            if "keeps them all" not in str(error):
                raise
            continue
        left = [tokens[place] for place in kept]
        more += len(left) - len({*asked, *file.always})
        for old, new in zip(before, spelled(left), strict=True):
            assert new == old or not set(left).issuperset(old)
    assert more, "no word would have been spelled"


def test_a_size_is_kept(tmp_path: Path) -> None:
    """Tokens that would need most of the others are left out, in place of the others."""
    tokens = vocabulary(5)
    tokenizer(tokens).save(str(tmp_path / "tokenizer.json"))
    file = TokenizerFile(tmp_path / "tokenizer.json")
    counts = np.array([len(token) if place in file.passing else 1 for place, token in enumerate(tokens)])
    size = (len(tokens) + len(file.always)) // 2
    kept = kept_ids(Tokens(size=size), len(tokens), file, counts)
    assert len(kept) == size and file.passing.isdisjoint(kept)
    assert require_same_spelling(file, file.trimmed(kept), kept)


def test_tokens_that_hide_a_spelling() -> None:
    """The word is unknown since "ab" is taken: without it, "a", "##bc" and "##de" would spell it."""
    tokens = ["[UNK]", "a", "ab", "##cd", "##bc", "##de", "##d"]
    kept = [token for token in tokens if token != "ab"]
    encoded = [tokenizer(some).encode("abcde").tokens for some in (tokens, kept)]
    assert encoded == [["[UNK]"], ["a", "##bc", "##de"]]
    assert hiding(tokens, kept, "##") == {"ab"}
    assert not hiding([*tokens, "##c", "##e"], [*kept, "##c", "##e"], "##"), "every letter is a token"


def test_the_proof_reads_words_of_removed_tokens(tmp_path: Path) -> None:
    """The proof does not know why tokens were kept: it finds a word that was unknown."""
    tokens = vocabulary(0)
    tokenizer(tokens).save(str(tmp_path / "tokenizer.json"))
    file = TokenizerFile(tmp_path / "tokenizer.json")
    kept = sorted({*random.Random(0).sample(range(len(tokens)), len(tokens) // 2), *file.always})
    with pytest.raises(RefusedError, match="would be spelled otherwise"):
        require_same_spelling(file, json.loads(json.dumps(file.trimmed(kept))), kept)
