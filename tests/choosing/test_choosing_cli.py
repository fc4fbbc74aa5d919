"""`prune` by a target: what it chooses, prints and writes, and what it turns away."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import onnx
import pytest

from onnxheadprune import inspect
from onnxheadprune.attention.specs import is_legal
from onnxheadprune.edit.records import REFIT_ENTRY
from onnxheadprune.workflow import sweep as sweeping
from tests.choosing.conftest import is_picture
from tests.conftest import Command
from tests.graphs import toys

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
    for part in ("measured drift after refit", " linear layers on 192 samples", "(kl)", "passed"):
        assert part in " ".join(outcome.stdout.split())
    assert sum(site.num_heads for site in inspect(out)) == 4
    assert REFIT_ENTRY.read(onnx.load(out)) is not None and is_picture(picture)
    assert command("validate", toy, out, *CPU).exit_code == 0


@pytest.mark.slow
def test_a_target_as_json(command: Command, toy: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    outcome = command("prune", toy, "--ratio", 0.25, "--data", data, "-o", out, "--json", *CPU)
    choice = outcome.document["choice"]
    assert sum(map(len, choice["selection"]["heads"].values())) == 2
    assert choice["drift"] > 0 and choice["drift_unit"] == "kl" and choice["trials"] == []
    assert choice["drift_held_out"] is False and choice["compensation"]["samples"] == 192
    assert all(refit["skipped"] is None for refit in choice["compensation"]["refits"])
    removed = {
        str(cut["index"]): cut["removed"] for cut in outcome.document["plan"]["cuts"] if cut["removed"]
    }
    assert removed == choice["selection"]["heads"]


def test_without_data_the_weights_decide_and_nothing_is_refitted(
    command: Command, toy: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.onnx"
    document = command("prune", toy, "--ratio", 0.25, "-o", out, "--json", *CPU).document
    assert document["choice"]["selection"]["basis"] == "weights (no data was given)"
    assert document["choice"]["compensation"] is None and document["choice"]["drift"] is None
    assert document["validation"]["verdict"] == "passed" and REFIT_ENTRY.read(onnx.load(out)) is None


@pytest.mark.slow
def test_no_compensate_leaves_the_weights(command: Command, toy: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    options = ("--data", data, "-o", out, "--json", "--no-refit", *CPU)
    document = command("prune", toy, "--ratio", 0.25, *options).document
    assert document["choice"]["compensation"] is None and document["choice"]["drift"] > 0
    assert REFIT_ENTRY.read(onnx.load(out)) is None


@pytest.mark.slow
def test_named_heads_are_refitted_when_asked_for(
    command: Command, toy: Path, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.onnx"
    options = ("--heads", "0:1", "-o", out, "--json", *CPU)
    document = command("prune", toy, *options, "--data", data, "--refit").document
    assert document["choice"]["selection"] == {
        "heads": {"0": [1]},
        "basis": "named",
        "costs": {},
        "scores": {},
        "constant": {},
        "left_out": {},
    }
    assert document["choice"]["compensation"]["tensors"]
    outcome = command("prune", toy, *options, "--refit")
    assert outcome.exit_code == 2 and "--refit requires --data" in outcome.document["error"]
    assert command("prune", toy, *options, "--data", data).document["choice"] is None


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


@pytest.mark.slow
def test_scores_of_a_file_decide(command: Command, toy: Path, data: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    rows = [f"{site},{head},{10 * site + head}" for site in (0, 1) for head in range(4)]
    path.write_text("site,head,score\n" + "\n".join(rows), encoding="utf-8")
    options = ("--ratio", 0.25, "--scores", path, "--dry-run", "--json", *CPU)
    choice = command("prune", toy, *options).document["choice"]
    assert choice["selection"]["heads"] == {"0": [0, 1]}
    assert choice["selection"]["basis"] == "scores (imported)"
    assert command("prune", toy, *options, "--data", data).document["choice"]["compensation"] is not None
    path.write_text("site,head,score\n0,0,1\n", encoding="utf-8")
    outcome = command("prune", toy, *options)
    assert outcome.exit_code == 2 and "they are of another model" in outcome.document["error"]


@pytest.mark.slow
def test_a_dry_run_of_a_target_writes_nothing(
    command: Command, toy: Path, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.onnx"
    outcome = command("prune", toy, "--ratio", 0.5, "--data", data, "--dry-run", "-v", "-o", out, *CPU)
    assert outcome.exit_code == 0 and not out.exists()
    text = " ".join(outcome.stdout.split())
    assert (
        "planned, nothing was written" in text
        and "heads 8 -> 4" in text
        and "measured drift after refit" in text
        and "x removed" in text
    )


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


@pytest.mark.slow
@pytest.mark.usefixtures("short_clocks")
def test_a_sweep_for_people_in_the_users_own_measure(
    command: Command, toy: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = (
        "def worst(before, after, feed):\n    return float(abs(before['logits'] - after['logits']).max())\n"
    )
    (tmp_path / "mine_for_sweeps.py").write_text(code, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    options = ("--data", data, "--no-refit", "-o", "curve.json", *CPU)
    outcome = command("sweep", toy, "0:0.5:0.25", *options, "--drift", "mine_for_sweeps:worst")
    assert outcome.exit_code == 0, outcome.stderr
    assert re.search(r"drift +worst on held-out data", outcome.stdout) and "4 of 8" in outcome.stdout
    written = json.loads(Path("curve.json").read_text(encoding="utf-8"))
    assert written["drift_unit"] == "worst" and is_picture(Path("curve.png"))


def test_ranges_of_sweeps_and_knees() -> None:
    assert sweeping.parse_sweep("0:0.3:0.1") == (0, 0.1, 0.2, 0.3)
    assert sweeping.parse_sweep("0.5:0.5:1") == (0.5,)
    for spec in ("0:1:0.1", "0.5:0.2:0.1", "0:0.5:0", "a:b:c", "0:0.5", "-0.1:0.5:0.1", "nan:0.5:0.1"):
        with pytest.raises(Exception, match="sweep"):
            sweeping.parse_sweep(spec)
    ratios = [0, 0.1, 0.2, 0.3, 0.4]
    assert sweeping.knee([0, 0.01, 0.02, 0.1, 1.0], ratios) == 3
    assert sweeping.knee([0, 0.25, 0.5, 0.75, 1.0], ratios) in (None, 0, 1, 2, 3)
    assert sweeping.knee([0, 0], [0, 0.1]) is None and sweeping.knee([1, 1, 1], [0, 0.1, 0.2]) is None


# What is turned away


@pytest.mark.parametrize("target", [("--ratio", 1), ("--keep", 0), ("--ratio", 0.5, "--heatmap", "heat.bmp")])
def test_a_wrong_target_is_known_before_any_work(
    target: tuple[object, ...], command: Command, toy: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_args: Any, **_settings: Any) -> None:
        raise AssertionError("long work began")

    monkeypatch.setattr("onnxheadprune.choosing.folds.context_moments", never)
    assert command("prune", toy, *target, "--data", data, "--dry-run", *CPU).exit_code == 2


@pytest.mark.slow
def test_maps_that_stay_as_they_are_are_told_by_reason(command: Command, data: Path, tmp_path: Path) -> None:
    shared = tmp_path / "shared.onnx"
    onnx.save(toys.stack(shared=True), shared)
    outcome = command("prune", shared, "--heads", "0:1", "--data", data, "--refit", "--dry-run", "-v", *CPU)
    words = " ".join(outcome.stdout.split())
    assert outcome.exit_code == 0, outcome.stderr
    assert words.count("its weights are shared with another node") == 1 and "more: its weights" in words
