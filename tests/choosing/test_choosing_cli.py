"""`prune` by a target: what it chooses, prints and writes, and what it turns away."""

from __future__ import annotations

from pathlib import Path

import onnx

from onnxheadprune import inspect
from tests.choosing.conftest import is_picture
from tests.conftest import Command
from tests.recording import recorded

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
    assert recorded(onnx.load(out))["refit"] and is_picture(picture)
    assert command("validate", toy, out, *CPU).exit_code == 0


# Targets


# Sweeps


# What is turned away
