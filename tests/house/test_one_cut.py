"""The way of one cut through the code: few frames before the work, and one analysis of the original."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import onnx
import pytest

from onnxheadprune.cli import main
from tests import toys
from tests.sources import PACKAGE


def calls_of(line: list[str]) -> dict[str, list[list[str]]]:
    """The functions of the package that a command line calls, each with the frames of the package at every call."""
    found: dict[str, list[list[str]]] = {}

    def note(frame: FrameType, event: str, _argument: Any) -> None:
        if event != "call" or frame.f_code.co_name not in ("run_prune", "analysis_of", "prune"):
            return
        names, at = list[str](), frame
        while at is not None:
            if Path(at.f_code.co_filename).is_relative_to(PACKAGE):
                names.append(at.f_code.co_name)
            at = at.f_back  # type: ignore[assignment]
        found.setdefault(names[0], []).append(names[::-1])

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        assert main(line) == 0
    finally:
        sys.setprofile(before)
    return found


@pytest.mark.parametrize("options", [("--heads", "0:1"), ("--ratio", "0.3", "--no-refit")])
def test_a_command_is_two_frames_from_its_work_and_analyses_once(
    options: tuple[str, ...], tmp_path: Path
) -> None:
    model, data = tmp_path / "model.onnx", tmp_path / "ids.npz"
    onnx.save(toys.attention(ids=True), model)
    np.savez(data, input_ids=np.arange(40).reshape(8, 5) % toys.VOCABULARY)
    given = () if "--heads" in options else ("--data", str(data))
    calls = calls_of(
        ["prune", str(model), "-o", str(tmp_path / "out.onnx"), *options, *given, "--provider", "cpu"]
    )
    (work,) = calls["run_prune"]
    assert work[-3:] == ["prune", "carry_out", "run_prune"] and len(work) <= 7
    # One of the original and one of what was written, whose heads later calls have to find; the proof makes its own.
    assert Counter("prove" in frames for frames in calls["analysis_of"]) == {False: 2, True: 1}
