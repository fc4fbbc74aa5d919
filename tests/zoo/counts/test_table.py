"""The part on counts: from rows that are made up, and from those that were measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tests.zoo.counts.known import KNOWN
from tests.zoo.counts.row import CountRow, Counts
from tests.zoo.counts.table import PART, ROWS, cells, part
from tests.zoo.kept import keep, kept
from tests.zoo.parts import read_parts

PAGE = Path(__file__).parents[3] / "docs" / "supported-graphs.md"
TRUE = Counts((4, 4), (2, 2), (2,), 2)
GOOD = CountRow("llama", "ts17", "llamas", TRUE, TRUE, {"feed-forward": 2, "mlp": 1})


def test_cells() -> None:
    assert list(cells(GOOD)) == ["4 x2", "2 x2", "2", "1 mlp", "2"]
    unknown = replace(GOOD, true=replace(TRUE, layers=None, blocks=None))
    assert list(cells(unknown)) == ["4 x2", "2 x2", "2 ?", "1 mlp", "2 ?"]
    missed = replace(GOOD, found=replace(TRUE, heads=(4, None), kv=(None, None)))
    assert list(cells(missed))[:2] == ["4, -", "?, -"] and missed.wrong == ()


def test_each_wrong_count_is_shown() -> None:
    wrong = replace(GOOD, found=Counts((4, 2), (2, 1), (4,), 3))
    assert wrong.wrong == ("heads", "kv", "layers", "blocks")
    assert list(cells(wrong))[:3] == ["**4, 2 (4 x2)**", "**2, 1 (2 x2)**", "**3 (2)**"]


def test_rows_survive_their_file(tmp_path: Path) -> None:
    keep(tmp_path / "rows.jsonl", "Today.", [GOOD])
    assert kept(tmp_path / "rows.jsonl", CountRow.from_json) == ("Today.", [GOOD])


def test_the_page_is_what_was_measured_and_what_differs_is_named() -> None:
    header, rows = kept(ROWS, CountRow.from_json)
    assert read_parts(PAGE.read_text())[PART].strip() == part(rows, header).strip()
    assert {row.case for row in rows if row.wrong or row.error} <= KNOWN.keys()
