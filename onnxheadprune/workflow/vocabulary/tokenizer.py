"""A tokenizer's files with fewer tokens: which must stay so that any text can be spelled, and what follows.

For a text whose tokens are all kept, the smaller tokenizer gives the same tokens. WordPiece takes the longest match,
and Unigram the best path: fewer tokens leave fewer candidates, of which the one that was chosen is left. BPE merges
pairs in the order of their ranks: merges that lead to a kept token are kept, with all that lies on the way. A word that
is unknown has no tokens of its own, and may be spelled in kept ones.
"""

from __future__ import annotations

import json
import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

from onnxheadprune.data.tokenizing import Tokenizer
from onnxheadprune.data.vocabulary import TOKENIZER, has_tokenizer
from onnxheadprune.errors import RefusedError, UsageError
from onnxheadprune.model.documents import json_of, read_text

MAX_TOKENIZER = 2**28
PREFIXES = ("##", "▁", "Ġ", "Ċ", "@@")
"""Marks of a token at the beginning of a word, or within it."""
SUFFIXES = ("</w>", "@@")
KINDS = ("WordPiece", "Unigram", "BPE", "WordLevel")
TEXTS = 2000
"""Texts that are compared."""
LONGEST = 8
"""Tokens of a text."""


def tokenizer_path(folder: Path) -> Path | None:
    """The file that the tokenizer of a folder is read from, None without."""
    return folder / TOKENIZER if has_tokenizer(folder) else None


class TokenizerFile:
    """The content of a tokenizer.json.

    Attributes:
        place: where it was read.
        document: all of it.
        library: the tokenizer that the tokenizers library makes of it.
    """

    def __init__(self, path: Path) -> None:
        """Read a file."""
        self.place = str(path)
        content = read_text(path, "the tokenizer", MAX_TOKENIZER)
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
        ids = {*self.added.values(), *(() if self.unknown is None else (self.unknown,))}
        if self.document.get("padding"):
            ids.add(self.document["padding"]["pad_id"])
        return frozenset(ids | set(_processed(self.document.get("post_processor"))))

    @cached_property
    def unknown(self) -> int | None:
        """The id of what has no spelling, None without one."""
        named, numbered = self.model.get("unk_token"), self.model.get("unk_id")
        if isinstance(numbered, int):
            return numbered
        return self.ids.get(named) if isinstance(named, str) else None

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

    def made_of(self, place: int) -> set[int]:
        """A token and all that BPE merges on the way to it."""
        token = self.tokens.get(place)
        if self.kind != "BPE" or token is None or token in self.added:
            return {place}
        return {place, *(self.ids[part] for part in self._merged(token) if part in self.ids)}

    def _merged(self, token: str) -> Iterator[str]:
        """Yield what BPE makes of the characters of a token on its way to it; nothing if it does not get there."""
        prefix = self.model.get("continuing_subword_prefix") or ""
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


def require_same_spelling(old: TokenizerFile, document: Mapping[str, Any], kept: Sequence[int]) -> int:
    """Check a smaller tokenizer: its ids, and what it makes of texts whose tokens are all kept."""
    place = {token: position for position, token in enumerate(kept)}
    before, after = (Tokenizer(old.place, json.dumps(one)) for one in (old.document, document))
    if after.vocabulary() != {token: place[number] for token, number in old.ids.items() if number in place}:
        raise RefusedError(
            f"{old.place} cannot lose these tokens: the ids of its added tokens would not follow"
        )
    spelled = place.keys() - {old.unknown}
    texts = _texts(old, [number for number in kept if number in old.tokens])
    compared = 0
    for text, one, other in zip(texts, before.encode(texts), after.encode(texts), strict=True):
        if spelled >= set(one.ids):
            compared += 1
            if other.ids != [place[number] for number in one.ids]:
                raise RefusedError(
                    f"{old.place} cannot lose these tokens: {text!r:.80} would be spelled otherwise, and all of"
                    " its tokens are kept"
                )
    return compared


def _texts(old: TokenizerFile, kept: Sequence[int]) -> list[str]:
    """Texts of kept tokens; the same ones each time."""
    chooser = random.Random(0)
    return old.library.decode([chooser.choices(kept, k=chooser.randint(1, LONGEST)) for _ in range(TEXTS)])
