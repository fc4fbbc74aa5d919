"""Decoding through the narrowed cache: a prefill and single steps give what one pass over it all gives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tests.zoo.runs import Array, Arrays, Runner, distance

PREFILL, STEPS = 4, 8
BATCH = 2
KNOWN = {"input_ids", "attention_mask"}


def can_decode(case: Mapping[str, Any]) -> bool:
    """Whether the case has a cache, and inputs that can be made up."""
    pasts = {cache["past"] for cache in case["caches"]}
    return bool(pasts) and set(case["inputs"]) == pasts | KNOWN and "logits" in case["outputs"]


def one_pass(model: Runner, case: Mapping[str, Any], feed: Arrays) -> Array:
    """Logits of all positions at once, onto an empty cache shaped like that of `feed`."""
    return model(_inputs(_tokens(feed), _empty(case, feed)))["logits"]


def decoded(model: Runner, case: Mapping[str, Any], feed: Arrays) -> Array:
    """The same logits from a prefill and `STEPS` steps, each with the presents of the one before."""
    tokens, cache = _tokens(feed), _empty(case, feed)
    ends = range(PREFILL, PREFILL + STEPS + 1)
    logits = []
    for start, end in zip((0, *ends), ends, strict=False):
        outputs = model(_inputs(tokens[:, start:end], cache, total=end))
        logits.append(outputs["logits"])
        cache = {pair["past"]: outputs[pair["present"]] for pair in case["caches"]}
    return np.concatenate(logits, axis=1)


def decode_error(
    pruned: Runner, masked: Runner, case: Mapping[str, Any], narrow: Arrays, whole: Arrays
) -> float:
    """How far the steps of the pruned model are from one pass of the masked one.

    Args:
        pruned: takes the narrowed cache.
        masked: takes the whole one.
        case: as ``case.json`` has it.
        narrow: a feed with the narrowed cache, for its shapes.
        whole: the same with the whole cache.
    """
    return distance(decoded(pruned, case, narrow), one_pass(masked, case, whole), "logits after the steps")


def _tokens(feed: Arrays) -> Array:
    rng = np.random.default_rng(0)
    top = max(int(feed["input_ids"].max()), 1)
    return rng.integers(0, top + 1, size=(BATCH, PREFILL + STEPS), dtype=np.int64)


def _empty(case: Mapping[str, Any], feed: Arrays) -> Arrays:
    """A cache of length 0; its length is the axis of a cache that is neither batch, heads nor width."""
    cache = {}
    for pair in case["caches"]:
        shape = list(feed[pair["past"]].shape)
        shape[0], shape[2 if pair["axis"] == 1 else 1] = BATCH, 0
        cache[pair["past"]] = np.zeros(shape, dtype=feed[pair["past"]].dtype)
    return cache


def _inputs(tokens: Array, cache: Arrays, total: int | None = None) -> Arrays:
    length = tokens.shape[1] if total is None else total
    mask = np.ones((tokens.shape[0], length), dtype=np.int64)
    return {"input_ids": tokens, "attention_mask": mask, **cache}
