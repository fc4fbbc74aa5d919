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
    PARTS,
    RESULTS,
    SAMPLE,
    Notes,
    column,
    count_cells,
    counts,
    keep,
    kept,
    read_parts,
    runs,
    unit_cell,
    units,
    wild,
    wild_cell,
    word,
    write,
    zoo,
)
from tests.zoo.row import HEADS, LAYERS, NEURONS, Counts, Outcome, Row, Verdict, general

EXACT = Verdict(Outcome.EXACT, found=2, compared=3, equal=3, torch=3, error=1.2e-7)
GATHER = Verdict(Outcome.GATHERS, found=2, compared=3, equal=3, gathers=("shared",))
SOME = Verdict(Outcome.EXACT, found=2, compared=1, equal=1, refusals=("no residual",))
REFUSED = Verdict(Outcome.REFUSED, found=2, refusals=("no residual",))
NONE = Verdict(Outcome.NO_SITE)
WRONG = Verdict(Outcome.WRONG, found=2, wrong=("third: off by 1e-1",))
TRUE = Counts((3, 3), (1, 1), (2,), 2)
COUNTED = Row("llama", "ts17", "llamas", true=TRUE, found=TRUE, kinds={"feed-forward": 2, "mlp": 1})
FIVE = Verdict(Outcome.EXACT, found=2, compared=5, equal=5)
PACKED = Row(
    "packed", "ts17", "packed", True, true=Counts((3, 3)), found=Counts((3, 3)), verdicts={HEADS: FIVE}
)
LESS = replace(PACKED, found=Counts((3, None)), misses=("no projection",))
FAILED = Row("packed", "dyn18", "packed", True, failed="TypeError: no")
FOUR = Verdict(Outcome.WRONG, found=2, compared=5, equal=4, wrong=("half: off by 1e-1",))
BOLD = {
    "heads 3, 18": replace(PACKED, found=Counts((3, 18))),
    "1 no attention": replace(PACKED, extra=("site 0",)),
    "1 without a word": replace(LESS, misses=(), silent=1),
    "4 of 5 cuts": replace(PACKED, verdicts={HEADS: FOUR}),
}


def row(heads: Verdict, variant: str = "ts17", case: str = "bert") -> Row:
    return Row(case, variant, "encoders", verdicts={HEADS: heads})


def unit_row(neurons: Verdict, layers: Verdict, variant: str = "ts17", case: str = "bert") -> Row:
    return Row(case, variant, "encoders", verdicts={NEURONS: neurons, LAYERS: layers})


@pytest.mark.parametrize(
    ("variant", "expected"),
    [
        ("ts14", "ts"),
        ("dyn23", "dyn"),
        ("dyn18raw", "raw"),
        ("ts17half", "half"),
        ("dyn23+ort-extended", "ort"),
        ("ts17+fp16+ort-extended", "half"),
        ("ts17+slim+int8dyn", "int8"),
        ("ts17+qdq+ort-extended", "qdq"),
        ("ts17+functions+slim", "scopes"),
        ("ts17+extdata", "data"),
        ("optimum", "export"),
        ("optimum+O2+fp16", "fused"),
        ("optimum+optimizer", "opt"),
        ("genai-fp32-cpu", "export"),
        ("genai-int4-cuda", "nbits"),
    ],
)
def test_columns(variant: str, expected: str) -> None:
    assert column(variant) == expected


def test_the_sample_fills_every_column() -> None:
    assert {column(variant) for variant in SAMPLE} == COLUMNS.keys() - {"export", "opt"}


def test_a_cell_shows_the_worst_of_its_graphs() -> None:
    notes = Notes()
    assert word([EXACT], notes, "no site") == "exact"
    assert word([EXACT, SOME], notes, "no site") == "exact 1"
    assert word([EXACT, GATHER], notes, "no site") == "gather 2"
    assert word([GATHER, SOME], notes, "no site") == "gather 1,2"
    assert word([REFUSED], notes, "no site") == "1"
    assert word([NONE], notes, "no site") == "no site"
    assert word([EXACT, WRONG], notes, "no site") == "**WRONG**"
    assert list(notes.lines()) == ["1. refused: no residual", "2. edge gather: shared"]


def test_twins_share_a_line_and_counts_are_right() -> None:
    rows = [row(EXACT), row(GATHER, case="bert-sdpa"), row(WRONG, "dyn18", "vit")]
    text = zoo(rows, ["Today."])
    assert [line.split("|")[1:4] for line in text.splitlines() if line.startswith(("| bert", "| vit"))] == [
        [" bert ", " gather 1 ", " - "],
        [" vit ", " - ", " **WRONG** "],
    ]
    assert "onnxslim" not in text
    assert "3 graphs of 2 architectures: 1 exact, 1 exact with edge gathers, 1 WRONG" in text
    assert "* vit: WRONG as dyn18: third: off by 1e-1" in text


