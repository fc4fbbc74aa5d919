"""Texts as feeds: tokens by the model's own tokenizer, and all that a decoder's client feeds along with them."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

from onnxheadprune.data.beside import ALONE, Beside
from onnxheadprune.data.lines import WHOLE, Reading, Text, Texts
from onnxheadprune.data.more import CHUNK, MOST_SAMPLES, Feeds, More, spread
from onnxheadprune.data.prompts import Pair, Prompts
from onnxheadprune.data.vocabulary import Vocabulary
from onnxheadprune.errors import UsageError
from onnxheadprune.runtime.feeds.generate import Feed
from onnxheadprune.runtime.feeds.inputs import Input

BATCH = 32
STEP = 16
"""Samples of a feed that a step of a training takes."""
DEFAULT_LENGTH = 128


def text_feeds(
    path: str | os.PathLike[str],
    tokenizer: str | os.PathLike[str],
    inputs: Sequence[Input],
    *,
    max_length: int = DEFAULT_LENGTH,
    batch: int = BATCH,
    reading: Reading = WHOLE,
    beside: Beside = ALONE,
) -> Feeds:
    """Feeds for a text model. Samples of like length share a feed, so that little of it is padding.

    Of a long file a sample is tokenized, spread evenly over it; the rest is read where it is wanted.

    A decoder with caches gets these empty, as for a prompt. One that reads an encoder's states gets those that the
    encoder beside it makes of the text, and the target shifted right behind the token that it starts with.

    Args:
        path: a UTF-8 file with one sample a line, JSON lines or Parquet.
        tokenizer: a `tokenizer.json` of the `tokenizers` library, or a folder that holds a tokenizer.
        inputs: the graph inputs.
        max_length: tokens after which a sample is cut off.
        batch: samples in a feed.
        reading: what is read of the file.
        beside: what lies beside the model.

    Raises:
        UsageError: if a file cannot be read, holds no text, or the model wants more than text gives.
        HeadPruneError: if a model beside it cannot be read or run.
    """
    prompts = Prompts(inputs, beside)
    texts = Texts(path, reading)
    vocabulary = Vocabulary(tokenizer, max_length)
    order = spread(texts.blocks)
    drawn = order[: math.ceil(texts.blocks * min(MOST_SAMPLES / texts.count, 1.0))]
    rest = order[len(drawn) :]
    found = [text for number in sorted(drawn) for text in texts.block(number)]
    samples = _tokenized(found, vocabulary)
    if not samples:
        raise UsageError(f"the tokenizer {tokenizer} makes no token of the text {path}")
    prompts.check(samples, str(tokenizer))

    def read(numbers: Sequence[int]) -> list[Feed]:
        more = [text for number in numbers for text in texts.block(number)]
        known = [pair for pair in _tokenized(more, vocabulary) if prompts.fits(pair)]
        return [prompts.feed(group) for group in prompts.groups(known, STEP)] if known else []

    per_block = texts.count / texts.blocks
    more = More(rest, read, texts.count - len(found), round(CHUNK / per_block)) if rest else None
    return Feeds((prompts.feed(group) for group in prompts.groups(samples, batch)), "line", more, str(path))


def _tokenized(texts: Sequence[Text], vocabulary: Vocabulary) -> list[Pair]:
    sources = vocabulary.tokens([text.source for text in texts])
    paired = any(text.target is not None for text in texts)
    targets = vocabulary.tokens([text.target or "" for text in texts]) if paired else sources
    return [Pair(*pair) for pair in zip(sources, targets, strict=True) if all(pair)]
