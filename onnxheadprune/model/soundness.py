"""Analyses of a model: errors with their cause, and Python's garbage collector paused."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

import onnx
from onnx import ModelProto

from onnxheadprune.errors import HeadPruneError, ModelError
from onnxheadprune.model.bodies import nodes_of_model
from onnxheadprune.model.load import check_model


@contextlib.contextmanager
def analysing(model: ModelProto, name: str) -> Iterator[None]:
    """Check the model's validity after an analysis failed, since analyses assume a valid graph.

    On a valid model the failure is a bug and is raised. Operators of unknown domains cannot be checked: a model with
    such operators is refused.

    Raises:
        ModelError: if the model is not valid, or that is unknown.
    """
    try:
        with _no_collection():
            yield
    except (HeadPruneError, MemoryError):
        raise
    except RecursionError as error:
        raise ModelError(f"{name} is nested too deeply") from error
    except Exception as error:
        try:
            check_model(model, name, full=True)
        except ModelError as invalid:
            raise invalid from error
        foreign = _foreign(model)
        if foreign is None:
            raise
        told = f"{type(error).__name__}: {error}"
        raise ModelError(
            f"{name} cannot be analysed ({told}); it has operators that onnx cannot check"
            f" ({foreign}), so it may not be valid; if it runs in ONNX Runtime, please report this"
        ) from error


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Pause Python's cycle collector: views of a million nodes, sweeps and plans leave no cycles behind.

    Searching for them takes half of the time of making a view.
    """
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()


def _foreign(model: ModelProto) -> str | None:
    """The first operator that neither onnx nor the model itself defines, None without."""
    own = {(function.domain, function.name) for function in model.functions}
    for node in nodes_of_model(model):
        domain = "" if node.domain == "ai.onnx" else node.domain
        if (domain, node.op_type) not in own and not onnx.defs.has(node.op_type, domain=domain):
            return f"{domain}.{node.op_type}"
    return None