def test_neurons_and_layers() -> None:
    notes = Notes()
    assert unit_cell([], notes) == ""
    assert unit_cell([unit_row(EXACT, EXACT)], notes) == "exact"
    assert unit_cell([unit_row(NONE, NONE)], notes) == "none"
    assert unit_cell([unit_row(EXACT, REFUSED)], notes) == "exact / 1"
    assert unit_cell([unit_row(SOME, GATHER), unit_row(EXACT, EXACT)], notes) == "exact 1 / gather 2"
    rows = [unit_row(EXACT, WRONG), unit_row(EXACT, EXACT, "dyn18"), unit_row(NONE, NONE, case="mha")]
    text = units(rows, ["Today."])
    assert "| bert | exact / **WRONG** | exact |" in text
    assert "* bert.ts17, layers: WRONG: third: off by 1e-1" in text
    assert "3 graphs of 2 architectures." in text
    assert "Neurons: 2 exact, 1 with none; 6 cuts are equal, 6 of them to PyTorch." in text


def test_counts() -> None:
    assert list(count_cells(COUNTED)) == ["3 x2", "1 x2", "2", "1 mlp", "2"]
    unknown = replace(COUNTED, true=replace(TRUE, layers=None, blocks=None))
    assert list(count_cells(unknown)) == ["3 x2", "1 x2", "2 ?", "1 mlp", "2 ?"]
    missed = replace(COUNTED, found=replace(TRUE, heads=(3, None), kv=(None, None)))
    assert list(count_cells(missed))[:2] == ["3, -", "?, -"] and not missed.problems
    wrong = replace(COUNTED, found=Counts((3, 2), (1, 2), (4,), 3))
    assert wrong.problems.keys() == {"heads", "kv", "layers", "blocks"}
    assert list(count_cells(wrong))[:3] == ["**3, 2 (3 x2)**", "**1, 2 (1 x2)**", "**3 (2)**"]
    assert runs((1, 3, 3, 3, 2)) == "1, 3 x3, 2"
    assert "| llama.ts17 |" in counts([COUNTED, replace(COUNTED, variant="dyn18")], ["Today."])


def test_packages() -> None:
    notes = Notes()
    assert wild_cell(None, notes) == ""
    assert wild_cell(PACKED, notes) == "2, 5 cuts"
    assert wild_cell(LESS, notes) == "1 of 2, 5 cuts [1]"
    assert wild_cell(FAILED, notes) == "- [2]"
    broken = replace(PACKED, verdicts={HEADS: Verdict(Outcome.ERROR, wrong=("ValueError: boom (x.py:1)",))})
    assert wild_cell(broken, notes) == "**ValueError** [3]" and broken.problems
    assert list(notes.numbers)[:2] == ["near miss: no projection", "no export: TypeError: no"]


@pytest.mark.parametrize("words", BOLD)
def test_what_is_wrong_is_bold_and_told(words: str) -> None:
    assert f"**{words}**" in wild_cell(BOLD[words], Notes())
    assert BOLD[words].problems
    assert "* packed.ts17: " in wild([BOLD[words]], ["Today."]).partition("### Not as it must be")[2]


def test_refusals_of_packages_are_problems_only_where_they_are_not_expected() -> None:
    refused = replace(PACKED, verdicts={HEADS: Verdict(Outcome.REFUSED, refusals=("talking heads",))})
    assert refused.problems and not replace(refused, expect="refused").problems
    assert replace(PACKED, expect="refused").problems
    assert not FAILED.problems


def test_a_part_is_written_where_its_rows_were_measured(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Old page\n\ntext\n")
    write(page, [PACKED, unit_row(EXACT, EXACT)], {})
    parts = read_parts(page.read_text())
    assert parts.keys() == {"zoo", "wild", "units"}
    assert parts["zoo"] == "# Old page\n\ntext\n" and parts["wild"].strip() == wild([PACKED], ()).strip()


def test_rows_survive_their_file(tmp_path: Path) -> None:
    rows = [
        COUNTED,
        LESS,
        FAILED,
        unit_row(SOME, GATHER),
        row(WRONG),
        replace(COUNTED, found=Counts(layers=(), blocks=0)),
    ]
    keep(tmp_path / "rows.jsonl", {"zoo": ["Today."]}, rows)
    assert kept(tmp_path / "rows.jsonl") == (
        {"zoo": ["Today."]},
        [Row.from_json(item.to_json()) for item in rows],
    )
    assert kept(tmp_path / "rows.jsonl")[1] == rows


def test_the_page_is_what_was_measured() -> None:
    measured, rows = kept(RESULTS)
    shown = read_parts(PAGE.read_text())
    for name, part in PARTS.items():
        said = part(rows, measured.get(name, ()))
        assert said.strip() in ("", shown[name].strip())


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
