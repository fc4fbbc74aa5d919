"""A node may come before its producer, and ONNX Runtime runs that: every command that reads a model sorts it."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import onnx
import pytest

from onnxheadprune import prune
from onnxheadprune.cli import group
from tests.conftest import Command
from tests.graphs import toys

TIMED = "--batch 1 --repeats 5"
CALLS = {
    "inspect": "inspect model.onnx",
    "score": "score model.onnx --data random",
    "prune": "prune model.onnx --heads 0:1 -o out.onnx --report r.html",
    "prune, weights beside": "prune model.onnx --heads 0:1 -o out.onnx --external-data always --report r.html",
    "prune by a ratio": "prune model.onnx --ratio 0.5 --data random -o out.onnx --report r.html",
    "prune a look ahead": "prune model.onnx --heads 0:1 --dry-run --report r.html",
    "prune a folder": "prune folder --heads 0:1 -o out --report r.html",
    "fuse": "fuse model.onnx -o out.onnx --report r.html",
    "fuse a look ahead": "fuse model.onnx --dry-run --report r.html",
    "validate": "validate model.onnx pruned.onnx",
    "recover": "recover model.onnx pruned.onnx -o out.onnx --data random --budget 1 --report r.html",
    "quantize": "quantize model.onnx -o out.onnx --to int8-dynamic --data random",
    "quantize with ranges": "quantize model.onnx -o out.onnx --to int8-qdq --data random",
    "sweep": "sweep model.onnx 0:0.5:0.5 --data random -o c.json",
    "bench": f"bench model.onnx pruned.onnx {TIMED}",
    "batch": "batch folder --heads 0:1 -o out",
    "run": "run job.yaml",
}
JOB = """
model: model.onnx
output: out
data: {path: random}
prune: {ratio: 0.5}
recover: {budget: 1}
quantize: {to: int8-dynamic}
validate: {}
bench: {batch: [1], repeats: 5}
"""
WITHOUT = {"doctor", "report"}
"""Commands that read no model."""


def backwards(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with every node before its producers."""
    nodes = list(model.graph.node)[::-1]
    made = onnx.ModelProto()
    made.CopyFrom(model)
    del made.graph.node[:]
    made.graph.node.extend(nodes)
    return made


def test_every_command_that_reads_a_model_is_called() -> None:
    assert {line.split()[0] for line in CALLS.values()} == set(group.commands) - WITHOUT


@pytest.mark.slow
@pytest.mark.parametrize("name", CALLS)
def test_every_command_sorts_what_it_reads(
    name: str, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch_in_process: None
) -> None:
    """Its document is made too, and what it wrote is read again."""
    monkeypatch.chdir(tmp_path)
    model = backwards(toys.attention())
    (tmp_path / "folder").mkdir()
    for place in ("model.onnx", "folder/model.onnx"):
        onnx.save(model, tmp_path / place)
    prune("model.onnx", "pruned.onnx", heads="0:1")
    (tmp_path / "job.yaml").write_text(JOB)
    outcome = command(*shlex.split(CALLS[name]), "--json")
    assert outcome.exit_code == 0, outcome
    assert isinstance(json.loads(outcome.stdout), dict)


def test_documents_of_unsorted_models_are_those_of_sorted_ones() -> None:
    """Operations and sizes; what is written is sorted."""
    model = toys.attention()
    found = [prune(item, heads="0:1") for item in (model, backwards(model))]
    documents = [item.to_dict() for item in found]
    for key in ("operations", "before", "after"):
        assert documents[0][key] == documents[1][key], key
    assert documents[0]["operations"]["after"] < documents[0]["operations"]["before"]
    for item in found:
        onnx.checker.check_model(item.model)
