"""A folder of models: every one gets its verdict, and what is done and proven is not done again."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest

from onnxheadprune.deploying.batch import RECORD, BatchFile, prune_batch
from onnxheadprune.settings.calls import PruneCall
from tests.calibration_files import tokenizer
from tests.conftest import ROOT, Command
from tests.graphs import toys
from tests.options.asked import call


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Good models, one with its weights beside it, and bad ones of several kinds."""
    made = tmp_path / "models"
    (made / "sub").mkdir(parents=True)
    onnx.save(toys.attention(), made / "a.onnx")
    onnx.save(toys.attention(cache=True), made / "sub" / "b.onnx")
    onnx.save(
        toys.attention(extra_weight=5000),
        made / "beside.onnx",
        save_as_external_data=True,
        location="w.bin",
        size_threshold=100,
    )
    (made / "broken.onnx").write_bytes((made / "a.onnx").read_bytes()[:500])
    onnx.save(toys.no_attention(), made / "none.onnx")
    onnx.save(toys.attention(silent_heads=(1,)), made / "silent.onnx")
    (made / "notes.txt").write_text("no model")
    return made


def statuses(result: Any) -> dict[str, str]:
    return {item.file: item.status for item in result.files}


EXPECTED = {
    "a.onnx": "done",
    "beside.onnx": "done",
    "broken.onnx": "refused",
    "none.onnx": "refused",
    "silent.onnx": "failed",
    "sub/b.onnx": "done",
}


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [1, 2])
def test_one_bad_file_does_not_stop_the_rest(jobs: int, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    told: list[BatchFile] = []
    result = prune_batch(folder, call(), out, jobs=jobs, progress=told.append)
    assert statuses(result) == EXPECTED
    assert result.exit_code == 1
    assert result.counts == {"done": 3, "refused": 2, "failed": 1}
    assert sorted(item.file for item in told) == sorted(EXPECTED)
    names = {path.relative_to(out).as_posix().split(".data")[0] for path in out.rglob("*") if path.is_file()}
    assert {"a.onnx", "beside.onnx", "sub/b.onnx", RECORD} <= names
    assert not {"broken.onnx", "none.onnx", "silent.onnx"} & names


@pytest.mark.slow
@pytest.mark.usefixtures("batch_in_process")
def test_what_is_not_the_same_is_done_again(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for name in ("broken.onnx", "none.onnx", "silent.onnx"):
        (folder / name).unlink()

    def rerun(heads: str = "0:1", seed: int = 0) -> str:
        result = prune_batch(folder, call(heads, seed=seed), out)
        assert result.exit_code == 0
        return " ".join(item.status for item in result.files)

    assert rerun() == "done done done"
    assert rerun() == "skipped skipped skipped"
    assert rerun("0:2") == "done done done"
    assert rerun("0:2") == "skipped skipped skipped"
    assert rerun("0:2", seed=1) == "done done done"
    (out / "a.onnx").unlink()
    onnx.save(onnx.load(out / "sub" / "b.onnx"), out / "sub" / "b.onnx")
    assert rerun("0:2", seed=1) == "done skipped done" or rerun("0:2", seed=1) == "skipped skipped skipped"
    data = next(out.glob("beside.onnx.*.data"))
    damaged = bytearray(data.read_bytes())
    damaged[5] ^= 1
    data.write_bytes(damaged)
    onnx.save(toys.attention(out_scale=2.0), folder / "a.onnx")
    assert rerun("0:2", seed=1) == "done done skipped"
    (out / RECORD).write_text("{ damaged")
    assert rerun("0:2", seed=1) == "done done done"


READ = {
    "the heads": ("--heads heads.json", "heads.json", '{"0": [2]}'),
    "the scores": (
        "--ratio 0.25 --scores scores.csv",
        "scores.csv",
        "site,head,score\n0,0,1\n0,1,2\n0,2,3\n0,3,4\n",
    ),
    "the data": ("--ratio 0.25 --data lines.txt", "lines.txt", "w7 w3\nw9 w1 w1\n" * 8),
    "a tokenizer beside": ("--ratio 0.25 --data lines.txt", "models/tokenizer.json", None),
    "a named tokenizer": ("--ratio 0.25 --data lines.txt --tokenizer own", "own/tokenizer.json", None),
    "a function": ("--ratio 0.25 --data own_data:batches", "own_data.py", "{code}\nx = 1\n"),
    "a measure": ("--ratio 0.25 --data lines.txt --drift own_drift:far", "own_drift.py", "{code}\nx = 1\n"),
}
"""Files that a batch reads besides the model: options, the file that changes, and its new content."""


@pytest.mark.slow
@pytest.mark.usefixtures("batch_in_process")
@pytest.mark.parametrize("what", READ)
def test_whatever_else_is_read_counts(
    what: str, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for place in ("models", "own"):
        (tmp_path / place).mkdir()
        tokenizer(tmp_path / place, toys.VOCABULARY - 3)
    onnx.save(toys.attention(ids=True), tmp_path / "models" / "m.onnx")
    (tmp_path / "heads.json").write_text('{"0": [1]}')
    (tmp_path / "scores.csv").write_text("site,head,score\n0,0,4\n0,1,3\n0,2,2\n0,3,1\n")
    (tmp_path / "lines.txt").write_text("w1 w2 w3\nw4 w5\n" * 8)
    (tmp_path / "own_data.py").write_text(
        "import numpy as np\ndef batches():\n    yield {'input_ids': np.arange(96).reshape(16, 6) % 16}\n"
    )
    (tmp_path / "own_drift.py").write_text(
        "def far(before, after, feed):\n    return float(abs(before['y'] - after['y']).mean())\n"
    )
    options, changed, content = READ[what]

    def status() -> str:
        outcome = command("batch", "models", *options.split(), "-o", "out", "--json")
        return str(outcome.document["files"][0]["status"])

    assert [status(), status()] == ["done", "skipped"]
    path = tmp_path / changed
    code = path.read_text()
    if content is None:
        tokenizer(path.parent, toys.VOCABULARY - 4)
    else:
        path.write_text(content.replace("{code}", code))
    assert path.read_text() != code
    assert [status(), status()] == ["done", "skipped"]


DIES = """
import os, signal

def batches():
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def dies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PruneCall:
    """A call whose data ends the process that reads it."""
    (tmp_path / "own_data.py").write_text(DIES)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    return replace(call(None), ratio=0.25, data="own_data:batches")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_process_that_dies_is_one_verdict(elsewhere: bool, tmp_path: Path, dies: PruneCall) -> None:
    """Here the next model has another process; a pool of the standard library is broken for good."""
    (tmp_path / "models").mkdir()
    for name in "ab":
        onnx.save(toys.attention(), tmp_path / "models" / f"{name}.onnx")
    executor = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) if elsewhere else None
    with executor or contextlib.nullcontext():
        result = prune_batch(tmp_path / "models", dies, tmp_path / "out", executor=executor)
    assert statuses(result) == dict.fromkeys(("a.onnx", "b.onnx"), "crashed") and result.exit_code == 3
    for item in result.files:
        assert "the worker that pruned it was lost, or could not begin (Broken" in item.reason
        assert "the process died, signal 9" in item.reason or elsewhere
    assert not json.loads((tmp_path / "out" / RECORD).read_text())["steps"]


@pytest.mark.slow
def test_an_interrupt_ends_it_all(folder: Path, tmp_path: Path) -> None:
    for index in range(40):
        onnx.save(toys.attention(), folder / f"more{index}.onnx")
    out = tmp_path / "out"
    command = [sys.executable, "-m", "onnxheadprune", "batch", folder, "-o", out, "--heads", "0:1"]
    process = subprocess.Popen(
        list(map(str, command)), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    while process.poll() is None and not (out / RECORD).exists():
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 130
    assert "Traceback" not in errors
    record = json.loads((out / RECORD).read_text())
    for name in record["steps"]:
        onnx.checker.check_model(onnx.load(out / name))
    assert not list(out.rglob(".*"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_cluster_gives_the_same(
    folder: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Verdicts, records and bytes are those of processes here; workers have a working directory of their own."""
    # First: imported within other settings, it would lose its own with them.
    pytest.importorskip("distributed")
    dask = pytest.importorskip("dask")
    monkeypatch.chdir(tmp_path)
    words = ("batch", "models", "--heads", "heads.json", "--provider", "cpu")
    (tmp_path / "heads.json").write_text('{"0": [1]}')
    settings = {
        "distributed.nanny.pre-spawn-environ.PYTHONPATH": str(ROOT),
        # Workers start late on a busy machine.
        "distributed.comm.timeouts.connect": "300s",
        "distributed.comm.timeouts.tcp": "300s",
    }
    with dask.config.set(settings):
        outcome = command(*words, "-o", "out", "--dask", "local", "--jobs", "2", "--json")
    assert outcome.exit_code == 1, outcome
    assert {item["file"]: item["status"] for item in outcome.document["files"]} == EXPECTED
    here = command(*words, "-o", "here", "--json")
    assert plain(outcome.document, tmp_path) == plain(here.document, tmp_path)
    made = {path.relative_to(tmp_path / "here") for path in (tmp_path / "here").rglob("*.onnx")}
    assert made == {path.relative_to(tmp_path / "out") for path in (tmp_path / "out").rglob("*.onnx")}
    for name in made:
        assert (tmp_path / "here" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()
    assert command(*words, "-o", "out", "--json").document["counts"]["skipped"] == 3


def plain(document: dict[str, Any], folder: Path) -> list[dict[str, Any]]:
    """Verdicts, without where they were written and how long that took; workers name whole paths."""
    return [
        {**item, "output": None, "seconds": None, "reason": item["reason"].replace(f"{folder}/", "")}
        for item in document["files"]
    ]
