"""Write the table of scoring methods in docs/methods.md: python tools/methods.py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from onnxheadprune.settings.registry import METHODS, Method
from onnxheadprune.settings.units import SCORED

PAGE = Path(__file__).parents[1] / "docs" / "methods.md"
BEGIN, END = "<!-- made by tools/methods.py -->\n\n", "\n<!-- end -->\n"


def text() -> str:
    """The page with the table as the methods are declared."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    return "".join((before, BEGIN, *rows(), END, rest.partition(END)[2]))


def rows() -> Iterator[str]:
    """Yield the rows of the table, with its head."""
    yield "| method | score | unit | of | cost |\n|---|---|---|---|---|\n"
    for name, method in METHODS.items():
        score = (method.load().__doc__ or "").partition("\n")[0].rstrip(".").replace("|", "\\|")
        units = ", ".join(units for units, kind in SCORED.items() if kind.scored_by in method.reads)
        unit = method.unit or "compares across sites"
        yield f"| `{name}` | {score} | {unit} | {units} | {cost(method)} |\n"


def cost(method: Method) -> str:
    """The runs of the model that a method takes."""
    if not method.data:
        return "no data"
    if method.gradient:
        return "one pass forward and backward"
    if "contexts" not in method.reads:
        return "some passes over the mixtures"
    return "a run of what follows per unit" if "router" in method.reads else "one pass"


if __name__ == "__main__":
    PAGE.write_text(text(), encoding="utf-8")
