"""Old flags of `prune` ask for what their commands ask for, and `batch` asks of each model what `prune` asks."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from onnxheadprune.workflow.requests import Request, Writing
from tests import toys
from tests.conftest import Outcome
from tests.options.catalogue import DATA, HEADS, RATIO, TRIALS, Mode, Words
from tests.options.models import write_models

Ask = Callable[[Words], object]
MODEL: Mode = {"model": ("fixed.onnx",)}
OUT: Mode = {"output": ("-o", "out")}
SEAMS = (
    ("prune", "run_sweep"),
    ("sweep", "run_sweep"),
    ("prune", "run_batch"),
    ("batch", "run_batch"),
    ("prune", "carry_out"),
)
"""Where commands hand over to the work."""
FUSE: Mode = {"fuse": ("--fuse", "contrib")}


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_models(tmp_path_factory.mktemp("shelf"))


@pytest.fixture
def ask(shelf: Path, command: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ask:
    """What a command line hands to the work, or its exit code where it is refused before."""
    seen: list[object] = []

    def noted(*given: object, **more: object) -> int:
        seen.append((*given, *sorted(more.items())))
        return 0

    for module, name in SEAMS:
        monkeypatch.setattr(importlib.import_module(f"onnxheadprune.cli.{module}"), name, noted)
    monkeypatch.chdir(shelf)
    monkeypatch.syspath_prepend(str(shelf))

    def run(line: Words) -> object:
        seen.clear()
        outcome = command(*line)
        assert outcome.exit_code in (0, 2, 3, 4), outcome
        return seen[0] if seen else outcome.exit_code

    return run


def lines(old: Mode, new: Mode, common: Mode, command: str) -> Iterator[tuple[str, Words, Words | None]]:
    """Each option of `prune` typed in the old way, and in the new one if that has it."""
    for option, trial in TRIALS["prune"].items():
        if option in old or option in common:
            continue
        for value in trial.values:
            typed = (*value, *trial.along)
            words = tuple(word.replace("{model}", "fixed") for word in typed)
            first = ("prune", *flat(old | common), *words)
            second = (command, *flat(new | common), *words) if option in TRIALS[command] else None
            yield option, first, second


def flat(mode: Mode) -> Words:
    return tuple(word.replace("{model}", "fixed") for typed in mode.values() for word in typed)


@pytest.mark.parametrize("common", [DATA, DATA | OUT], ids=["shown", "written"])
def test_prune_sweep_is_sweep(common: Mode, ask: Ask) -> None:
    old, new = MODEL | {"sweep": ("--sweep", "0:0.5:0.5")}, MODEL | {"ratios": ("0:0.5:0.5",)}
    assert ask(("prune", *flat(old | common))) == ask(("sweep", *flat(new | common))) != 2
    agreed = 0
    for option, first, second in lines(old, new, common, "sweep"):
        there = ask(first)
        assert there == (2 if second is None else ask(second)), (option, first)
        agreed += there != 2
    assert agreed > 10


@pytest.mark.parametrize("common", [HEADS, RATIO, RATIO | DATA, FUSE], ids=["heads", "ratio", "data", "fuse"])
def test_prune_batch_is_batch(common: Mode, ask: Ask) -> None:
    folder = "folder-fixed"
    old, new = OUT | {"batch": ("--batch", folder)}, OUT | {"folder": (folder,)}
    assert ask(("prune", *flat(old | common))) == ask(("batch", *flat(new | common))) != 2
    for option, first, second in lines(old, new, common, "batch"):
        assert ask(first) == (2 if second is None else ask(second)), (option, first)


@pytest.mark.parametrize("common", [HEADS, RATIO, RATIO | DATA, FUSE], ids=["heads", "ratio", "data", "fuse"])
def test_batch_asks_what_prune_asks(common: Mode, ask: Ask) -> None:
    """So what `test_no_option_is_ignored` sees of `prune` holds for each model of a folder."""
    old, new = MODEL | OUT, OUT | {"folder": ("folder-fixed",)}
    agreed = 0
    for option, first, second in lines(old, new, common, "batch"):
        if second is None or option in ("jobs", "dask", "output", "as_json"):
            continue
        one, many = ask(first), ask(second)
        assert request_of(one) == request_of(many), (option, first)
        agreed += isinstance(request_of(one), Request)
    assert agreed > 3


def request_of(asked: object) -> object:
    """The request without the places of files; the exit code if there is none."""
    if not isinstance(asked, tuple):
        return asked
    [request] = [item for item in asked if isinstance(item, Request)]
    return replace(request, writing=Writing(external_data=request.writing.external_data))


@pytest.mark.parametrize(
    ("line", "new"),
    [
        ("prune fixed.onnx --sweep 0:0.5:0.5 --random-data", "sweep MODEL 0:0.5:0.5"),
        ("prune --batch folder-fixed -o out --heads 0:1", "batch DIR -o OUTDIR"),
        ("prune fixed.onnx -o out.onnx --fuse onnx", "fuse MODEL --mode onnx"),
    ],
)
def test_the_new_way_is_named(
    line: str, new: str, shelf: Path, ask: Ask, command: Callable[..., Outcome]
) -> None:
    outcome = command(*line.split())
    assert outcome.stderr == f"note: this has become a command of its own: onnxheadprune {new}\n"
    assert command(*line.split(), "--json").stderr == ""


def test_fusing_beside_heads_is_no_old_way(ask: Ask, command: Callable[..., Outcome]) -> None:
    outcome = command("prune", "fixed.onnx", "-o", "out.onnx", "--heads", "0:1", "--fuse", "contrib")
    assert (outcome.exit_code, outcome.stderr) == (0, "")


def test_fuse_writes_what_prune_fuse_writes(
    command: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnx

    onnx.save(toys.attention(), tmp_path / "toy.onnx")
    monkeypatch.chdir(tmp_path)
    options: tuple[Any, ...] = ("--provider", "cpu", "--json")
    first = command("prune", "toy.onnx", "-o", "out.onnx", "--fuse", "contrib", *options)
    content = (tmp_path / "out.onnx").read_bytes()
    second = command("fuse", "toy.onnx", "-o", "out.onnx", *options)
    assert first.exit_code == second.exit_code == 0
    assert (tmp_path / "out.onnx").read_bytes() == content
    assert first.document["fusion"] == second.document["fusion"]
