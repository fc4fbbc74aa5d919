"""A scoring method is one file: a toy in a copy of the package is offered, runs and decides what is removed."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest

from onnxheadprune.settings.registry import METHODS, Registered
from tests import toys_scores
from tests.conftest import PackageCopy

TOY = '''
"""Scores by position."""

import numpy as np

from onnxheadprune.choosing.scoring.method import Scored, ScoringMethod, Subject, from_contexts


class Position(ScoringMethod):
    """The later a unit, the more important it is."""

    NAME = "position"
    ORDER = 50
    UNIT = "share of the site by position"

    def __call__(self, subject: Subject) -> Scored:
        """Return the position of each unit."""
        return Scored(from_contexts(subject, lambda site, _moments: np.arange(1.0, site.num_units + 1)))
'''


@pytest.mark.parametrize("item", [*METHODS.values()], ids=lambda item: item.name)
def test_options_read_the_constants_of_the_class(item: Registered) -> None:
    """The constants that are read from the source are those of the class."""
    made, constants = item.load(), item.constants
    assert {name: getattr(made, name) for name in constants} == dict(constants)
    own = {name for base in made.__mro__[:-1] for name in vars(base) if name.isupper()}
    assert own == constants.keys()


@pytest.mark.slow
def test_a_method_is_one_file(copied: PackageCopy) -> None:
    copied.add("choosing/scoring/methods/position.py", TOY)
    onnx.save(toys_scores.stack(), copied.folder / "toy.onnx")
    rows = np.concatenate([feed["input_ids"] for feed in toys_scores.ids(20)])
    np.savez(copied.folder / "ids.npz", input_ids=rows)
    run = copied.run
    assert "taylor, position or random; of experts reap" in " ".join(run("score", "--help").stdout.split())
    measured = ("toy.onnx", "--method", "position", "--data", "ids.npz", "--provider", "cpu")
    scored = run("score", *measured, "-o", "scores.json")
    assert scored.returncode == 0 and "heads scored by position" in scored.stdout, scored.stderr
    written = json.loads((copied.folder / "scores.json").read_text(encoding="utf-8"))
    assert written["unit"] == "share of the site by position"
    assert written["sites"][0]["scores"] == [1, 2, 3, 4]
    pruned = run("prune", *measured, "--ratio", "0.25", "-o", "out.onnx", "--json")
    assert pruned.returncode == 0, pruned.stderr
    removed = [cut["removed"] for cut in json.loads(pruned.stdout)["plan"]["cuts"]]
    assert any(removed) and all(units == list(range(len(units))) for units in removed)
    refused = run("score", "toy.onnx", "--method", "position", "--units", "experts", "--data", "ids.npz")
    assert refused.returncode == 2 and "position does not score experts" in refused.stderr
