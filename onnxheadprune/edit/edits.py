"""The vocabulary of changes to a model. Edits are values: rules propose them, only `apply` carries them out.

Nodes are named by `Node.ref` of the *original* model ("main[12]", "main[7].then_branch[3]"), values by
their name in the scope of the node. Every edit turns into a JSON object.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from onnxheadprune.display.spelling import many
from onnxheadprune.edit.records import RecordedContract, RecordedUnits
from onnxheadprune.model.tensors import Selection
from onnxheadprune.model.typed_json import Size, document_of

MARK = "onnxheadprune"
MAIN = "main"
"""The reference of the main graph."""

Attribute: TypeAlias = int | float | str | tuple[int, ...] | tuple[float, ...]


@dataclass(frozen=True)
class OnNode:
    """An edit of one node."""

    node: str


@dataclass(frozen=True)
class InScope:
    """An edit of what a graph or the body of a node declares."""

    scope: str


@dataclass(frozen=True)
class SliceTensor(InScope):
    """Keep only the selected part of a stored tensor (initializer or Constant node).

    `target` equal to `name` cuts in place; otherwise the cut part becomes a new initializer.
    """

    name: str
    selection: Selection
    target: str
    kind: ClassVar[str] = "slice"

    def __str__(self) -> str:
        copy = "" if self.target == self.name else f" as {self.target}"
        return f"slice {self.name} ({self.selection}){copy}"


@dataclass(frozen=True)
class AddConstant(InScope):
    """A new initializer with as many axes as its numbers are nested (none with `scalar`): a few numbers."""

    name: str
    values: tuple[Any, ...]
    scalar: bool = False
    dtype: str = "int64"
    kind: ClassVar[str] = "constant"

    @classmethod
    def of(cls, scope: str, name: str, array: npt.NDArray[Any]) -> AddConstant:
        """The constant that holds a small array, with its axes and type."""

        def nested(item: object) -> object:
            return tuple(map(nested, item)) if isinstance(item, list) else item

        values = tuple(map(nested, np.atleast_1d(array).tolist()))
        return cls(scope, name, values, not array.ndim, array.dtype.name)

    def __str__(self) -> str:
        return f"constant {self.name} = {list(self.values)}"


@dataclass(frozen=True)
class SetInput(OnNode):
    """Let input `index` of a node read `value` ("" drops an optional input)."""

    index: Size
    value: str
    kind: ClassVar[str] = "input"

    def __str__(self) -> str:
        return f"input {self.index} of {self.node} = {self.value or 'nothing'}"


@dataclass(frozen=True)
class SetOutput(OnNode):
    """Give output `index` of a node another name, so that something else can define the old one."""

    index: Size
    value: str
    kind: ClassVar[str] = "output"

    def __str__(self) -> str:
        return f"output {self.index} of {self.node} = {self.value}"


@dataclass(frozen=True)
class DropInputs(OnNode):
    """Remove inputs of a variadic node (a Concat)."""

    indices: tuple[Size, ...]
    kind: ClassVar[str] = "drop-inputs"

    def __str__(self) -> str:
        return f"drop inputs {list(self.indices)} of {self.node}"


@dataclass(frozen=True)
class DropOutputs(OnNode):
    """Remove outputs of a variadic node (a Split into equal pieces)."""

    indices: tuple[Size, ...]
    kind: ClassVar[str] = "drop-outputs"

    def __str__(self) -> str:
        return f"drop outputs {list(self.indices)} of {self.node}"


@dataclass(frozen=True)
class SetAttribute(OnNode):
    """Give an attribute of a node a value; None removes it."""

    name: str
    value: Attribute | None
    kind: ClassVar[str] = "attribute"

    def __str__(self) -> str:
        return f"attribute {self.name} of {self.node} = {self.value}"


@dataclass(frozen=True)
class SetDim(InScope):
    """Declare a dimension of a value (graph input, output or value_info); None: unknown."""

    value: str
    axis: Size
    dim: Size | None
    kind: ClassVar[str] = "dim"

    def __str__(self) -> str:
        return f"dimension {self.axis} of {self.value} = {'?' if self.dim is None else self.dim}"


@dataclass(frozen=True)
class InsertNode:
    """A new node just before node `before`, or (the position after the last one) at the end of its scope."""

    before: str
    op_type: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: tuple[tuple[str, Attribute], ...] = ()
    domain: str = ""
    kind: ClassVar[str] = "insert"

    def __str__(self) -> str:
        return f"insert {self.op_type}({', '.join(self.inputs)}) -> {', '.join(self.outputs)}"


@dataclass(frozen=True)
class EdgeGather(OnNode):
    """A `Gather` on one edge: the consumer needs fewer indices than the value keeps.

    The nodes that realise it are ordinary `InsertNode` edits; this one records that it was needed and why.
    """

    index: Size
    value: str
    reason: str
    elements: Size | None
    kind: ClassVar[str] = "edge-gather"

    def __str__(self) -> str:
        return f"edge gather before input {self.index} of {self.node}: {self.reason}"


@dataclass(frozen=True)
class DropNode(OnNode):
    """Remove a node that nothing uses any more."""

    op_type: str
    kind: ClassVar[str] = "drop"

    def __str__(self) -> str:
        return f"drop {self.op_type} {self.node}"


@dataclass(frozen=True)
class DropTensor(InScope):
    """Remove an initializer that nothing uses any more."""

    name: str
    kind: ClassVar[str] = "drop-tensor"

    def __str__(self) -> str:
        return f"drop initializer {self.name}"


@dataclass(frozen=True)
class DropBranchOutput(OnNode):
    """Remove an output of a node that chooses between bodies, from it and from its bodies."""

    index: Size
    kind: ClassVar[str] = "drop-branch-output"

    def __str__(self) -> str:
        return f"drop output {self.index} of {self.node} and of its bodies"


@dataclass(frozen=True)
class DropIo(InScope):
    """Declare an input or output (`role`) of the graph no longer."""

    name: str
    role: Literal["input", "output"]
    kind: ClassVar[str] = "drop-io"

    def __str__(self) -> str:
        return f"drop {self.role} {self.name}"


@dataclass(frozen=True)
class Rename(InScope):
    """Call a value of the graph otherwise, wherever it is read. All renamings happen at once, after other edits."""

    name: str
    after: str
    kind: ClassVar[str] = "rename"

    def __str__(self) -> str:
        return f"rename {self.name} to {self.after}"


@dataclass(frozen=True)
class SetRecord:
    """Record the units that sites have lost, and the agreed changes of inputs and outputs, in the model's metadata."""

    units: tuple[tuple[str, tuple[RecordedUnits, ...]], ...]  # the sites of each kind that has some
    contract: RecordedContract
    kind: ClassVar[str] = "record"

    def __str__(self) -> str:
        sites = (f"{units} of {many(len(listed), 'site')}" for units, listed in self.units)
        return f"record {', '.join(sites)}"


Edit: TypeAlias = (
    SliceTensor
    | AddConstant
    | SetInput
    | SetOutput
    | DropInputs
    | DropOutputs
    | SetAttribute
    | SetDim
    | InsertNode
    | EdgeGather
    | DropNode
    | DropTensor
    | DropBranchOutput
    | DropIo
    | Rename
    | SetRecord
)


def scope_of(ref: str) -> str:
    """The reference of the scope that a node reference lies in."""
    return ref[: ref.rindex("[")]


def edit_document(edit: Edit) -> dict[str, Any]:
    """The edit as JSON-ready data: the name of its kind, the sentence that it is printed as, and its fields."""
    return {"edit": edit.kind, "text": str(edit), **document_of(edit)}
