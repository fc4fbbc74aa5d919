"""Whatever happens while a model is written: the old one or the new one is there, and nothing else."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnxheadprune import UsageError, prune
from onnxheadprune.model.load import LoadedModel
from onnxheadprune.model.save import stage_model
from onnxheadprune.model.storage.writing import WRITER, Assembly, temporary_folder, write_file
from onnxheadprune.settings.writing import Storing
from tests.crashes import (
    complete,
    in_child,
    interrupted_at,
    litter,
    stopped_at,
)
from tests.graphs import toys

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
ELEMENTS = 200_000


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in" / "model.onnx"
    path.parent.mkdir()
    onnx.save(toys.attention(extra_weight=ELEMENTS), path)
    return path


@pytest.fixture
def target(tmp_path: Path) -> Path:
    path = tmp_path / "out" / "o.onnx"
    path.parent.mkdir()
    return path


def states(source: Path, target: Path, external: Any) -> tuple[dict[str, str], dict[str, str]]:
    """What is there before and after, and the old one in place."""
    prune(source, target, heads="0:2", validate=False, external_data=external)
    new = complete(target)
    for path in target.parent.iterdir():
        path.unlink()
    prune(source, target, heads="0:1", validate=False, external_data=external)
    return complete(target), new


def _assembled(target: Path) -> None:
    with Assembly(target) as assembly:
        assembly.write("a/text", b"newer")
        assembly.copy(Path(__file__), "a/copy")
        assembly.commit()


def _written(model: LoadedModel, target: Path) -> None:
    """A model with its weights beside it."""
    with stage_model(model, target, Storing(external_data="always")) as stage:
        stage.seal(("stamp", "a verdict"))
        stage.commit()


def _used() -> None:
    with temporary_folder() as folder:
        (folder / "weights").write_bytes(b"x")


def actions(kind: str, source: Path, target: Path) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """What takes a folder back to an older state, and what writes the newer one."""
    if kind == "temporary":
        return target.exists, _used
    if kind == "text":
        return partial(write_file, target, b"older"), partial(write_file, target, b"newer" * 1000)
    if kind == "folder":
        return partial(shutil.rmtree, target, ignore_errors=True), partial(_assembled, target)
    # Planned once, so that a step costs the writing alone.
    older, newer = (prune(source, heads=heads, validate=False).pruned for heads in ("0:1", "0:2"))
    return partial(_written, older, target), partial(_written, newer, target)


def state(target: Path) -> dict[str, str]:
    """Digests of all that has a name and belongs to a file or folder."""
    if target.is_dir():
        return {
            str(path.relative_to(target)): path.read_text() for path in target.rglob("*") if path.is_file()
        }
    if target.suffix == ".onnx" and target.exists():
        return complete(target)
    return {"text": target.read_text()} if target.exists() else {}


@pytest.mark.each_choice
@pytest.mark.parametrize("kind", ["temporary", "text", "folder", "beside"])
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_stopped_at_every_step(
    kind: str, sent: signal.Signals, source: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not at random: before and after every call that changes something. The older one or the newer one is there.

    An interrupt leaves nothing else, and what a kill leaves the next call for the same file or folder removes. A kill
    after one call leaves what a kill before the next call leaves.
    """
    monkeypatch.setattr(tempfile, "tempdir", str(target.parent))
    target = target if kind == "beside" else target.with_name(WRITER)
    back, write = actions(kind, source, target)
    write()
    new = state(target)
    back()
    old = state(target)
    step, seen = 0, []
    while stopped_at(step, write, sent):
        seen.append(state(target))
        assert seen[-1] in (old, new), step
        if sent == signal.SIGKILL:
            assert len(litter(target.parent, target)) <= 2
            back()
            write()
        assert not litter(target.parent, target), step
        back()
        step += 2 if sent == signal.SIGKILL else 1
    assert state(target) == new
    assert step > 10 and old in seen and new in seen


@pytest.mark.first_case
@pytest.mark.parametrize("external", ["always", "never"])
def test_interrupted_at_every_step(source: Path, target: Path, tmp_path: Path, external: str) -> None:
    old, new = states(source, target, external)
    arguments = (
        "prune",
        source,
        "-o",
        target,
        "--heads",
        "0:2",
        "--no-validate",
        "--external-data",
        external,
    )
    errors, codes = tmp_path / "errors", list[int]()
    while not codes or codes[-1] != 0:
        codes.append(interrupted_at(8 * len(codes), errors, *arguments))
        assert codes[-1] in (0, 130), errors.read_text()
        if codes[-1] == 130:
            assert errors.read_text().strip() == "error: interrupted"
        assert complete(target) in (old, new)
        assert not litter(target.parent, target)
    assert codes.count(130) > 3
    assert complete(target) == new


def test_data_of_the_same_name_is_never_replaced(
    source: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names are made from samples of the content; equal names with other content are told apart."""
    monkeypatch.setattr("onnxheadprune.model.storage.stage.Stage._digest", lambda *_: "0" * 64)
    prune(source, target, heads="0:1", validate=False, external_data="always")
    target.rename(target.with_name("first.onnx"))
    first = complete(target.with_name("first.onnx"))
    other = onnx.load(source)
    toys.set_initializer(other, "extra.weight", np.zeros(ELEMENTS, np.float32))
    prune(other, target, heads="0:1", validate=False, external_data="always")
    assert complete(target.with_name("first.onnx")) == first
    assert complete(target)["data"] != first["data"]
    assert len(list(target.parent.glob("*.data"))) == 2


@pytest.mark.slow
def test_sixteen_processes_at_once(source: Path, target: Path) -> None:
    """The same file to the same place: one of the results is there, complete, and no litter."""
    states_by_head = []
    for head in range(4):
        prune(source, target, heads=f"0:{head}", validate=False, external_data="always")
        states_by_head.append(complete(target))

    def write(head: int) -> None:
        prune(source, target, heads=f"0:{head}", validate=False, external_data="always")

    # Forked, so that all of them write at once: a new interpreter starts for longer than it writes.
    children = [in_child(partial(write, index % 4)) for index in range(16)]
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 16
    assert complete(target) in states_by_head
    assert not litter(target.parent, target)


def test_in_place_that_fails_changes_nothing(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise OSError(5, "Input/output error")

    before = source.read_bytes()
    monkeypatch.setattr(Path, "replace", fails)
    with pytest.raises(UsageError, match="Input/output error"):
        prune(source, heads="0:1", in_place=True, backup=tmp_path / "kept.onnx", validate=False)
    assert source.read_bytes() == before
    assert [path.name for path in source.parent.iterdir()] == [source.name]
    assert not (tmp_path / "kept.onnx").exists()
