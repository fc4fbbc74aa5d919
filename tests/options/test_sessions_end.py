"""No command leaves a session of ONNX Runtime behind: its threads would make a child that is forked later hang."""

from __future__ import annotations

import gc
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from onnxheadprune import prune
from tests.conftest import Command
from tests.graphs import toys
from tests.options.catalogue import MODES, TRIALS, Mode, Words
from tests.options.models import write_models


def _lines() -> Iterator[tuple[str, str, Words]]:
    """Every command in every mode, and with every option in the first mode that has it or takes it."""
    for name, modes in MODES.items():
        for mode, typed in modes.items():
            yield name, mode, _line(typed, "toy")
        for option, trial in TRIALS[name].items():
            mode = trial.within(option, next(iter(modes.values())))
            yield name, option, _line({**mode, option: trial.values[0]}, trial.model, trial.along)


def _line(mode: Mode, model: str, along: Words = ()) -> Words:
    words = [word for typed in mode.values() for word in typed]
    return tuple(word.replace("{model}", model) for word in (*words, *along))


LINES = list(_lines())
FIRST = [(name, next(iter(modes))) for name, modes in MODES.items() if name not in ("sweep", "recover")]
"""The first mode of each command that does not take long."""


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_models(tmp_path_factory.mktemp("shelf"))


@pytest.mark.parametrize(
    ("name", "line"),
    [
        pytest.param(
            name, line, id=f"{name}-{what}", marks=[] if (name, what) in FIRST else [pytest.mark.slow]
        )
        for name, what, line in LINES
    ],
)
def test_sessions_end_with_their_command(
    name: str,
    line: Words,
    shelf: Path,
    command: Command,
    batch_in_process: None,
    one_glance: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By their references alone: Python's cycle collector may come much later, or in the child."""
    shutil.copytree(shelf, tmp_path / "work", copy_function=os.link)
    monkeypatch.chdir(tmp_path / "work")
    before = _sessions()
    gc.disable()
    try:
        outcome = command(name, *line)
        left = _sessions() - before
    finally:
        gc.enable()
    assert outcome.exit_code or not left, outcome


def _sessions() -> set[int]:
    kinds = (onnxruntime.InferenceSession, onnxruntime.capi.onnxruntime_pybind11_state.InferenceSession)
    return {id(item) for item in gc.get_objects() if isinstance(item, kinds)}


def test_a_forked_child_runs(tmp_path: Path) -> None:
    """After calls of every kind in the parent; a child that waits for a thread of its parent waits for ever."""
    onnx.save(toys.attention(), tmp_path / "m.onnx")
    data = {"x": np.random.default_rng(0).standard_normal((8, 6, toys.HIDDEN)).astype(np.float32)}
    prune(tmp_path / "m.onnx", tmp_path / "parent.onnx", ratio=0.5, data=data, provider="cpu")
    child = os.fork()
    if not child:
        signal.alarm(60)
        try:
            prune(tmp_path / "m.onnx", tmp_path / "child.onnx", ratio=0.5, data=data, provider="cpu")
            gc.collect()
        finally:
            os._exit(0 if (tmp_path / "child.onnx").exists() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
