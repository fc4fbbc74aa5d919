"""Every number says what it was measured on: in the terminal, in JSON and on the page."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxheadprune.data.calibration import calibration_data
from onnxheadprune.operators import view_of
from tests.conftest import SAMPLES, Command
from tests.graphs import toys

MODEL = SAMPLES / "digits_vit.onnx"
SEEN = "the calibration data, which the refit has seen"
CHOSEN = "the calibration data, which the choice has seen"
APART = "held-out data, which the refit has not seen"
OWN = "your data, all of it"
WAYS: dict[str, tuple[tuple[Any, ...], str, int]] = {
    "a share": (("--ratio", 0.25), SEEN, 200),
    "no refit": (("--ratio", 0.25, "--no-refit"), CHOSEN, 200),
    "a drift": (("--max-drift", 5), APART, 40),
    "named": (("--heads", "1:1"), OWN, 200),
    "named and refitted": (("--heads", "1:1", "--refit"), SEEN, 200),
}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    whole = np.load(SAMPLES / "digits_test.npz")
    path = tmp_path_factory.mktemp("data") / "data.npz"
    np.savez(path, **{name: whole[name][:200] for name in whole.files})
    return path


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_a_number_says_what_it_was_measured_on(
    way: str, archive: Path, command: Command, tmp_path: Path
) -> None:
    options, where, most = WAYS[way]
    page, out = tmp_path / "page.html", tmp_path / "out.onnx"
    call = ("prune", MODEL, "-o", out, *options, "--data", archive, "--provider", "cpu")
    shown = command(*call, "--report", page, "--verbose")
    assert shown.exit_code == 0, shown.stderr
    out.unlink()
    document = command(*call, "--json").document
    words, written = " ".join(shown.stdout.split()), page.read_text(encoding="utf-8")
    drift, accuracy = document["validation"]["drift"], document["validation"]["accuracy"]
    for number in (drift, accuracy):
        assert number["measured_on"].startswith(where), number
        assert number["measured_on"] in words and number["measured_on"] in written
    # All labels and samples, or how many of them.
    assert drift["samples"] == accuracy["count"]
    if where == OWN:
        assert accuracy["count"] == 200
    else:
        assert accuracy["measured_on"].endswith(f"({accuracy['count']} of 200 samples)")
        assert accuracy["count"] <= most
        choice = document["choice"]
        assert choice["drift_measured_on"] == where and f"on {where}" in words and where in written


def test_validate_measures_on_the_users_data(archive: Path, command: Command, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    assert command("prune", MODEL, "-o", out, "--heads", "1:1", "--provider", "cpu").exit_code == 0
    found = command("validate", MODEL, out, "--data", archive, "--provider", "cpu", "--json").document
    assert found["drift"]["measured_on"] == found["accuracy"]["measured_on"] == OWN
    assert found["accuracy"]["count"] == 200
    found = command("validate", MODEL, out, "--provider", "cpu", "--json").document
    assert found["drift"]["measured_on"] == "random inputs" and found["accuracy"] is None


@pytest.mark.slow
@pytest.mark.parametrize("recover", [(), ("--recover", "1")], ids=["refitted", "trained"])
def test_a_sweep_says_what_its_curve_was_measured_on(
    recover: tuple[str, ...], archive: Path, command: Command, tmp_path: Path
) -> None:
    curve, page = tmp_path / "curve.json", tmp_path / "page.html"
    call = ("sweep", MODEL, "0.25:0.25:1", "--data", archive, "--provider", "cpu", "-o", curve, *recover)
    shown = command(*call)
    assert shown.exit_code == 0, shown.stderr
    document = json.loads(curve.read_text(encoding="utf-8"))
    where = "held-out data, which neither refit nor training has seen" if recover else APART
    assert re.fullmatch(rf"{where} \(\d\d of 200 samples\)", document["measured_on"])
    assert command("report", curve, "-o", page).exit_code == 0
    words, written = " ".join(shown.stdout.split()), page.read_text(encoding="utf-8")
    assert words.count(document["measured_on"]) == 2 and document["measured_on"] in written
    found = [point["recovery"] for point in document["points"]]
    assert all((item is None) == (not recover) for item in found)
    assert ("of 1 cut" in words) == ("of 1 cut" in written) == bool(recover)
    assert not recover or found[0]["steps"] > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("to", "where"),
    [("int8-dynamic", OWN), ("int8-qdq", r"data that was held out here \(\d\d of 200 samples\)")],
)
def test_quantize_says_what_its_drift_was_measured_on(
    to: str, where: str, archive: Path, command: Command, tmp_path: Path
) -> None:
    call = (
        "quantize",
        MODEL,
        "--to",
        to,
        "--data",
        archive,
        "--provider",
        "cpu",
        "-o",
        tmp_path / "out.onnx",
    )
    found = command(*call, "--json").document["drift_measured_on"]
    assert re.fullmatch(where, found)
    (tmp_path / "out.onnx").unlink()
    assert f"on {found}" in " ".join(command(*call, "--verbose").stdout.split())


def test_a_single_sample_is_never_held_out() -> None:
    view = view_of(toys.stack())
    data = calibration_data(toys.ids(1, 1), view)
    assert data.split() == (data, data) == data.split_samples(1)
    learn, held = data.split()
    assert held is learn
