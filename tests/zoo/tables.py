"""All rows of the tables, and the variants that each can be exported as."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from tests.zoo.case import Case
from tests.zoo.export import EXPORTERS
from tests.zoo.steps import STEPS

QUICK = ("ts17", "dyn18")
SAMPLE = (
    *("ts17", "dyn18", "ts14", "dyn23", "ts17raw", "dyn18raw", "ts17+ort-basic", "ts17+ort-extended"),
    *("dyn18+ort-extended", "ts17+ort-fused", "dyn18+ort-fused", "ts17+slim", "dyn18+slim", "ts17+sim"),
    *("ts17+fp16", "ts17half", "ts17+bf16w", "ts17+int8dyn", "ts17+qdq", "ts17+qop", "ts17+nbits4"),
    *("ts17+nbits8", "ts17+in-if", "ts17+in-loop", "ts17+functions", "ts17+extdata"),
)
"""Variants that fill every column of the page; the others combine these steps or repeat them on another export."""
TS_ONLY = ("extdata", "bf16w", "nbits8", "functions")
ALL = (
    *EXPORTERS,
    *(f"ts17+{step}" for step in STEPS),
    *(f"dyn18+{step}" for step in STEPS if step not in TS_ONLY),
    *("ts17+fp16+ort-extended", "ts17+slim+int8dyn", "ts17+int8dyn+ort-extended", "ts17+qdq+ort-extended"),
    *("ts17+ort-extended+int8dyn", "ts17+in-if+ort-extended", "ts17+functions+slim", "ts14+ort-extended"),
    *("dyn23+ort-extended", "dyn23+slim"),
)


def families() -> list[Case]:
    """Return the architectures of transformers, timm and torch, and those that are written here."""
    return _rows("families")


def packages() -> list[Case]:
    """Return the architectures of other packages."""
    return _rows("packages")


def variants_of(text: str) -> list[str]:
    """Return variants by name, joined by commas; quick, sample and all are several."""
    given = {"quick": QUICK, "sample": SAMPLE, "all": ALL}
    return [variant for word in text.split(",") for variant in given.get(word, (word,))]


def _rows(folder: str) -> list[Case]:
    """Return the rows of every module of a folder.

    Raises:
        ValueError: two rows have the same name.
    """
    stems = sorted(
        path.stem for path in (Path(__file__).parent / folder).glob("[!_]*.py") if path.stem != "row"
    )
    found = [case for stem in stems for case in import_module(f"tests.zoo.{folder}.{stem}").cases()]
    names = [case.name for case in found]
    if repeated := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"repeated case names: {sorted(repeated)}")
    return found
