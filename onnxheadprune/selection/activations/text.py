"""Texts as feeds: tokens by the model's own tokenizer, and all that a decoder's client feeds along with them."""

from __future__ import annotations

import os
from collections.abc import Sequence

from onnxheadprune.errors import UsageError
from onnxheadprune.runtime.feeds.generate import Feed
from onnxheadprune.runtime.feeds.inputs import Input
from onnxheadprune.selection.activations.beside import ALONE, Beside
from onnxheadprune.selection.activations.data import Feeds
from onnxheadprune.selection.activations.lines import WHOLE, Reading, Text, read_texts
from onnxheadprune.selection.activations.prompts import Pair, Prompts
from onnxheadprune.selection.activations.vocabulary import Vocabulary

BATCH = 32
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
) -> list[Feed]:
    """Feeds for a text model. Samples of like length share a feed, so that little of it is padding.

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
    texts = read_texts(path, reading)
    vocabulary = Vocabulary(tokenizer, max_length)
    samples = _tokenized(texts, vocabulary)
    if not samples:
        raise UsageError(f"the tokenizer {tokenizer} makes no token of the text {path}")
    prompts.check(samples, str(tokenizer))
    return Feeds((prompts.feed(group) for group in prompts.groups(samples, batch)), "line")


def _tokenized(texts: Sequence[Text], vocabulary: Vocabulary) -> list[Pair]:
    sources = vocabulary.tokens([text.source for text in texts])
    paired = any(text.target is not None for text in texts)
    targets = vocabulary.tokens([text.target or "" for text in texts]) if paired else sources
    return [Pair(*pair) for pair in zip(sources, targets, strict=True) if all(pair)]
