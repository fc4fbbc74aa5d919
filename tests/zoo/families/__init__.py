"""The architectures, one module per family; each has ``cases()``."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from tests.zoo.case import Case


def all_cases() -> list[Case]:
    """Returns the cases of every family module.

    Raises:
        ValueError: Two cases have the same name.
    """
    names = sorted(p.stem for p in Path(__file__).parent.glob("[!_]*.py") if p.stem != "row")
    found = [c for n in names for c in import_module(f"{__name__}.{n}").cases()]
    repeated = {c.name for c in found if sum(c.name == d.name for d in found) > 1}
    if repeated:
        raise ValueError(f"repeated case names: {sorted(repeated)}")
    return found
