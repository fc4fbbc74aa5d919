"""The last layer of a model with many words, run on a sample of positions.

It computes every position by itself, so that a few positions are exact without the others. With 150,000 words it is a
third of the work of a cut, and its output for one long text is larger than memory should be.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnxheadprune.choosing.activations.linear import Linear
from onnxheadprune.choosing.activations.parts import Parts, run_feed
from onnxheadprune.data.drift import counted
from onnxheadprune.model.graph.operator import ELEMENTWISE, kind
from onnxheadprune.model.graph.view import Node, Value
from onnxheadprune.runtime import Array, Session
from onnxheadprune.runtime.feeds.generate import Feed
from onnxheadprune.runtime.feeds.inputs import Input

SAMPLED_BYTES = 2**25
"""Bytes of an output beyond which a sample of its positions is computed."""


@dataclass(frozen=True, eq=False)
class Tail:
    """The nodes from a hidden state to an output."""

    hidden: Value  # what they read, features on its last axis
    nodes: tuple[Node, ...]  # the nodes, from the output to the layer
    width: int  # the features of the output
    output: Value

    @classmethod
    def of(cls, output: Value) -> Tail | None:
        """Return that of an output; None unless a single linear layer and element by element operators make it."""
        nodes: list[Node] = []
        value: Value | None = output
        while value is not None and value.producer is not None and value.scope.parent is None:
            node = value.producer
            nodes.append(node)
            linear = Linear.at(node)
            if linear is not None:
                return cls._ending(linear, nodes, output)
            value = _only_variable(node)
        return None

    @classmethod
    def _ending(cls, linear: Linear, nodes: Sequence[Node], output: Value) -> Tail | None:
        hidden, shape = linear.source, linear.out.shape or ()
        last = (len(shape) - 1,)
        if linear.axes != last or linear.out_axes != last or hidden.is_constant or not hidden.elem_type:
            return None
        # With a scale that is measured on all of them, a position depends on the others.
        if hidden not in linear.node.inputs or linear.node.roles.integer_weight is not None:
            return None
        return cls(hidden, tuple(nodes), linear.matrix.shape[-1], output)

    def session(self, parts: Parts) -> Session:
        """Load it."""
        made = parts.session({self.hidden.name: self.hidden.elem_type}, [self.output.name])
        assert made is not None
        return made

    def places(self, hidden: Array, feed: Feed, inputs: Sequence[Input]) -> Array | None:
        """Return the positions to compute: spread evenly over those that are no padding; None for all of them."""
        most = max(SAMPLED_BYTES // (4 * self.width), 1)
        shape = hidden.shape[:-1]
        if math.prod(shape) <= most:
            return None
        mask = counted(shape, feed, inputs)
        places = np.arange(math.prod(shape)) if mask is None else np.flatnonzero(mask)
        return (
            places[np.linspace(0, len(places), most, endpoint=False).astype(int)]
            if len(places) > most
            else places
        )

    def run(self, session: Session, hidden: Array, places: Array | None, source: str) -> Mapping[str, Array]:
        """Return the output at some positions."""
        if places is not None:
            rows = hidden.reshape(-1, hidden.shape[-1])[places]
            hidden = rows.reshape(*(1 for _ in hidden.shape[:-2]), *rows.shape)
        return run_feed(session, {self.hidden.name: hidden}, source)


def _only_variable(node: Node) -> Value | None:
    """The one input that a node computes its output from, element by element, features with features."""
    if node not in ELEMENTWISE | kind("Cast", "Identity"):
        return None
    found = [value for value in node.sources if not value.is_constant]
    if len(found) != 1 or any(len(value.shape or ()) > 1 for value in node.sources if value.is_constant):
        return None
    return found[0]
