"""The numbers that are trained: single-precision masters of what the pruned model stores, and the way back.

A recovery trains the pruned model. What it finds is written into the original's tensors, where the pruned model has a
part of each; rows of removed heads stay unchanged. So what comes out is a cut of a *recovered original*.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, TensorProto, numpy_helper

from onnxheadprune.attention.matrices import forward, levels_of
from onnxheadprune.attention.quantized import limits_of
from onnxheadprune.choosing.compensation.trainable import Trainable, trainable
from onnxheadprune.edit.edits import SliceTensor
from onnxheadprune.edit.plan import PrunePlan
from onnxheadprune.errors import RefusedError
from onnxheadprune.model.graph.operator import DEQUANTIZES
from onnxheadprune.model.graph.view import GraphView, Node
from onnxheadprune.model.messages import copied
from onnxheadprune.model.tensors import FLOATS
from onnxheadprune.runtime import Array

Master = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Parameter:
    """One stored tensor of the pruned model."""

    name: str  # its name in the pruned model
    original: str  # its name in the original
    tensor: TensorProto  # as it is stored
    levels: Node | None  # the DequantizeLinear after it, None where it is a float
    edit: SliceTensor | None  # the cut that made it, None where it is whole

    def master(self) -> Master:
        """Its numbers, to be trained."""
        array = numpy_helper.to_array(self.tensor)
        if self.levels is not None:
            array = forward(self.levels, 0, array)
        return np.array(array, np.float32)

    def written(self, master: Master) -> Array:
        """The stored form of trained numbers: rounded, or quantized with the scales there are."""
        whole: Array = master
        if self.levels is not None:
            levels = levels_of(self.levels, 0, master.shape)
            assert levels is not None
            grid = replace(levels, limits=limits_of(self.tensor.data_type))
            whole = grid.levels(master.astype(np.float64))
        return np.ascontiguousarray(whole.astype(numpy_helper.to_array(self.tensor).dtype))


@dataclass(frozen=True, eq=False)
class Parameters:
    """The trained tensors, and why the others are not trained."""

    trained: Sequence[Parameter]  # the parameters, in graph order
    held: Mapping[str, str]  # names of tensors of the original that stay unchanged, with the reason


def parameters_of(original: GraphView, pruned: GraphView, plan: PrunePlan | None) -> Parameters:
    """The tensors of a pruned model that a recovery trains.

    Args:
        plan: how the second was made from the first, None where it is the same.
    """
    _refuse_blocks(pruned)
    lawful = trainable(original)
    planned = () if plan is None else plan.edits
    edits = [item.edit for item in planned if isinstance(item.edit, SliceTensor)]
    cuts = {edit.target: edit for edit in edits}
    copies = Counter(edit.name for edit in edits)
    trained, held = [], dict[str, str]()
    for name, way in trainable(pruned).items():
        edit = cuts.get(name)
        source = name if edit is None else edit.name
        if source not in lawful or way.stored.tensor is None:
            continue
        if copies[source] > 1 or (
            edit is not None and edit.target != edit.name and _is_there(source, pruned)
        ):
            held[source] = "several cuts of it are stored, which must stay alike"
            continue
        levels = _levels(way)
        if isinstance(levels, str):
            held[source] = levels
            continue
        trained.append(Parameter(name, source, way.stored.tensor, levels, edit))
    return Parameters(trained, held)


def _is_there(name: str, view: GraphView) -> bool:
    value = view.main.values.get(name)
    return value is not None and value.holds_tensor


def _levels(way: Trainable) -> Node | str | None:
    """The node that dequantizes a tensor, None where it is a float, or why it cannot be trained."""
    found = [step for step in way.steps if step in DEQUANTIZES]
    if not found and way.stored.elem_type == TensorProto.DOUBLE:
        return "it is stored in double precision, and training is in single precision"
    if not found:
        return None if way.stored.elem_type in FLOATS else "it is stored as whole numbers"
    if len(found) > 1 or way.steps[0] is not found[0] or found[0].domain or len(way.stored.consumers) > 1:
        return "it is quantized in a way that cannot be written back"
    return found[0]


def _refuse_blocks(view: GraphView) -> None:
    for node in view.main.nodes:
        blocks = int(node.attribute("block_size", 0) or 0)
        weights = [value for value in node.sources if value.is_constant]
        if blocks and weights and any(value.elem_type not in FLOATS for value in weights):
            raise RefusedError(
                f"the weights of {node.label} are packed in blocks of {blocks} with scales of their own, which cannot"
                " be trained; recover the model before it is quantized"
            )


def without_constants(model: ModelProto, names: Collection[str]) -> ModelProto:
    """The model with initializers in the place of Constants of these names."""
    made = copied(model)
    for node in model.graph.node:
        if set(node.output) & set(names):
            made.graph.node.remove(node)
            made.graph.initializer.extend(
                TensorProto.FromString(item.t.SerializeToString())
                for item in node.attribute
                if item.name == "value"
            )
            made.graph.initializer[-1].name = node.output[0]
    return made
