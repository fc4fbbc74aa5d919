"""`batch` asks of each model what `prune` asks."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from onnxheadprune.workflow.requests import Request, Writing
from tests.conftest import Outcome
from tests.options.catalogue import DATA, HEADS, RATIO, TRIALS, Mode, Words
from tests.options.models import write_models

Ask = Callable[[Words], object]
MODEL: Mode = {"model": ("fixed.onnx",)}
OUT: Mode = {"output": ("-o", "out")}
SEAMS = (("batch", "run_batch"), ("prune", "carry_out"))
"""Where commands hand over to the work."""


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


def lines(common: Mode) -> Iterator[tuple[str, Words, Words]]:
    """Each option that both commands have, typed for both."""
    for option, trial in TRIALS["prune"].items():
        if option in common or option not in TRIALS["batch"] or option in ("output", "as_json"):
            continue
        if trial.instead == "data":
            continue  # `batch` reads data beside each model, in the process that prunes it.
        for value in trial.values:
            words = tuple(word.replace("{model}", "fixed") for word in (*value, *trial.along))
            one = ("prune", *flat(MODEL | OUT | common), *words)
            yield option, one, ("batch", "folder-fixed", *flat(OUT | common), *words)


def flat(mode: Mode) -> Words:
    return tuple(word.replace("{model}", "fixed") for typed in mode.values() for word in typed)


@pytest.mark.first_case
@pytest.mark.parametrize("common", [HEADS, RATIO, RATIO | DATA], ids=["heads", "ratio", "data"])
def test_batch_asks_what_prune_asks(common: Mode, ask: Ask) -> None:
    """So what `test_no_option_is_ignored` sees of `prune` holds for each model of a folder."""
    agreed = 0
    for option, first, second in lines(common):
        one, many = request_of(ask(first)), request_of(ask(second))
        assert one == many, (option, first)
        agreed += isinstance(one, Request)
    assert agreed > 3


def request_of(asked: object) -> object:
    """The request without the places of files; the exit code if there is none."""
    if not isinstance(asked, tuple):
        return asked
    [request] = [item for item in asked if isinstance(item, Request)]
    return replace(request, writing=Writing(storing=request.writing.storing))
