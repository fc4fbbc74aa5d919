"""A tokenizer's files with fewer tokens: which must stay so that any text can be spelled, and what follows.

For a text whose tokens are all kept, the smaller tokenizer gives the same tokens. WordPiece takes the longest match,
and Unigram the best path: fewer tokens leave fewer candidates, of which the one that was chosen is left. BPE merges
pairs in the order of their ranks: merges that lead to a kept token are kept, with all that lies on the way. A word that
WordPiece does not know stays unknown (`unknown.py`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

from onnxheadprune.data.tokenizing import Tokenizer
from onnxheadprune.data.vocabulary import (
    BYTE_PAIRS,
    TOKENIZER,
    WORD_PIECES,
    content_in,
    has_tokenizer,
)
from onnxheadprune.errors import UsageError
from onnxheadprune.model.documents import json_of, read_text
from onnxheadprune.workflow.vocabulary.unknown import hiding, passing

MAX_TOKENIZER = 2**28
PREFIXES = ("##", "▁", "Ġ", "Ċ", "@@")
"""Marks of a token at the beginning of a word, or within it."""
SUFFIXES = ("</w>", "@@")
KINDS = ("WordPiece", "Unigram", "BPE", "WordLevel")
OLDER = (WORD_PIECES, BYTE_PAIRS[0])
"""Names of files with a vocabulary in folders without a tokenizer.json."""
PIECE = 1 << 3 | 2
"""Tag of a piece in the model, and of the text in a piece."""
VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5


def tokenizer_path(folder: Path) -> Path | None:
    """The file that the tokenizer of a folder is read from, None without."""
    if not has_tokenizer(folder):
        return None
    return next(path for name in (TOKENIZER, *OLDER) if (path := folder / name).is_file())


class TokenizerFile:
    """The content of a tokenizer.json, or of the files of an older form as one.

    Attributes:
        place: where it was read.
        document: all of it.
        library: the tokenizer that the tokenizers library makes of it.
    """

    def __init__(self, path: Path) -> None:
        """Read a file."""
        self.place = str(path)
        older = path.name in OLDER
        content = content_in(path.parent) if older else read_text(path, "the tokenizer", MAX_TOKENIZER)
        self.document: dict[str, Any] = json_of(content, f"the tokenizer {path}")
        model = self.document.get("model") if isinstance(self.document, dict) else None
        if not isinstance(model, dict) or not isinstance(model.get("vocab"), (dict, list)):
            raise UsageError(f"the tokenizer {path} is no tokenizer of the tokenizers library")
        self.model = model
        if self.kind not in KINDS:
            raise UsageError(
                f"the tokenizer {path} is of an unknown kind, {self.kind}; known: {', '.join(KINDS)}"
            )
        self.library = Tokenizer(self.place, content)

    @cached_property
    def kind(self) -> str:
        """The algorithm; files of old versions do not say."""
        model = self.model
        guessed = (
            "Unigram" if isinstance(model["vocab"], list) else "BPE" if "merges" in model else "WordPiece"
        )
        return str(model.get("type") or guessed)

    @cached_property
    def ids(self) -> Mapping[str, int]:
        """The id of each token, as the library gives it: of added tokens a file may say otherwise."""
        return self.library.vocabulary()

    @cached_property
    def added(self) -> Mapping[str, int]:
        """Tokens that are found in a text before it is split, by their content."""
        listed = (str(item["content"]) for item in self.document.get("added_tokens") or ())
        return {token: self.ids[token] for token in listed if token in self.ids}

    @cached_property
    def tokens(self) -> Mapping[int, str]:
        """The token of each id."""
        return {place: token for token, place in self.ids.items()}

    @cached_property
    def special(self) -> frozenset[int]:
        """Ids that the tokenizer itself uses: added tokens, the unknown one, and those that it puts around a text."""
        ids = set(self.added.values())
        unknown = self.model.get("unk_token")
        ids |= {self.ids[unknown]} if isinstance(unknown, str) and unknown in self.ids else set()
        if isinstance(self.model.get("unk_id"), int):
            ids.add(self.model["unk_id"])
        if self.document.get("padding"):
            ids.add(self.document["padding"]["pad_id"])
        return frozenset(ids | set(_processed(self.document.get("post_processor"))))

    @cached_property
    def always(self) -> frozenset[int]:
        """Ids without which some text could not be spelled, or would be spelled otherwise for no reason of its own."""
        ids = {place for token, place in self.ids.items() if self._is_basic(token)}
        if self.kind == "Unigram":
            # The cost of an unknown character depends on the least likely token.
            scores = [entry[1] for entry in self.model["vocab"]]
            ids.add(scores.index(min(scores)))
        return frozenset(ids) | self.special

    def _is_basic(self, token: str) -> bool:
        if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            return True
        return len(self.bare(token)) <= 1

    def bare(self, token: str) -> str:
        """A token without what tells its place in a word."""
        prefix = self.model.get("continuing_subword_prefix") or next(filter(token.startswith, PREFIXES), "")
        suffix = self.model.get("end_of_word_suffix") or next(filter(token.endswith, SUFFIXES), "")
        return token.removeprefix(prefix).removesuffix(suffix)

    @cached_property
    def unread(self) -> frozenset[int]:
        """Ids of tokens that no text gives, since a text is split within them: placeholders like [unused7]."""
        if self.kind != "WordPiece":
            return frozenset()
        plain = {place: self.bare(token) for token, place in self.ids.items() if place not in self.special}
        pieces = self.library.pieces(list(plain.values()))
        return frozenset(place for place, count in zip(plain, pieces, strict=True) if count > 1)

    def closed(self, some: Iterable[int]) -> set[int]:
        """Some tokens, and all without which a text of kept tokens would be spelled otherwise."""
        ids = {item for place in some for item in self.made_of(place)}
        if self.kind != "WordPiece":
            return ids
        fresh: Collection[str] = self.ids.keys()
        while fresh:
            kept = {self.tokens[place] for place in ids if place in self.tokens}
            fresh = hiding(self.ids.keys(), kept, self._prefix)
            ids |= {self.ids[token] for token in fresh}
        return ids

    @cached_property
    def passing(self) -> frozenset[int]:
        """Ids of tokens that need others to be kept, so that unknown words stay unknown."""
        every = self.ids.keys()
        return frozenset(
            self.ids[token] for token in passing(every, every, self._prefix) if self.kind == "WordPiece"
        )

    @property
    def _prefix(self) -> str:
        return str(self.model.get("continuing_subword_prefix") or "")

    def made_of(self, place: int) -> set[int]:
        """A token and all that BPE merges on the way to it."""
        token = self.tokens.get(place)
        if self.kind != "BPE" or token is None or token in self.added:
            return {place}
        return {place, *(self.ids[part] for part in self._merged(token) if part in self.ids)}

    def _merged(self, token: str) -> Iterator[str]:
        """Yield what BPE makes of the characters of a token on its way to it; nothing if it does not get there."""
        prefix = self._prefix
        suffix = self.model.get("end_of_word_suffix") or ""
        ends = bool(suffix) and token.endswith(suffix)
        bare = token.removesuffix(suffix) if ends else token
        starts = not prefix or not bare.startswith(prefix)
        bare = bare if starts else bare[len(prefix) :]
        parts = [(prefix if index or not starts else "") + char for index, char in enumerate(bare)]
        if ends and parts:
            parts[-1] += suffix
        pieces = list(parts)
        while len(parts) > 1:
            ranked = [(self.ranks[pair], at) for at, pair in enumerate(pairwise(parts)) if pair in self.ranks]
            if not ranked:
                return
            at = min(ranked)[1]
            parts[at : at + 2] = [parts[at] + parts[at + 1].removeprefix(prefix)]
            pieces.append(parts[at])
        yield from pieces

    @cached_property
    def ranks(self) -> Mapping[tuple[str, str], int]:
        """The order of merges; of a pair that is listed twice the library takes the last."""
        return {pair_of(pair): rank for rank, pair in enumerate(self.model.get("merges") or ())}

    def trimmed(self, kept: Sequence[int]) -> dict[str, Any]:
        """The document with the tokens that are kept, under new ids.

        Args:
            kept: their ids, in order; the new id of each is its position.
        """
        new = {old: place for place, old in enumerate(kept)}
        vocab = self.model["vocab"]
        model = dict(self.model)
        if isinstance(vocab, list):
            model["vocab"] = [entry for place, entry in enumerate(vocab) if place in new]
        else:
            left = {token: new[place] for token, place in vocab.items() if place in new}
            model["vocab"] = dict(sorted(left.items(), key=lambda item: item[1]))
        if isinstance(model.get("unk_id"), int):
            model["unk_id"] = new[model["unk_id"]]
        if "merges" in model:
            prefix = model.get("continuing_subword_prefix") or ""
            model["merges"] = [
                item for item in model["merges"] if survives(pair_of(item), model["vocab"], prefix)
            ]
        document = {**self.document, "model": model}
        document["added_tokens"] = [
            {**item, "id": new[self.added[item["content"]]]}
            for item in self.document.get("added_tokens") or ()
        ]
        if document.get("padding"):
            document["padding"] = {**document["padding"], "pad_id": new[document["padding"]["pad_id"]]}
        document["post_processor"] = _renumbered(document.get("post_processor"), new)
        return document


def pair_of(merge: str | Sequence[str]) -> tuple[str, str]:
    """The two tokens of a merge, which old files write in one text."""
    left, right = merge.split(" ")[:2] if isinstance(merge, str) else merge
    return left, right


def survives(pair: tuple[str, str], tokens: Collection[str], prefix: str = "") -> bool:
    """Return whether both parts of a merge and its product are among tokens."""
    left, right = pair
    return left in tokens and right in tokens and left + right.removeprefix(prefix) in tokens


def _processed(processor: Any) -> Iterator[int]:
    """Yield the ids that a post-processor puts around a text."""
    if not isinstance(processor, dict):
        return
    for inner in processor.get("processors") or ():
        yield from _processed(inner)
    for key in ("sep", "cls"):
        if isinstance(processor.get(key), list):
            yield processor[key][1]
    special = processor.get("special_tokens")
    for item in special.values() if isinstance(special, dict) else ():
        yield from item["ids"]


def _renumbered(processor: Any, new: Mapping[int, int]) -> Any:
    """Return a post-processor with new ids."""
    if not isinstance(processor, dict):
        return processor
    renumbered = dict(processor)
    if isinstance(renumbered.get("processors"), list):
        renumbered["processors"] = [_renumbered(inner, new) for inner in renumbered["processors"]]
    for key in ("sep", "cls"):
        if isinstance(renumbered.get(key), list):
            renumbered[key] = [renumbered[key][0], new[renumbered[key][1]]]
    if isinstance(renumbered.get("special_tokens"), dict):
        renumbered["special_tokens"] = {
            token: {**item, "ids": [new[place] for place in item["ids"]]}
            for token, item in renumbered["special_tokens"].items()
        }
    return renumbered


def trimmed_pieces(content: bytes, gone: Collection[str]) -> bytes:
    """A SentencePiece model without some pieces."""
    parts = []
    for tag, start, body, end in _fields(content):
        text = None
        if tag == PIECE:
            inner = content[body:end]
            text = next((inner[at:last].decode() for key, _, at, last in _fields(inner) if key == PIECE), "")
        if text is None or text not in gone:
            parts.append(content[start:end])
    return b"".join(parts)


def _fields(content: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Yield each field of a message: its tag, where it starts, where its content starts, and where it ends."""
    at = 0
    while at < len(content):
        start = at
        tag, at = _varint(content, at)
        if tag & 7 == VARINT:
            body, (_, end) = at, _varint(content, at)
        elif tag & 7 == LENGTH:
            size, body = _varint(content, at)
            end = body + size
        elif tag & 7 in (FIXED32, FIXED64):
            body, end = at, at + (4 if tag & 7 == FIXED32 else 8)
        else:
            raise ValueError("it is no SentencePiece model")
        if end > len(content):
            raise ValueError("it is no SentencePiece model, or is cut off")
        yield tag, start, body, end
        at = end


def _varint(content: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while at < len(content) and shift < 70:
        byte = content[at]
        number |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return number, at
    raise ValueError("it is no SentencePiece model, or is cut off")
