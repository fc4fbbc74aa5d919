"""The losses of a recovery, as nodes after the student's graph.

The loss of a batch is the sum of

* of the main output: one minus the cosine, or where it is a distribution the Kullback-Leibler divergence from the
  original's (Hinton et al. 2015), the measures that drift is reported in;
* of hidden states: the mean square difference to the original's, as a share of their variance, of the last one and on
  average over all of them (Romero et al. 2015; Jiao et al. 2020).

What the original gives comes in as inputs, and so do the weights of the positions: which are padding, and by what a
difference is divided, is known where the data is. The nodes are of the oldest kinds: they mean the same in every opset.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from onnx import ModelProto, TensorProto, ValueInfoProto, helper

from onnxheadprune.edit.nodes import nodes_of_text
from onnxheadprune.model.messages import copied

PREFIX = "onnxheadprune.recovery."
LOSS = f"{PREFIX}loss"
SQUARE = """
value = Cast<to=1>(student)
apart = Sub(value, target)
square = Mul(apart, apart)
weighted = Mul(square, weight)
part = ReduceSum<keepdims=0>(weighted)
"""
POOL = """
tokens = Cast<to=1>(student)
value = MatMul(weights, tokens)
"""
ALONE = "value = Cast<to=1>(student)"
COSINE = """
product = Mul(value, target)
dot = MatMul(product, ones)
own = Mul(value, value)
length = MatMul(own, ones)
safe = Add(length, tiny)
norm = Sqrt(safe)
cosine = Div(dot, norm)
weighted = Mul(cosine, weight)
near = ReduceSum<keepdims=0>(weighted)
part = Sub(one, near)
"""
LOGITS = """
value = Cast<to=1>(student)
known = LogSoftmax<axis=-1>(value)
"""
PROBABILITIES = """
value = Cast<to=1>(student)
safe = Add(value, tiny)
known = Log(safe)
"""
DIVERGENCE = """
shared = Mul(known, target)
near = ReduceSum<keepdims=0>(shared)
part = Sub(one, near)
"""


@dataclass(frozen=True)
class Part:
    """One part of the loss."""

    name: str  # of its inputs, after a prefix
    nodes: str  # ONNX text; `student` is the student's value, `target` and the like are inputs
    student: str  # the value that it is about
    inputs: Mapping[str, int]  # names of its inputs, as in the text, with their ranks

    def spelled(self, local: str) -> str:
        """Return what a name of the text is called in the model."""
        return self.student if local == "student" else f"{PREFIX}{self.name}.{local}"


def with_loss(student: ModelProto, parts: Sequence[Part]) -> ModelProto:
    """The model with the sum of the parts as its only output."""
    made = copied(student)
    del made.graph.output[:]
    names = []
    for part in parts:
        made.graph.node.extend(nodes_of_text(part.nodes, part.spelled))
        made.graph.input.extend(_input(part.spelled(name), rank) for name, rank in part.inputs.items())
        names.append(part.spelled("part"))
    while len(names) > 1:
        total = LOSS if len(names) == 2 else f"{PREFIX}sum.{len(names)}"
        spelled = {"total": total, "one": names[0], "other": names[1]}
        made.graph.node.extend(nodes_of_text("total = Add(one, other)", spelled.__getitem__))
        names = [total, *names[2:]]
    if names[0] != LOSS:
        spelled = {"total": LOSS, "one": names[0]}
        made.graph.node.extend(nodes_of_text("total = Identity(one)", spelled.__getitem__))
    made.graph.output.append(helper.make_tensor_value_info(LOSS, TensorProto.FLOAT, []))
    return made


def _input(name: str, rank: int) -> ValueInfoProto:
    dims = [f"{name}.{axis}" for axis in range(rank)]
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, dims)
