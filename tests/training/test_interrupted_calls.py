"""A call whose training is stopped by Ctrl-C writes what it has, says so first, ends with 130, and can be resumed."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.graphs import toys

STOPPED = """
import os, signal, sys
from onnxheadprune.training.training import Training

show = Training._show

def shown(self, loss):
    show(self, loss)
    if self.state.epoch == 2:
        os.kill(os.getpid(), signal.SIGINT)

Training._show = shown
from onnxheadprune.cli import main
sys.exit(main(sys.argv[1:]))
"""
"""The command line, interrupted in the third epoch."""
DATA = ("--data", "data", "--provider", "cpu")


def called(place: Path, *words: str, stopped: bool = True) -> subprocess.CompletedProcess[str]:
    start = [sys.executable, *(["-c", STOPPED] if stopped else ["-m", "onnxheadprune"])]
    return subprocess.run(
        [*start, *words], cwd=place, capture_output=True, text=True, check=False, timeout=120
    )


@pytest.fixture
def place(tmp_path: Path) -> Path:
    onnx.save(toys.encoder(), tmp_path / "model.onnx")
    (data := tmp_path / "data").mkdir()
    for number, feed in enumerate(toys.sentences()):
        np.savez(data / f"{number:03}.npz", **feed)
    return tmp_path


@pytest.mark.slow
def test_a_pruned_model_says_so_and_goes_on(place: Path) -> None:
    done = called(place, "prune", "model.onnx", "-o", "out.onnx", "--heads", "0:1", "--recover", "4", *DATA)
    assert done.returncode == 130, done.stderr
    assert done.stdout.splitlines()[0].startswith("out.onnx   interrupted after ")
    then = done.stdout.partition("\nnext ")[2].partition("\nmore ")[0].replace("\\\n", "")
    assert then.split()[-1] == "--resume" and (place / "out.onnx.recovery").exists()
    again = called(place, *shlex.split(then)[1:], stopped=False)
    assert again.returncode == 0 and "interrupted" not in again.stdout, again.stdout + again.stderr
    assert not (place / "out.onnx.recovery").exists()


@pytest.mark.slow
def test_a_job_ends_and_its_next_run_goes_on(place: Path) -> None:
    job = {
        "model": "model.onnx",
        "output": "out",
        "data": {"path": "data"},
        "prune": {"heads": "0:1"},
        "recover": {"budget": 4},
    }
    (place / "job.yaml").write_text(json.dumps(job), encoding="utf-8")
    assert called(place, "run", "job.yaml").returncode == 130
    # Another budget is another training: it begins anew, and what resumed would be refused.
    another = ("run", "job.yaml", "--set", "recover.budget=3")
    assert called(place, *another).returncode == 130
    assert not (place / "out" / "verdict.json").exists()
    again = called(place, *another, "--json", stopped=False)
    assert again.returncode == 0, again.stderr
    steps = {item["name"]: item["status"] for item in json.loads(again.stdout)["steps"]}
    assert steps == {"prune": "unchanged", "recover": "done"}
