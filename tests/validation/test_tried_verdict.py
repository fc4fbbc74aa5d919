"""A verdict that rests on numbers alone is called "tried" in every report, and `strict` does not accept it."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from onnxheadprune import Validation, validate
from onnxheadprune.deploying.jobs.keys import GateKeys
from onnxheadprune.deploying.jobs.run import _gates_of
from tests import attacks
from tests.conftest import Command


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model, and a cut of it that doubles what is longer than anybody runs."""
    folder = tmp_path_factory.mktemp("tried")
    model = attacks.text_model()
    smaller = attacks.pruned(model)
    attacks.doubled_beyond(10**6)(smaller)
    onnx.save(model, folder / "model.onnx")
    onnx.save(smaller, folder / "smaller.onnx")
    return folder / "model.onnx", folder / "smaller.onnx"


@pytest.fixture(scope="module")
def found(pair: tuple[Path, Path]) -> Validation:
    return validate(*pair, provider="cpu")


def test_the_command_calls_it_tried_and_strict_rejects_it(command: Command, pair: tuple[Path, Path]) -> None:
    outcome = command("validate", *pair, "--provider", "cpu")
    assert outcome.exit_code == 0
    answer, *lines = outcome.stdout.splitlines()
    assert "exact" not in answer and "equal on all inputs that were tried" in answer
    (line,) = [line for line in lines if line.startswith("validation ")]
    assert line.split(maxsplit=1)[1].startswith("tried: the graph is not the planned one; equal on ")
    assert ", lengths 1 to " in line
    strict = command("validate", *pair, "--provider", "cpu", "--strict", "--json")
    assert strict.exit_code == 1 and strict.document["accepted"] is False
    assert strict.document["exact"] == strict.document["headline"]["exact"]["answer"] == "tried"
    assert strict.document["headline"]["result"]["answer"] == "rejected"
    (gate,) = strict.document["gates"]
    assert gate["name"] == "strict" and gate["passed"] is False


def test_a_proven_cut_passes_strict(command: Command, pair: tuple[Path, Path], tmp_path: Path) -> None:
    onnx.save(attacks.pruned(onnx.load(pair[0])), tmp_path / "right.onnx")
    outcome = command("validate", pair[0], tmp_path / "right.onnx", "--provider", "cpu", "--strict", "--json")
    assert outcome.exit_code == 0 and outcome.document["exact"] == "yes"
    assert [gate["passed"] for gate in outcome.document["gates"]] == [True]


def test_python_says_the_same(found: Validation, pair: tuple[Path, Path]) -> None:
    assert (found.verdict, found.exact, found.passed) == ("passed", "tried", True)
    strict = validate(*pair, provider="cpu", strict=True)
    assert (strict.verdict, strict.exact, strict.passed) == ("passed", "tried", False)


def test_a_notebook_shows_another_colour(found: Validation) -> None:
    assert found.verdict_fact.state == "doubtful" and 'class="doubtful"' in found._repr_html_()
    assert "tried: the graph is not the planned one" in found._repr_html_()


def test_the_limit_of_a_job_is_broken(found: Validation, pair: tuple[Path, Path]) -> None:
    (gate,) = _gates_of(GateKeys(strict=True), {"validate": found.to_dict()}, *pair)
    assert not gate.passed and gate.sentence == "exactness of smaller.onnx is tried, yes was asked for"
    assert _gates_of(GateKeys(), {"validate": found.to_dict()}, *pair) == []


def test_the_first_line_names_the_sizes_that_were_run(found: Validation) -> None:
    exact = [case for case in found.cases if case.settings == "exact" and case.finite]
    shapes = [case.shapes["input_ids"] for case in exact]
    batches, lengths = ([shape[axis] for shape in shapes] for axis in (0, 1))
    assert (min(lengths), max(lengths), max(batches)) == (1, 129, 9)
    spans = f"lengths {min(lengths)} to {max(lengths)}, batches {min(batches)} to {max(batches)};"
    feeds = sum(case.feeds for case in exact)
    assert found.reason.startswith(f"the graph is not the planned one; equal on {feeds} inputs, {spans}")
