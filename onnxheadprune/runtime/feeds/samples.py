"""Samples of the user's own data, and the forms in which users give them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from onnxheadprune.model.tensors import Array
from onnxheadprune.runtime.feeds.generate import Feed

DataSource: TypeAlias = (
    "str | os.PathLike[str] | Mapping[str, Any] | Iterable[Mapping[str, Any]] | Iterable[Sample]"
)
"""The one form in which users and callers give data; `data.py` reads it."""
USERS_DATA = "your data, all of it"
"""The data of a measurement for which nothing was held out."""
IGNORED_LABEL = -100
"""PyTorch's convention for positions that have no label."""


@dataclass(frozen=True)
class Sample:
    """One feed of user data."""

    feed: Feed  # an array per graph input
    labels: Array | None  # what `labels` held for these samples, None without labels
    source: str  # the file or entry it came from
