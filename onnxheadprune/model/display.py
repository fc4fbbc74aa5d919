"""Display of results: a `repr` of one line, and HTML for notebooks and pages, in the colours of their theme.

Text is escaped here, so a name from a model is never markup.
"""

from __future__ import annotations

import html
import os
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import fields
from enum import Enum
from typing import Any, ClassVar, TypeVar

from onnxheadprune.model.facts import Cell, Fact, Facts, Figures, Part, Squares, State, Table, Word
from onnxheadprune.model.spelling import escaped, file_name
from onnxheadprune.model.typed_json import JsonObject

MOST = 200
"""Characters of a line."""
MOST_OF_ONE = 60
"""Characters of one field."""

_KINDS: set[type[Any]] = set()
DataclassType = TypeVar("DataclassType", bound=type[Any])


def one_line(shown: str = "") -> Callable[[DataclassType], DataclassType]:
    """Give a dataclass a `repr` of one line.

    Args:
        shown: names of fields separated by spaces, the important ones first; all fields if not given.
    """

    def decorate(kind: DataclassType) -> DataclassType:
        names = shown.split() or [item.name for item in fields(kind) if item.repr]

        def represented(self: object) -> str:
            pairs = ((name, _short(getattr(self, name))) for name in names)
            return _cut(
                f"{kind.__name__}({', '.join(f'{name}={text}' for name, text in pairs if text)})", MOST
            )

        kind.__repr__ = represented  # type: ignore[assignment]
        _KINDS.add(kind)
        return kind

    return decorate


def _short(value: object) -> str:
    """A value in few characters, "" for an empty value."""
    if (
        value is None
        or value is False
        or (isinstance(value, (str, Mapping, Sequence, Set)) and not len(value))
    ):
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, (str, os.PathLike)):
        return _cut(repr(os.fspath(value)), MOST_OF_ONE)
    if isinstance(value, (bool, int)):
        return str(value)
    if type(value) in _KINDS:
        return _cut(repr(value), MOST_OF_ONE)
    if isinstance(value, (Mapping, Sequence, Set)):
        return (_whole(repr(value)) if _is_plain(value) else "") or f"<{len(value)}>"
    return f"<{type(value).__name__}>"


def _is_plain(value: object) -> bool:
    """Return whether a collection holds numbers and short texts only, also in collections of it."""
    if isinstance(value, Mapping):
        return _is_plain([*value.keys(), *value.values()])
    if isinstance(value, (Sequence, Set)) and not isinstance(value, str):
        return len(value) <= MOST_OF_ONE and all(map(_is_plain, value))
    return isinstance(value, (bool, int, float)) or (isinstance(value, str) and len(value) <= MOST_OF_ONE)


def _whole(text: str) -> str:
    """The text if it is short and one line, else ""."""
    return text if len(text) <= MOST_OF_ONE and text.isprintable() else ""


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 4]}...{text[-1]}"


MOST_ROWS = 24
"""Rows of a table that are shown; a notebook has no place for more."""
_COLORS = {"": "", "open": "", "good": "#17834f", "bad": "#c8402f", "doubtful": "#9a6a00"}
"""Colors of words, which are read on white as well as on black; pages have others, by the class."""
_SQUARE = "display:inline-block;width:1.1em;margin:1px;text-align:center;border:1px solid #8888"
_LEFT, _RIGHT = "text-align:left", "text-align:right"


class Displayed(JsonObject):
    """A result that prints as the lines of its command, and that notebooks show as HTML.

    Attributes:
        as_text: the writer for terminals, which the Python API supplies; without it a result prints as its repr.
    """

    as_text: ClassVar[Callable[[Facts], str] | None] = None

    def facts(self) -> Facts:
        """The facts of the result, for every writer."""
        raise NotImplementedError

    def __str__(self) -> str:
        writer = type(self).as_text
        return repr(self) if writer is None else writer(self.facts())

    def _repr_html_(self) -> str:
        return html_of(self.facts())


def html_of(facts: Facts | Table) -> str:
    """A result, or a table alone, as HTML for a notebook, with the first rows of long tables."""
    return _html(facts, on_page=False)


