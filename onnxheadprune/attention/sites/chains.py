"""Cores in a row: the context of one is what the next one weighs as its values, with no weights in between.

Agent attention gathers tokens by one product and hands them out by another. Where both contexts have a projection, and
the heads of both are aligned, a head is a head of both: silenced in one alone it would still speak through the other.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

import numpy as np

from onnxheadprune.attention.sites.core import Core
from onnxheadprune.attention.sites.describe import head_shape
from onnxheadprune.attention.sites.grouping import Candidate
from onnxheadprune.attention.sites.products import is_product
from onnxheadprune.attention.sites.trace import Tracer
from onnxheadprune.liveness.asking import ask
from onnxheadprune.liveness.domain import POSITIONS
from onnxheadprune.liveness.live import Live
from onnxheadprune.liveness.refusal import Refusal
from onnxheadprune.model.graph.view import Node


def in_a_row(candidates: Iterable[Candidate], tracer: Tracer) -> list[Candidate]:
    """Add to each candidate the earlier cores whose contexts its own cores weigh head by head."""
    found = list(candidates)
    projected = {core.node: core for item in found for core in item.cores}
    return [replace(item, cores=tuple(_with_earlier(item.cores, projected, tracer))) for item in found]


def _with_earlier(cores: Iterable[Core], projected: Mapping[Node, Core], tracer: Tracer) -> Iterator[Core]:
    waiting = list(cores)
    seen = {core.node for core in waiting}
    while waiting:
        core = waiting.pop(0)
        yield core
        for earlier in _weighed(core, tracer):
            known = projected.get(earlier.node)
            if known is not None and earlier.node not in seen and known.head_axes == earlier.head_axes:
                seen.add(earlier.node)
                waiting.append(earlier)


def _weighed(core: Core, tracer: Tracer) -> Iterator[Core]:
    """The cores whose contexts are the values of a core, with the labels that it has itself, if heads are aligned."""
    product, shape = is_product(core.node), core.node.out.shape
    if product is None or shape is None or not core.head_axes or len(core.feature_axes) != 1:
        return
    width, (values, *others) = (
        shape[core.feature_axes[0]],
        product.owners(product.out_axes[core.feature_axes[0]]),
    )
    source = core.node.input(values)
    if not isinstance(width, int) or others or source is None:
        return
    heads = head_shape(core)
    labels = np.arange(1, math.prod(heads) * width + 1).reshape(*heads, width)
    answer = ask(core.node, [Live.over((*core.head_axes, *core.feature_axes), labels)], POSITIONS)
    if isinstance(answer, Refusal) or values not in answer.inputs:
        return
    for earlier in tracer.follow(source, answer.inputs[values]).cores:
        owners = [{(label - 1) // width for label in labels} for labels in earlier.heads]
        if owners == [{head} for head in range(len(core.heads))]:
            yield replace(earlier, heads=core.heads)
