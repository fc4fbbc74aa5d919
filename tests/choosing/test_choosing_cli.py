"""`prune` by a target: what it chooses, prints and writes, and what it turns away."""

from __future__ import annotations

from pathlib import Path

import onnx

from onnxheadprune import inspect
from onnxheadprune.edit.records import record_of
from tests.choosing.conftest import is_picture
from tests.conftest import Command

CPU = ("--provider", "cpu")


# prune by a target


def test_a_ratio_chooses_refits_proves_and_tells(
    command: Command, toy: Path, data: Path, tmp_path: Path
) -> None:
    out, picture = tmp_path / "out.onnx", tmp_path / "heat.png"
    outcome = command(
        "prune", toy, "--ratio", 0.5, "--data", data, "-o", out, "--heatmap", picture, "-v", *CPU
    )
    assert outcome.exit_code == 0, outcome.stderr
    assert sum(site.num_heads for site in inspect(out)) == 4
    assert record_of(onnx.load(out)).refit is not None and is_picture(picture)
    assert command("validate", toy, out, *CPU).exit_code == 0


# Targets


# Sweeps


# What is turned away