def page_html(facts: Facts | Table) -> str:
    """The same for a page, whose tables are whole, can be sorted and scroll by themselves."""
    return _html(facts, on_page=True)


def _html(facts: Facts | Table, on_page: bool) -> str:
    if isinstance(facts, Table):
        return _table(facts, "", on_page)
    answer = f" {_word(facts.answer, facts.state)}" if facts.answer else ""
    body = "".join(_part(part, facts.title, on_page) for part in facts.everything)
    # A notebook is passed on: folders of the machine are nobody's business.
    title = facts.title if on_page else file_name(facts.title)
    return f'<div style="margin:0.3em 0"><div><b>{_text(title)}</b>{answer}</div>{body}</div>'


def _part(part: Part, title: str, on_page: bool) -> str:
    if isinstance(part, Fact):
        return f"<div><b>{_text(part.label)}</b> {_word(part.text, part.state)}</div>"
    return _figures(part) if isinstance(part, Figures) else _table(part, title, on_page)


def _word(text: str, state: State) -> str:
    color = _COLORS[state]
    return f'<span class="{state}" style="color:{color}">{_text(text)}</span>' if color else _text(text)


def _figures(part: Figures) -> str:
    rows = []
    for row in part.rows:
        values = [row.before, row.after, row.change]
        cells = "".join(f'<td style="{_RIGHT}">{_text(value)}</td>' for value in values if any(values))
        note = f'<td colspan="{1 if any(values) else 4}" style="{_LEFT}">{_text(row.note)}</td>'
        rows.append(f'<tr><th scope="row" style="{_LEFT}">{_text(row.name)}</th>{cells}{note}</tr>')
    names = ("", "before", "after", "change", "")
    head = "".join(f'<th scope="col" style="{_RIGHT}">{name}</th>' if name else "<td></td>" for name in names)
    return f'<table class="figures"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'


def _table(part: Table, title: str, on_page: bool) -> str:
    """A table with names of columns; in a notebook long ones are cut off, with the number of rows."""
    if not part.rows:
        return ""
    sides = [_RIGHT if column in part.numeric else _LEFT for column in part.columns]
    head = "".join(
        f'<th scope="col" style="{side}">{_text(_heading(name, cell))}</th>' if name else "<td></td>"
        for name, cell, side in zip(part.columns, part.rows[0], sides, strict=True)
    )
    shown = part.rows if on_page else part.rows[:MOST_ROWS]
    lines = []
    for cells in shown:
        pairs = zip(cells, sides, strict=True)
        lines.append("".join(f'<td style="{side}">{_cell(cell)}</td>' for cell, side in pairs))
    body = "".join(f"<tr>{cells}</tr>" for cells in lines)
    rest = len(part.rows) - len(shown)
    more = f"<div>and {rest} more</div>" if rest > 0 else ""
    if not on_page:
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"
    label = _text(f"{title}: {', '.join(part.columns[:3])}".removeprefix(": "))
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{label}"><table class="sortable">'
        f'<caption class="hidden">{label}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def _heading(name: str, first: Cell) -> str:
    is_scored = isinstance(first, Squares) and any(shade is not None for shade in first.shades)
    return f"{name}: the bluer, the higher the score, by rank" if is_scored else name


def _squares(cell: Squares) -> str:
    """A square per unit, bluer for higher scores, crossed if the unit is removed."""
    made = []
    for position, value in enumerate(cell.shades):
        told = f' title="{_text(cell.words[position])}"' if cell.words else ""
        unknown = value is None or position in cell.gone
        shade = "transparent" if unknown else f"rgba(0,114,178,{0.1 + 0.9 * (value or 0.0):.2f})"
        cross = "&times;" if position in cell.gone else "&nbsp;"
        made.append(f'<span style="{_SQUARE};background:{shade}"{told}>{cross}</span>')
    return f'<span style="white-space:nowrap;line-height:1.1em">{"".join(made)}</span>'


def _cell(cell: Cell) -> str:
    if isinstance(cell, Squares):
        return _squares(cell)
    return _word(cell.text, cell.state) if isinstance(cell, Word) else _text(cell)


def _text(text: str) -> str:
    return html.escape(escaped(text), quote=True)
