"""Results as HTML, for notebooks and pages, in the colours of their theme.

Text is escaped here, so a name from a model is never markup.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from onnxheadprune.display.facts import (
    Cell,
    Fact,
    Facts,
    Figures,
    Part,
    Plot,
    State,
    Strip,
    Table,
    UnitMap,
    Word,
)
from onnxheadprune.display.spelling import escaped, file_name

MOST_ROWS = 24
"""Rows of a table that are shown; a notebook has no place for more."""
_COLORS = {"": "", "open": "", "good": "#17834f", "bad": "#c8402f", "doubtful": "#9a6a00"}
"""Colors of words, which are read on white as well as on black; pages have others, by the class."""
_SQUARE = "display:inline-block;width:1.1em;margin:1px;text-align:center;border:1px solid #8888"
_LEFT, _RIGHT = "text-align:left", "text-align:right"


def html_of(facts: Facts) -> str:
    """A result as HTML for a notebook, with the first rows of long tables."""
    answer = f" {_word(facts.answer, facts.state)}" if facts.answer else ""
    # A notebook is passed on: folders of the machine are nobody's business.
    title = f"<b>{text_of(file_name(facts.title))}</b>"
    body = HtmlWriter(MOST_ROWS).parts(facts.everything)
    return f'<div style="margin:0.3em 0"><div>{title}{answer}</div>{body}</div>'


@dataclass(frozen=True)
class HtmlWriter:
    """The parts of a result as HTML."""

    most_rows: int | None = None  # of a table, None for all
    draw: Callable[[Plot], str] = lambda _: ""  # a plot as HTML, empty where it cannot be drawn

    def parts(self, parts: Iterable[Part]) -> str:
        """All of them, below each other."""
        return "".join(map(self._part, parts))

    def _part(self, part: Part) -> str:
        if isinstance(part, Fact):
            return f"<div><b>{text_of(part.label)}</b> {_word(part.text, part.state)}</div>"
        if isinstance(part, Figures):
            return _figures(part)
        if isinstance(part, Table):
            return self._table(part)
        drawn = self.draw(part)
        return drawn if drawn or not isinstance(part, UnitMap) else self._squares(part)

    def _table(self, part: Table) -> str:
        sides = [_RIGHT if column in part.numeric else _LEFT for column in part.columns]
        rows = [
            "".join(f'<td style="{side}">{_cell(cell)}</td>' for cell, side in zip(cells, sides, strict=True))
            for cells in part.rows
        ]
        return self._rows(part.title, zip(part.columns, sides, strict=True), rows)

    def _squares(self, part: UnitMap) -> str:
        """A square per unit, bluer for higher scores, crossed if the unit is removed."""
        scored = ": the bluer, the higher the score, by rank" if part.is_scored else ""
        columns = [(name, _LEFT) for name in ("#", "site", f"{part.units}{scored}")]
        rows = [
            f"<td>{text_of(strip.key)}</td><td>{text_of(strip.name)}</td><td>{_strip(strip, shades, part)}</td>"
            for strip, shades in part.shades()
        ]
        return self._rows(part.title, columns, rows)

    def _rows(self, title: str, columns: Iterable[tuple[str, str]], rows: list[str]) -> str:
        """A table with names of columns that can scroll alone; of long ones the first rows and how many more."""
        if not rows:
            return ""
        heads = [
            f'<th scope="col" style="{side}">{text_of(name)}</th>' if name else "<td></td>"
            for name, side in columns
        ]
        shown = rows[: self.most_rows]
        body = "".join(f"<tr>{cells}</tr>" for cells in shown)
        more = f"<div>and {len(rows) - len(shown)} more</div>" if len(rows) > len(shown) else ""
        above = f"<div><b>{text_of(title)}</b></div>" if title else ""
        table = f"<table><thead><tr>{''.join(heads)}</tr></thead><tbody>{body}</tbody></table>"
        return f'{above}<div class="scroll" tabindex="0">{table}</div>{more}'


def _word(text: str, state: State) -> str:
    color = _COLORS[state]
    return f'<span class="{state}" style="color:{color}">{text_of(text)}</span>' if color else text_of(text)


def _figures(part: Figures) -> str:
    rows = []
    for row in part.rows:
        values = [row.before, row.after, row.change]
        cells = "".join(f'<td style="{_RIGHT}">{text_of(value)}</td>' for value in values if any(values))
        note = f'<td colspan="{1 if any(values) else 4}" style="{_LEFT}">{text_of(row.note)}</td>'
        rows.append(f'<tr><th scope="row" style="{_LEFT}">{text_of(row.name)}</th>{cells}{note}</tr>')
    names = ("", "before", "after", "change", "")
    head = "".join(f'<th scope="col" style="{_RIGHT}">{name}</th>' if name else "<td></td>" for name in names)
    return f'<table class="figures"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'


def _strip(strip: Strip, shades: list[float | None], part: UnitMap) -> str:
    unit = part.units.removesuffix("s") if part.units.isalpha() else "unit"
    made = []
    for position, (score, shade) in enumerate(zip(strip.scores, shades, strict=True)):
        is_gone = position in strip.gone
        value = "" if score is None else f"{unit} {position}: {score:.3g}"
        words = ", ".join(filter(None, ("removed", value))) if is_gone else value or part.unscored
        color = "transparent" if shade is None or is_gone else f"rgba(0,114,178,{0.1 + 0.9 * shade:.2f})"
        cross = "&times;" if is_gone else "&nbsp;"
        made.append(f'<span style="{_SQUARE};background:{color}" title="{text_of(words)}">{cross}</span>')
    return f'<span style="white-space:nowrap;line-height:1.1em">{"".join(made)}</span>'


def _cell(cell: Cell) -> str:
    return _word(cell.text, cell.state) if isinstance(cell, Word) else text_of(cell)


def text_of(text: str) -> str:
    """The text, escaped for HTML."""
    return html.escape(escaped(text), quote=True)
