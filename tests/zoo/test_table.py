"""The page of supported graphs, from rows that are made up."""

from __future__ import annotations

from pathlib import Path

import onnx.parser
import pytest

from onnxheadprune.attention.sites.find import sites_of
from onnxheadprune.operators import view_of
from tests.zoo.columns import COLUMNS, SAMPLE, column
from tests.zoo.row import Outcome, Row, general
from tests.zoo.table import Footnotes, cell, chosen, page


def row(
    variant: str,
    outcome: Outcome,
    case: str = "bert",
    *,
    gathers: tuple[str, ...] = (),
    refusals: tuple[str, ...] = (),
) -> Row:
    return Row(case, variant, "encoders", outcome, gathers, refusals)


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
    assert {column(variant) for variant in SAMPLE} == set(COLUMNS)


def test_a_cell_shows_the_worst_of_its_graphs() -> None:
    notes = Footnotes()
    exact = row("ts14", Outcome.EXACT)
    whole = row("ts14", Outcome.EXACT, refusals=("no residual",))
    gathers = row("ts17", Outcome.GATHERS, gathers=("shared",))
    assert cell([], notes) == "-"
    assert cell([exact], notes) == "exact"
    assert cell([exact, whole], notes) == "exact 1"
    assert cell([exact, gathers], notes) == "gather 2"
    assert cell([gathers, whole], notes) == "gather 1,2"
    assert cell([row("ts17", Outcome.REFUSED, refusals=("no residual",))], notes) == "1"
    assert cell([row("ts17", Outcome.NO_SITE, refusals=("no residual",))], notes) == "no site"
    assert cell([exact, row("ts17", Outcome.WRONG)], notes) == "**WRONG**"
    assert str(notes) == "1. refused: no residual\n2. edge gather: shared"


def test_twins_share_a_line_and_counts_are_right() -> None:
    rows = [
        row("ts17", Outcome.EXACT),
        row("ts17", Outcome.GATHERS, "bert-sdpa", gathers=("shared",)),
        row("dyn18", Outcome.WRONG, "vit"),
    ]
    text = page(rows, built=10, header=["Today."])
    assert [line.split("|")[1:4] for line in text.splitlines() if line.startswith(("| bert", "| vit"))] == [
        [" bert ", " gather 1 ", " - "],
        [" vit ", " - ", " **WRONG** "],
    ]
    assert "onnxslim" not in text
    assert "3 of 10 graphs of 2 architectures: 1 exact, 1 exact with edge gathers, 1 WRONG" in text
    assert "* vit: WRONG as dyn18:" in text


def test_of_twins_only_plain_exports_are_sampled(tmp_path: Path) -> None:
    names = ["bert.ts17", "bert.ts17+slim", "bert-sdpa.ts17", "bert-sdpa.ts17+slim", "bert.ts99"]
    for name in names:
        (tmp_path / name).mkdir()
    found = [path.name for path in chosen(tmp_path, ["ts17", "ts17+slim"])]
    assert found == ["bert-sdpa.ts17", "bert.ts17", "bert.ts17+slim"]


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
