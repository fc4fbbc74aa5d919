"""Scoring methods and runtimes as options know them: by what stands in the file of each.

They are read from the source, so that `--help` loads neither numpy nor what a method computes with. Each is registered
by lying there: nothing lists it.
"""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxheadprune.settings.units import SCORED

_PACKAGE = Path(__file__).parents[1]
_CLASS = re.compile(r"^class (\w+).*:\n((?:(?:    .*)?\n)+)", re.MULTILINE)
_CONSTANT = re.compile(r"^    ([A-Z_]+)(?:: .*)? = ((?:\(\n[^)]*\)|.+))$", re.MULTILINE)

_CLIENT = re.compile(r'^CLIENT = Client\(\s*"([^"]+)"', re.MULTILINE)


@dataclass(frozen=True)
class Registered:
    """A class and its constants, all literals, with those of the class that it is of."""

    module: str
    name: str
    constants: Mapping[str, Any]

    def load(self) -> Any:
        """Import the class."""
        return getattr(importlib.import_module(self.module), self.name)


def registered(base: str, pattern: str, order: str) -> list[Registered]:
    """The classes in files of the package, sorted by a constant; `base` is the file with the class that all are of."""
    defaults = {name: value for item in _classes(_PACKAGE / base) for name, value in item.constants.items()}
    found = (
        Registered(item.module, item.name, {**defaults, **item.constants})
        for path in sorted(_PACKAGE.glob(pattern))
        for item in _classes(path)
        if order in item.constants
    )
    return sorted(found, key=lambda item: (item.constants[order], item.name))


def _classes(path: Path) -> Iterator[Registered]:
    for name, body in _CLASS.findall(path.read_text(encoding="utf-8")):
        constants = ", ".join(f'"{constant}": {value}' for constant, value in _CONSTANT.findall(body))
        yield Registered(_module(path), name, ast.literal_eval(f"{{{constants}}}"))


def _module(path: Path) -> str:
    return ".".join(path.relative_to(_PACKAGE.parent).with_suffix("").parts)


METHODS: Mapping[str, Registered] = {
    method.constants["NAME"]: method
    for method in registered("choosing/scoring/method.py", "choosing/scoring/methods/[!_]*.py", "ORDER")
}
"""The scoring methods by name."""
WITHOUT_DATA = tuple(name for name, method in METHODS.items() if not method.constants["DATA"])
"""Those that need no data."""
BY_SITE = tuple(name for name, method in METHODS.items() if method.constants["BY_SITE"])
"""Those that score each site by itself: in processes, and resumed where they were interrupted."""
RUNTIMES = dict(
    sorted(
        (name, _module(path))
        for path in _PACKAGE.glob("deploying/clients/[!_]*.py")
        for name in _CLIENT.findall(path.read_text(encoding="utf-8"))
    )
)
"""The modules with a `CLIENT`, by the name of the runtime."""
SHARE = "share of the site"
"""The beginning of the unit of scores that are comparable within a site only."""
SCORED_BY = {
    reads: next(units for units, kind in SCORED.items() if kind.scored_by == reads)
    for reads in dict.fromkeys(kind.scored_by for kind in SCORED.values())
}
"""The first kind of units for each signal that scores are computed from."""


def methods_of(reads: str) -> list[str]:
    """The methods that score units from one signal."""
    return [name for name, method in METHODS.items() if reads in method.constants["READS"]]


def default_method(reads: Iterable[str], *, measured: bool = True) -> str:
    """The default method for units of several kinds, by the signal of each kind; `measured` if there is data."""
    common = [name for name in METHODS if all(name in methods_of(one) for one in reads)]
    if not measured and common[0] in WITHOUT_DATA:
        return common[0]
    known = [name for name in common if name not in WITHOUT_DATA]
    return next((name for name in known if METHODS[name].constants["DEFAULT"]), known[0])


def for_each_kind(told: Callable[[str], str], joint: str) -> str:
    """The text for the signal of heads, followed for each other signal by a joint, its units and its text."""
    parts = [f"{joint} {units} {told(reads)}" for reads, units in [*SCORED_BY.items()][1:]]
    return told(next(iter(SCORED_BY))) + "".join(parts)
