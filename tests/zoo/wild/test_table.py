"""The wild part of the page: from rows that are made up, and from those that were measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.zoo.kept import kept
from tests.zoo.parts import read_parts, write_part
from tests.zoo.wild.known import KNOWN, reason_for
from tests.zoo.wild.row import WildRow
from tests.zoo.wild.table import ROWS, _Notes, cell, heads, part

PAGE = Path(__file__).parents[3] / "docs" / "supported-graphs.md"
GOOD = WildRow(
    "packed-vit", "packed", "ts17", true=(3, 3), found=2, heads=(3, 3), compared=5, equal=5, error=1e-7
)
LESS = replace(GOOD, found=1, heads=(3, None), misses=("no projection",))
FAILED = WildRow("packed-vit", "packed", "dyn18", failed="TypeError: no")
WRONG = {
    "heads 3, 18": replace(GOOD, heads=(3, 18)),
    "1 no attention": replace(GOOD, extra=1, detail="site 0 is no attention of the module"),
    "1 without a word": replace(LESS, misses=(), silent=1),
    "4 of 5 cuts": replace(GOOD, equal=4, detail="half: off by 1e-1"),
}


def test_cells() -> None:
    notes = _Notes()
    assert cell(None, notes) == ""
    assert cell(GOOD, notes) == "2, 5 cuts"
    assert cell(LESS, notes) == "1 of 2, 5 cuts [1]"
    assert cell(FAILED, notes) == "- [2]"
    assert list(notes.numbers) == ["near miss: no projection", "no export: TypeError: no"]


@pytest.mark.parametrize("words", WRONG)
def test_what_is_wrong_is_bold_and_counted(words: str) -> None:
    row = WRONG[words]
    assert f"**{words}**" in cell(row, _Notes())
    assert row.is_wrong and row.is_short
    assert f"* {row.name}: " in part([row], "Today.").partition("### Not as it must be")[2]


def test_a_traceback_is_wrong() -> None:
    row = WildRow("packed-vit", "packed", "ts17", detail="ValueError: boom (x.py:1)")
    assert row.is_short
    assert cell(row, _Notes()) == "**ValueError** [1]"


def test_refusals_are_short_only_where_they_are_not_expected() -> None:
    refused = replace(GOOD, compared=0, equal=0, refusals=("talking heads",))
    assert refused.is_short
    assert not replace(refused, expect="refused").is_short
    assert replace(GOOD, expect="refused").is_short
    assert not FAILED.is_short


def test_heads_are_shortened() -> None:
    assert heads((1, 3, 3, 3, 2)) == "1, 3 x3, 2"


def test_a_row_survives_its_line() -> None:
    assert WildRow.from_json(LESS.to_json()) == LESS


def test_one_part_of_a_page_is_replaced(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Old page\n\ntext\n")
    write_part(page, "wild", "## Wild\n")
    write_part(page, "wild", "## Wild again\n")
    assert page.read_text() == "# Old page\n\ntext\n\n<!-- part: wild -->\n## Wild again\n"
    write_part(page, "zoo", "# New page\n")
    assert read_parts(page.read_text()) == {"zoo": "# New page\n", "wild": "## Wild again\n"}


def test_the_page_is_what_was_measured() -> None:
    header, rows = kept(ROWS, WildRow.from_json)
    assert read_parts(PAGE.read_text())["wild"] == part(rows, header)


def test_nothing_measured_is_wrong_without_being_named() -> None:
    _, rows = kept(ROWS, WildRow.from_json)
    assert not [row.name for row in rows if row.is_short and reason_for(row) is None]
    assert not [row.name for row in rows if row.equal < row.compared]


def test_every_known_gap_is_one() -> None:
    _, rows = kept(ROWS, WildRow.from_json)
    named = {reason_for(row) for row in rows if row.is_short}
    assert set(KNOWN.values()) <= named
