"""Text files as feeds: one sample a line, tokenized by the model's own tokenizer."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxheadprune.errors import UsageError
from onnxheadprune.model.documents import kind_of, read_text
from onnxheadprune.runtime.feeds import Feed, Input, Role

BATCH = 32
MAX_TEXT = 2**26
"""Bytes of a file of samples; a few hundred lines are enough."""
MAX_LINE = 2**20
"""Characters of a sample, of which `max_length` tokens are used."""
LINES_AT_ONCE = 64
TOKENIZER = "tokenizer.json"
MAX_TOKENIZER = 2**27
DEFAULT_LENGTH = 128

Tokens = list[int]


def text_feeds(
    path: str | os.PathLike[str],
    tokenizer: str | os.PathLike[str],
    inputs: Sequence[Input],
    *,
    max_length: int = DEFAULT_LENGTH,
    batch: int = BATCH,
) -> list[Feed]:
    """Feeds for a text model. Samples of like length share a feed, so that little of it is padding.

    Args:
        path: a UTF-8 file with one sample a line; empty lines are passed over.
        tokenizer: a `tokenizer.json` of the `tokenizers` library, or a folder that holds one.
        inputs: the graph inputs.
        max_length: tokens after which a sample is cut off.
        batch: samples in a feed; a model whose batch is fixed has its own.

    Raises:
        UsageError: if a file cannot be read, holds no text, or the model wants more than text gives.
    """
    ids = next((item for item in inputs if item.role is Role.IDS and len(item.dims) == 2), None)
    if ids is None:
        raise UsageError(
            "the model has no input for token ids, so text is of no use; give its inputs with --data"
        )
    fixed = [dim for dim in ids.dims if isinstance(dim, int)]
    if fixed:
        raise UsageError(
            f"the token ids have the fixed shape {ids.describe()}; give inputs of that shape with --data"
        )
    samples = _tokenized(path, tokenizer, max_length)
    _check_vocabulary(samples, ids, tokenizer)
    padded = any(item.role is Role.MASK for item in inputs)
    return [_feed(group, ids, inputs) for group in _groups(samples, batch, padded)]


def _tokenized(
    path: str | os.PathLike[str], tokenizer: str | os.PathLike[str], max_length: int
) -> list[Tokens]:
    lines = [line.strip() for line in read_text(path, "the text", MAX_TEXT).splitlines()]
    lines = [line for line in lines if line]
    if not lines:
        raise UsageError(f"the text {path} is empty")
    longest = max(map(len, lines))
    if longest > MAX_LINE:
        raise UsageError(
            f"a line of the text {path} has {longest:,} characters, and up to {MAX_LINE:,} are read; put one sample"
            " on a line"
        )
    loaded = _tokenizer(tokenizer)
    loaded.no_padding()
    loaded.enable_truncation(max_length)
    samples: list[Tokens] = []
    # The library keeps several lists for each line, long ones included, until its batch is done.
    for start in range(0, len(lines), LINES_AT_ONCE):
        samples += [list(item.ids) for item in loaded.encode_batch(lines[start : start + LINES_AT_ONCE])]
    samples = [sample for sample in samples if sample]
    if not samples:
        raise UsageError(f"the tokenizer {tokenizer} makes no token of the text {path}")
    return samples


def _tokenizer(path: str | os.PathLike[str]) -> Any:
    """A tokenizer from its file, or from the folder of a model that has one."""
    from tokenizers import Tokenizer

    place = Path(path)
    if stat.S_ISDIR(kind_of(place) or 0):
        place /= TOKENIZER
        if not place.is_file():
            raise UsageError(
                f"the folder {path} holds no {TOKENIZER}; save one with tokenizer.save_pretrained of transformers"
            )
    content = read_text(place, "the tokenizer", MAX_TOKENIZER)
    try:
        return Tokenizer.from_str(content)
    except Exception as error:  # the library raises bare exceptions
        raise UsageError(f"{place} is no tokenizer of the tokenizers library: {error!s:.300}") from error


def _check_vocabulary(samples: Sequence[Tokens], ids: Input, tokenizer: str | os.PathLike[str]) -> None:
    largest = max(max(sample) for sample in samples)
    if ids.rows is not None and largest >= ids.rows:
        raise UsageError(
            f"{tokenizer} gives the token {largest}, but the model's vocabulary has {ids.rows} entries; it is"
            " the tokenizer of another model"
        )


def _groups(samples: Sequence[Tokens], batch: int, padded: bool) -> Iterator[list[Tokens]]:
    """Samples of like length; of equal length where the model has no mask to hide padding with."""
    ordered = sorted(samples, key=len)
    start = 0
    while start < len(ordered):
        stop = min(start + batch, len(ordered))
        if not padded:
            while len(ordered[stop - 1]) != len(ordered[start]):
                stop -= 1
        yield ordered[start:stop]
        start = stop


def _feed(group: Sequence[Tokens], ids: Input, inputs: Sequence[Input]) -> Feed:
    rows, length = len(group), max(len(sample) for sample in group)
    tokens = np.zeros((rows, length), dtype=np.int64)
    mask = np.zeros((rows, length), dtype=np.int64)
    for row, sample in enumerate(group):
        tokens[row, : len(sample)] = sample
        mask[row, : len(sample)] = 1
    feed: Feed = {}
    for item in inputs:
        if item is ids:
            feed[item.name] = tokens.astype(item.dtype)
        else:
            feed[item.name] = _companion(item, mask).astype(item.dtype)
    return feed


def _empty_cache(item: Input) -> list[int]:
    """Sizes of an empty cache behind its batch axis. Beside its length, all of them follow from the weights."""
    sizes = [dim if isinstance(dim, int) else item.widths.get(axis, 0) for axis, dim in enumerate(item.dims)]
    return sizes[1:]


def _companion(item: Input, mask: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    """An input that goes along with token ids."""
    rows = mask.shape[0]
    if "past" in item.name or item.name.startswith("cache"):
        return np.zeros([rows, *_empty_cache(item)])
    if item.role is Role.MASK and len(item.dims) == 2:
        return mask
    if item.role is Role.POSITIONS and len(item.dims) == 2:
        return np.asarray(np.maximum(mask.cumsum(axis=1) - 1, 0))
    if item.role is Role.FLAG:
        return np.zeros([dim for dim in item.dims if isinstance(dim, int)], dtype=bool)
    if item.role is Role.IDS and len(item.dims) == 2:
        return np.zeros_like(mask)
    raise UsageError(
        f"the input {item.name} ({item.describe()}) does not follow from text; give the model's inputs with --data"
    )
