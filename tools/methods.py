"""Write the table of scoring methods in docs/methods.md: python tools/methods.py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from onnxheadprune.settings.registry import METHODS
from onnxheadprune.settings.units import SCORED

PAGE = Path(__file__).parents[1] / "docs" / "methods.md"
BEGIN, END = "<!-- made by tools/methods.py -->\n\n", "\n<!-- end -->\n"


def text() -> str:
    """The page with the table as the classes of the methods have it."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    return "".join((before, BEGIN, *rows(), END, rest.partition(END)[2]))


def rows() -> Iterator[str]:
    """Yield the rows of the table, with its head."""
    yield "| method | score | unit | of | cost |\n|---|---|---|---|---|\n"
    for name, method in METHODS.items():
        known = method.constants
        score = (method.load().__doc__ or "").partition("\n")[0].rstrip(".").replace("|", "\\|")
        units = ", ".join(units for units, kind in SCORED.items() if kind.scored_by in known["READS"])
        unit = known["UNIT"] or "compares across sites"
        yield f"| `{name}` | {score} | {unit} | {units} | {cost(known)} |\n"


def cost(known: dict[str, Any]) -> str:
    """The runs of the model that a method takes, by its constants."""
    if not known["DATA"]:
        return "no data"
    if known["GRADIENT"]:
        return "one pass forward and backward"
    if "contexts" not in known["READS"]:
        return "some passes over the mixtures"
    return "a run of what follows per unit" if known["BY_SITE"] else "one pass"


if __name__ == "__main__":
    PAGE.write_text(text(), encoding="utf-8")
