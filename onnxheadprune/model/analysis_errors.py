"""Unexpected errors in analyses of a model, with their cause.

Of searches that nobody asked for an unexpected error is a value, so that it ends no command.
"""

from __future__ import annotations

import contextlib
import gc
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

import onnx
from onnx import ModelProto

from onnxheadprune.errors import HeadPruneError, ModelError, heed
from onnxheadprune.model.bodies import nodes_of_model
from onnxheadprune.model.load import check_model
from onnxheadprune.model.typed_json import HIDDEN, JsonObject, written
from onnxheadprune.model.work_bound import bounded_work

Result = TypeVar("Result")


class AnalysisError(ModelError):
    """An unexpected error in the analysis of a model of which it is not known whether it is valid."""


@dataclass(frozen=True)
class NotAnalysed(JsonObject):
    """A search that an unexpected error ended."""

    what: str  # what it looks for, as in "early exits"
    error: Annotated[Exception, HIDDEN]

    @property
    @written("error")
    def told(self) -> str:
        """The error, and the line of this package that raised it."""
        cause = self.error.__cause__ if isinstance(self.error, AnalysisError) else self.error
        frames = [] if cause is None else traceback.extract_tb(cause.__traceback__)
        where = f", {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
        return f"{type(cause).__name__}: {cause}{where}"

    def __str__(self) -> str:
        return f"{self.what} could not be analysed ({self.told}); please report this"


def try_analysis(what: str, find: Callable[[], Result]) -> Result | NotAnalysed:
    """The result of a search, or the unexpected error that ended it."""
    try:
        return find()
    except AnalysisError as error:
        return NotAnalysed(what, error)
    except HeadPruneError:
        raise
    except Exception as error:
        heed(error)
        return NotAnalysed(what, error)


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


@contextlib.contextmanager
def analysing(model: ModelProto, name: str) -> Iterator[None]:
    """As `explaining_failures`, with Python's garbage collector paused, and bounded."""
    with explaining_failures((model, name)), _no_collection(), bounded_work(model, name):
        yield


@contextlib.contextmanager
def explaining_failures(*models: tuple[ModelProto, str]) -> Iterator[None]:
    """Check the validity of models after an analysis failed, since analyses assume valid graphs.

    On valid models the failure is a bug and is raised. Operators of unknown domains cannot be checked: a model with
    such operators is refused.
    """
    try:
        yield
    except HeadPruneError:
        raise
    except RecursionError as error:
        raise ModelError(f"{' or '.join(name for _, name in models)} is nested too deeply") from error
    except Exception as error:
        heed(error)
        for model, name in models:
            try:
                check_model(model, name, full=True)
            except ModelError as invalid:
                raise invalid from error
        found = next(((foreign, name) for model, name in models if (foreign := foreign_in(model))), None)
        if found is None:
            raise
        told, (foreign, name) = f"{type(error).__name__}: {error}", found
        raise AnalysisError(
            f"{name} cannot be analysed ({told}); it has operators that onnx cannot check"
            f" ({foreign}), so it may not be valid; if it runs in ONNX Runtime, please report this"
        ) from error


def foreign_in(model: ModelProto) -> str | None:
    """The first operator that neither onnx nor the model itself defines, None without."""
    own = {(function.domain, function.name) for function in model.functions}
    for node in nodes_of_model(model):
        domain = "" if node.domain == "ai.onnx" else node.domain
        if (domain, node.op_type) not in own and not onnx.defs.has(node.op_type, domain=domain):
            return f"{domain}.{node.op_type}"
    return None
