"""Results as Markdown: answers, figures, tables and remarks."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence

from onnxheadprune.display.facts import Fact, Facts, Figures, Part, State, Table, UnitMap, plain
from onnxheadprune.display.spelling import in_markdown, spelled

SIGNS: dict[State, str] = {"": "", "good": "✅ ", "open": "", "doubtful": "⚠️ ", "bad": "❌ "}


def markdown_of(facts: Facts) -> str:
    """A result as Markdown."""
    return "\n".join([f"## {in_markdown(facts.title)}", "", *markdown_lines(facts), ""])


def markdown_lines(facts: Facts) -> list[str]:
    """A result as lines of Markdown without a heading, to stand below one."""
    answer = f"{SIGNS[facts.state]}{in_markdown(facts.answer)}"
    lines = [answer, ""] if facts.answer else []
    before: Part | None = None
    for part in facts.parts:
        if isinstance(before, Fact) and not isinstance(part, Fact):
            lines.append("")
        lines += _lines(part)
        before = part
    return lines if lines[-1:] != [""] else lines[:-1]


def _lines(part: Part) -> Iterator[str]:
    if isinstance(part, Fact):
        yield f"* **{in_markdown(part.label)}** {SIGNS[part.state]}{in_markdown(part.text)}"
        return
    if isinstance(part, Figures):
        rows = [(row.name, row.before, row.after, row.change, row.note) for row in part.rows]
        yield from markdown_table(
            ("", "before", "after", "change", "measured"), rows, ("before", "after", "change")
        )
    elif isinstance(part, UnitMap):
        removed = [(strip.key, strip.name, spelled(strip.gone) or "-") for strip in part.strips]
        yield from markdown_table(("#", "site", f"removed {part.units}"), removed)
    elif isinstance(part, Table):
        if part.title:
            yield from (f"**{in_markdown(part.title)}**", "")
        yield from markdown_table(
            part.columns, [tuple(map(plain, cells)) for cells in part.rows], part.numeric
        )
    else:
        return
    yield ""


def markdown_table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], numeric: Collection[str] = ()
) -> list[str]:
    """Lines of a table in Markdown; `numeric` columns are aligned to the right."""
    marks = ("---:" if column in numeric else ":---" for column in columns)
    head, *body = (f"| {' | '.join(map(in_markdown, cells))} |" for cells in (columns, *rows))
    return [head, f"| {' | '.join(marks)} |", *body]
