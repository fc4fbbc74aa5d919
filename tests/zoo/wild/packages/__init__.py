"""Architectures of packages in the wild, one module per package or group; each has ``cases()``."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from tests.zoo.wild.case import Wild


def wild_cases() -> list[Wild]:
    """Returns the cases of every module here; no package is imported yet.

    Raises:
        ValueError: Two cases have the same name.
    """
    stems = sorted(path.stem for path in Path(__file__).parent.glob("[!_]*.py"))
    found = [case for stem in stems for case in import_module(f"{__name__}.{stem}").cases()]
    names = [case.name for case in found]
    if repeated := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"repeated case names: {sorted(repeated)}")
    return found
