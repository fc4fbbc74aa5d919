"""Gradients as ONNX graphs: formulas like `g * (1 - y * y)` become nodes.

A gradient answers one local question: *given the gradient of the loss with respect to my outputs, what is it with
respect to my inputs?* A fused operator may answer with its decomposition instead: terms that replace
it, one per output, None for an output that cannot be made.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from onnx import TensorProto

from onnxheadprune.edit.gradient_terms import Term, Writer
from onnxheadprune.model.graph.dims import Dim, Shape
from onnxheadprune.model.graph.operator import OPERATORS, Operator
from onnxheadprune.model.graph.view import Node


@dataclass(frozen=True)
class Constant:
    """The reason why an input is held constant."""

    reason: str  # the end of a sentence that starts with the node: "has no gradient with ..."


@dataclass(frozen=True)
class Step:
    """One node on the way back."""

    node: Node  # the node, with annotated values
    # per output the gradient of the loss, None where the loss does not depend on it
    grads: tuple[Term | None, ...]
    wanted: frozenset[int]  # inputs after which there is a parameter
    writer: Writer  # where the gradients of the inputs are written

    @property
    def grad(self) -> Term:
        """The gradient of the first output."""
        grad = self.grads[0]
        return self.output().zeros() if grad is None else grad

    def input(self, index: int) -> Term:
        """An input that is there."""
        value = self.node.input(index)
        assert value is not None
        return self.writer.term(value, self._type)

    def given(self, index: int) -> Term | None:
        """An input, None where it is omitted."""
        return None if self.node.input(index) is None else self.input(index)

    def output(self, index: int = 0) -> Term:
        """An output that is there."""
        value = self.node.outputs[index]
        assert value is not None
        return self.writer.term(value, self._type)

    @property
    def _type(self) -> int:
        """The type of what analysis found none for: that of another value of the node."""
        values = [value for value in (*self.node.outputs, *self.node.inputs) if value is not None]
        real = (TensorProto.FLOAT, TensorProto.DOUBLE)
        return next((value.elem_type for value in values if value.elem_type in real), TensorProto.FLOAT)

    def shape(self, index: int) -> Shape:
        """The shape of an input."""
        shape = self.node.shape(index)
        if shape is None:
            raise UnknownShapeError(f"the shape of its input {index} is not known")
        return shape

    def back(self, index: int, grad: Term) -> Term:
        """A gradient in the shape of the output, summed to the shape of one of the inputs that were broadcast."""
        others = [value.shape for i, value in enumerate(self.node.inputs) if value is not None and i != index]
        return summed(grad, self.input(index), self.node.shape(index), others)


class UnknownShapeError(Exception):
    """A gradient needs a shape that is not known; its node is held constant."""


Partials: TypeAlias = Mapping[int, Term | Constant]
"""Gradients per input, in the input's shape. What is not listed does not depend on the input, or has steps only."""
GradientFunction: TypeAlias = Callable[[Step], Partials]
Decomposition: TypeAlias = Callable[[Step], "Sequence[Term | None] | Constant"]
Function = TypeVar("Function", bound=Callable[[Step], object])


def gradient(*names: str) -> Callable[[GradientFunction], GradientFunction]:
    """Return a decorator that puts a gradient into the records of operators.

    Those of ours are in files that training alone imports, so they come after the rest of a record.
    """
    return functools.partial(_recorded, names, "gradient")


def decomposition(*names: str) -> Callable[[Decomposition], Decomposition]:
    """The same for smaller operators that compute what a fused one does."""
    return functools.partial(_recorded, names, "parts")


def _recorded(names: Iterable[str], what: str, function: Function) -> Function:
    for name in names:
        record = OPERATORS.setdefault(name, Operator(name))
        if getattr(record, what) is not None:
            raise ValueError(f"two entries of {what} for {name}")
        setattr(record, what, function)
    return function


def summed(grad: Term, target: Term, own: Shape | None, others: Sequence[Shape | None]) -> Term:
    """A gradient in a broadcast shape, summed over the axes along which one operand was broadcast."""
    axes = _broadcast_axes(own, others)
    if axes is None or own is None:
        return _summed_when_run(grad, target)
    lead = max(0, *(len(shape or ()) - len(own) for shape in others)) if others else 0
    if not axes:
        return grad
    if axes == list(range(lead)):
        return grad.sum(axes, keep=False)
    return grad.sum(axes).squeeze(range(lead))


def _broadcast_axes(own: Shape | None, others: Sequence[Shape | None]) -> list[int] | None:
    """Axes of the joint shape along which an operand is repeated; None where that shows only when run."""
    shapes = [shape for shape in others if shape is not None]
    if own is None or len(shapes) < len(others):
        return None
    rank = max(len(own), *map(len, shapes)) if shapes else len(own)
    axes = list(range(rank - len(own)))
    for axis in range(len(own)):
        back = axis - len(own)
        facing: list[Dim] = [shape[back] for shape in shapes if len(shape) >= -back]
        if own[axis] == 1:
            axes += [rank + back] if any(dim != 1 for dim in facing) else []
        elif not isinstance(own[axis], int) and any(dim not in (1, own[axis]) for dim in facing):
            return None
    return axes


def _summed_when_run(grad: Term, target: Term) -> Term:
    """The same where the axes are found at run time: those where the shapes differ."""
    writer, shape, whole = grad.writer, target.shape(), grad.shape()
    missing = whole.shape() - shape.shape()
    (ones,) = writer.node("Expand", [writer.integers([1]).name, missing.name])
    padded = writer.joined([Term(writer, ones, TensorProto.INT64), shape])
    differ = padded.test("Equal", whole).op("Not").op("NonZero", to=TensorProto.INT64).reshape([-1])
    return grad.op("ReduceSum", differ, keepdims=1, noop_with_empty_axes=1).reshape(shape)
