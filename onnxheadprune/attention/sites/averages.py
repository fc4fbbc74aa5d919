"""Heads that are added up, or averaged, before any weights: the reduction is their projection.

The linear layer behind it reads one context, to which all heads contribute (the interpretable attention of the Temporal
Fusion Transformer). So the sum over heads is cut where its input still has an axis of heads.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from onnxheadprune.attention.sites.core import Trace
from onnxheadprune.attention.sites.grouping import Candidate
from onnxheadprune.attention.sites.maps import MAX_CONTRACTED
from onnxheadprune.attention.sites.shared_layers import are_heads
from onnxheadprune.attention.sites.trace import Tracer
from onnxheadprune.liveness.asking import ask_about
from onnxheadprune.liveness.domain import POSITIONS
from onnxheadprune.liveness.live import Live
from onnxheadprune.liveness.refusal import Refusal
from onnxheadprune.model.graph.view import Node


def reduced_heads(trace: Trace, tracer: Tracer) -> Iterator[Candidate]:
    """The reductions over heads on the way of a trace that does not tell heads apart.

    Args:
        trace: from what a linear layer sums over.
        tracer: of the model.
    """
    for node, live in trace.reduced if trace.is_alike else ():
        yield from _over_heads(node, live, tracer)


def _over_heads(node: Node, live: Live, tracer: Tracer) -> Iterator[Candidate]:
    """Yield a reduction as the projection of the heads that it adds up; nothing if it reduces something else.

    Args:
        node: the reduction.
        live: labels of what it computes, one for each channel.
        tracer: of the model.
    """
    value, shape = node.inputs[0], node.shape(0)
    answer = ask_about(node.out, live, POSITIONS)
    if value is None or shape is None or isinstance(answer, Refusal):
        return
    channels = answer.inputs[0].axes
    for reduced in node.int_list("axes", 1) or ():
        # Heads first, wherever they lie: of two axes they are the slower one.
        axes = (reduced % len(shape), *channels)
        sizes = [dim for axis in axes if isinstance(dim := shape[axis], int)]
        heads = shape[reduced]
        if len(sizes) < len(axes) or math.prod(sizes) > MAX_CONTRACTED or not isinstance(heads, int):
            continue
        cores = tracer.trace(value, axes, tuple(sizes)).cores
        if are_heads(cores, heads):
            yield Candidate(node, (0, axes), None, tuple(sizes), cores)
