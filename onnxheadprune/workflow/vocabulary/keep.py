"""The kept tokens (a list, or the data's most frequent ones), and the model and data with these alone."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import index
from pathlib import Path
from typing import Any, SupportsIndex, TypeAlias

import numpy as np
import numpy.typing as npt

from onnxheadprune.attention.vocabulary.find import vocabulary_of
from onnxheadprune.attention.vocabulary.logits import Vocabulary
from onnxheadprune.attention.vocabulary.trim import Trimming, trimming
from onnxheadprune.data.calibration import Calibration
from onnxheadprune.data.respelled import Spelling, as_data, lines_of, respelled, samples_of, tokens_in
from onnxheadprune.display.spelling import first_few
from onnxheadprune.edit.plan import PrunePlan
from onnxheadprune.errors import UsageError
from onnxheadprune.model.documents import json_of, read_text
from onnxheadprune.model.load import LoadedModel
from onnxheadprune.operators import view_of
from onnxheadprune.runtime.feeds.data import Sample
from onnxheadprune.runtime.feeds.inputs import Input, graph_inputs
from onnxheadprune.workflow.requests import Request, Tokens
from onnxheadprune.workflow.vocabulary.tokenizer import TokenizerFile, tokenizer_path

MAX_LIST = 2**27
STEM = 5
"""Characters that forms of a word share. On MiniLM's vocabulary and English prose 5 lose fewer tokens than 4 or 6."""
RANGE = re.compile(r"(\d{1,9})(?:-(\d{1,9}))?")
NUMBERS = re.compile(r"[-+]?\d+(?:\.\d*)?(?:-[-+]?\d+(?:\.\d*)?)?")
"""Numbers and ranges that may be no ids: negative ones, fractions."""
COUNTED = re.compile(r"(.+)\t(\d{1,15})")
MOST = 10**15
"""The largest count."""
Counts = npt.NDArray[np.int64]
ListedToken: TypeAlias = tuple[str | range, int | None]
"""A token, or ids, with how often each occurs, None where that is not said."""


def kept_ids(
    tokens: Tokens,
    rows: int,
    tokenizer: TokenizerFile | None,
    counts: Counts | None = None,
    special: Collection[int] = (),
) -> list[int]:
    """The ids of the tokens that are kept, in order."""
    if tokenizer is not None:
        _require_fitting(tokenizer, rows)
    always = frozenset(special) | (frozenset() if tokenizer is None else tokenizer.always)
    if tokens.keep is not None:
        listed = _listed(tokens.keep)
        named = listed.ids(rows, tokenizer)
        if tokens.size is None:
            _require_special(named, tokenizer, special, listed.source)
            kept = sorted(_closed(always.union(named), tokenizer))
            if len(kept) == rows:
                raise UsageError(
                    f"the model has {rows:,} tokens, and {listed.source} keeps them all, so it removes none"
                )
            return kept
        counts = np.zeros(rows, np.int64)
        for place, count in named.items():
            if count is None:
                raise UsageError(
                    f"{listed.source} has no counts, which a vocabulary size requires: TOKEN<tab>COUNT"
                )
            counts[place] = count
    if counts is None or tokens.size is None:
        raise UsageError("a vocabulary size requires data, or a list of tokens with counts")
    if tokens.size >= rows:
        raise UsageError(f"the model has {rows:,} tokens, so a vocabulary of {tokens.size:,} removes none")
    return _most_frequent(tokens.size, counts, tokenizer, always)


