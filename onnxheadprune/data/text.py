"""Texts as feeds: tokens by the model's own tokenizer, and all that a decoder's client feeds along with them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from onnxheadprune.data.beside import ALONE, Beside
from onnxheadprune.data.lines import WHOLE, Reading, Texts
from onnxheadprune.data.more import CHUNK, MOST_SAMPLES, Chunk, Feeds, More, spread
from onnxheadprune.data.prompts import Pair, Prompts
from onnxheadprune.data.vocabulary import Vocabulary
from onnxheadprune.data.windows import Logits, Windows, windows_for
from onnxheadprune.errors import UsageError
from onnxheadprune.runtime.feeds.inputs import Input

BATCH = 32
STEP = 16
"""Samples of a feed that a step of a training takes."""
DEFAULT_LENGTH = 128
NO_TOKEN = "without a token"


def text_feeds(
    path: str | os.PathLike[str],
    tokenizer: str | os.PathLike[str],
    inputs: Sequence[Input],
    *,
    max_length: int = DEFAULT_LENGTH,
    reading: Reading = WHOLE,
    beside: Beside = ALONE,
    logits: Logits | None = None,
) -> Feeds:
    """Feeds for a text model. Samples of like length share a feed, so that little of it is padding.

    Of a long file a sample is tokenized, spread evenly over it; the rest is read where it is wanted.

    A decoder with caches gets these empty, as for a prompt, and windows of joined and divided lines where there are
    enough of them. One that reads an encoder's states gets those that the encoder beside it makes of the text, and the
    target shifted right behind the token that it starts with.

    Args:
        path: a UTF-8 file with one sample a line, JSON lines or Parquet.
        tokenizer: a `tokenizer.json` of the `tokenizers` library, or a folder that holds a tokenizer.
        inputs: the graph inputs.
        max_length: tokens after which a sample is cut off, or divided into windows.
        reading: what is read of the file.
        beside: what lies beside the model.
        logits: runs a model of language; None takes each line for a sample of its own.

    Raises:
        UsageError: if a file cannot be read, holds no text, or the model wants more than text gives.
        HeadPruneError: if a model beside it cannot be read or run.
    """
    made = _Making(Prompts(inputs, beside), Texts(path, reading), Vocabulary(tokenizer, max_length))
    lines, rest = made.drawn(divided=logits is not None)
    known = [line for line in lines if line is not None]
    if not known:
        raise UsageError(f"the tokenizer {tokenizer} makes no token of the text {path}")
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
    """Makes samples of a text.

    Attributes:
        prompts: the inputs of the model.
        texts: of the file.
        vocabulary: the tokenizer.
        windows: of a model that reads forwards; None where each line is a sample, cut off where it is too long.
    """

    prompts: Prompts
    texts: Texts
    vocabulary: Vocabulary
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

    def windows_of(self, lines: Sequence[Pair], logits: Logits) -> Windows | None:
        """The windows of a model that reads forwards, None for any other."""
        if self.prompts.has_target:
            return None
        start, end = self.vocabulary.frame(self.texts.block(0)[0].source)
        known = self.prompts.beside.end
        between = self.vocabulary.end() if known is None else known
        alone = Windows(
            self.vocabulary.max_length, start, [] if start or end or between is None else [between]
        )
        return windows_for([line.source for line in lines], alone, self.prompts, logits)

    def samples(self, lines: Sequence[Pair]) -> list[Pair]:
        """Lines as they are, or their windows."""
        if self.windows is None:
            return list(lines)
        return [Pair(window, window) for window in self.windows.of([line.source for line in lines])]

    def more(self, rest: Sequence[int], drawn: int, share: float) -> More:
        """The rest of the text.

        Args:
            rest: its blocks.
            drawn: lines that are held in memory.
            share: samples that a line makes. How many all of them make is known when they are read.
        """
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
