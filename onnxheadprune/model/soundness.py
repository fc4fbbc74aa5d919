"""Whose fault is it? An analysis that stumbles over a model that is not valid has found an invalid model."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from onnx import ModelProto

from onnxheadprune.errors import HeadPruneError, ModelError
from onnxheadprune.model.load import check_model


@contextlib.contextmanager
def analysing(model: ModelProto, name: str) -> Iterator[None]:
    """Analyses trust what ONNX promises about a graph; where one fails, that promise is checked.

    On a valid model the failure is a bug and stays one.

    Raises:
        ModelError: if the model is not valid.
    """
    try:
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
        raise
