"""The README's pictures: they show the figures beside them, and are read on white and on a dark page."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

from benchmarks.readme_picture import ACCURACY, GOES, INK, MODEL, PICTURE, SPEED, STAYS, draw
from onnxheadprune import inspect
from tests.conftest import ROOT
from tests.pictures import contrast, faults, texts

FIGURES: dict[str, Any] = json.loads(PICTURE.with_suffix(".json").read_text(encoding="utf-8"))
QUALITY, SPEEDS = PICTURE.with_name("quality.svg"), PICTURE.with_name("speed.svg")
DARK = "#0d1117"
"""The darkest page of a code host."""


@pytest.mark.slow
def test_it_shows_the_figures() -> None:
    figure = draw(FIGURES)
    assert faults(figure) == []
    heads, accuracy, speed = figure.axes
    shown, rows = FIGURES["rows"][FIGURES["shown"]], FIGURES["rows"]
    assert len(heads.get_lines()) == shown["heads_removed"] == sum(map(len, shown["heads"].values()))
    assert len(heads.patches) == FIGURES["heads"] == sum(site.num_heads for site in inspect(MODEL))
    assert accuracy.get_lines()[0].get_ydata().tolist() == [row["accuracy"] for row in rows]
    assert speed.get_lines()[0].get_ydata().tolist() == [row["times_as_fast"] for row in rows]
    assert f"{shown['heads_removed']} of {FIGURES['heads']} heads removed" in [
        text for text, _, _ in texts(figure)
    ]


@pytest.mark.parametrize("page", ["#ffffff", DARK])
def test_it_is_read_on_every_page(page: str) -> None:
    assert contrast(INK, page) >= 4, "text"
    assert all(contrast(colour, page) >= 3 for colour in (STAYS, ACCURACY, SPEED))
    assert contrast(GOES, page) >= 2.4, "hollow squares of heads that are gone may be fainter"


@pytest.fixture
def quality(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The names in `benchmarks/quality_picture.py`, which imports other scripts of its folder."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return runpy.run_path(str(ROOT / "benchmarks" / "quality_picture.py"))


@pytest.mark.slow
def test_the_plot_of_quality_shows_the_document(quality: dict[str, Any]) -> None:
    calls = list(quality["calls"]())
    assert faults(quality["draw"](calls)) == []
    assert {call.sentences for call in calls} == {512, quality["LARGE"]}
    assert f"<dc:description>{quality['described'](calls)}</dc:description>" in QUALITY.read_text(
        encoding="utf-8"
    )


@pytest.mark.slow
def test_the_plot_of_speed_shows_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    names = runpy.run_path(str(ROOT / "benchmarks" / "speed_picture.py"))
    figures = json.loads(SPEEDS.with_suffix(".json").read_text(encoding="utf-8"))
    assert faults(names["draw"](figures)) == []
    assert names["described"](figures) in SPEEDS.read_text(encoding="utf-8")
    table = (ROOT / "README.md").read_text(encoding="utf-8").split("| at 8 x 128 |")[1].split("\n\n")[0]
    shown = [[float(cell.split()[0]) for cell in row.split("|")[2:6]] for row in table.splitlines()[2:]]
    assert shown == [
        [
            round(row["bytes"] / 1e6, 1),
            round(row["overlap"], 3),
            *(round(times[1], 2) for times in row["times_as_fast"].values()),
        ]
        for row in figures["rows"]
    ]


@pytest.mark.parametrize("picture", [PICTURE, QUALITY, SPEEDS])
def test_it_loads_nothing_and_stays_small(picture: Path) -> None:
    content = picture.read_text(encoding="utf-8")
    assert "<image" not in content and 'href="http' not in content and len(content) < 150_000
    assert "<title>" in content or "<dc:title>" in content
