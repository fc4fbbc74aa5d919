"""Runs that need not end: a model with a loop is waited for, so long and no longer, and Ctrl-C is heard meanwhile.

ONNX Runtime works inside of one native call, in which Python hears nothing. Models without loops end by themselves.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

from onnx import ModelProto

import onnxheadprune.operators  # noqa: F401 they say which of them repeat, in processes that only run a model, too
from onnxheadprune.model.bodies import nodes_of_model
from onnxheadprune.model.graph.operator import is_a

Result = TypeVar("Result")
PATIENCE = 600.0
"""Seconds for one run of a model with a loop."""


class NeverEndsError(Exception):
    """A run was stopped because it took too long."""


def may_never_end(model: ModelProto) -> bool:
    """Return whether a model has a loop anywhere."""
    return any(is_a(node, "Loop") for node in nodes_of_model(model))


def waited_for(run: Callable[[Any], Result], options: Any) -> Result:
    """Return the outputs of a run, or raise its error; it is stopped after a time limit or an interrupt."""
    given: list[Result] = []
    raised: list[BaseException] = []

    def work() -> None:
        try:
            given.append(run(options))
        except BaseException as error:  # what it is belongs to the caller
            raised.append(error)

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    try:
        worker.join(PATIENCE)
        late = worker.is_alive()
    finally:
        options.terminate = True
        worker.join()
    if late:
        raise NeverEndsError(f"one run takes longer than {PATIENCE:.0f} seconds, and it has a loop")
    if raised:
        raise raised.pop()
    return given[0]
