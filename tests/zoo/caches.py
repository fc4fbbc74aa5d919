"""Caches of a decoder: which heads stay in them, and decoding through them, step by step, as one pass gives it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from onnx import ModelProto

from tests.zoo.case import Case, HeadSet
from tests.zoo.runs import Array, Arrays, Runner, distance

PREFILL, STEPS = 4, 8
BATCH = 2
KNOWN = {"input_ids", "attention_mask"}
Kept = Mapping[str, tuple[int, list[int]]]
"""Axis and kept KV heads by the name of a graph input or output."""


def kept_caches(case: Case, heads: HeadSet) -> Kept:
    """Return what each past and present keeps if `heads` go.

    A KV head stays as long as one of its query heads does; a site that goes as a whole leaves its cache as it was.
    """
    kept: dict[str, tuple[int, list[int]]] = {}
    for cache in case.caches:
        projection, gone = case.projections[cache.projection], set(heads[cache.projection])
        groups = np.arange(projection.num_heads).reshape(projection.kv_num_heads, -1)
        left = [k for k, group in enumerate(groups) if not set(group.tolist()) <= gone]
        kept |= dict.fromkeys((cache.past, cache.present), (cache.axis, left or list(range(len(groups)))))
    return kept


def whole_caches(case: Case, model: ModelProto) -> Kept:
    """Return the same for the pairs whose past `model` declares with all KV heads."""
    declared = {info.name: info.type.tensor_type.shape.dim for info in model.graph.input}
    kept: dict[str, tuple[int, list[int]]] = {}
    for cache in case.caches:
        count = case.projections[cache.projection].kv_num_heads
        if cache.past in declared and declared[cache.past][cache.axis].dim_value == count:
            kept |= dict.fromkeys((cache.past, cache.present), (cache.axis, list(range(count))))
    return kept


def narrowed(arrays: Arrays, kept: Kept) -> Arrays:
    """Return arrays with the cache heads that stay."""
    cut = {
        name: np.take(arrays[name], kept[name][1], axis=kept[name][0]) for name in arrays.keys() & kept.keys()
    }
    return {**arrays, **cut}


def can_decode(case: Case) -> bool:
    """Whether the case has a cache, and inputs that can be made up."""
    pasts = {cache.past for cache in case.caches}
    return bool(pasts) and set(case.inputs) == pasts | KNOWN and "logits" in case.outputs


def decode_error(pruned: Runner, masked: Runner, case: Case, kept: Kept) -> float | None:
    """Return how far a prefill and `STEPS` steps of the pruned model are from one pass of the masked one.

    Args:
        pruned: takes the narrowed cache.
        masked: takes the whole one.
        case: the decoder.
        kept: what caches keep.

    Returns:
        The relative error, None for an export that takes no empty cache.
    """
    feed = case.arrays(0)
    top = max(int(feed["input_ids"].max()), 1)
    tokens = np.random.default_rng(0).integers(0, top + 1, (BATCH, PREFILL + STEPS), dtype=np.int64)
    try:
        whole = masked(_inputs(tokens, _empty(case, feed)))["logits"]
    except Exception:
        return None
    cache, start, logits = _empty(case, narrowed(feed, kept)), 0, []
    for end in range(PREFILL, PREFILL + STEPS + 1):
        outputs = pruned(_inputs(tokens[:, start:end], cache, end))
        logits.append(outputs["logits"])
        cache, start = {pair.past: outputs[pair.present] for pair in case.caches}, end
    return distance(np.concatenate(logits, axis=1), whole, "logits after the steps")


def _empty(case: Case, feed: Arrays) -> Arrays:
    """Return a cache of length 0; its length is the axis of a cache that is neither batch, heads nor width."""
    cache = {}
    for pair in case.caches:
        shape = list(feed[pair.past].shape)
        shape[0], shape[2 if pair.axis == 1 else 1] = BATCH, 0
        cache[pair.past] = np.zeros(shape, dtype=feed[pair.past].dtype)
    return cache


def _inputs(tokens: Array, cache: Arrays, total: int = 0) -> Arrays:
    mask = np.ones((len(tokens), total or tokens.shape[1]), dtype=np.int64)
    return {"input_ids": tokens, "attention_mask": mask, **cache}
