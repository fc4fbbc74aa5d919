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

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, TensorProto, helper, numpy_helper

from onnxheadprune.model.graph.dims import Dim, Shape
from onnxheadprune.model.graph.operator import OPERATORS, Operator
from onnxheadprune.model.graph.view import Node, Value

Attribute: TypeAlias = int | float | str | Sequence[int] | Sequence[str]


MICROSOFT = "com.microsoft"


class Writer:
    """Nodes and constants that are added to a graph.

    Attributes:
        opset: version of the standard domain that the graph imports.
        nodes: what was written, in order.
        constants: tensors that the nodes read.
        transposed: per value that is the transpose of another one that other value and the order of its axes.
    """

    def __init__(self, opset: int, taken: Iterable[str], stem: str) -> None:
        self.opset = opset
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []
        self.transposed: dict[str, tuple[str, tuple[int, ...]]] = {}
        self._taken = set(taken)
        self._stem = stem
        self._count = 0
        self._known: dict[object, tuple[str, ...]] = {}

    def fresh(self, stem: str = "") -> str:
        """A name that nothing in the graph has."""
        while True:
            self._count += 1
            name = f"{stem or self._stem}_{self._count}"
            if name not in self._taken:
                self._taken.add(name)
                return name

    def node(
        self,
        op_type: str,
        inputs: Sequence[str],
        outputs: int | Sequence[str] = 1,
        domain: str = "",
        attributes: dict[str, Attribute] | None = None,
    ) -> tuple[str, ...]:
        """Write a node, unless the same one is there, and return the names of its outputs."""
        kept = attributes or {}
        key = (op_type, domain, tuple(inputs), repr(sorted(kept.items())), str(outputs))
        if key not in self._known:
            names = (
                tuple(self.fresh() for _ in range(outputs)) if isinstance(outputs, int) else tuple(outputs)
            )
            self._known[key] = names
            node = NodeProto(op_type=op_type, domain=domain, input=inputs, output=names)
            node.name = self.fresh(f"{self._stem}/{op_type}")
            node.attribute.extend(helper.make_attribute(name, value) for name, value in sorted(kept.items()))
            self.nodes.append(node)
        return self._known[key]

    def constant(self, array: npt.NDArray[np.generic]) -> str:
        """The name of a stored tensor."""
        key = (str(array.dtype), array.shape, array.tobytes())
        if key not in self._known:
            name = self.fresh(f"{self._stem}/constant")
            self._known[key] = (name,)
            self.constants.append(numpy_helper.from_array(array, name))
        return self._known[key][0]

    def number(self, number: float, elem_type: int) -> Term:
        """A scalar."""
        array = np.array(number, helper.tensor_dtype_to_np_dtype(elem_type))
        return Term(self, self.constant(array), elem_type)

    def integers(self, numbers: Iterable[int]) -> Term:
        """A list of int64."""
        return Term(self, self.constant(np.array(list(numbers), np.int64)), TensorProto.INT64)

    def joined(self, terms: Sequence[Term], axis: int = 0) -> Term:
        """The concatenation of some terms."""
        if len(terms) == 1:
            return terms[0]
        (name,) = self.node("Concat", [term.name for term in terms], attributes={"axis": axis})
        return Term(self, name, terms[0].elem_type)

    def term(self, value: Value, elem_type: int = TensorProto.UNDEFINED) -> Term:
        """A value of the graph that there is; `elem_type` is its type if analysis did not find one."""
        return Term(self, value.name, value.elem_type or elem_type)


