"""A job whose model is a folder: prune, validate, bench and limits for all of its files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from onnxheadprune import inspect
from tests.conftest import Command, Outcome
from tests.deploying import exports
from tests.deploying.exports import contents
from tests.graphs import toys

JOB = """
model: in
output: out
provider: cpu
prune:
  heads: "0:1"
  neurons: "1:0-3"
  runtime: optimum
validate: {}
gate:
  max_drift: 100
  max_size_ratio: 1.5
  max_operations_ratio: 0.99
"""
NAMES = ("onnx/model.onnx", "onnx/model_quantized.onnx")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    exports.encoder(tmp_path / "in")
    (tmp_path / "job.yaml").write_text(JOB, encoding="utf-8")
    return tmp_path


def run(command: Command, place: Path, *settings: str) -> Outcome:
    return command(
        "run", place / "job.yaml", "--json", *(word for one in settings for word in ("--set", one))
    )


@pytest.mark.slow
def test_a_job_makes_a_folder_and_knows_it_again(command: Command, place: Path) -> None:
    before = contents(place / "in")
    outcome = run(command, place)
    assert outcome.exit_code == 0, outcome.stderr
    document = outcome.document
    assert [step["status"] for step in document["steps"]] == ["done", "done"] and document["accepted"]
    made = place / "out" / "pruned"
    for name in NAMES:
        assert [site.removed for site in inspect(made / name)] == [(1,), ()]
        assert [site.removed for site in inspect(made / name).neurons] == [(), (0, 1, 2, 3)]
    assert contents(place / "in") == before and (made / "tokenizer.json").is_file()
    assert f"    onnxheadprune run {place / 'job.yaml'}" in (made / "README.md").read_text()
    gates = {(gate["name"], gate["subject"]): gate["passed"] for gate in document["gates"]}
    assert gates == {
        ("max_drift", f"logits of {NAMES[0]}"): True,
        ("max_drift", f"logits of {NAMES[1]}"): True,
        ("max_size_ratio", "pruned"): True,
        ("max_operations_ratio", "pruned"): True,
    }
    told = json.loads((place / "out" / "validate.json").read_text())
    assert [item["file"] for item in told["files"]] == list(NAMES)
    assert "model_quantized.onnx" in (place / "out" / "report.html").read_text()
    summary = (place / "out" / "summary.md").read_text()
    assert "| operations |" in summary and "| neurons | 40 | 36 | -10 % |" in summary
    outcome = run(command, place)
    assert [step["status"] for step in outcome.document["steps"]] == ["unchanged", "unchanged"]
    # One byte of a side file is another folder.
    (place / "in" / "tokenizer.json").write_text("another tokenizer")
    outcome = run(command, place)
    assert [step["status"] for step in outcome.document["steps"]] == ["done", "done"]
    assert (made / "tokenizer.json").read_text() == "another tokenizer"


@pytest.mark.slow
def test_what_others_put_into_the_folder_stays(command: Command, place: Path) -> None:
    assert run(command, place, "validate=null", "gate=null").exit_code == 0
    (place / "out" / "pruned" / "mine").write_text("mine")
    outcome = run(command, place, "validate=null", "gate=null", "prune.heads='0:2'")
    assert outcome.exit_code == 2 and "pruned/mine is no file of the job" in outcome.stderr
    assert (place / "out" / "pruned" / "mine").read_text() == "mine"
    (place / "out" / "pruned" / "mine").unlink()
    assert run(command, place, "validate=null", "gate=null", "prune.heads='0:2'").exit_code == 0
    assert [site.removed for site in inspect(place / "out" / "pruned" / NAMES[0])] == [(2,), ()]


@pytest.mark.slow
def test_a_target_reads_the_data_of_the_job(command: Command, place: Path) -> None:
    """The most precise file leads, and its refit is told of."""
    ids = np.random.default_rng(3).integers(0, toys.VOCABULARY, (24, 6))
    np.savez(place / "ids.npz", input_ids=ids)
    target = "prune={ratio: 0.3, units: [heads, neurons], multiple_of: {neurons: 4}}"
    outcome = run(command, place, "data={path: ids.npz}", target, "gate=null", "validate.data=ids.npz")
    assert outcome.exit_code == 0, outcome.stderr
    told = json.loads((place / "out" / "prune.json").read_text())
    leader = next(item for item in told["files"] if item["leads"])
    assert leader["choice"]["compensation"] is not None and leader["file"] == NAMES[0]
    assert all(item["validation"]["verdict"] == "passed" for item in told["files"])


def test_data_that_fits_no_model_of_the_folder_is_refused(command: Command, place: Path) -> None:
    np.savez(place / "other.npz", pictures=np.zeros((2, 3)))
    outcome = run(command, place, "validate.data=other.npz", "gate=null")
    assert outcome.exit_code == 2 and "the data fits none of the models" in outcome.stderr
