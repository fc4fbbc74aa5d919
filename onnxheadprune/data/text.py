"""Texts as samples: tokens by the model's own tokenizer, and the inputs that depend on them.

Language models are trained on windows: short texts are joined, and long ones divided. A decoder is causal: its
output for a token depends only on the tokens before it. So a window may hold several texts without waste,
while single lines need padding, or share a batch only with lines of their length.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np

from onnxheadprune.data.beside import ALONE, Beside
from onnxheadprune.data.calibration import (
    CHUNK,
    MOST_SAMPLES,
    Calibration,
    LeftOut,
    More,
    data_of,
    spread,
)
from onnxheadprune.data.lines import WHOLE, Reading, Text, read_texts
from onnxheadprune.data.prompts import Pair, Prompts
from onnxheadprune.data.vocabulary import TEXTS_AT_ONCE, Tokens, Vocabulary, longest_text
from onnxheadprune.errors import InferenceError, UsageError
from onnxheadprune.model.graph.main_output import main_output
from onnxheadprune.model.load import LoadedModel
from onnxheadprune.operators import view_of
from onnxheadprune.runtime import CPU, Array, Provider, Session
from onnxheadprune.runtime.feeds.data import Sample
from onnxheadprune.runtime.feeds.inputs import Input

DEFAULT_LENGTH = 128
NO_TOKEN = "without a token"
Logits = Callable[[Tokens], Array | None]
"""The logits of a text, [1, tokens, vocabulary]; None where the model does not run on it."""
LEAST = 512
"""Windows that a text has at least, if its lines are joined: as many as a choice looks at."""
CHANGED = 1e-4
"""Difference of logits, as a share of the largest one, that is not rounding."""


def text_data(
    path: str | os.PathLike[str],
    tokenizer: str | os.PathLike[str],
    inputs: Sequence[Input],
    *,
    max_length: int = DEFAULT_LENGTH,
    reading: Reading = WHOLE,
    beside: Beside = ALONE,
    model: LoadedModel | None = None,
) -> Calibration:
    """Samples for a text model, those of similar length next to each other, so that little of a batch is padding.

    Of a long file some are tokenized, spread evenly over it; the others when they are needed.

    A decoder with caches gets empty caches, as for a prompt, and windows of joined and divided lines where there are
    enough of them. A decoder that reads encoder states gets those of the encoder in its folder, and the
    target shifted right after the start token.

    Args:
        path: a UTF-8 file with one sample a line, JSON lines or Parquet.
        tokenizer: a `tokenizer.json` of the `tokenizers` library, or a folder that holds one.
        max_length: tokens after which a sample is cut off, or divided into windows; the default is lowered to what the
            configuration beside the tokenizer and the model's table of positions allow.
        model: is tried, for whether texts may be joined.
    """
    prompts = Prompts(inputs, beside)
    if max_length == DEFAULT_LENGTH:
        known = (longest_text(Path(tokenizer)), prompts.longest)
        max_length = min([max_length, *(most for most in known if most is not None)])
    logits = None if model is None else _logits_of(model, prompts)
    made = _Making(prompts, read_texts(path, reading), Vocabulary(tokenizer, max_length))
    places, pairs = made.drawn(divided=logits is not None)
    if not any(pairs):
        raise UsageError(f"the tokenizer {tokenizer} makes no token of the text {path}")
    if logits is not None:
        made = replace(made, windows=made.windows_of(list(filter(None, pairs)), logits))
        if made.windows is None and any(pair and len(pair.source) > max_length for pair in pairs):
            places, pairs = made.drawn()
    lines = list(filter(None, pairs))
    samples = made.samples(lines)
    prompts.check(samples, str(tokenizer))
    is_divided = made.windows is not None and (made.windows.joins or len(samples) > len(lines))
    alone = partial(text_data, path, tokenizer, inputs, max_length=max_length, reading=reading, beside=beside)
    return replace(
        data_of(prompts.rows(samples), inputs, str(path)),
        pads=prompts.pads,
        unit="window" if is_divided else "line",
        more=made.more(places, len(samples) / len(pairs)),
        left_out=+Counter({NO_TOKEN: len(pairs) - len(lines)}),
        lines=alone if is_divided else None,
    )


@dataclass(frozen=True)
class _Making:
    """Makes samples from texts."""

    prompts: Prompts  # the inputs of the model
    texts: Sequence[Text]  # of the file
    vocabulary: Vocabulary  # the tokenizer
    # of a causal model; None where each line is a sample, truncated to the model's length
    windows: Windows | None = None

    def drawn(self, *, divided: bool = False) -> tuple[list[int], list[Pair | None]]:
        """The places of the texts that are not held in memory, and the tokens of the others, spread evenly."""
        order = spread(len(self.texts))
        found: dict[int, Pair | None] = {}
        tokens = 0
        while (
            len(found) < min(MOST_SAMPLES, len(order)) and tokens < MOST_SAMPLES * self.vocabulary.max_length
        ):
            some = order[len(found) : len(found) + TEXTS_AT_ONCE]
            found |= zip(some, self._tokenized(some, divided=divided), strict=True)
            tokens += sum(len(pair.source) for place in some if (pair := found[place]) is not None)
        return order[len(found) :], [found[place] for place in sorted(found)]

    def windows_of(self, lines: Sequence[Pair], logits: Logits) -> Windows | None:
        """The windows of a causal model; None for any other, or where each text is a window anyway.

        Texts are joined where that leaves enough windows, each of two or more texts.
        """
        if self.prompts.has_target:
            return None
        start, end = self.vocabulary.frame(self.texts[0].source)
        known = self.prompts.beside.end
        between = self.vocabulary.end() if known is None else known
        most = self.vocabulary.max_length
        alone = Windows(most, start, [] if start or end or between is None else [between])
        texts = [line.source for line in lines]
        total = sum(map(len, texts)) + len(alone.between) * (len(texts) - 1)
        longest, length = max(map(len, texts)), min(most, total // LEAST)
        found = [alone] if longest > most else []
        if length >= min(longest, most) and 2 * total <= length * len(texts):
            found.insert(0, replace(alone, length=length, joins=True))
        cached = any(item.is_cache for item in self.prompts.inputs)
        return next((item for item in found if _runs(item, texts, logits, is_causal=cached)), None)

    def samples(self, lines: Sequence[Pair]) -> list[Pair]:
        """Lines, or their windows."""
        if self.windows is None:
            return list(lines)
        return [Pair(window, window) for window in self.windows.of([line.source for line in lines])]

    def more(self, places: Sequence[int], share: float) -> More | None:
        """The rest of the text.

        Args:
            share: windows that a line makes.
        """
        samples = len(places) if self.windows is None else round(float(f"{len(places) * share:.2g}"))
        return More(places, self._chunk, samples, round(CHUNK / share)) if places else None

    def _chunk(self, places: Sequence[int]) -> tuple[Iterator[Sample], LeftOut]:
        pairs = self._tokenized(places, divided=self.windows is not None)
        left_out = Counter({NO_TOKEN: pairs.count(None)})
        fitting: list[Pair] = []
        for sample in self.samples(list(filter(None, pairs))):
            why = self.prompts.misfit(sample)
            if why is None:
                fitting.append(sample)
            else:
                left_out[why] += 1
        return self.prompts.rows(fitting), +left_out

    def _tokenized(self, places: Iterable[int], *, divided: bool) -> list[Pair | None]:
        """The tokens of some texts, None where there are none."""
        texts = [self.texts[place] for place in places]
        sources = self.vocabulary.tokens([text.source for text in texts], whole=divided)
        paired = any(text.target is not None for text in texts)
        targets = self.vocabulary.tokens([text.target or "" for text in texts]) if paired else sources
        return [Pair(*pair) if all(pair) else None for pair in zip(sources, targets, strict=True)]


@dataclass(frozen=True)
class Windows:
    """Settings for dividing texts into windows."""

    length: int  # tokens of a window, at most
    start: Sequence[int] = ()  # tokens that every text and every window starts with
    between: Sequence[int] = ()  # tokens between two texts
    joins: bool = False  # whether a window holds several texts; otherwise only long ones are divided

    def of(self, texts: Sequence[Tokens]) -> list[Tokens]:
        """The windows of some texts; no token is dropped, and none is in two of them."""
        if not self.joins:
            return [window for text in texts for window in self._divided(text)]
        stream: Tokens = []
        for text in texts:
            stream += [*self.between, *text] if stream else text
        return self._divided(stream)

    def _divided(self, tokens: Tokens) -> list[Tokens]:
        """Tokens in parts whose lengths differ by at most one."""
        if len(tokens) <= self.length:
            return [tokens]
        first = len(self.start)
        body = tokens[first:] if tokens[:first] == list(self.start) else tokens
        count = math.ceil(len(body) / max(self.length - first, 1))
        places = [len(body) * part // count for part in range(count + 1)]
        return [[*self.start, *body[start:end]] for start, end in pairwise(places)]


def _logits_of(model: LoadedModel, prompts: Prompts) -> Logits | None:
    """Return a function that runs a language model; None for any other model.

    It runs on the CPU, which rejects positions outside of a table; other providers read beyond it.
    """
    view = view_of(model)
    main = main_output(view, ())
    if main is None or not main.is_logits or len(view.main.values[main.name].shape or ()) != len("BSV"):
        return None
    name, sessions = main.name, list[Session]()

    def run(tokens: Tokens) -> Array | None:
        try:
            sessions[:] = sessions or [Session(model, Provider(CPU, "a trial"), name=model.name)]
            return sessions[0].run(prompts.feed(Pair(tokens, tokens)))[name]
        except InferenceError:
            return None

    return run


def _runs(windows: Windows, texts: Sequence[Tokens], logits: Logits, *, is_causal: bool) -> bool:
    """Return whether a model runs on windows and is causal: measured, unless that is known."""
    window = max(windows.of(texts), key=len)
    before = logits(window)
    if before is None or is_causal:
        return before is not None
    other = next((token for text in texts for token in text if token != window[-1]), None)
    after = None if other is None else logits([*window[:-1], other])
    if after is None or len(window) < 2 or before.shape[:2] != (1, len(window)):
        return False
    apart = np.abs(before.astype(np.float64) - after)[0].max(axis=-1)
    changed = apart > CHANGED * np.abs(before.astype(np.float64)).max()
    return bool(changed[-1]) and not changed[:-1].any()
