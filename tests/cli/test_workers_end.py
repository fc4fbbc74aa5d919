"""Workers of a command that is killed or terminated end at once, and not when their work is done."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import onnx
import pytest

from tests.files.filesystems import POSIX
from tests.graphs import toys

SLEEPS = """
import os, pathlib, time

def asleep(*_):
    pathlib.Path("pid").write_text(str(os.getpid()))
    pathlib.Path("pid").rename("started")
    time.sleep(600)
"""
TOOL = (sys.executable, "-m", "onnxheadprune")
POOL = """
import sleeps
from onnxheadprune.workflow.executors import open_executor, run_all

with open_executor(2) as pool:
    run_all(sleeps.asleep, [1], pool)
"""
COMMANDS = {
    "batch": (*TOOL, "batch", "models", "-o", "out", "--ratio", "0.25", "--data", "sleeps:asleep"),
    "processes of a sweep": (sys.executable, "-c", POOL),
}


@POSIX
@pytest.mark.each_choice
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("name", COMMANDS)
def test_workers_end_with_their_command(name: str, sent: signal.Signals, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    onnx.save(toys.attention(), tmp_path / "models" / "m.onnx")
    (tmp_path / "sleeps.py").write_text(SLEEPS)
    with subprocess.Popen(COMMANDS[name], cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        while not (tmp_path / "started").exists():
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        worker = int((tmp_path / "started").read_text())
        assert worker != process.pid
        process.send_signal(sent)
        deadline = time.monotonic() + 30
        while _lives(worker) and time.monotonic() < deadline:
            time.sleep(0.05)
    if _lives(worker):
        os.kill(worker, signal.SIGKILL)
        pytest.fail("the worker outlived its command by 30 seconds")


def _lives(process: int) -> bool:
    """Whether a process is at work; one that has ended may wait for somebody to ask how."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
