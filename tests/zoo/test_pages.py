"""The pages of supported graphs, and the rows that they are written from."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.zoo.pages import COLUMNS, DOCS, PAGES, RESULTS, column, count_cells, kept, part, written
from tests.zoo.row import HEADS, KNOWN, Counts, Outcome, Row, Verdict

EXACT = Verdict(Outcome.EXACT, found=2, compared=3, equal=3, torch=3)
SOUND = Row(
    *("packed", "ts17", "packed", True),
    true=Counts((3, 3), (1, 1), (2,), 2),
    found=Counts((3, 3), (1, 1), (2,), 2),
    verdicts={HEADS: EXACT},
)
REFUSED = {HEADS: Verdict(Outcome.REFUSED, refusals=("talking heads",))}


@pytest.mark.parametrize("page", PAGES)
def test_the_page_is_what_was_measured(page: str) -> None:
    assert written(page, *kept(RESULTS)) == (DOCS / page).read_text()


def test_rows_survive_their_file() -> None:
    lines = RESULTS.read_text().splitlines()[1:]
    assert [Row.from_json(line).to_json() for line in lines] == lines


def test_what_is_not_as_it_must_be_is_named() -> None:
    _, rows = kept(RESULTS)
    assert {row.reason for row in rows if row.problems} == set(KNOWN.values())


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"found": Counts((3, 18), (1, 1), (2,), 2)}, "**3, 18 (3 x2)**"),
        ({"found": Counts((3, 3), (1, 2), (2,), 2)}, "**1, 2 (1 x2)**"),
        ({"found": Counts((3, 3), (1, 1), (4,), 3)}, "**3 (2)** | **4 (2)**"),
        ({"found": Counts((3, None), (1, None), (2,), 2), "silent": 1}, "1 attentions without a word"),
        ({"extra": ("site 0",)}, "site 0: no attention of the module"),
        ({"verdicts": {HEADS: replace(EXACT, outcome=Outcome.WRONG, wrong=("off by 1",))}}, "**WRONG**"),
        ({"verdicts": REFUSED}, "2 sites, 0 cuts"),
        ({"expect": "refused"}, "2 sites, 3 cuts"),
    ],
)
def test_what_is_wrong_is_told(changes: dict[str, object], told: str) -> None:
    row = replace(SOUND, **changes)  # type: ignore[arg-type]
    text = part("A title", [row], [])
    assert row.problems and told in text
    assert "* packed.ts17: " in text.partition("Not as it must be")[2]


@pytest.mark.parametrize(
    "changes", [{}, {"failed": "TypeError: no", "verdicts": {}}, {"verdicts": REFUSED, "expect": "refused"}]
)
def test_what_is_not_wrong_is_not_told(changes: dict[str, object]) -> None:
    assert not replace(SOUND, **changes).problems  # type: ignore[arg-type]


def test_what_the_module_does_not_say_is_marked() -> None:
    row = replace(SOUND, true=Counts((3, 3), (1, 1)), found=Counts((3, None), (None, None), (2,), 2))
    assert list(count_cells(row)) == ["3, -", "?, -", "2 ?", "2 ?"] and "kv" not in row.problems


def test_of_several_steps_the_last_column_counts() -> None:
    variants = "optimum+optimizer ts14 dyn23 dyn18raw dyn23+ort-extended ts17+ort-fused ts17+slim ts17+sim"
    more = (
        "ts17+fp16+ort-extended ts17+slim+int8dyn ts17+qdq genai-int4-cuda ts17+functions+slim ts17+extdata"
    )
    wanted = "opt ts dyn raw ort fused slim sim half int8 qdq nbits scopes data export".split()
    assert [column(variant) for variant in f"{variants} {more} optimum".split()] == wanted
    assert set(wanted) == COLUMNS.keys()
