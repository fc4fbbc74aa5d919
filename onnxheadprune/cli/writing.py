"""Where results go that nobody has named a place for: beside what they are made of."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

from onnxheadprune.model.storage.claims import is_same_content


def output_of(model: Path, what: str) -> Path:
    """The output beside a model or a folder: MODEL.pruned.onnx, FOLDER.pruned."""
    place = model if model.name else model.resolve()
    name = place.name.removesuffix(".onnx")
    return place.with_name(f"{name}.{what}" if place.is_dir() else f"{name}.{what}.onnx")


def backup_of(model: Path) -> Path:
    """A name beside a model that is free, or whose file is the model, as an interrupted run leaves it."""
    names = (model.with_name(f"{model.name}.bak{number or ''}") for number in itertools.count())
    return next(name for name in names if not os.path.lexists(name) or _is_copy(model, name))


def _is_copy(model: Path, other: Path) -> bool:
    try:
        return is_same_content(other, model)
    except OSError:
        return False
