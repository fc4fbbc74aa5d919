"""A scoring method is a function and its line, as a toy in a copy of the package; removed ones name the nearest."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import onnxheadprune as ohp
from onnxheadprune import UsageError
from onnxheadprune.settings import registry
from onnxheadprune.settings.registry import METHODS, REMOVED
from tests.conftest import Command, PackageCopy
from tests.graphs import toys

TOY = '''
"""Scores by position."""

import numpy as np

from onnxheadprune.choosing.scoring.method import Scored, Subject, from_contexts


def position(subject: Subject) -> Scored:
    """The later a unit, the more important it is."""
    return Scored(from_contexts(subject, lambda site, _moments: np.arange(1.0, site.num_units + 1)))
'''
LINE = 'Method("position", f"{_SCORING}.position:position", "share of the site by position"),'


@pytest.mark.parametrize("name", REMOVED)
def test_a_removed_method_names_the_nearest_one(name: Any, command: Command, digits: Path) -> None:
    said = f"{name} was removed; use {REMOVED[name]}"
    assert set(re.findall(r"[a-z]+", REMOVED[name])) & set(METHODS), "there is what is named"
    result = command("score", digits, "--method", name)
    assert result.exit_code == 2 and said in " ".join(result.stderr.split())
    with pytest.raises(UsageError, match=said):
        ohp.prune(digits, ratio=0.5, method=name, data="random")


@pytest.mark.slow
def test_a_method_is_a_function_and_its_line(copied: PackageCopy) -> None:
    copied.add("choosing/scoring/position.py", TOY)
    declared = Path(registry.__file__).read_text(encoding="utf-8")
    last = '        Method("random"'
    copied.add("settings/registry.py", declared.replace(last, f"        {LINE}\n{last}"))
    onnx.save(toys.stack(), copied.folder / "toy.onnx")
    rows = np.concatenate([feed["input_ids"] for feed in toys.ids(20)])
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
