"""Does a pruned model declare what the planned one does?

Callers, runtimes and other tools go by declarations: inputs and outputs with their types and shapes, stored tensors
that callers may replace, the shapes of values in between, which ONNX Runtime's optimizer believes. What symbols are
called plays no part, which sizes share one does. A size that is fixed is another declaration, unless the planned graph
itself shows that it is always that one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeAlias

import onnx.defs
from google.protobuf.message import Message
from onnx import ModelProto, TensorProto, TensorShapeProto, TypeProto, ValueInfoProto

from onnxheadprune.model.graph.dims import Shape
from onnxheadprune.runtime import Array
from onnxheadprune.validation.result import KnownSizes

Inferred: TypeAlias = Callable[[str], Shape | None]
"""The shape that the planned graph gives one of its values, None where that is not known."""
Known: TypeAlias = Callable[[], Shape | None]
Tensor: TypeAlias = TypeProto.Tensor | TypeProto.SparseTensor
Dimension: TypeAlias = TensorShapeProto.Dimension
TENSORS = (TypeProto.Tensor, TypeProto.SparseTensor)
STANDARD, RUNTIMES = "ai.onnx", ("com.microsoft", "com.ms.")
"""The standard's domain, and how those of ONNX Runtime's own operators begin."""
REPLACEABLE = 4
"""From this version of the format on, callers may replace a stored tensor that is an input as well."""


class Declarations:
    """The declarations of a planned model and of the pruned one, side by side.

    Attributes:
        fixed: sizes of outputs that only the pruned model declares, None along other axes: runs show whether they hold.
    """

    def __init__(self, planned: ModelProto, pruned: ModelProto, inferred: Inferred) -> None:
        """Compare nothing yet."""
        self.planned, self.pruned = planned, pruned
        self.fixed: dict[str, KnownSizes] = {}
        self._inferred = inferred
        self._ours_of: dict[str, str] = {}
        self._theirs_of: dict[str, str] = {}

    def interface(self) -> Iterator[str]:
        """Differences of inputs, outputs and replaceable tensors, one sentence each."""
        ours, theirs = _replaceable(self.planned), _replaceable(self.pruned)
        for name in sorted(ours ^ theirs):
            yield f"callers {'can' if name in theirs else 'cannot'} replace the stored tensor {name}"
        yield from self._declared("input", self.planned.graph.input, self.pruned.graph.input)
        yield from self._declared("output", self.planned.graph.output, self.pruned.graph.output)

    def _declared(
        self, role: str, planned: Iterable[ValueInfoProto], pruned: Iterable[ValueInfoProto]
    ) -> Iterator[str]:
        known = {info.name: info for info in planned}
        for theirs in pruned:
            ours = known.get(theirs.name)
            if ours is None or self._same(ours.type, theirs.type, self._shape_of(theirs.name)):
                continue
            yield f"{role} {theirs.name} is declared as {_spelled(theirs.type)} in place of {_spelled(ours.type)}"
            if role == "output":
                self._note_fixed(ours, theirs)

    def between(self, ours: Mapping[str, bytes], theirs: Mapping[str, bytes]) -> Iterator[str]:
        """Differences of what is declared of values in between.

        Args:
            ours: the digests of the planned values of the main graph, by name.
            theirs: those of the pruned model.
        """
        declared = {info.name: info.type for info in self.planned.graph.value_info if info.name in ours}
        known = {ours[name]: said for name, said in declared.items()}
        names = {digest: name for name, digest in ours.items()}
        for info in self.pruned.graph.value_info:
            digest = theirs.get(info.name)
            if digest not in names:
                continue
            # Of several values that are one, that of the same name.
            alike = ours.get(info.name) == digest and info.name in declared
            wanted = declared[info.name] if alike else known.get(digest)
            if not self._holds(info.type, wanted, self._shape_of(names[digest])):
                yield f"{info.name} is declared as {_spelled(info.type)}, which the planned graph does not show"

    def _shape_of(self, name: str) -> Known:
        return lambda: self._inferred(name)

    def _same(self, ours: Message, theirs: Message, shape: Known) -> bool:
        """Return whether two types of an input or output are one, field by field."""
        if isinstance(ours, TENSORS) and isinstance(theirs, TENSORS):
            return self._agree(ours, theirs, shape, strict=True)
        for field in ours.DESCRIPTOR.fields:
            given = [not field.has_presence or item.HasField(field.name) for item in (ours, theirs)]
            if given == [False, False]:
                continue
            first, second = getattr(ours, field.name), getattr(theirs, field.name)
            same = self._same(first, second, shape) if isinstance(first, Message) else first == second
            if not (same and all(given)):
                return False
        return True

    def _holds(self, said: TypeProto, wanted: TypeProto | None, shape: Known) -> bool:
        """Return whether what is said of a value in between is what the planned model says, or what its graph shows."""
        if wanted is not None and wanted.WhichOneof("value") != said.WhichOneof("value"):
            return not said.WhichOneof("value")
        if said.HasField("tensor_type"):
            return self._agree(None if wanted is None else wanted.tensor_type, said.tensor_type, shape)
        return wanted is None or self._same(wanted, said, shape)

    def _agree(self, ours: Tensor | None, theirs: Tensor, shape: Known, *, strict: bool = False) -> bool:
        """Return whether two types of tensors agree.

        Args:
            theirs: what the pruned model declares. It may spell what the planned one leaves open as the graph has it.
            strict: it may not leave open what the planned one spells, and two symbols may not stand for one size.
        """
        if ours is not None and ours.elem_type != theirs.elem_type:
            return False
        wanted = list(ours.shape.dim) if ours is not None and ours.HasField("shape") else None
        if not theirs.HasField("shape"):
            return not strict or wanted is None
        found = list(theirs.shape.dim)
        pairs = zip(wanted or (), found, strict=False)
        asks = wanted is None or any(_is_open(one) and not _is_open(other) for one, other in pairs)
        inferred = shape() if asks else None
        if wanted is None:
            if strict and inferred is None:
                return False
            wanted = [Dimension() for _ in (found if inferred is None else inferred)]
        if len(wanted) != len(found):
            return False
        known = inferred if inferred is not None and len(inferred) == len(found) else [None] * len(found)
        return all(self._dim(*item, strict=strict) for item in zip(wanted, found, known, strict=True))

    def _dim(self, ours: Dimension, theirs: Dimension, inferred: object, *, strict: bool) -> bool:
        size = inferred if _is_open(ours) else (ours.dim_param or ours.dim_value)
        if strict and ours.denotation != theirs.denotation:
            return False
        if _is_open(theirs):
            return not strict or _is_open(ours)
        if not theirs.dim_param or isinstance(size, int):
            return not theirs.dim_param and theirs.dim_value == size
        if size is None:
            # A name of its own for what nobody knows says nothing.
            return not strict and self._means(theirs.dim_param, f"? {theirs.dim_param}")
        if strict and self._theirs_of.setdefault(str(size), theirs.dim_param) != theirs.dim_param:
            return False
        return self._means(theirs.dim_param, str(size))

    def _means(self, theirs: str, ours: str) -> bool:
        """Return whether a symbol of the pruned model stands for the same wherever it is."""
        return self._ours_of.setdefault(theirs, ours) == ours

    def _note_fixed(self, ours: ValueInfoProto, theirs: ValueInfoProto) -> None:
        """Notes sizes that only the pruned model declares."""
        wanted, found = ([_number(dim) for dim in item.type.tensor_type.shape.dim] for item in (ours, theirs))
        alike = len(wanted) == len(found)
        self.fixed[theirs.name] = tuple(
            None if alike and size == wanted[axis] else size for axis, size in enumerate(found)
        )


def contradicted(outputs: Mapping[str, Array], fixed: Mapping[str, KnownSizes]) -> Iterator[str]:
    """Outputs of other sizes than only the pruned model declares."""
    for name, sizes in fixed.items():
        shape = outputs[name].shape if name in outputs else sizes
        if len(shape) != len(sizes) or any(
            said not in (None, size) for said, size in zip(sizes, shape, strict=True)
        ):
            said = ", ".join("?" if size is None else str(size) for size in sizes)
            yield f"the pruned model declares {name} as [{said}], and outputs {list(shape)}"


def _is_open(dim: Dimension) -> bool:
    return not dim.dim_param and not dim.HasField("dim_value")


def _number(dim: Dimension) -> int | None:
    return dim.dim_value if dim.HasField("dim_value") else None


def _stored(model: ModelProto) -> set[str]:
    graph = model.graph
    return {item.name for item in graph.initializer} | {item.values.name for item in graph.sparse_initializer}


def _replaceable(model: ModelProto) -> set[str]:
    """Stored tensors that callers may replace."""
    return _stored(model) & {info.name for info in model.graph.input if model.ir_version >= REPLACEABLE}


def shadowed(original: ModelProto, pruned: ModelProto) -> Iterator[str]:
    """Yield the operators that only the pruned model defines anew, though ONNX Runtime has kernels for them.

    ONNX Runtime computes by its kernel and passes over the function, so what the function does proves nothing.
    """
    known = {(item.domain, item.name) for item in original.functions}
    for item in pruned.functions:
        domain = "" if item.domain == STANDARD else item.domain
        its_own = domain.startswith(RUNTIMES) or onnx.defs.has(item.name, domain=domain)
        if its_own and (item.domain, item.name) not in known:
            yield f"{domain or STANDARD}.{item.name}"


def _spelled(declared: TypeProto) -> str:
    """A type as a person reads it: "float [batch, 7]"."""
    kind = declared.WhichOneof("value")
    if kind != "tensor_type":
        return " ".join(str(declared).split()) or "nothing"
    tensor = declared.tensor_type
    known = tensor.elem_type in TensorProto.DataType.values()
    name = str(TensorProto.DataType.Name(tensor.elem_type)).lower() if known else f"type {tensor.elem_type}"
    if not tensor.HasField("shape"):
        return name
    dims = (str(dim.dim_param or ("?" if _is_open(dim) else dim.dim_value)) for dim in tensor.shape.dim)
    return f"{name} [{', '.join(dims)}]"
