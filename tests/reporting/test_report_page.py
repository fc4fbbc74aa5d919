"""`--report` and `report`: what a page says of results, and what it refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from onnxheadprune.model.spelling import short_names
from onnxheadprune.reporting.page import Documents, page_of
from onnxheadprune.reporting.page.charts import curve_chart, scale_of_times, scale_over
from tests.conftest import ROOT, SAMPLES, Command
from tests.reporting.html_reader import Read
from tests.reporting.made_documents import benchmark_document, curve_document, cut_document
from tests.reporting.made_results import curve_result

DIGITS = SAMPLES / "digits_vit.onnx"


def page(*documents: Any) -> str:
    found = Documents()
    for document in documents:
        found.add(document, "the result")
    return page_of(found)


def words(text: str) -> str:
    return " ".join(text.split())


@pytest.fixture(scope="module")
def cut() -> dict[str, Any]:
    return cut_document()


@pytest.mark.slow
def test_a_cut_on_data_is_told_in_full(command: Command, tmp_path: Path) -> None:
    out, made = tmp_path / "out.onnx", tmp_path / "report.html"
    data = SAMPLES / "digits_calibration.npz"
    result = command(
        "prune", DIGITS, "-o", out, "--ratio", "0.25", "--data", data, "--report", made, "--json"
    )
    assert result.exit_code == 0
    read, document = Read(made.read_text(encoding="utf-8")), result.document
    text = words(read.text)
    for question in (
        "Is it exact?",
        "What was removed",
        "did it cost",
        "that measured",
        "repeat it",
    ):
        assert question in text
    assert "8 of 32 attention heads of digits_vit.onnx removed" in text
    assert "yes it computes what the original computes with the removed heads silenced" in text
    assert document["headline"]["result"]["answer"] == "no limits given"
    assert "hold other numbers than in the original" in text
    assert read.cells("gone") == 8 and read.cells("stays") + read.cells("must-stay") == 24
    assert "9.52 M" in text
    assert document["run"]["command"] in read.text and "--ratio 0.25" in document["run"]["command"]
    assert document["operations"]["after"] < document["operations"]["before"]


@pytest.mark.slow
def test_the_command_that_a_page_names_makes_the_same_file(command: Command, tmp_path: Path) -> None:
    out = tmp_path / "a name.onnx"
    first = command("prune", DIGITS, "-o", out, "--heads", "0:1 2:3", "--json").document
    import shlex

    content = out.read_bytes()
    out.unlink()
    assert command(*shlex.split(first["run"]["command"])[1:]).exit_code == 0
    assert out.read_bytes() == content


@pytest.mark.slow
def test_named_heads_and_plans_have_pages_too(command: Command, tmp_path: Path) -> None:
    named, planned = tmp_path / "named.html", tmp_path / "planned.html"
    options = ("--heads", "0:1", "-o", tmp_path / "out.onnx", "--report")
    assert command("prune", DIGITS, *options, named).exit_code == 0
    read = Read(named.read_text(encoding="utf-8"))
    assert read.cells("gone") == 1 and read.cells("s0") == 0
    assert "removed: named" in read.text and read.text.count("kept: not named") >= 31
    (tmp_path / "out.onnx").unlink()
    assert command("prune", DIGITS, "--dry-run", *options, planned).exit_code == 0
    text = words(Read(planned.read_text(encoding="utf-8")).text)
    assert "a look ahead; nothing was written" in text and "nothing was compared" in text
    assert not (tmp_path / "out.onnx").exists()


def test_saved_results_make_one_page(command: Command, tmp_path: Path, cut: Any) -> None:
    results = {"cut": cut, "bench": benchmark_document(), "curve": curve_document()}
    paths = []
    for name, document in results.items():
        paths.append(tmp_path / f"{name}.json")
        paths[-1].write_text(json.dumps(document), encoding="utf-8")
    made = tmp_path / "all.html"
    told = command("report", *paths, "-o", made, "--json").document
    assert told == {
        "output": str(made),
        "bytes": made.stat().st_size,
        "results": {"cuts": 1, "validations": 0, "benchmarks": 1, "curves": 1},
    }
    text = words(Read(made.read_text(encoding="utf-8")).text)
    assert "small.onnx faster (1.50x)" in text and "knee: 2 of 8 heads" in text
    assert "Latency was not measured" not in text


def test_several_cuts_are_shown_side_by_side(cut: Any) -> None:
    other = {**cut, "output": "elsewhere/small.onnx", "validation": None}
    text = words(Read(page(cut, other)).text)
    assert (
        "2 results: here/small.onnx, elsewhere/small.onnx" in text and "yes" in text and "not checked" in text
    )
    assert '<section id="result"' not in page(cut, other), "alternatives have no result together"
    assert "elsewhere/small.onnx" in text and "here/small.onnx" in text


def test_names_from_a_model_are_text(cut: Any) -> None:
    evil = '"><script>alert(1)</script>\x1b[31m\u202ename'
    site = {**cut["plan"]["cuts"][0], "name": evil}
    made = page({**cut, "output": evil, "plan": {**cut["plan"], "cuts": [site]}})
    read = Read(made)
    assert (
        sum(tag == "script" for tag, _ in read.elements) == 1 and "\x1b" not in made and "\u202e" not in made
    )
    assert "<script>alert(1)</script>" in read.text and "\\x1b[31m" in read.text and "\\u202e" in read.text


def test_a_page_loads_nothing_and_stays_small() -> None:
    document = cut_document(sites=24, heads=32)
    made = page(document, curve_document())
    read = Read(made)
    assert len(made.encode()) < 1_000_000 and read.cells("cell") == 24 * 32
    for _, attributes in read.elements:
        for name in ("src", "href"):
            assert (attributes.get(name) or "#").startswith("#")
    assert "http" not in made.replace("http-equiv", "")


def test_scales_hold_their_values() -> None:
    line = scale_over([2.0, 8.0], 0, 100)
    assert line.at(0) == 0 and 90 < line.at(8.0) < 100
    assert [tick.label for tick in line.ticks()] == ["0", "2", "4", "6", "8"]
    assert not scale_of_times([1.0, 8.0], 0, 100).logarithmic
    factors = scale_of_times([1.0, 100.0], 0, 100)
    assert factors.logarithmic and factors.at(10.0) == 50
    assert [tick.label for tick in factors.ticks()] == ["1", "2", "5", "10", "20", "50", "100"]


def test_short_names_tell_files_apart() -> None:
    assert short_names(["/a/b/m.onnx", "/a/c/m.onnx"]) == ("b/m.onnx", "c/m.onnx")
    assert short_names(["/a/b/m.onnx", "/a/b/n.onnx"]) == ("m.onnx", "n.onnx")


def test_a_sweep_has_a_line_per_size_and_solid_marks_for_measured_differences() -> None:
    document = curve_result().to_dict()
    page = page_of(Documents(curves=[document]))
    assert "times as fast, batch 8, seq 128" in page
    solid, hollow = page.count('class="dot"'), page.count('class="dot hollow"')
    unmeasurable = [point for point in document["points"] if (point["speed"] or {}).get("value") == 1]
    assert hollow == len(unmeasurable) > 0 and solid + hollow == 3 * len(document["points"])
    for point in document["points"]:
        if point["speed"]:
            (found,) = point["speed"]["at"]
            point["speed"]["at"].append({**found, "point": {**found["point"], "batch": 1}})
    assert "times as fast, batch 1, seq 128" in page_of(Documents(curves=[document]))


def test_accuracy_that_does_not_change_has_an_axis_in_percent_up_to_100() -> None:
    document = curve_document()
    for point in document["points"]:
        point["accuracy"] = 1.0
    (line,) = [item for item in curve_chart(document).lines if item.name.startswith("accuracy")]
    assert line.name == "accuracy (%)"
    assert [float(tick.label) for tick in line.ticks][-1] == 100


def test_what_covers_a_shadow_has_the_color_behind_it() -> None:
    """Boxes with a ground of their own set the color that tables in them are drawn on, too."""
    css = (ROOT / "onnxheadprune" / "reporting" / "page" / "templates" / "page.css").read_text()
    grounds = re.findall(r"([\w.:, -]+)\{[^}]*?([\w-]+): var\(--\w+-ground\)", css)
    assert {name for rule, name in grounds if "headline" in rule} == {"--card"}
