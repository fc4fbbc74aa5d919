"""Keywords of Python functions are the settings that the command line declares: names, types and messages."""

from __future__ import annotations

import ast
import inspect
import runpy
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest

import onnxheadprune as ohp
from onnxheadprune.api import typed
from onnxheadprune.api.functions import CALLS
from onnxheadprune.api.keywords import Call
from onnxheadprune.cli.program import group
from onnxheadprune.reporting import progress as reporting
from onnxheadprune.settings.units import SCORED
from tests.conftest import ROOT
from tests.graphs import mixtures, toys

EACH = pytest.mark.parametrize("call", CALLS, ids=lambda call: call.name)
COMMAND = {"prune_folder": "prune", "select_heads": "prune", "plan_pruning": "prune"}
"""The commands of functions that are called otherwise."""
HERE_ALONE = {"prune": set("batch seq past dims repeats time_budget threads".split())}
"""Keywords that are no options: the sizes that a speed-up is measured at."""


def test_the_types_are_those_of_the_declarations() -> None:
    written = Path(typed.__file__).read_text(encoding="utf-8")
    made = runpy.run_path(str(ROOT / "tools" / "keywords.py"))["text"]()
    assert ast.dump(ast.parse(written)) == ast.dump(ast.parse(made)), "run python tools/keywords.py"


def test_the_table_of_scoring_methods_is_that_of_their_classes() -> None:
    page = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    assert page == runpy.run_path(str(ROOT / "tools" / "methods.py"))["text"](), "run python tools/methods.py"


@EACH
def test_keywords_are_named_as_options(call: Call[Any]) -> None:
    command = group.commands[COMMAND.get(call.name, call.name)]
    options = {parameter.name for parameter in command.params if isinstance(parameter, click.Option)}
    assert set(call.keywords) - options == HERE_ALONE.get(call.name, set())
    signature = inspect.signature(getattr(ohp, call.name))
    assert set(call.keywords) < set(signature.parameters) or call.name in ("validate", "plan_pruning")


@EACH
def test_a_wrong_type_is_refused_by_name(call: Call[Any]) -> None:
    needed = {name: "int8-dynamic" for name, item in call.keywords.items() if item.required}
    for name in call.keywords:
        with pytest.raises(ohp.UsageError, match=rf"^{name}( must be|: )"):
            call.read({**needed, name: object()})


@pytest.mark.parametrize(
    ("name", "keywords", "sentence"),
    [
        ("prune", {"ratio": "x"}, "ratio: 'x'"),
        ("prune", {"sparsity": 0.5}, "no keyword sparsity; use ratio="),
        ("prune", {"wish": 0.5}, r"prune\(\) has no keyword wish"),
        ("prune", {"heads": "0:1", "protect": "0"}, "protect= requires ratio=, keep="),
        ("prune", {"ratio": 0.5, "keep": 2}, "ratio= and keep= are mutually exclusive"),
        ("quantize", {}, r"quantize\(\) requires to="),
    ],
)
def test_messages_name_keywords(name: str, keywords: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ohp.UsageError, match=sentence):
        getattr(ohp, name)(toys.attention(), **keywords)


@pytest.mark.parametrize(
    ("value", "read"), [(1, (1,)), ([1, 8], (1, 8)), ((8,), (8,)), ("1,8", (1, 8)), (np.int64(4), (4,))]
)
def test_sizes_are_a_number_a_list_or_the_text_of_the_option(value: Any, read: tuple[int, ...]) -> None:
    call = next(call for call in CALLS if call.name == "bench")
    assert call.read({"batch": value}).batch == read


@pytest.mark.parametrize("units", SCORED)
def test_units_are_text_a_mapping_or_a_file(units: str, tmp_path: Path) -> None:
    """All kinds alike, by the numbers of sites."""
    model = mixtures.RUNNABLE["relu"].model() if units == "experts" else toys.stack()
    (spec := tmp_path / "spec.json").write_text('{"0": [1]}', encoding="utf-8")
    forms: list[Any] = ["0:1", {0: [1]}, {"0": (1,)}, {"0": range(1, 2)}, '{"0": [1]}', str(spec), spec]
    plans = [ohp.plan_pruning(model, **{units: form}).to_dict() for form in forms]
    assert plans == [plans[0]] * len(forms)


def test_the_bar_says_what_is_done(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, short_clocks: None
) -> None:
    monkeypatch.setattr(reporting, "QUIET_SECONDS", 0.0)
    told: list[str] = []
    for shown in (True, lambda what, done, of: told.append(what), None, False):
        ohp.prune(toys.attention(), heads="0:1", progress=shown)
    assert "validating" in capsys.readouterr().err and "validating" in told
    ohp.bench(toys.attention(), repeats=7, memory=False, progress=True)
    assert capsys.readouterr().err
