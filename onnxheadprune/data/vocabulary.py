"""The tokenizer of a model, from its file or from the folder that holds it."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from onnxheadprune.data.tokenizing import Tokenizer
from onnxheadprune.errors import UsageError
from onnxheadprune.model.documents import kind_of, read_object, read_text

TOKENIZER = "tokenizer.json"
SETTINGS = "tokenizer_config.json"
CONFIG = "config.json"
NESTED = ("text_config", "decoder", "encoder")
"""Fields with the configurations of models that read text, where there are several models."""
SAVE_ONE = (
    "save one with AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER) of transformers; where that writes"
    " none (as of Marian and M2M100), "
)
MAX_TOKENIZER = 2**27
TEXTS_AT_ONCE, CHARACTERS_AT_ONCE = 64, 2**20
ENDS = ("<|endoftext|>", "</s>", "<eos>")
"""The tokens that end a text in GPT-2, Llama and Gemma, and in most of their kin."""

Tokens = list[int]


class Vocabulary:
    """A tokenizer.

    Attributes:
        place: where it was read.
        max_length: tokens after which a text is cut off.
    """

    def __init__(self, path: str | os.PathLike[str], max_length: int) -> None:
        """Read a tokenizer.

        Args:
            path: a `tokenizer.json`, or a folder with one.
        """
        self.place, file = str(path), Path(path)
        if stat.S_ISDIR(kind_of(path) or 0):
            if not has_tokenizer(file):
                raise UsageError(
                    f"the folder {file} holds no {TOKENIZER}; {SAVE_ONE}give token ids as an .npz file"
                )
            file /= TOKENIZER
        self._tokenizer = Tokenizer(self.place, read_text(file, "the tokenizer", MAX_TOKENIZER))
        self.max_length = max_length

    def tokens(self, texts: Sequence[str], *, whole: bool = False) -> list[Tokens]:
        """The tokens of each text, special ones included."""
        longest = None if whole else self.max_length
        found: list[Tokens] = []
        batch: list[str] = []
        for number, text in enumerate(texts, 1):
            batch.append(text)
            # The library keeps several lists for each text, long ones included, until its batch is done.
            full = len(batch) == TEXTS_AT_ONCE or sum(map(len, batch)) >= CHARACTERS_AT_ONCE
            if full or number == len(texts):
                found += [item.ids for item in self._tokenizer.encode(batch, longest)]
                batch = []
        return found

    def frame(self, text: str) -> tuple[Tokens, Tokens]:
        """The special tokens before and after every text."""
        (made,) = self._tokenizer.encode([text], self.max_length)
        own = [place for place, is_special in enumerate(made.special) if not is_special]
        if not own:
            return [], []
        return made.ids[: own[0]], made.ids[own[-1] + 1 :]

    def end(self) -> int | None:
        """The token that ends a text, by its usual names; None without."""
        found = self._tokenizer.ids_of(ENDS)
        return next((token for token in found if token is not None), None)


def has_tokenizer(folder: Path) -> bool:
    """Return whether a folder holds a tokenizer."""
    return (folder / TOKENIZER).is_file()


def longest_text(tokenizer: Path) -> int | None:
    """Return the tokens of the longest text that the configuration beside a tokenizer allows; None without a limit."""
    try:
        folder = tokenizer if tokenizer.is_dir() else tokenizer.parent
    except OSError:
        return None
    settings, config = _document(folder / SETTINGS), _document(folder / CONFIG)
    parts = (config, *(config[name] for name in NESTED if isinstance(config.get(name), dict)))
    found = [part.get("max_position_embeddings", part.get("n_positions")) for part in parts]
    found.append(settings.get("model_max_length"))
    # transformers writes 1e30 where a tokenizer knows no limit.
    return min((number for number in found if type(number) is int and 1 < number < 1e29), default=None)


def _document(path: Path) -> Mapping[str, Any]:
    """The content of a JSON file; empty where it is none, since whoever needs it says what is wrong with it."""
    try:
        return read_object(path, "the tokenizer", MAX_TOKENIZER) if path.is_file() else {}
    except (UsageError, OSError):
        return {}
