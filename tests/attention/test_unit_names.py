"""One name for each unit wherever people read it, "attn.3" or "ffn.3", and never the number that it has inside."""

from __future__ import annotations

import re
from pathlib import Path

import onnx
import pytest

from onnxheadprune import inspect
from onnxheadprune.operators import view_of
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


@pytest.mark.parametrize("many", [3, 12])
def test_many_sites_are_listed_in_ranges(command: Command, tmp_path: Path, many: int) -> None:
    path = tmp_path / "deep.onnx"
    onnx.save(toys.decoder(many), path)
    for kind in with_options():
        told = command("prune", path, "--dry-run", f"--{kind.units}", "99:1").stderr
        assert (f"{kind.called(0)}-{many - 1}" in told) == (many == 12)
        assert len(told) < 250


@pytest.mark.parametrize("nameless", [False, True])
def test_projections_are_identified(command: Command, model: Path, nameless: bool) -> None:
    proto = onnx.load(model)
    if nameless:
        for node in proto.graph.node:
            node.ClearField("name")
        onnx.save(proto, model)
    listed = command("inspect", model, "--json").document
    view = view_of(proto)
    scopes = {scope.ref: scope for scope in view.scopes}
    for kind in with_options():
        seen = set()
        for site, expected in zip(listed[kind.field], inspect(proto).of(kind.units), strict=True):
            for item, projection in zip(site["projections"], expected.projections, strict=True):
                producer = scopes[item["scope"]].values[item["output"]].producer
                assert producer is not None and producer.ref == projection.node.ref
                assert item["node"] == producer.proto.name
                seen.add((item["scope"], item["output"]))
        assert len(seen) == len(listed[kind.field])
