"""AdamW without weight decay (Kingma and Ba 2015; Loshchilov and Hutter 2019), as an ONNX graph.

It runs where the gradients are. Parameters and moments stay on that device and are written in place, each by a node
that is made of what their only reader gives.

Moments are kept as sums, without the factor 1 - beta of the paper, and what is one number for a step is put together
outside of the graph: of a step, which goes through memory once per operation, that leaves ten operations. With
M = m / (1 - beta_1) and V = v / (1 - beta_2),

    rate * m / (1 - beta_1^t) / (sqrt(v / (1 - beta_2^t)) + epsilon)  =  size * M / (sqrt(V) + floor)
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, TensorProto, helper, numpy_helper

from onnxheadprune.edit.nodes import nodes_of_text
from onnxheadprune.runtime import Array, Provider, Session
from onnxheadprune.runtime.resident import Resident, ResidentSession, home_of


def in_place(
    text: str,
    tensors: Mapping[str, Sequence[Resident]],
    changed: Collection[str],
    shared: Mapping[str, float | None],
    provider: Provider,
) -> ResidentSession:
    """A session that changes some tensors as a text says of one; see `model_of`.

    Args:
        shared: numbers that all of them share, by name; None for those that each run is given.
    """
    shapes = [item.shape for item in next(iter(tensors.values()))]
    # As it is written: what a node reads, and when, must not be rearranged.
    session = Session(
        model_of(text, shapes, (*tensors,), changed, shared), home_of(provider), name="the optimizer"
    )
    inputs = {f"{name}.{at}": item for name, items in tensors.items() for at, item in enumerate(items)}
    outputs = {f"new_{name}.{at}": item for name in changed for at, item in enumerate(tensors[name])}
    return ResidentSession(session, inputs, outputs)


def model_of(
    text: str,
    shapes: Sequence[tuple[int, ...]],
    given: Collection[str],
    changed: Collection[str],
    shared: Mapping[str, float | None],
) -> ModelProto:
    """The model that applies a text to many tensors: `x.0` is the `x` of the first, and `new_x.0` its new value."""
    graph = helper.make_graph([], "in_place", [], [])
    for number, shape in enumerate(shapes):
        graph.node.extend(nodes_of_text(text, partial(_spelled, shared, number)))
        for where, names in ((graph.input, given), (graph.output, (f"new_{name}" for name in changed))):
            where.extend(
                helper.make_tensor_value_info(f"{name}.{number}", TensorProto.FLOAT, shape) for name in names
            )
    for name, value in shared.items():
        if value is None:
            graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ()))
        else:
            graph.initializer.append(numpy_helper.from_array(np.array(value, np.float32), name))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def _spelled(shared: Collection[str], number: int, name: str) -> str:
    return name if name in shared else f"{name}.{number}"


BETAS = (0.9, 0.99)
"""The second one forgets faster than usual: a recovery has few steps."""
EPSILON = 1e-8
STATES = ("parameter", "mean", "square")
"""Tensors that each step reads and writes."""
STEP = """
older_mean = Mul(mean, beta_1)
new_mean = Add(older_mean, gradient)
older_square = Mul(square, beta_2)
power = Mul(gradient, gradient)
new_square = Add(older_square, power)
root = Sqrt(new_square)
divisor = Add(root, floor)
direction = Div(new_mean, divisor)
way = Mul(direction, size)
new_parameter = Sub(parameter, way)
"""
"""For one tensor. A state is read by one node alone, and what replaces it is made of that node's output."""
SHARED: Mapping[str, float | None] = {"beta_1": BETAS[0], "beta_2": BETAS[1], "size": None, "floor": None}
"""Numbers that all tensors share; the last two are those of a step."""


class Adam:
    """Moments of the gradients of some tensors, which it changes in place.

    Attributes:
        means: first moments, as sums, per tensor.
        squares: second moments.
        steps: taken so far.
    """

    def __init__(
        self, parameters: Sequence[Resident], gradients: Sequence[Resident], provider: Provider
    ) -> None:
        """Starts with no moments.

        Args:
            gradients: where the gradient of each is at every step, in its shape.
        """
        self.means = [Resident(np.zeros(item.shape, np.float32), provider) for item in parameters]
        self.squares = [Resident(np.zeros(item.shape, np.float32), provider) for item in parameters]
        self.steps = 0
        states = dict(zip(STATES, (parameters, self.means, self.squares), strict=True))
        self._session = in_place(STEP, {**states, "gradient": gradients}, STATES, SHARED, provider)

    def step(self, rate: float) -> None:
        """One step."""
        self.steps += 1
        first, second = ((1 - beta) / (1 - beta**self.steps) for beta in BETAS)
        shrunk = math.sqrt(second)
        self._session.run({"size": _number(rate * first / shrunk), "floor": _number(EPSILON / shrunk)})

    def reset(self) -> None:
        """Forget all steps."""
        for item in (*self.means, *self.squares):
            item.take(np.zeros(item.shape, np.float32))
        self.steps = 0

    def take(self, moments: Sequence[Array], steps: int) -> None:
        """Take the moments of another training, means before squares, after so many steps."""
        for item, array in zip((*self.means, *self.squares), moments, strict=True):
            item.take(array)
        self.steps = steps


def _number(value: float) -> npt.NDArray[np.float32]:
    return np.array(value, np.float32)


STRENGTH = 0.9
"""The pull of a whole training at its peak rate, as a share of the way back: the same for every length of it."""
EVERY = 10
"""Steps after which it is made good, all at once."""
TEXT = """
kept = Mul(parameter, keep)
start_part = Mul(start, share)
new_parameter = Add(kept, start_part)
"""


class Pull:
    """Weights, and where they are drawn to."""

    def __init__(self, parameters: Sequence[Resident], provider: Provider) -> None:
        """Take the weights as they are now for the start."""
        starts = [Resident(item.copy(), provider) for item in parameters]
        self._session = in_place(
            TEXT,
            {"parameter": parameters, "start": starts},
            ("parameter",),
            {"keep": None, "share": None},
            provider,
        )
        self._due = 0.0

    def add(self, share: float, step: int) -> None:
        """Accumulate the pull of a step, and apply the sum every `EVERY` steps."""
        self._due += share
        if step % EVERY == 0:
            self.settle()

    def settle(self) -> None:
        """Make good what is due."""
        if self._due:
            keep = np.exp(-self._due)
            self._session.run({"keep": np.array(keep, np.float32), "share": np.array(1 - keep, np.float32)})
            self._due = 0.0
