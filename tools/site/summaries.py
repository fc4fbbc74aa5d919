"""Pages of measured tables begin with a summary and a filter; long tables are closed until they are asked for."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from mkdocs.structure.pages import Page

PAGES = ("supported-graphs.md", "supported-exporters.md")
LONG = 40
"""Rows from which a table is closed at first."""
TABLE = re.compile(r"(?:^\|.*\n)+", re.MULTILINE)
WORDS = ("exact", "gather", "no site", "unexpected")
FILTER = (
    '<label class="filter">Filter all tables: '
    '<input type="search" placeholder="llama, whisper, int8 ..."> <output></output></label>'
)


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Put the summary in front, and close long tables."""
    if page.file.src_uri not in PAGES:
        return markdown
    title, _, rest = markdown.partition("\n")
    closed = TABLE.sub(_closed, rest)
    return "\n\n".join([title, *_summary(rest), FILTER, closed])


def _summary(text: str) -> Iterator[str]:
    """The table of all long tables: how many rows, and how their cells end."""
    rows = []
    for part in re.split(r"^(?=## )", text, flags=re.MULTILINE):
        heading = found[1] if (found := re.match(r"## (.*)", part)) else "Attention heads, by exporter"
        cells = [row for table in TABLE.findall(part) for row in _rows(table) if len(_rows(table)) >= LONG]
        if not cells:
            continue
        ends = Counter(_end(cell) for row in cells for cell in row[1:])
        kinds = [kind for kind in (*WORDS, "refused") if ends[kind]]
        shown = ", ".join(f"{ends[kind]} {kind}" for kind in kinds) if ends["exact"] else ""
        rows.append(f"| {heading} | {len(cells)} | {shown} |")
    if len(rows) > 1:
        yield "\n".join(["| part | rows | cells |", "|---|---|---|", *rows])


def _end(cell: str) -> str:
    """What a cell says of a cut; numbers alone are reasons of a refusal."""
    return next(
        (word for word in WORDS if word in cell), "refused" if re.fullmatch(r"[\d,]+", cell) else "other"
    )


def _rows(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in row.strip("| ").split("|")] for row in table.splitlines()[2:]]


def _closed(found: re.Match[str]) -> str:
    count = len(_rows(found[0]))
    if count < LONG:
        return found[0]
    return f'<details class="long" markdown>\n<summary>{count} rows</summary>\n\n{found[0]}\n</details>\n'
