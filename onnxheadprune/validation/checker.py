"""Findings of `onnx.checker` on the two models."""

from __future__ import annotations

from onnx import ModelProto

from onnxheadprune.errors import ModelError
from onnxheadprune.model.load import check_model


def checker_problems(
    original: ModelProto, pruned: ModelProto, names: tuple[str, str]
) -> tuple[list[str], list[str]]:
    """Problems and notes; the pruned model must pass whatever the original passes.

    Args:
        original: the model before the cut.
        pruned: the model after it.
        names: how to call the two.
    """
    obstacle = None
    for full in (True, False):
        obstacle = _says(original, names[0], full)
        if obstacle is None:
            problem = _says(pruned, names[1], full)
            return ([] if problem is None else [problem]), []
    return [], [f"{obstacle}; so only ONNX Runtime judges the pruned one"]


def _says(model: ModelProto, name: str, full: bool) -> str | None:
    try:
        check_model(model, name, full=full)
    except ModelError as error:
        return str(error)
    return None
