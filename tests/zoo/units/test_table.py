"""The part on neurons and layers: from rows that are made up, and from those that were measured."""

from __future__ import annotations

from pathlib import Path

from tests.zoo.kept import keep, kept
from tests.zoo.parts import read_parts
from tests.zoo.row import Outcome
from tests.zoo.table import Footnotes
from tests.zoo.units.cuts import LAYERS, NEURONS
from tests.zoo.units.row import UnitRow, Verdict
from tests.zoo.units.table import PART, ROWS, cell, part

PAGE = Path(__file__).parents[3] / "docs" / "supported-graphs.md"
EXACT = Verdict(Outcome.EXACT, found=2, cuts=3, torch=3, error=1.234567e-7)
GATHER = Verdict(Outcome.GATHERS, found=2, cuts=3, gathers=("shared",))
SOME = Verdict(Outcome.EXACT, found=2, cuts=1, refusals=("mixes neurons",))
REFUSED = Verdict(Outcome.REFUSED, found=2, refusals=("mixes neurons",))
NONE = Verdict(Outcome.NO_SITE)
WRONG = Verdict(Outcome.WRONG, found=2, detail="third: off by 1e-1")


def row(neurons: Verdict, layers: Verdict, variant: str = "ts17", case: str = "bert") -> UnitRow:
    return UnitRow(case, variant, "encoders", {NEURONS: neurons, LAYERS: layers})


def test_cells() -> None:
    notes = Footnotes()
    assert cell([], notes) == ""
    assert cell([row(EXACT, EXACT)], notes) == "exact"
    assert cell([row(NONE, NONE)], notes) == "none"
    assert cell([row(EXACT, REFUSED)], notes) == "exact / 1"
    assert cell([row(SOME, GATHER), row(EXACT, EXACT)], notes) == "exact 1 / gather 2"
    assert cell([row(EXACT, WRONG)], notes) == "exact / **WRONG**"


def test_what_is_wrong_is_told_and_counted() -> None:
    text = part([row(EXACT, WRONG), row(EXACT, EXACT, "dyn18"), row(NONE, NONE, case="mha")], "Today.")
    assert "| bert | exact / **WRONG** | exact |" in text
    assert "* bert.ts17, layers: WRONG: third: off by 1e-1" in text
    assert "3 graphs of 2 architectures." in text
    assert "Neurons: 2 exact, 1 with none; 6 cuts are equal, 6 of them to PyTorch." in text


def test_rows_survive_their_file(tmp_path: Path) -> None:
    rows = [row(SOME, GATHER), row(WRONG, NONE)]
    keep(tmp_path / "rows.jsonl", "Today.", rows)
    assert kept(tmp_path / "rows.jsonl", UnitRow.from_json) == ("Today.", rows)


def test_the_page_is_what_was_measured_and_nothing_is_wrong() -> None:
    header, rows = kept(ROWS, UnitRow.from_json)
    assert not [str(found) for found in rows if found.failures]
    assert read_parts(PAGE.read_text())[PART].strip() == part(rows, header).strip()
