"""Scoring methods and runtimes as options know them, so that `--help` loads none of their code."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from onnxheadprune.settings import plugins
from onnxheadprune.settings.units import SCORED

SHARE = "share of the site"
"""The beginning of the unit of scores that are comparable within a site only."""


@dataclass(frozen=True)
class Method:
    """A scoring method: what options, messages and documents say of it.

    Attributes:
        name: in options, files and Python.
        function: "module:function" that scores, see `choosing/scoring/method.py`; its docstring is the documentation.
        unit: the meaning of a score. It begins with `SHARE` if those of different sites do not compare; "" where the
            data decides it.
        reads: the signals that it scores from: "contexts" (inputs of output projections), "router" (its choices among
            experts).
        data: what it needs: "" for none, "any", or "full" for as many positions as a linear layer has inputs.
        gradient: True if it needs the gradient of the drift, so that it takes no measure of the user's.
    """

    name: str
    function: str
    unit: str = ""
    reads: tuple[str, ...] = ("contexts",)
    data: Literal["", "any", "full"] = "any"
    gradient: bool = False

    @property
    def gives_shares(self) -> bool:
        """True if scores are shares of their site."""
        return self.unit.startswith(SHARE)

    def load(self) -> Callable[..., Any]:
        """Import the function."""
        module, _, name = self.function.partition(":")
        found: Callable[..., Any] = getattr(importlib.import_module(module), name)
        return found


_SCORING = "onnxheadprune.choosing.scoring"
_BOTH = ("contexts", "router")
METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("weight", f"{_SCORING}.weight:weight", "share of the site's weights", data=""),
        Method(
            "reap",
            f"{_SCORING}.reap:reap",
            "share of the site's activity, weighted by the router",
            ("router",),
        ),
        Method(
            "reconstruction",
            f"{_SCORING}.reconstruction:reconstruction",
            "share of the site's variance lost after refit",
            data="full",
        ),
        Method("ablation", f"{_SCORING}.ablation:ablation", reads=_BOTH),
        Method("taylor", f"{_SCORING}.taylor:taylor", gradient=True),
        Method("random", f"{_SCORING}.weight:random", "share of the site by chance", _BOTH, data=""),
    )
}
"""The scoring methods by name; the first one that needs data is the default for a signal."""
REMOVED = {
    "fisher": "taylor",
    "fluctuation": "reconstruction",
    "frequency": "reap",
    "activation": "reconstruction or reap",
}
"""Methods of earlier versions, and what is nearest to each of those that there are."""
RUNTIMES: dict[str, str] = {
    name: f"onnxheadprune.deploying.clients.{module}"
    for name, module in {
        "fastembed": "fastembed",
        "genai": "genai",
        "openvino": "openvino",
        "optimum": "optimum",
        "ort": "onnx_runtime",
        "sentence-transformers": "sentence_transformers",
        "tei": "text_embeddings_inference",
        "transformers.js": "transformers_js",
    }.items()
}
"""The modules with a `CLIENT`, by the name of the runtime."""


def register(method: Method) -> None:
    """Add a scoring method, from the module of an entry point `settings` in the group `onnxheadprune`.

    Raises:
        ValueError: if there is one of that name.
    """
    if method.name in METHODS:
        raise ValueError(f"there is a scoring method {method.name} already")
    METHODS[method.name] = method


def register_runtime(name: str, module: str) -> None:
    """Add a runtime, by the module that has its `CLIENT`, from the same place.

    Raises:
        ValueError: if there is one of that name.
    """
    if name in RUNTIMES:
        raise ValueError(f"there is a runtime {name} already")
    RUNTIMES[name] = module


plugins.load("settings")
WITHOUT_DATA = tuple(name for name, method in METHODS.items() if not method.data)
"""Those that need no data."""
SCORED_BY = {
    reads: next(units for units, kind in SCORED.items() if kind.scored_by == reads)
    for reads in dict.fromkeys(kind.scored_by for kind in SCORED.values())
}
"""The first kind of units for each signal that scores are computed from."""


def methods_of(reads: str) -> list[str]:
    """The methods that score units from one signal."""
    return [name for name, method in METHODS.items() if reads in method.reads]


def default_method(reads: Iterable[str], *, measured: bool = True) -> str:
    """The default method for units of several kinds, by the signal of each kind; `measured` if there is data."""
    common = [name for name in METHODS if all(name in methods_of(one) for one in reads)]
    if not measured and common[0] in WITHOUT_DATA:
        return common[0]
    return next(name for name in common if name not in WITHOUT_DATA)


def for_each_kind(told: Callable[[str], str], joint: str) -> str:
    """The text for the signal of heads, followed for each other signal by a joint, its units and its text."""
    parts = [f"{joint} {units} {told(reads)}" for reads, units in [*SCORED_BY.items()][1:]]
    return told(next(iter(SCORED_BY))) + "".join(parts)
