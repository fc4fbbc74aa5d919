"""The stored tensors that a pruned model should hold, compared bit by bit."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator

import numpy as np
from onnx import GraphProto, TensorProto

from onnxheadprune.edit.edits import AddConstant, SliceTensor
from onnxheadprune.edit.plan import PrunePlan
from onnxheadprune.model.bodies import graphs_in, stored_tensor
from onnxheadprune.model.load import LoadedModel
from onnxheadprune.model.storage.reading import in_memory, same_bytes
from onnxheadprune.model.storage.tensors import is_outside
from onnxheadprune.model.tensors import array_of, cut


class Weights:
    """The stored tensors that a pruned model should hold."""

    def __init__(self, original: LoadedModel, pruned: LoadedModel, plan: PrunePlan) -> None:
        """Read names only."""
        self.original, self.pruned = original, pruned
        self._ours: dict[str, list[TensorProto]] = defaultdict(list)
        for name, tensor in _tensors(original.proto.graph):
            self._ours[name].append(tensor)
        edits = [item.edit for item in plan.edits]
        self._slices = {edit.target: edit for edit in edits if isinstance(edit, SliceTensor)}
        self._written = {edit.name for edit in edits if isinstance(edit, AddConstant)}

    def same(self, name: str, planned: TensorProto, actual: TensorProto) -> bool:
        """Return whether a tensor of the pruned model is the planned one, whatever it is called."""
        if _kind(planned) != _kind(actual):
            return False
        wanted = [planned] if name not in self._slices else self._expected(name)
        return any(_same(item, self.original, actual, self.pruned) for item in wanted)

    def altered(self, known: Collection[str] = ()) -> tuple[int, list[str]]:
        """Compare the rest by name.

        Tensors that another tool renamed or merged have no counterpart and are left to the comparison of
        outputs; literals that the plan writes are, too.

        How many are the planned ones or were compared, and the names of those that differ: in their numbers, their
        shape or their type.

        Args:
            known: names of tensors of the pruned model that were found to be the planned ones.
        """
        compared, altered = 0, []
        for name, tensor in _tensors(self.pruned.proto.graph):
            if name in known:
                compared += 1
                continue
            expected = [] if name in self._written else self._expected(name)
            if expected:
                compared += 1
                alike = [item for item in expected if _kind(item) == _kind(tensor)]
                if not any(_same(item, self.original, tensor, self.pruned) for item in alike):
                    altered.append(name)
        return compared, altered

    def _expected(self, name: str) -> list[TensorProto]:
        edit = self._slices.get(name)
        if edit is None:
            return self._ours.get(name, [])
        return [_cut(item, edit, self.original) for item in self._ours[edit.name]]


def _tensors(graph: GraphProto) -> Iterator[tuple[str, TensorProto]]:
    for inner in graphs_in(graph):
        yield from ((tensor.name, tensor) for tensor in inner.initializer)
        for node in inner.node:
            tensor = stored_tensor(node)
            if tensor is not None:
                yield node.output[0], tensor


def _cut(tensor: TensorProto, edit: SliceTensor, model: LoadedModel) -> TensorProto:
    """The planned cut, made in memory: another way than the one by which files are written."""
    copy = in_memory(tensor, model.sources)
    sizes = tuple(tensor.dims[axis] for axis in edit.selection.axes if axis < len(tensor.dims))
    if sizes == edit.selection.sizes:
        cut(copy, edit.selection)
    return copy


def _kind(tensor: TensorProto) -> tuple[int, tuple[int, ...]]:
    return tensor.data_type, tuple(tensor.dims)


def _same(left: TensorProto, original: LoadedModel, right: TensorProto, pruned: LoadedModel) -> bool:
    if _is_raw(left) and _is_raw(right):
        return same_bytes(left, original.sources, right, pruned.sources)
    held = in_memory(left, original.sources), in_memory(right, pruned.sources)
    arrays = (np.ascontiguousarray(array_of(tensor)) for tensor in held)
    first, second = (array.tolist() if array.dtype == object else array.tobytes() for array in arrays)
    return bool(first == second)


def _is_raw(tensor: TensorProto) -> bool:
    return tensor.HasField("raw_data") or is_outside(tensor)
