"""Reverse accumulation: from the loss against the direction of the graph, one node at a time.

Griewank and Walther, Evaluating Derivatives (2008), chapter 3: every value collects what its readers contribute,
and when all of them have, its producer says what that means for its inputs.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from onnx import helper, numpy_helper

from onnxheadprune.edit.extract import read_by
from onnxheadprune.edit.gradients import GRADIENTS, Constant, Step, UnknownShapeError
from onnxheadprune.edit.terms import Term, Writer
from onnxheadprune.model.graph.facts import TRANSPOSES
from onnxheadprune.model.graph.view import GraphView, Node
from onnxheadprune.selection.gradients.forward import parts_of


@dataclass
class Backward:
    """One walk.

    Attributes:
        view: the graph.
        active: names of values that depend on parameters.
        writer: where the nodes go.
        held: what was held constant, and why, by the name of the value.
        parts: contributions to the gradient of each value.
        seed: name of the constant that the walk starts with, once it has.
    """

    view: GraphView
    active: set[str]
    writer: Writer
    held: dict[str, str] = field(default_factory=dict)
    parts: dict[str, list[Term]] = field(default_factory=dict)
    seed: str = ""

    def run(self, loss: str) -> None:
        """Walks from the loss to the parameters."""
        value = self.view.main.values[loss]
        dtype = helper.tensor_dtype_to_np_dtype(value.elem_type)
        self.seed = self.writer.fresh("seed")
        one = np.ones((1,) * (value.rank or 0), dtype)
        self.writer.constants.append(numpy_helper.from_array(one, self.seed))
        self.parts[loss] = [Term(self.writer, self.seed, value.elem_type)]
        for node in self.view.main.nodes:
            if node in TRANSPOSES and (order := node.attribute("perm")) and node.inputs[0] is not None:
                self.writer.transposed[node.out.name] = (node.inputs[0].name, tuple(order))
        for node in reversed(self.view.main.nodes):
            grads = tuple(None if value is None else self.total(value.name) for value in node.outputs)
            if any(grad is not None for grad in grads):
                self._visit(node, grads)

    def total(self, name: str) -> Term | None:
        """The gradient with respect to a value, as far as it is known by now."""
        terms = self.parts.get(name)
        if not terms:
            return None
        while len(terms) > 1:
            terms.insert(0, terms.pop(0) + terms.pop(0))
        return terms[0]

    def _visit(self, node: Node, grads: tuple[Term | None, ...]) -> None:
        read = self.active.intersection(read_by(node.proto))
        if not read:
            return
        face = GRADIENTS.of(node)
        if face is None:
            parts = parts_of(node, self.active, Writer(self.writer.opset, (), "unused"))
            reason = parts.reason if isinstance(parts, Constant) else "has no gradient"
            self._hold(node, sorted(read), reason)
            return
        inputs = {
            i: value for i, value in enumerate(node.inputs) if value is not None and value.name in self.active
        }
        try:
            partials = face(Step(node, grads, frozenset(inputs), self.writer))
        except UnknownShapeError as error:
            self._hold(node, sorted(read), f"has no gradient here, because {error}")
            return
        for index, value in inputs.items():
            partial = partials.get(index)
            if isinstance(partial, Constant):
                self._hold(node, [value.name], partial.reason)
            elif partial is not None:
                self.parts.setdefault(value.name, []).append(partial)

    def _hold(self, node: Node, names: list[str], reason: str) -> None:
        for name in names:
            self.held.setdefault(name, f"{node.label} {reason}")
