"""Inputs that follow from the tokens of a prompt: positions, lengths, and caches that hold nothing yet."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxheadprune.errors import UsageError
from onnxheadprune.model.tensors import Array
from onnxheadprune.runtime.feeds.generate import Feed, length_of
from onnxheadprune.runtime.feeds.inputs import Input, Role

TokenMask = npt.NDArray[np.int64]
EMBEDDED = "inputs_embeds"
"""Exporters' names of the embedded tokens that a decoder takes in the place of token ids."""
_STATES = re.compile(r"encoder_(hidden_states|outputs)")
_CROSS = re.compile(r"(?<!de)encoder|cross")
_ALL_LOGITS = re.compile(r"logits_to_keep")


def is_of_encoder(name: str) -> bool:
    """Return whether an input of this name takes what an encoder gives."""
    return _STATES.match(name.lower()) is not None


def encoder_states(inputs: Iterable[Input]) -> Input | None:
    """The input that takes what an encoder gives, None for a model without."""
    return next((item for item in inputs if len(item.dims) == 3 and is_of_encoder(item.name)), None)


def follows(item: Input, inputs: Sequence[Input]) -> bool:
    """Return whether an input follows from tokens of which the model has seen none before.

    Args:
        inputs: all of them. The keys and values of an encoder follow only where its states are there too.
    """
    if item.is_cache:
        return _CROSS.search(item.name.lower()) is None or encoder_states(inputs) is not None
    return item.role in (Role.POSITIONS, Role.LENGTHS, Role.FLAG) or _keeps_all_logits(item)


def _keeps_all_logits(item: Input) -> bool:
    """Return whether an input says of how many tokens logits are wanted; 0 means all of them."""
    return len(item.dims) < 2 and _ALL_LOGITS.search(item.name.lower()) is not None


def following(item: Input, inputs: Sequence[Input], mask: TokenMask, length: int) -> Array:
    """The values of an input that `follows`.

    Args:
        length: of the sequence; what `mask` holds before it lies in the cache already.
    """
    rows, total = mask.shape
    if item.is_cache:
        # Where a flag says that there is no cache, nobody reads it.
        unread = any(other.role is Role.FLAG for other in inputs)
        return np.zeros(_empty_cache(item, rows, unread=unread), item.dtype)
    if item.role is Role.POSITIONS:
        return _positions(item, mask, length).astype(item.dtype)
    if item.role is Role.LENGTHS:
        return _lengths(item, mask, total - length).astype(item.dtype)
    # A flag asks whether the cache is used; a number of logits is 0 for all of them.
    return np.zeros([dim if isinstance(dim, int) else rows for dim in item.dims], item.dtype)


def completed(feed: Mapping[str, Array], inputs: Sequence[Input]) -> Feed:
    """A feed of a decoder with what follows from its tokens, where that was left out."""
    found = dict(feed)
    caches = [item for item in inputs if item.is_cache]
    tokens = next((feed[item.name] for item in inputs if _is_text(item) and item.name in feed), None)
    if not caches or tokens is None or tokens.ndim < 2:
        return found
    rows, length = tokens.shape[:2]
    given = next((feed[item.name] for item in inputs if _is_own_mask(item) and item.name in feed), None)
    usable = given is not None and given.ndim == 2 and given.shape[0] == rows and given.shape[1] >= length
    mask = np.asarray(given != 0, np.int64) if usable else np.ones((rows, length), np.int64)
    full = any(item.name in feed and feed[item.name].size for item in caches)
    for item in inputs:
        # Half a cache is a mistake, and a flag follows from whether there is one.
        if item.name not in feed and follows(item, inputs) and not (full and item.is_cache):
            found[item.name] = following(item, inputs, mask, length)
            if item.role is Role.FLAG:
                found[item.name] |= full
    return found


def _is_text(item: Input) -> bool:
    return (item.role is Role.IDS and len(item.dims) == 2) or (item.name == EMBEDDED and len(item.dims) == 3)


def _is_own_mask(item: Input) -> bool:
    return item.role is Role.MASK and len(item.dims) == 2 and not item.name.lower().startswith("encoder")


def _positions(item: Input, mask: TokenMask, length: int) -> npt.NDArray[Any]:
    rows, total = mask.shape
    if len(item.dims) < 2:
        along = np.arange(total - length, total)
        return along if item.dims else np.asarray(along[0])
    counted: npt.NDArray[Any] = np.maximum(mask.cumsum(axis=1) - 1, 0)[:, total - length :]
    if len(item.dims) == 2:
        return counted
    first = item.dims[0]
    return np.broadcast_to(counted, (first if isinstance(first, int) else 3, rows, length))


def _lengths(item: Input, mask: TokenMask, past: int) -> npt.NDArray[Any]:
    rows, total = mask.shape
    if item.batch_axis is None:
        return np.full([dim for dim in item.dims if isinstance(dim, int)], length_of(item, past, total))
    each = [length_of(item, past, int(count)) for count in mask.sum(axis=1)]
    return np.reshape(each, (rows, *(1 for _ in item.dims[1:])))


def _empty_cache(item: Input, rows: int, *, unread: bool) -> tuple[int, ...]:
    """The shape of a cache that holds nothing yet. Beside its length all sizes are written down or follow from weights.

    One that is not read may have any sizes.
    """
    unknown = [
        axis
        for axis, dim in enumerate(item.dims)
        if axis and not isinstance(dim, int) and axis not in item.widths
    ]
    if len(unknown) > 1 and not unread:
        raise UsageError(
            f"the cache {item.name} ({item.describe()}) has {len(unknown)} sizes that neither the model nor its weights"
            f" tell, so no empty one can be made; give the model's inputs with `data`"
        )
    sizes = (
        dim if isinstance(dim, int) else item.widths.get(axis, item.capacity)
        for axis, dim in enumerate(item.dims)
        if axis
    )
    first = item.dims[0]
    return (first if isinstance(first, int) else rows, *sizes)