def _require_fitting(tokenizer: TokenizerFile, rows: int) -> None:
    """Check that a tokenizer can be the model's."""
    most = max(tokenizer.tokens.keys() | tokenizer.special, default=-1) + 1
    if most > rows or rows - most > max(1024, rows // 8):
        raise UsageError(
            f"{tokenizer.place} does not belong to the model: its ids are up to {most - 1}, and the model has {rows}"
            " rows"
        )


def _closed(some: Collection[int], tokenizer: TokenizerFile | None) -> set[int]:
    """Some tokens, and all that they need."""
    return {part for place in some for part in ({place} if tokenizer is None else tokenizer.made_of(place))}


def _most_frequent(
    size: int, counts: Counts, tokenizer: TokenizerFile | None, always: Collection[int]
) -> list[int]:
    basic = _closed(always, tokenizer)
    if len(basic) > size:
        raise UsageError(
            f"a vocabulary of {size:,} is too small: {len(basic):,} tokens are special, bytes or single characters,"
            " without which texts cannot be spelled"
        )
    order = [
        place for place in _in_order(counts, tokenizer) if tokenizer is None or place in tokenizer.tokens
    ]
    return sorted(_first(size, basic, order, tokenizer))


def _first(
    size: int, basic: Collection[int], order: Iterable[int], tokenizer: TokenizerFile | None
) -> set[int]:
    """Some tokens, and of others the first ones for which there is room, with what they are merged from."""
    kept = set(basic)
    for place in order:
        if len(kept) == size:
            break
        fresh = ({place} if tokenizer is None else tokenizer.made_of(place)) - kept
        if len(kept) + len(fresh) <= size:
            kept |= fresh
    return kept


def _in_order(counts: Counts, tokenizer: TokenizerFile | None) -> list[int]:
    """Ids in the order in which they are kept.

    Tokens that the data does not have come behind: those that begin like one that it has (other forms of its words),
    then all others. Among themselves they are in the order of their ids, since vocabularies begin with frequent ones.
    """
    every = range(len(counts))
    if tokenizer is None:
        return sorted(every, key=lambda place: (-int(counts[place]), place))
    stems = {place: tokenizer.bare(token)[:STEM] for place, token in tokenizer.tokens.items()}
    seen = {stem for place, stem in stems.items() if place < len(counts) and counts[place]}
    last = tokenizer.unread
    return sorted(
        every,
        key=lambda place: (-int(counts[place]), place in last, stems.get(place) not in seen, place),
    )


def _require_special(
    named: Collection[int], tokenizer: TokenizerFile | None, special: Collection[int], source: str
) -> None:
    needed = set(special) | (set() if tokenizer is None else set(tokenizer.special))
    lost = sorted(needed.difference(named))
    if lost:
        names = {} if tokenizer is None else tokenizer.tokens
        told = (f"{names[place]} ({place})" if place in names else place for place in lost)
        raise UsageError(f"{source} loses special tokens: {first_few(told, 3)}; list them too")


@dataclass(frozen=True)
class Listed:
    """The content of a list of tokens."""

    entries: Sequence[ListedToken]  # tokens or ids
    source: str  # what it is called in errors

    def ids(self, rows: int, tokenizer: TokenizerFile | None) -> dict[int, int | None]:
        """The ids of the tokens, with their counts."""
        found: dict[int, int | None] = {}
        self._require_ids(rows, tokenizer)
        for entry, count in self.entries:
            for place in self._places(entry, rows, tokenizer):
                if found.setdefault(place, count) != count:
                    token = place if isinstance(entry, range) else repr(entry)
                    raise UsageError(
                        f"{self.source} lists {token!s:.80} with two counts, {found[place]} and {count}"
                    )
        return found

    def _require_ids(self, rows: int, tokenizer: TokenizerFile | None) -> None:
        """Check that a list without a tokenizer has ids only."""
        texts = [entry for entry, _ in self.entries if isinstance(entry, str)]
        if tokenizer is not None or not texts:
            return
        first = next((text for text in texts if not RANGE.fullmatch(text)), texts[0])
        if NUMBERS.fullmatch(first):
            raise UsageError(
                f"{self.source} lists {first!r:.80}, and ids are whole numbers or ranges of 0 to {rows - 1:,}"
            )
        raise UsageError(
            f"{self.source} lists the token {first!r:.80}, and there is no tokenizer beside the model; list ids instead"
        )

    def _places(self, entry: str | range, rows: int, tokenizer: TokenizerFile | None) -> Sequence[int]:
        if isinstance(entry, str):
            assert tokenizer is not None
            if entry not in tokenizer.ids:
                raise UsageError(
                    f"{self.source} lists {entry!r:.80}, which is no token of {tokenizer.place}; to keep the tokens of"
                    f" a text, give it with `data` and `vocab_size`"
                )
            return (tokenizer.ids[entry],)
        if not 0 <= entry[0] <= entry[-1] < rows:
            outside = entry[0] if entry[0] < 0 else max(entry[0], rows)
            raise UsageError(f"{self.source} lists the id {outside}, and the model's ids are 0 to {rows - 1}")
        return entry


def _listed(keep: str | os.PathLike[str] | Sequence[int]) -> Listed:
    if not isinstance(keep, (str, os.PathLike)):
        return Listed([(_one(item), None) for item in keep], "the list of tokens")
    path = Path(keep)
    content = read_text(path, "the list of tokens", MAX_LIST)
    if path.suffix == ".json":
        return Listed(_of_json(path, content), str(path))
    lines = [line.removesuffix("\r") for line in content.split("\n")]
    entries: list[ListedToken] = []
    for line in filter(None, lines):
        counted = COUNTED.fullmatch(line)
        entries.append((counted[1], int(counted[2])) if counted else (line, None))
    if not entries:
        raise UsageError(f"{path} lists no token")
    ranges = [RANGE.fullmatch(str(token)) for token, _ in entries]
    if not all(ranges):
        return Listed(entries, str(path))
    spans = [range(int(found[1]), int(found[2] or found[1]) + 1) for found in ranges if found]
    empty = next((found[0] for found, span in zip(ranges, spans, strict=True) if found and not span), None)
    if empty is not None:
        raise UsageError(f"{path} lists the range {empty}, whose last id is below its first")
    return Listed([(span, count) for span, (_, count) in zip(spans, entries, strict=True)], str(path))


def _one(item: SupportsIndex) -> range:
    """Return an id of Python's or numpy's as a range."""
    try:
        return range(index(item), index(item) + 1)
    except TypeError:
        raise UsageError(f"the list of tokens holds {item!r:.80}, which is no token id") from None


def _of_json(path: Path, content: str) -> list[ListedToken]:
    """The entries of a list of tokens or ids, or of a mapping from tokens to counts."""
    found: Any = json_of(content, f"the list of tokens {path}")
    pairs: Iterable[tuple[Any, Any]] = (
        found.items()
        if isinstance(found, Mapping)
        else ((item, None) for item in found)
        if isinstance(found, list)
        else ()
    )
    entries = list(pairs)
    fraction = next((token for token, _ in entries if isinstance(token, float)), None)
    if fraction is not None:
        raise UsageError(f"{path} lists {fraction!r:.80}, which is neither a token nor an id")
    if not entries or not all(
        type(token) in (str, int) and (count is None or (type(count) is int and 0 <= count <= MOST))
        for token, count in entries
    ):
        raise UsageError(f"{path} is neither a list of tokens or ids nor a mapping from tokens to counts")
    return [(token if isinstance(token, str) else _one(token), count) for token, count in entries]


def counted(samples: Iterable[Sample], inputs: tuple[Input, ...], vocabulary: Vocabulary) -> Counts:
    """Count the tokens in data."""
    counts = np.zeros(vocabulary.rows, np.int64)
    for sample in samples:
        for ids in tokens_in(sample, inputs, vocabulary.inputs):
            if ids.size and not 0 <= ids.min() <= ids.max() < vocabulary.rows:
                raise UsageError(f"the data has a token id outside of the model's 0 to {vocabulary.rows - 1}")
            counts += np.bincount(ids, minlength=vocabulary.rows)
    return counts


@dataclass(frozen=True, eq=False)
class Trimmed:
    """A model with fewer tokens, the request with data under the new ids, and the share of tokens kept in the data."""

    trimming: Trimming  # the model, and what was done
    request: Request  # what is asked for, with data under new ids
    spelling: Spelling | None  # of the data, None without

    @classmethod
    def of(cls, subject: LoadedModel, request: Request) -> Trimmed:
        """The model with the tokens that a request keeps."""
        tokens, data = request.tokens, request.data
        assert tokens is not None
        data = None if data is None else lines_of(data)
        view = view_of(subject)
        vocabulary = vocabulary_of(view, subject.name, tokens.inputs, tokens.rows, tokens.logits)
        inputs = tuple(graph_inputs(view))
        samples = None if data is None else tuple(samples_of(data, inputs))
        if tokens.rows is None:
            # A rare token may be in no sample that is held in memory.
            every = data.every if isinstance(data, Calibration) else samples
            counts = None if every is None else counted(every, inputs, vocabulary)
            place = _tokenizer_beside(subject)
            tokenizer = None if place is None else TokenizerFile(place)
            kept = kept_ids(tokens, vocabulary.rows, tokenizer, counts, vocabulary.stored)
        else:
            # Decided for all files of a folder.
            kept = [int(place) for place in tokens.keep or ()]  # type: ignore[union-attr]
        made = trimming(subject, kept, tokens.inputs, vocabulary.rows, tokens.logits)
        if samples is None or not vocabulary.inputs:
            return cls(made, request, None)
        spelling, left = respelled(samples, inputs, made)
        assert data is not None
        if not left and request.chooses:
            raise UsageError("no sample of the data has tokens that are kept only; keep more tokens")
        return cls(made, replace(request, data=as_data(left, inputs, data) if left else None), spelling)

    @property
    def model(self) -> LoadedModel:
        """The model with the tokens that are kept."""
        return self.trimming.model

    def on(self, plan: PrunePlan) -> PrunePlan:
        """A plan that was made for this model, as one for the model before."""
        return self.trimming.on(plan)


def _tokenizer_beside(model: LoadedModel) -> Path | None:
    """The tokenizer beside a model, or in the folder above."""
    if model.path is None:
        return None
    places = (tokenizer_path(place) for place in (model.path.parent, model.path.parent.parent))
    return next(filter(None, places), None)
