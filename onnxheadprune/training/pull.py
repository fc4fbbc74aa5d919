"""A pull of weights towards those that a training starts from, as an ONNX graph where they are."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from onnx import ModelProto, TensorProto, helper

from onnxheadprune.runtime import Provider, Session
from onnxheadprune.runtime.resident import Resident, ResidentSession, home_of
from onnxheadprune.training.text import nodes_of

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
        """Takes the weights as they are now for the start."""
        starts = [Resident(item.copy(), provider) for item in parameters]
        states = {"parameter": parameters, "start": starts}
        inputs = {f"{name}.{at}": item for name, items in states.items() for at, item in enumerate(items)}
        outputs = {f"new_parameter.{at}": item for at, item in enumerate(parameters)}
        session = Session(_model([item.shape for item in parameters]), home_of(provider), name="the pull")
        self._session = ResidentSession(session, inputs, outputs)
        self._due = 0.0

    def add(self, share: float, step: int) -> None:
        """Adds to the pull that is due, which is made good now and then."""
        self._due += share
        if step % EVERY == 0:
            self.settle()

    def settle(self) -> None:
        """Makes good what is due."""
        if self._due:
            keep = np.exp(-self._due)
            self._session.run({"keep": np.array(keep, np.float32), "share": np.array(1 - keep, np.float32)})
            self._due = 0.0


def _model(shapes: Sequence[tuple[int, ...]]) -> ModelProto:
    graph = helper.make_graph([], "pull", [], [])
    for number, shape in enumerate(shapes):
        graph.node.extend(nodes_of(TEXT, partial(_spelled, number)))
        for name in ("parameter", "start"):
            graph.input.append(helper.make_tensor_value_info(f"{name}.{number}", TensorProto.FLOAT, shape))
        graph.output.append(
            helper.make_tensor_value_info(f"new_parameter.{number}", TensorProto.FLOAT, shape)
        )
    graph.input.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ()) for name in ("keep", "share")
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def _spelled(number: int, name: str) -> str:
    return name if name in ("keep", "share") else f"{name}.{number}"