@dataclass(frozen=True, eq=False)
class Term:
    """One value of a graph that is being written."""

    writer: Writer  # where what is made of it goes
    name: str  # of the value
    elem_type: int

    def op(
        self, op_type: str, *others: Term | float | None, to: int = 0, domain: str = "", **kept: Attribute
    ) -> Term:
        """The output of an operator whose first input is this.

        Args:
            others: further inputs, None where one is omitted; numbers get the type of this term.
        """
        inputs = [self.name, *("" if item is None else self._like(item).name for item in others)]
        (name,) = self.writer.node(op_type, inputs, 1, domain, kept)
        return Term(self.writer, name, to or self.elem_type)

    def _like(self, item: Term | float) -> Term:
        return item if isinstance(item, Term) else self.writer.number(item, self.elem_type)

    def __add__(self, other: Term | float) -> Term:
        return self.op("Add", other)

    def __sub__(self, other: Term | float) -> Term:
        return self.op("Sub", other)

    def __rsub__(self, other: float) -> Term:
        return self._like(other) - self

    def __mul__(self, other: Term | float) -> Term:
        return self.op("Mul", other)

    def __rmul__(self, other: float) -> Term:
        return self * other

    def __truediv__(self, other: Term | float) -> Term:
        return self.op("Div", other)

    def __neg__(self) -> Term:
        return self.op("Neg")

    def __matmul__(self, other: Term) -> Term:
        return self.op("MatMul", other)

    def test(self, op_type: str, other: Term | float) -> Term:
        """A comparison."""
        return self.op(op_type, other, to=TensorProto.BOOL)

    def where(self, yes: Term | float, no: Term | float) -> Term:
        """Of a condition: element by element one of two terms, one of which may be a number."""
        like = yes if isinstance(yes, Term) else no
        assert isinstance(like, Term)
        return self.op("Where", like._like(yes), like._like(no), to=like.elem_type)

    def cast(self, elem_type: int) -> Term:
        """The same numbers in another type."""
        if elem_type == self.elem_type:
            return self
        (name,) = self.writer.node("Cast", [self.name], attributes={"to": elem_type})
        return Term(self.writer, name, elem_type)

    def shape(self) -> Term:
        """Its shape, a list of int64."""
        return self.op("Shape", to=TensorProto.INT64)

    def dim(self, axis: int) -> Term:
        """One entry of its shape, a list of one int64."""
        return self.shape().op("Gather", self.writer.integers([axis]), axis=0)

    def reshape(self, target: Term | Sequence[int]) -> Term:
        """Its elements under another shape; 0 copies a dimension, -1 is what is left."""
        shape = target if isinstance(target, Term) else self.writer.integers(target)
        return self.op("Reshape", shape)

    def expand(self, target: Term) -> Term:
        """Itself, broadcast to a shape."""
        return self.op("Expand", target)

    def unsqueeze(self, axes: Sequence[int]) -> Term:
        """With axes of size 1 put in."""
        return self.op("Unsqueeze", self.writer.integers(axes)) if axes else self

    def squeeze(self, axes: Sequence[int]) -> Term:
        """With axes of size 1 taken out."""
        return self.op("Squeeze", self.writer.integers(axes)) if axes else self

    def transpose(self, order: Sequence[int]) -> Term:
        """With its axes in another order; transposing twice is transposing once."""
        source, first = self.writer.transposed.get(self.name, (self.name, tuple(range(len(order)))))
        whole = tuple(first[axis] for axis in order)
        origin = Term(self.writer, source, self.elem_type)
        if whole == tuple(range(len(order))):
            return origin
        made = origin.op("Transpose", perm=whole)
        self.writer.transposed[made.name] = (source, whole)
        return made

    def swapped(self, rank: int) -> Term:
        """With its last two axes swapped."""
        return self.transpose([*range(rank - 2), rank - 1, rank - 2])

    def reduce(self, op_type: str, axes: Sequence[int], keep: bool = True) -> Term:
        """A reduction along axes, whatever way the opset spells them."""
        since = 13 if op_type == "ReduceSum" else 18
        if self.writer.opset >= since:
            return self.op(op_type, self.writer.integers(axes), keepdims=int(keep))
        return self.op(op_type, keepdims=int(keep), axes=list(axes))

    def sum(self, axes: Sequence[int], keep: bool = True) -> Term:
        """The sum along axes."""
        return self.reduce("ReduceSum", axes, keep) if axes else self

    def mean(self, axes: Sequence[int], keep: bool = True) -> Term:
        """The mean along axes."""
        return self.reduce("ReduceMean", axes, keep)

    def slice(self, start: int, end: int, axis: int) -> Term:
        """A run along one axis."""
        integers = self.writer.integers
        return self.op("Slice", integers([start]), integers([end]), integers([axis]))

    def zeros(self) -> Term:
        """Zeros of its shape."""
        return self.writer.number(0, self.elem_type).expand(self.shape())


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
