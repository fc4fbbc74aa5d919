"""The numbers that people are shown agree with the files, and say which way they went."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import ModelProto, helper

from onnxheadprune import prune
from onnxheadprune.display.spelling import change
from onnxheadprune.model.storage.tensors import stored_size
from tests.conftest import Command
from tests.graphs import toys


def with_constants(model: ModelProto) -> ModelProto:
    """The same model with Constant nodes in place of its initializers."""
    made = ModelProto()
    made.CopyFrom(model)
    nodes = [helper.make_node("Constant", [], [item.name], value=item) for item in model.graph.initializer]
    nodes += list(model.graph.node)
    del made.graph.initializer[:], made.graph.node[:]
    made.graph.node.extend(nodes)
    return made


def test_constants_count_as_initializers_do() -> None:
    plain = toys.attention()
    assert stored_size(with_constants(plain)) == stored_size(plain)
    bare = ModelProto()
    bare.graph.node.append(helper.make_node("Constant", [], ["a"], value_ints=[1, 2, 3]))
    bare.graph.node.append(helper.make_node("Constant", [], ["b"], value_float=1.0))
    assert stored_size(bare).to_dict() == {"elements": 4, "bytes": 28}


@pytest.mark.parametrize("constants", [False, True])
def test_a_cut_shows_what_the_files_lose(constants: bool, command: Command, tmp_path: Path) -> None:
    model = toys.attention()
    path, out = tmp_path / "m.onnx", tmp_path / "out.onnx"
    onnx.save(with_constants(model) if constants else model, path)
    outcome = command("prune", path, "-o", out, "--heads", "0:1,2", "--json")
    assert outcome.exit_code == 0, outcome.stderr
    told = outcome.document
    assert told["before"] == stored_size(onnx.load(path)).to_dict()
    assert told["after"] == stored_size(onnx.load(out)).to_dict()
    assert told["file_bytes"] == {"before": path.stat().st_size, "after": out.stat().st_size}
    assert told["before"]["elements"] > told["after"]["elements"] > 0 and told["warnings"] == []
    ahead = command("prune", path, "--heads", "0:1,2", "--dry-run", "--json").document
    assert {key: ahead[key] for key in ("before", "after", "warnings")} == {
        key: told[key] for key in ("before", "after", "warnings")
    }


def test_growth_has_a_plus_and_a_warning(command: Command, tmp_path: Path) -> None:
    """A cache that keeps its shape is gathered: what is added to this small graph outweighs one head."""
    path = tmp_path / "m.onnx"
    onnx.save(toys.attention(hidden=1, cache=True), path)
    options = ("--heads", "0:1", "--cache", "keep")
    outcome = command("prune", path, "-o", tmp_path / "out.onnx", *options)
    assert outcome.exit_code == 0, outcome.stderr
    told = command("prune", path, "-o", tmp_path / "out.onnx", *options, "--json").document
    assert (
        told["after"]["bytes"] > told["before"]["bytes"]
        or told["file_bytes"]["after"] > told["file_bytes"]["before"]
    )
    assert len(told["warnings"]) == 1 and "by" in told["warnings"][0]
    assert "warning" in outcome.stdout and "(--" not in outcome.stdout
    assert prune(path, heads="0:1", cache="keep").to_dict()["file_bytes"] is None


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (100, 75, "-25.0 %"),
        (100, 114.9, "+14.9 %"),
        (7, 7, "unchanged"),
        (0, 4, "new"),
        (10**6, 10**6 - 1, "-<0.1 %"),
    ],
)
def test_changes_carry_their_sign_once(before: float, after: float, said: str) -> None:
    assert change(before, after) == said
