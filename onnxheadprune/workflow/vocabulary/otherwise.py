"""Texts with a smaller vocabulary: those of kept tokens are spelled as before, and the drift on all others."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxheadprune.data.beside import ALONE
from onnxheadprune.data.drift import token_rows
from onnxheadprune.data.prompts import Pair, Prompts
from onnxheadprune.data.respelled import lines_of, tokens_in
from onnxheadprune.data.single import one_by_one
from onnxheadprune.data.tokenizing import Tokenizer
from onnxheadprune.errors import InferenceError, RefusedError, UsageError
from onnxheadprune.model.graph.main_output import main_output
from onnxheadprune.operators import view_of
from onnxheadprune.runtime import Array, Provider, Session
from onnxheadprune.runtime.feeds.data import load_data
from onnxheadprune.runtime.feeds.generate import Feed
from onnxheadprune.runtime.feeds.inputs import Input, graph_inputs
from onnxheadprune.runtime.feeds.samples import DataSource
from onnxheadprune.workflow.result import PruneResult
from onnxheadprune.workflow.vocabulary.tokenizer import TokenizerFile

TEXTS = 2000
"""Of each kind."""
LONGEST = 8
"""Tokens of a text."""
MOST = 64
"""Texts that both models read."""


def require_same_spelling(old: TokenizerFile, document: Mapping[str, Any], kept: Sequence[int]) -> int:
    """Check a smaller tokenizer: its ids, and what it makes of texts whose tokens are all kept."""
    place = {token: position for position, token in enumerate(kept)}
    before, after = (Tokenizer(old.place, json.dumps(one)) for one in (old.document, document))
    if after.vocabulary() != {token: place[number] for token, number in old.ids.items() if number in place}:
        raise RefusedError(
            f"{old.place} cannot lose these tokens: the ids of its added tokens would not follow"
        )
    texts = _spellable(old, [number for number in kept if number in old.tokens])
    compared = 0
    for text, one, other in zip(texts, before.encode(texts), after.encode(texts), strict=True):
        if place.keys() >= set(one.ids):
            compared += 1
            if other.ids != [place[number] for number in one.ids]:
                raise RefusedError(
                    f"{old.place} cannot lose these tokens: {text!r:.80} would be spelled otherwise, and all of"
                    " its tokens are kept"
                )
    return compared


def _spellable(old: TokenizerFile, kept: Sequence[int]) -> list[str]:
    """Return texts of kept tokens, and words glued of any, which may be unknown; the same ones each time."""
    chooser, every = random.Random(0), sorted(old.tokens)
    drawn = [
        (
            chooser.choices(kept, k=chooser.randint(1, LONGEST)),
            chooser.choices(every, k=chooser.randint(2, LONGEST)),
        )
        for _ in range(TEXTS)
    ]
    texts = old.library.decode([ids for ids, _ in drawn])
    words = iter(old.library.decode([[number] for _, some in drawn for number in some]))
    glued = ["".join(old.bare(next(words)).strip() for _ in some) for _, some in drawn]
    return [text for pair in zip(texts, glued, strict=True) for text in pair]


@dataclass(frozen=True)
class Respelling:
    """A tokenizer before and after."""

    old: TokenizerFile  # the tokenizer before
    new: Mapping[str, Any]  # the smaller one


@dataclass(frozen=True)
class Otherwise:
    """The drift of outputs on texts that are spelled otherwise."""

    texts: int = 0  # how many were compared
    # between the outputs of the original and of the pruned model, the mean over these texts
    cosine: float = 1.0
    worst: float = 1.0  # the smallest
    reason: str = ""  # why nothing is compared; "" where something is

    @classmethod
    def of(
        cls, result: PruneResult, respelling: Respelling, data: DataSource, provider: Provider
    ) -> Otherwise | None:
        """Compare both models, each with its own tokenizer, on texts of the data that are spelled otherwise.

        An output per token is averaged over the text, since a text has other tokens than before.
        """
        assert result.plan.vocabulary is not None and result.original is not None
        texts = list(_texts(result, respelling, data))
        if not texts:
            return None
        view = view_of(result.original)
        output = main_output(view, ())
        if output is None or output.name in result.plan.vocabulary.outputs:
            return cls(reason="logits of other tokens, at other places, have nothing to be compared with")
        try:
            prompts = Prompts(tuple(graph_inputs(view)), ALONE)
        except UsageError as error:
            return cls(reason=str(error))
        before, after = (Session(model, provider) for model in (result.original, result.pruned))
        cosines = []
        for old, new in texts:
            if prompts.misfit(Pair(new, new)) is not None:
                # It has more tokens than before, and the model knows no more positions.
                continue
            try:
                ours, theirs = (
                    _pooled(session.run(feed)[output.name], feed, prompts.inputs)
                    for session, ids in ((before, old), (after, new))
                    for feed in (prompts.feed([Pair(ids, ids)]),)
                )
            except InferenceError as error:
                return cls(reason=str(error))
            cosines.append(float(ours @ theirs / max(np.linalg.norm(ours) * np.linalg.norm(theirs), 1e-12)))
        if not cosines:
            return cls(reason="they are longer than the model's positions")
        return cls(len(cosines), float(np.mean(cosines)), min(cosines))

    def to_dict(self) -> dict[str, object]:
        """JSON-ready data."""
        if self.reason:
            return {"texts": 0, "reason": self.reason}
        return {"texts": self.texts, "mean_cosine": self.cosine, "worst_cosine": self.worst}


def _texts(
    result: PruneResult, respelling: Respelling, data: DataSource
) -> Iterator[tuple[list[int], list[int]]]:
    """Yield texts with tokens that are removed: their old ids and their new ones."""
    assert result.plan.vocabulary is not None and result.original is not None
    old = respelling.old.library
    new = Tokenizer(respelling.old.place, json.dumps(respelling.new))
    tokens = result.plan.vocabulary.tokens
    kept, inputs = frozenset(tokens.kept), tuple(graph_inputs(view_of(result.original)))
    found = 0
    for sample in load_data(lines_of(data), inputs):
        for single in one_by_one(sample, inputs):
            ids = next(tokens_in(single, inputs, tokens.inputs), np.zeros(0, np.int64)).tolist()
            if kept.issuperset(ids):
                continue
            texts = old.decode([ids], skip_special=True)
            # A text that was cut off, or is no text of this tokenizer, would be another one.
            if old.encode(texts)[0].ids == ids:
                found += 1
                yield ids, new.encode(texts)[0].ids
            if found == MOST:
                return


def _pooled(array: Array, feed: Feed, inputs: Sequence[Input]) -> Array:
    """One vector of the output for one text."""
    pooled: Array = token_rows(array, (array.ndim - 1,), feed, inputs).mean(axis=0, dtype=np.float64)
    return pooled
