"""The numbers that are trained: single-precision masters of what the pruned model stores, and the way back.

A recovery trains the pruned model. What it finds is written into the original's tensors, where the pruned model has a
part of each; rows of removed heads stay as they were. So what comes out is a cut of a *recovered original*.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, TensorProto, numpy_helper

from onnxheadprune.attention.matrices import Array, dequantized, quantized
from onnxheadprune.edit.edits import SliceTensor
from onnxheadprune.edit.plan import PrunePlan
from onnxheadprune.errors import RefusedError
from onnxheadprune.model.graph.facts import DEQUANTIZES
from onnxheadprune.model.graph.view import GraphView, Node
from onnxheadprune.model.tensors import FLOATS
from onnxheadprune.selection.compensation.trainable import Trainable, trainable

Master = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Parameter:
    """One stored tensor of the pruned model.

    Attributes:
        name: of the value that is trained: the tensor, or what a DequantizeLinear makes of it.
        stored: its name in the pruned model.
        original: its name in the original.
        tensor: as it is stored.
        levels: the DequantizeLinear behind it, None where it is a float.
        edit: the cut that made it, None where it is whole.
    """

    name: str
    stored: str
    original: str
    tensor: TensorProto
    levels: Node | None
    edit: SliceTensor | None

    def master(self) -> Master:
        """Its numbers, to be trained."""
        array = numpy_helper.to_array(self.tensor)
        if self.levels is not None:
            array = dequantized(self.levels, array)
        return np.array(array, np.float32)

    def written(self, master: Master) -> Array:
        """The stored form of trained numbers: rounded, or quantized with the scales there are."""
        whole: Array = master if self.levels is None else quantized(self.levels, master.astype(np.float64))
        return np.ascontiguousarray(whole.astype(numpy_helper.to_array(self.tensor).dtype))

    def seen(self, master: Master) -> Master:
        """The numbers as the written model will have them; gradients pass as if they were the master's."""
        if self.levels is None:
            return master
        return dequantized(self.levels, self.written(master)).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Parameters:
    """What is trained, and why the rest is not.

    Attributes:
        trained: the parameters, in graph order.
        held: names of tensors of the original that stay as they are, with the reason.
    """

    trained: Sequence[Parameter]
    held: Mapping[str, str]


def parameters_of(original: GraphView, pruned: GraphView, plan: PrunePlan | None) -> Parameters:
    """The tensors of a pruned model that a recovery trains.

    Args:
        original: an annotated view of the original.
        pruned: the same of the pruned model.
        plan: how the second was made from the first, None where it is the same.

    Raises:
        RefusedError: if weights are packed in blocks, which have no numbers of their own to train.
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
        value = name if levels is None else levels.out.name
        trained.append(Parameter(value, name, source, way.stored.tensor, levels, edit))
    return Parameters(trained, held)


def _is_there(name: str, view: GraphView) -> bool:
    value = view.main.values.get(name)
    return value is not None and value.holds_tensor


def _levels(way: Trainable) -> Node | str | None:
    """The node that dequantizes a tensor, None where it is a float, or why it cannot be trained."""
    found = [step for step in way.steps if step in DEQUANTIZES]
    if not found:
        return None if way.stored.elem_type in FLOATS else "it is stored as whole numbers"
    if len(found) > 1 or way.steps[0] is not found[0] or found[0].domain:
        return "it is quantized in a way that cannot be written back"
    if len(found[0].out.consumers) > 1 and any(use.node in DEQUANTIZES for use in way.stored.consumers[1:]):
        return "it is dequantized more than once"
    return found[0]


def _refuse_blocks(view: GraphView) -> None:
    for node in view.main.nodes:
        blocks = int(node.attribute("block_size", 0) or 0)
        weights = [value for value in node.inputs if value is not None and value.is_constant]
        if blocks and weights and any(value.elem_type not in FLOATS for value in weights):
            raise RefusedError(
                f"the weights of {node.label} are packed in blocks of {blocks} with scales of their own, which cannot"
                " be trained; recover the model before it is quantized"
            )


def as_inputs_of_a_student(model: ModelProto, parameters: Sequence[Parameter]) -> ModelProto:
    """The model with an initializer of the master's numbers for each parameter, whatever stored it before.

    Args:
        model: in single precision; not changed.
        parameters: what is trained.
    """
    made = ModelProto()
    made.CopyFrom(model)
    by_name = {parameter.name: parameter for parameter in parameters}
    nodes = [node for node in made.graph.node if not by_name.keys() & set(node.output)]
    tensors = [tensor for tensor in made.graph.initializer if tensor.name not in by_name]
    del made.graph.node[:], made.graph.initializer[:]
    made.graph.node.extend(nodes)
    made.graph.initializer.extend(tensors)
    made.graph.initializer.extend(
        numpy_helper.from_array(parameter.seen(parameter.master()), parameter.name)
        for parameter in parameters
    )
    return made
