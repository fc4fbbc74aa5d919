"""The table of packages: models that others wrote, a row each, in one module per package or group."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from tests.zoo.case import Case


def all_cases() -> list[Case]:
    """Returns the rows of every module here; no package is imported yet.

    Raises:
        ValueError: Two rows have the same name.
    """
    stems = sorted(path.stem for path in Path(__file__).parent.glob("[!_]*.py") if path.stem != "row")
    found = [case for stem in stems for case in import_module(f"{__name__}.{stem}").cases()]
    names = [case.name for case in found]
    if repeated := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"repeated case names: {sorted(repeated)}")
    return found
