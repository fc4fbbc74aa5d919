"""An unexpected error in a search that nobody asked for ends no command; where it was asked for, it is a bug.

Every search is ended by an error where it begins, for what is tested is what follows from an error.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import ModelProto

from onnxheadprune.settings.units import KINDS
from tests.conftest import Command
from tests.graphs import exits, experts, toys

LAYERS, EXITS, VOCABULARY = "layers", "early exits", "the vocabulary"
STEPS: Mapping[str, str] = {
    EXITS: "onnxheadprune.attention.exits._place",
    VOCABULARY: "onnxheadprune.attention.vocabulary.find._flows",
}
"""A step within each search that is no kind of unit."""
ALL = [*(f"{kind.title}s" for kind in KINDS[1:]), *STEPS]
FOUND = {kind.field for kind in KINDS} | {"early_exits", "vocabularies"}
"""What searches find, in `inspect --json`."""
BESIDE = set(
    "model near_misses no_heads elements ignored_declarations not_analysed does_not_load facts".split()
)
"""The rest of it."""
DECODER, EXITING, MIXTURE = toys.decoder, exits.chain, experts.Experts().model
ASKED: Mapping[str, tuple[Callable[[], ModelProto], list[str]]] = {
    "feed-forward blocks": (DECODER, ["--neurons", "0:0"]),
    "mixture-of-experts blocks": (MIXTURE, ["--experts", "0:0"]),
    LAYERS: (DECODER, ["--layers", "0"]),
    EXITS: (EXITING, ["--exit", "1"]),
    VOCABULARY: (DECODER, ["--vocab", "tokens.txt"]),
}
"""A model and the options that ask for a search."""


def _broken(*_: Any) -> Any:
    raise IndexError("tuple index out of range")


def _end(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let an unexpected error end a search."""
    for kind in KINDS[1:]:
        if what == f"{kind.title}s":
            monkeypatch.setattr(importlib.import_module(kind.finder), "found", _broken)
    if what in STEPS:
        monkeypatch.setattr(STEPS[what], _broken)


def _saved(model: ModelProto, path: Path) -> Path:
    onnx.save(model, path)
    return path


def test_every_search_is_listed(command: Command, tmp_path: Path) -> None:
    document = command("inspect", _saved(DECODER(), tmp_path / "model.onnx"), "--json").document
    assert document.keys() == FOUND | BESIDE and set(ASKED) == set(ALL)


@pytest.mark.first_case
@pytest.mark.parametrize(
    ("what", "model"),
    # Exits are looked for where there are branches.
    [
        (what, model)
        for what in ALL
        for model in (DECODER, EXITING, MIXTURE)
        if what != EXITS or model is EXITING
    ],
)
def test_inspect_goes_on(
    what: str,
    model: Callable[[], ModelProto],
    command: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = _saved(model(), tmp_path / "model.onnx")
    whole = command("inspect", path, "--json").document
    _end(what, monkeypatch)
    shown, told = command("inspect", path), command("inspect", path, "--json")
    line = f"{what} could not be analysed (IndexError: tuple index out of range, test_analysis_errors.py:"
    everything = " ".join(f"{shown.stdout} {shown.stderr}".split())
    assert line in everything and "please report this" in everything and "Traceback" not in everything
    document = told.document
    assert what in [item["what"] for item in document["not_analysed"]]
    assert whole["not_analysed"] == [] and whole.keys() == document.keys()
    assert document["sites"] == whole["sites"]
    left = any(document[kind.field] for kind in KINDS)
    assert shown.exit_code == told.exit_code == (0 if left else 3)
    independent = {"mixture-of-experts blocks", VOCABULARY, EXITS}
    if what in independent:
        assert document["feed_forward"] == whole["feed_forward"]
        assert [item["what"] for item in document["not_analysed"]] == [what]


@pytest.mark.parametrize("what", ALL)
def test_a_search_that_was_asked_for_is_a_bug(
    what: str, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, options = ASKED[what]
    path, out = _saved(model(), tmp_path / "model.onnx"), tmp_path / "cut.onnx"
    monkeypatch.chdir(tmp_path)
    Path("tokens.txt").write_text("0-2", "utf-8")
    _end(what, monkeypatch)
    shown = command("prune", path, "-o", out, *options)
    assert shown.exit_code == 70 and "this is a bug in onnxheadprune (IndexError)" in shown.stderr
    assert not out.exists()
