"""Texts as feeds: tokens by the model's own tokenizer, and the inputs that depend on them.

Language models are trained on windows: short texts are joined, and long ones divided. A decoder is causal: its
output for a token depends only on the tokens before it. So a window may hold several texts without waste,
while single lines need padding, or share a feed only with lines of their length.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np

from onnxheadprune.data.beside import ALONE, Beside
from onnxheadprune.data.lines import WHOLE, Reading, Texts
from onnxheadprune.data.more import CHUNK, MOST_SAMPLES, Chunk, Feeds, More, spread
from onnxheadprune.data.prompts import Pair, Prompts
from onnxheadprune.data.vocabulary import Tokens, Vocabulary, longest_text
from onnxheadprune.errors import InferenceError, UsageError
from onnxheadprune.model.graph.main_output import main_output
from onnxheadprune.model.load import LoadedModel
from onnxheadprune.operators import view_of
from onnxheadprune.runtime import CPU, Array, Provider, Session
from onnxheadprune.runtime.feeds.generate import Feed
from onnxheadprune.runtime.feeds.inputs import Input

BATCH = 32
STEP = 16
"""Samples of a feed that a step of a training takes."""
DEFAULT_LENGTH = 128
NO_TOKEN = "without a token"
Outputs = Callable[[Feed], Mapping[str, Array] | None]
"""The outputs of a model; None where it does not run on the feed."""
Logits = Callable[[Feed], Array | None]
"""The logits of a feed, [samples, tokens, vocabulary]; None where the model does not run on it."""
LEAST = 512
"""Windows that a text has at least, if its lines are joined: as many as a choice looks at."""
CHANGED = 1e-4
"""Difference of logits, as a share of the largest one, that is not rounding."""


def text_feeds(
    path: str | os.PathLike[str],
    tokenizer: str | os.PathLike[str],
    inputs: Sequence[Input],
    *,
    max_length: int = DEFAULT_LENGTH,
    reading: Reading = WHOLE,
    beside: Beside = ALONE,
    model: LoadedModel | None = None,
) -> Feeds:
    """Feeds for a text model. Samples of similar length share a feed, so that little of it is padding.

    Of a long file a sample is tokenized, spread evenly over it; the rest is read when needed.

    A decoder with caches gets empty caches, as for a prompt, and windows of joined and divided lines where there are
    enough of them. A decoder that reads encoder states gets those of the encoder in its folder, and the
    target shifted right after the start token.

    Args:
        path: a UTF-8 file with one sample a line, JSON lines or Parquet.
        tokenizer: a `tokenizer.json` of the `tokenizers` library, or a folder that holds a tokenizer.
        max_length: tokens after which a sample is cut off, or divided into windows; the default is lowered to what the
            configuration beside the tokenizer and the model's positions allow.
        model: is tried, for the length where no configuration settles it, and for whether texts may be joined.
    """
    is_default = max_length == DEFAULT_LENGTH
    allowed = longest_text(Path(tokenizer)) if is_default else None
    max_length = max_length if allowed is None else min(max_length, allowed)
    outputs = None if model is None else _outputs_of(model)
    logits = None if model is None or outputs is None else _logits_of(model, outputs)
    made = _Making(Prompts(inputs, beside), Texts(path, reading), Vocabulary(tokenizer, max_length))
    lines, rest = made.drawn(divided=logits is not None)
    known = [line for line in lines if line is not None]
    if not known:
        raise UsageError(f"the tokenizer {tokenizer} makes no token of the text {path}")
    if is_default and outputs is not None:
        fitting = made.fitting(known, allowed, outputs, more=bool(rest))
        if fitting < max_length:
            return text_feeds(
                path, tokenizer, inputs, max_length=fitting, reading=reading, beside=beside, model=model
            )
    if logits is not None:
        made = replace(made, windows=made.windows_of(known, logits))
        if made.windows is None and any(len(line.source) > max_length for line in known):
            lines, rest = made.drawn()
            known = [line for line in lines if line is not None]
    samples = made.samples(known)
    made.prompts.check(samples, str(tokenizer))
    is_divided = made.windows is not None and (made.windows.joins or len(samples) > len(known))
    more = made.more(rest, len(lines), len(samples) / len(lines)) if rest else None
    alone = partial(
        text_feeds,
        path,
        tokenizer,
        inputs,
        max_length=max_length,
        reading=reading,
        beside=beside,
    )
    return Feeds(
        (made.prompts.feed(group) for group in made.prompts.groups(samples, BATCH)),
        "window" if is_divided else "line",
        more,
        str(path),
        +Counter({NO_TOKEN: len(lines) - len(known)}),
        alone if is_divided else None,
    )


@dataclass(frozen=True)
class _Making:
    """Makes samples from a text."""

    prompts: Prompts  # the inputs of the model
    texts: Texts  # of the file
    vocabulary: Vocabulary  # the tokenizer
    # of a causal model; None where each line is a sample, truncated to the model's length
    windows: Windows | None = None

    def drawn(self, *, divided: bool = False) -> tuple[list[Pair | None], list[int]]:
        """The lines that are held in memory, spread evenly over the file, and the blocks of the others."""
        order = spread(self.texts.blocks)
        found: dict[int, list[Pair | None]] = {}
        count = tokens = 0
        for number in order:
            if count >= MOST_SAMPLES or tokens >= MOST_SAMPLES * self.vocabulary.max_length:
                break
            found[number] = self._tokenized([number], divided=divided)
            count += len(found[number])
            tokens += sum(len(line.source) for line in found[number] if line is not None)
        return [line for number in sorted(found) for line in found[number]], order[len(found) :]

    def fitting(self, lines: Sequence[Pair], allowed: int | None, outputs: Outputs, *, more: bool) -> int:
        """The tokens of a text at most, or as many as the model runs on.

        Tried where a configuration allows little more or says nothing: some models start to count positions behind
        the padding token, and their table holds fewer than it has rows.

        Args:
            more: there are lines that are not read yet, and may be longer.
        """
        length = self.vocabulary.max_length
        longest = max(lines, key=lambda line: max(len(line.source), len(line.target)))
        most = length if more else min(length, max(len(longest.source), len(longest.target)))
        if allowed is not None and 2 * most <= allowed:
            return length
        source, target = (tokens * -(-most // len(tokens)) for tokens in (longest.source, longest.target))

        def runs(tokens: int) -> bool:
            text = Pair(source[:tokens], target[:tokens])
            try:
                return self.prompts.misfit(text) is None and outputs(self.prompts.feed([text])) is not None
            except InferenceError:  # of another model in the folder, such as the encoder
                return False

        # A model that runs on nothing fails for another reason, which is named where it is used.
        return (length if runs(most) else _longest(runs, 0, most)) or length

    def windows_of(self, lines: Sequence[Pair], logits: Logits) -> Windows | None:
        """The windows of a causal model, None for any other."""
        if self.prompts.has_target:
            return None
        start, end = self.vocabulary.frame(self.texts.block(0)[0].source)
        known = self.prompts.beside.end
        between = self.vocabulary.end() if known is None else known
        alone = Windows(
            self.vocabulary.max_length, start, [] if start or end or between is None else [between]
        )
        return _windows_for([line.source for line in lines], alone, self.prompts, logits)

    def samples(self, lines: Sequence[Pair]) -> list[Pair]:
        """Lines, or their windows."""
        if self.windows is None:
            return list(lines)
        return [Pair(window, window) for window in self.windows.of([line.source for line in lines])]

    def more(self, rest: Sequence[int], drawn: int, share: float) -> More:
        """The rest of the text."""
        left = self.texts.count - drawn
        samples = left if self.windows is None else round(float(f"{left * share:.2g}"))
        return More(rest, self._chunk, samples, round(CHUNK * self.texts.blocks / (self.texts.count * share)))

    def _chunk(self, numbers: Sequence[int]) -> Chunk:
        lines = self._tokenized(numbers, divided=self.windows is not None)
        left_out = Counter({NO_TOKEN: lines.count(None)})
        fitting: list[Pair] = []
        for sample in self.samples([line for line in lines if line is not None]):
            why = self.prompts.misfit(sample)
            if why is None:
                fitting.append(sample)
            else:
                left_out[why] += 1
        groups = self.prompts.groups(fitting, STEP) if fitting else ()
        return [self.prompts.feed(group) for group in groups], +left_out

    def _tokenized(self, numbers: Sequence[int], *, divided: bool) -> list[Pair | None]:
        """The tokens of each line of some blocks, None where there are none."""
        texts = [text for number in numbers for text in self.texts.block(number)]
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


def _outputs_of(model: LoadedModel) -> Outputs:
    """Return a function that runs a model.

    It runs on the CPU, which rejects positions outside of a table; other providers read beyond it.
    """
    sessions: list[Session] = []

    def run(feed: Feed) -> Mapping[str, Array] | None:
        try:
            sessions[:] = sessions or [Session(model, Provider(CPU, "a trial"), name=model.name)]
            return sessions[0].run(feed)
        except InferenceError:
            return None

    return run


def _logits_of(model: LoadedModel, outputs: Outputs) -> Logits | None:
    """Return a function that runs a language model; None for any other model."""
    view = view_of(model)
    main = main_output(view, ())
    if main is None or not main.is_logits or len(view.main.values[main.name].shape or ()) != len("BSV"):
        return None
    name = main.name

    def run(feed: Feed) -> Array | None:
        found = outputs(feed)
        return None if found is None else found[name]

    return run


def _windows_for(texts: Sequence[Tokens], alone: Windows, prompts: Prompts, logits: Logits) -> Windows | None:
    """The windows of a causal model; None for any other, or where each text is a window anyway.

    Texts are joined where that leaves enough windows, each of two or more texts. Positions beyond the longest
    text are tried, so that no window exceeds a table of positions or a cache.
    """
    total = sum(map(len, texts)) + len(alone.between) * (len(texts) - 1)
    most = max(map(len, texts))
    longest, length = min(most, alone.length), min(alone.length, total // LEAST)
    joins = length >= longest and 2 * total <= length * len(texts)
    if not joins and most <= alone.length:
        return None
    joined = replace(alone, length=length, joins=True)
    window = max((joined if joins else alone).of(texts), key=len)
    if not _reads_forwards(window[:longest], texts, prompts, logits):
        return None

    def runs(length: int) -> bool:
        return logits(prompts.feed([Pair(window[:length], window[:length])])) is not None

    length = _longest(runs, longest, len(window)) if joins else 0
    return replace(joined, length=length) if length > longest else alone


def _reads_forwards(window: Tokens, texts: Sequence[Tokens], prompts: Prompts, logits: Logits) -> bool:
    """Return whether the model is causal: measured, unless it has a cache."""
    if any(item.is_cache for item in prompts.inputs):
        return True
    other = next((token for text in texts for token in text if token != window[-1]), None)
    if other is None or len(window) < 2:
        return False
    before, after = (logits(prompts.feed([Pair(row, row)])) for row in (window, [*window[:-1], other]))
    if before is None or after is None or before.shape[:2] != (1, len(window)):
        return False
    apart = np.abs(before.astype(np.float64) - after)[0].max(axis=-1)
    changed = apart > CHANGED * np.abs(before.astype(np.float64)).max()
    return bool(changed[-1]) and not changed[:-1].any()


def _longest(runs: Callable[[int], bool], known: int, wanted: int) -> int:
    """The largest length up to the requested one on which a model runs."""
    if runs(wanted):
        return wanted
    while known + 1 < wanted:
        middle = (known + wanted) // 2
        known, wanted = (middle, wanted) if runs(middle) else (known, middle)
    return known
