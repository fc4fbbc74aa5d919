"""The page of supported graphs: from rows that are made up, and from those that were measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx.parser
import pytest

from onnxheadprune.attention.sites.find import sites_of
from onnxheadprune.operators import view_of
from tests.zoo.known import KNOWN, reason_for
from tests.zoo.pages import (
    COLUMNS,
    PAGE,
    RESULTS,
    SAMPLE,
    SETS,
    Notes,
    cell,
    column,
    count_cells,
    keep,
    kept,
    part,
    read_parts,
    runs,
    word,
    write,
)
from tests.zoo.row import HEADS, Counts, Outcome, Row, Verdict, general

EXACT = Verdict(Outcome.EXACT, found=2, compared=3, equal=3, torch=3, error=1.2e-7)
GATHER = Verdict(Outcome.GATHERS, found=2, compared=3, equal=3, gathers=("shared",))
SOME = Verdict(Outcome.EXACT, found=2, compared=1, equal=1, refusals=("no residual",))
REFUSED = Verdict(Outcome.REFUSED, found=2, refusals=("no residual",))
NONE = Verdict(Outcome.NO_SITE)
WRONG = Verdict(Outcome.WRONG, found=2, compared=3, equal=2, wrong=("third: off by 1e-1",))
TRUE = Counts((3, 3), (1, 1), (2,), 2)
COUNTED = Row("llama", "ts17", "llamas", true=TRUE, found=TRUE, kinds={"feed-forward": 2, "mlp": 1})
PACKED = Row(
    "packed", "ts17", "packed", True, true=Counts((3, 3)), found=Counts((3, 3)), verdicts={HEADS: EXACT}
)
LESS = replace(PACKED, found=Counts((3, None)), misses=("no projection",))
FAILED = Row("packed", "dyn18", "packed", True, failed="TypeError: no")
BAD = {
    "heads": replace(PACKED, found=Counts((3, 18))),
    "extra": replace(PACKED, extra=("site 0",)),
    "1 attentions without a word": replace(LESS, misses=(), silent=1),
    "WRONG": replace(PACKED, verdicts={HEADS: WRONG}),
}


def row(variant: str = "ts17", case: str = "bert", **verdicts: Verdict) -> Row:
    return Row(case, variant, "encoders", verdicts=verdicts)


@pytest.mark.parametrize(
    ("variant", "expected"),
    [
        *(
            ("ts14", "ts"),
            ("dyn23", "dyn"),
            ("dyn18raw", "raw"),
            ("ts17half", "half"),
            ("dyn23+ort-extended", "ort"),
        ),
        *(
            ("ts17+fp16+ort-extended", "half"),
            ("ts17+slim+int8dyn", "int8"),
            ("ts17+qdq+ort-extended", "qdq"),
        ),
        *(("ts17+functions+slim", "scopes"), ("ts17+extdata", "data"), ("optimum", "export")),
        *(("optimum+O2+fp16", "fused"), ("optimum+optimizer", "opt"), ("genai-fp32-cpu", "export")),
        ("genai-int4-cuda", "nbits"),
    ],
)
def test_columns(variant: str, expected: str) -> None:
    assert column(variant) == expected


def test_the_sample_fills_every_column() -> None:
    assert {column(variant) for variant in SAMPLE} == COLUMNS.keys() - {"export", "opt"}


def test_a_cell_shows_the_worst_of_its_graphs_for_each_kind() -> None:
    notes = Notes()
    assert word([EXACT], notes) == "exact"
    assert word([EXACT, SOME], notes) == "exact 1"
    assert word([EXACT, GATHER], notes) == "gather 2"
    assert word([GATHER, SOME], notes) == "gather 1,2"
    assert word([REFUSED], notes) == "1"
    assert word([NONE], notes) == "none"
    assert word([EXACT, WRONG], notes) == "**WRONG**"
    assert cell([row(neurons=EXACT, layers=REFUSED, heads=EXACT)], notes) == "exact / exact / 1"
    assert (
        cell([row(neurons=SOME, layers=GATHER), row(neurons=EXACT, layers=EXACT)], notes)
        == "exact 1 / gather 2"
    )
    assert cell([LESS], notes) == "exact [3]" and cell([FAILED], notes) == "- 4"
    assert list(notes.lines())[:2] == ["1. refused: no residual", "2. edge gather: shared"]
    assert list(notes.numbers)[2:] == ["near miss: no projection", "no export: TypeError: no"]


def test_counts_beside_those_of_the_module() -> None:
    assert list(count_cells(COUNTED)) == ["3 x2", "1 x2", "2", "2"]
    unknown = replace(COUNTED, true=replace(TRUE, layers=None, blocks=None))
    assert list(count_cells(unknown)) == ["3 x2", "1 x2", "2 ?", "2 ?"]
    missed = replace(COUNTED, found=replace(TRUE, heads=(3, None), kv=(None, None)))
    assert list(count_cells(missed))[:2] == ["3, -", "?, -"] and not missed.problems
    wrong = replace(COUNTED, found=Counts((3, 2), (1, 2), (4,), 3))
    assert wrong.problems.keys() == {"heads", "kv", "layers", "blocks"}
    assert list(count_cells(wrong))[:3] == ["**3, 2 (3 x2)**", "**1, 2 (1 x2)**", "**3 (2)**"]
    assert runs((1, 3, 3, 3, 2)) == "1, 3 x3, 2"


def test_twins_share_a_line_and_columns_without_graphs_are_left_out() -> None:
    rows = [COUNTED, row(heads=EXACT), row(heads=GATHER, case="bert-sdpa"), row("dyn18", "vit", heads=WRONG)]
    text = part("A title", rows, ["Today."])
    assert "| bert |  |  |  |  | gather 1 |  |" in text.replace("| 0 | 0 | 0 ? | 0 ? |", "|  |  |  |  |")
    assert "**WRONG**" in text and "onnxslim" not in text and "* Today." in text
    assert (
        "* heads: 1 exact, 1 exact with edge gathers, 1 WRONG; 8 of 9 cuts are equal, 3 of them to PyTorch."
        in text
    )
    assert "* vit.dyn18: " in text.partition("Not as it must be")[2]


@pytest.mark.parametrize("what", BAD)
def test_what_is_wrong_is_told(what: str) -> None:
    assert what in str(BAD[what].problems)
    assert "packed.ts17" in part("A title", [BAD[what]], []).partition("Not as it must be")[2]


def test_refusals_are_problems_only_where_they_are_not_expected() -> None:
    refused = replace(PACKED, verdicts={HEADS: Verdict(Outcome.REFUSED, refusals=("talking heads",))})
    assert refused.problems and not replace(refused, expect="refused").problems
    assert replace(PACKED, expect="refused").problems
    assert not FAILED.problems


def test_a_part_is_written_where_its_rows_were_measured(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Old page\n\ntext\n<!-- part: families -->\n## Old\n")
    write(page, [PACKED], {})
    parts = read_parts(page.read_text())
    assert parts.keys() == {"", *SETS}
    assert (
        parts[""] == "# Old page\n\ntext\n"
        and parts["families"] == "## Old\n"
        and "packed" in parts["packages"]
    )


def test_rows_survive_their_file(tmp_path: Path) -> None:
    rows = [
        COUNTED,
        LESS,
        FAILED,
        row(neurons=SOME, layers=GATHER),
        replace(COUNTED, found=Counts(layers=(), blocks=0)),
    ]
    keep(tmp_path / "rows.jsonl", {"families": ["Today."]}, rows)
    assert kept(tmp_path / "rows.jsonl") == ({"families": ["Today."]}, rows)


def test_the_page_is_what_was_measured(tmp_path: Path) -> None:
    measured, rows = kept(RESULTS)
    page = tmp_path / "page.md"
    page.write_text(PAGE.read_text())
    write(page, rows, measured)
    assert page.read_text() == PAGE.read_text()


def test_what_is_not_as_it_must_be_is_named() -> None:
    _, rows = kept(RESULTS)
    assert not [str(item) for item in rows if item.problems and reason_for(item) is None]
    assert {reason_for(item) for item in rows if item.problems} == set(KNOWN.values())


def test_reasons_lose_the_names_of_the_graph() -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[2] x) => (float[2] y)'
        " { _layer_hidden = Relu(x)  y = Neg(_layer_hidden) }"
    )
    model.graph.node[0].name = "model"
    view = view_of(model)
    sentences = [
        "_layer_hidden is shared with consumers that need more of it",
        "all heads cannot go: y is a model output",
        "attn.3 (encoder.layer) cannot lose heads: Neg mixes heads (at _layer_neg (Neg))",
    ]
    assert general(sentences, view, sites_of(view, "g")) == (
        "a value is shared with consumers that need more of it",
        "all heads cannot go: a value is a model output",
        "the site cannot lose heads: Neg mixes heads",
    )
