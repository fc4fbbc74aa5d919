"""Display of results: a `repr` of one line, and short HTML for notebooks, in the colours of the notebook's theme.

Text is escaped here, so a name from a model is never markup.
"""

from __future__ import annotations

import html
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, fields
from enum import Enum
from typing import Any, TypeVar

from onnxheadprune.model.spelling import escaped

MOST = 200
"""Characters of a line."""
MOST_OF_ONE = 60
"""Characters of one field."""

_KINDS: set[type[Any]] = set()
Kind = TypeVar("Kind", bound=type[Any])


def one_line(shown: str = "") -> Callable[[Kind], Kind]:
    """Give a dataclass a `repr` of one line.

    Args:
        shown: names of fields separated by spaces, the important ones first; all fields if not given.
    """

    def decorate(kind: Kind) -> Kind:
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
PLAIN, GOOD, BAD, DOUBTFUL = "", "#17834f", "#c8402f", "#9a6a00"
"""Colours of words; they are read on white as well as on black."""
_SQUARE = "display:inline-block;width:1.1em;margin:1px;text-align:center;border:1px solid #8888"
_LEFT, _RIGHT = "text-align:left", "text-align:right"


@dataclass(frozen=True)
class Html:
    """Trusted markup, as opposed to text to escape."""

    text: str


Part = str | Html


def card(title: str, *parts: Html | None) -> str:
    """A result as HTML.

    Args:
        title: one line.
        parts: the content; None is left out.
    """
    body = "".join(part.text for part in parts if part is not None)
    return f'<div style="margin:0.3em 0"><div><b>{_text(title)}</b></div>{body}</div>'


def line(label: str, text: str, colour: str = PLAIN) -> Html:
    """A labelled sentence."""
    return Html(f"<div><b>{_text(label)}</b> {word(text, colour).text}</div>")


def word(text: str, colour: str = PLAIN) -> Html:
    """Text in a colour."""
    return Html(f'<span style="color:{colour}">{_text(text)}</span>' if colour else _text(text))


def table(columns: Sequence[str], rows: Iterable[Sequence[Part]], numeric: Collection[str] = ()) -> Html:
    """A table with column names; long ones are truncated, with the number of rows."""
    every = list(rows)
    if not every:
        return Html("")
    sides = [_RIGHT if column in numeric else _LEFT for column in columns]
    head = "".join(
        f'<th style="{side}">{_text(name)}</th>' if name else "<td></td>"
        for name, side in zip(columns, sides, strict=True)
    )
    lines = []
    for cells in every[:MOST_ROWS]:
        pairs = zip(cells, sides, strict=True)
        lines.append("".join(f'<td style="{side}">{_cell(cell)}</td>' for cell, side in pairs))
    body = "".join(f"<tr>{cells}</tr>" for cells in lines)
    rest = len(every) - MOST_ROWS
    more = f"<div>and {rest} more</div>" if rest > 0 else ""
    return Html(f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}")


def squares(values: Sequence[float | None], gone: Collection[int] = (), words: Sequence[str] = ()) -> Html:
    """A square per head, bluer for higher scores, crossed if the head is removed.

    Args:
        values: from 0 to 1; None where unknown.
        gone: positions of removed heads.
        words: tooltips, one per square.
    """
    made = []
    for position, value in enumerate(values):
        told = f' title="{_text(words[position])}"' if words else ""
        shade = (
            "transparent" if value is None or position in gone else f"rgba(0,114,178,{0.1 + 0.9 * value:.2f})"
        )
        cross = "&times;" if position in gone else "&nbsp;"
        made.append(f'<span style="{_SQUARE};background:{shade}"{told}>{cross}</span>')
    return Html(f'<span style="white-space:nowrap;line-height:1.1em">{"".join(made)}</span>')


def _cell(cell: Part) -> str:
    return cell.text if isinstance(cell, Html) else _text(cell)


def _text(text: str) -> str:
    return html.escape(escaped(text), quote=True)
