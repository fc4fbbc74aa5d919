"""Every number says what it was measured on: in the terminal, in JSON and on the page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import SAMPLES, Command

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
