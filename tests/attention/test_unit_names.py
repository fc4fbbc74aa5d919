"""One name for each unit wherever people read it, "attn.3" or "ffn.3", and never the number that it has inside."""

from __future__ import annotations

import re
from pathlib import Path

import onnx
import pytest

from onnxheadprune import inspect
from onnxheadprune.settings.units import KINDS, UnitKind, called
from tests.attention.layered import Network, renamed
from tests.conftest import Command
from tests.graphs import toys


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "toy.onnx"
    onnx.save(toys.decoder(), path)
    return path


def kinds() -> list[UnitKind]:
    return list(KINDS)


def with_options() -> list[UnitKind]:
    """The kinds of which the small decoder has units, and an option to name them."""
    found = inspect(toys.decoder())
    return [kind for kind in kinds() if kind.scored_by and found.of(kind.units)]


def test_names_are_told_apart_by_kind() -> None:
    names = [called(kind.first + 3) for kind in kinds()]
    assert names[:4] == ["attn.3", "ffn.3", "moe.3", "layer.3"] and len(set(names)) == len(names)


@pytest.mark.parametrize("kind", with_options())
def test_bad_input_says_what_there_is(command: Command, model: Path, kind: UnitKind) -> None:
    name, option = kind.called(0), f"--{kind.units}"
    there = inspect(onnx.load(model)).of(kind.units)

    def sentence(*line: str) -> str:
        result = command("prune", model, "--dry-run", *line)
        assert (result.exit_code, result.stdout) == (2, "")
        (line_of_error,) = result.stderr.splitlines()
        for other in kinds():
            if other is not kind:
                assert not re.search(rf"\b{other.unit}s?\b", line_of_error), line_of_error
        return line_of_error

    for wrong in ((option, "9:1"), ("--layers", f"{kind.key or 'attn.'}9")):
        assert all(site.label in sentence(*wrong) for site in there)
    assert f"{name} ({there[0].name}) has no {kind.unit} 99: its {kind.units} are 0-" in sentence(
        option, "0:99"
    )
    assert f"{kind.units} are numbers" in sentence(option, "0:x")
    assert f"{kind.unit} spec" in sentence(option, "0")
    assert f"{option} is empty" in sentence(option, "")


def test_many_layers_are_listed_by_their_stacks(command: Command, tmp_path: Path) -> None:
    path = tmp_path / "deep.onnx"
    model = Network([["attention", "network"]] * 10).model()
    stacks = "encoder", "decoder"
    onnx.save(
        renamed(model, lambda value, layer, _: f"/{stacks[layer // 5]}.layers.{layer % 5}/{value}"), path
    )
    told = command("prune", path, "--dry-run", "--layers", "9").stderr
    assert told == "error: there is no layer '9'; this model has layer.encoder.0-4, layer.decoder.0-4\n"
