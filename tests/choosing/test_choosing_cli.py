"""`prune` by a target: what it chooses, prints and writes, and what it turns away."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest

from onnxheadprune import inspect
from onnxheadprune.attention.specs import is_legal
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


def test_without_data_the_weights_decide_and_nothing_is_refitted(
    command: Command, toy: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.onnx"
    document = command("prune", toy, "--ratio", 0.25, "-o", out, "--json", *CPU).document
    assert document["choice"]["selection"]["basis"] == "weights (no data was given)"
    assert document["choice"]["compensation"] is None and document["choice"]["drift"] is None
    assert document["validation"]["verdict"] == "passed" and record_of(onnx.load(out)).refit is None


@pytest.mark.slow
def test_what_every_site_keeps_and_limits(command: Command, folder: Path, data: Path) -> None:
    def left(*options: object, model: str = "toy") -> list[int]:
        outcome = command("prune", folder / f"{model}.onnx", "--dry-run", "--json", *options, *CPU)
        assert outcome.exit_code == 0, outcome.stdout
        heads = outcome.document["choice"]["selection"]["heads"]
        sites = inspect(folder / f"{model}.onnx")
        assert all(is_legal(site.groups, set(heads.get(str(site.index), ()))) for site in sites)
        return [site.num_heads - len(heads.get(str(site.index), ())) for site in sites]

    assert left("--keep", 3) == [3, 3]
    assert left("--ratio", 0.5, "--uniform", "--data", data) == [2, 2]
    assert sum(left("--ratio", 0.5, "--multiple-of", "heads=2")) == 4
    assert left("--ratio", 0.25, "--protect", "0") == [4, 2]
    assert left("--ratio", 0.5, "--min-heads", 2) == [2, 2]
    assert sum(left("--ratio", 0.5, "--data", data, model="gqa")) == 6


# Targets


@pytest.mark.slow
@pytest.mark.parametrize("model", ["toy", "gqa"])
def test_the_largest_cut_within_a_drift(model: str, command: Command, folder: Path, data: Path) -> None:
    path = folder / f"{model}.onnx"
    heads = sum(site.num_heads for site in inspect(path))

    def largest(limit: float) -> Any:
        options = ("--max-drift", limit, "--data", data, "--dry-run", "--json", *CPU)
        return command("prune", path, *options)

    everything = largest(1e3).document["choice"]
    assert sum(map(len, everything["selection"]["heads"].values())) == heads - 2
    choice = largest(everything["drift"] * 0.8).document["choice"]
    removed = sum(map(len, choice["selection"]["heads"].values()))
    assert choice["drift"] <= everything["drift"] * 0.8 and 0 < removed < heads - 2
    assert choice["drift_held_out"] is True and choice["compensation"]["samples"] < 192
    assert len(choice["trials"]) > 1 and not choice["trials"][0]["meets"]
    # Both the held-out part and all of the data stay within the limit.
    measured = {trial["removed"]: trial["measured"] for trial in choice["trials"]}[removed]
    assert choice["drift"] <= measured <= everything["drift"] * 0.8
    refused = largest(1e-9)
    assert refused.exit_code == 3 and "no cut stays within a drift of 1e-09" in refused.document["error"]


# Sweeps


@pytest.mark.slow
@pytest.mark.usefixtures("short_clocks")
def test_a_sweep_draws_the_curve(command: Command, toy: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "curve.svg"
    outcome = command("sweep", toy, "0:0.75:0.25", "--data", data, "-o", out, "--json", *CPU)
    curve = outcome.document
    written = json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))
    assert written == {"written_by": "onnxheadprune", **curve} and is_picture(out)
    assert [point["removed"] for point in curve["points"]] == [0, 2, 4, 6]
    drifts = [point["drift"] for point in curve["points"]]
    assert drifts[0] == 0 and drifts == sorted(drifts) and curve["drift_unit"] == "kl"
    assert curve["points"][0]["speedup"] == 1 and all(point["speedup"] > 0 for point in curve["points"])
    assert {len(point["speed"]["at"]) for point in curve["points"][1:]} == {2}
    assert all(0 <= point["accuracy"] <= 1 for point in curve["points"])
    assert [sum(map(len, point["heads"].values())) for point in curve["points"]] == [0, 2, 4, 6]


# What is turned away


@pytest.mark.parametrize(
    "target",
    [
        ("--ratio", 1),
        ("--keep", 0),
        ("--ratio", 0.5, "--method", "luck"),
        ("--max-drift", -1),
        ("--target-speedup", 0.5),
        ("--target-size", 2),
    ],
    ids=str,
)
def test_a_wrong_target_is_known_before_data_is_read(
    target: tuple[object, ...], command: Command, toy: Path
) -> None:
    """There is no data, and that is not what is said."""
    outcome = command("prune", toy, *target, "--data", "lacking.npz")
    assert outcome.exit_code == 2 and outcome.stderr and "lacking" not in outcome.stderr
