"""Keywords of Python functions are the settings that the command line declares: names, types and messages."""

from __future__ import annotations

import ast
import inspect
import runpy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest

import onnxheadprune as ohp
from onnxheadprune.api import typed
from onnxheadprune.api.calls import CALLS
from onnxheadprune.api.keywords import OBJECTS, Call
from onnxheadprune.cli import group
from onnxheadprune.cli import main as run
from onnxheadprune.reporting import progress as reporting
from onnxheadprune.settings.units import SCORED
from tests.conftest import ROOT
from tests.graphs import mixtures, toys


def _parameters(name: str) -> Mapping[str, inspect.Parameter]:
    thing = getattr(ohp, name)
    return inspect.signature(thing).parameters if inspect.isfunction(thing) else {}


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
def test_help_begins_with_two_examples_and_lists_the_keywords(call: Call[Any]) -> None:
    text = inspect.getdoc(getattr(ohp, call.name)) or ""
    first, examples, *_ = text.split("\n\n")
    assert "\n" not in first and examples.count(f"ohp.{call.name}(") == 2
    assert all(f"    {name}: " in text for name in call.keywords)
    for line in examples.splitlines():
        calls = [node for node in ast.walk(ast.parse(line.strip())) if isinstance(node, ast.Call)]
        (example,) = [node for node in calls if ast.unparse(node.func) == f"ohp.{call.name}"]
        call.read({str(item.arg): ast.literal_eval(item.value) for item in example.keywords}, output="x")


@EACH
def test_a_wrong_type_is_refused_by_name(call: Call[Any]) -> None:
    needed = {name: "int8-dynamic" for name, item in call.keywords.items() if item.required}
    for name in call.keywords:
        with pytest.raises(ohp.UsageError, match=rf"^{name}( must be|: )"):
            call.read({**needed, name: object()})


@pytest.mark.parametrize(
    ("name", "keywords", "sentence"),
    [
        ("prune", {"ratio": "x"}, "ratio: 'x' is not a share like 0.25 or 25%"),
        ("prune", {"ratio": 50}, 'less than 1, not 50; write "50%" for percent'),
        ("prune", {"units": ...}, "units: Ellipsis is not of the form KIND,KIND"),
        ("prune", {"units": "heads neurons"}, "units are heads, neurons"),
        ("prune", {"wish": 0.5}, r"prune\(\) has no keyword wish; help\(onnxheadprune.prune\) lists all"),
        ("prune", {"sparsity": 0.5}, "no keyword sparsity; use ratio="),
        ("prune", {"effect": "kl"}, "no keyword effect"),
        ("prune", {"heads": "0:1", "protect": "0"}, "protect= requires ratio=, keep="),
        ("prune", {"heads": 3}, r"heads must be text or a mapping like \{0: \[1, 3\]\}, not 3"),
        ("prune", {"ratio": 0.5, "keep": 2}, "ratio= and keep= are mutually exclusive"),
        ("prune", {"heads": "0:1", "batch": 2}, "batch= requires target_speedup="),
        ("prune", {"heads": "0:1", "backup": "x"}, "backup= requires in_place="),
        ("quantize", {}, r"quantize\(\) requires to="),
        ("quantize", {"to": "int9"}, "to must be int8-dynamic, int8-qdq or int4, not 'int9'"),
        ("bench", {"batch": 1.5}, "'1.5' is not a list of whole numbers like 1,8"),
        ("score", {"method": "weight", "data": "random"}, 'data= and method="weight" are mutually exclusive'),
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


def test_sites_print_as_the_table_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    model = ROOT / "sample_models" / "digits_vit.onnx"
    assert run(["inspect", str(model)]) == 0
    sites = ohp.inspect(model)
    assert str(sites).rstrip() == capsys.readouterr().out.rstrip() and isinstance(sites, ohp.Sites)
    assert repr(sites).startswith("Sites(model=") and "\n" not in repr(sites)


def test_an_output_is_a_path() -> None:
    with pytest.raises(ohp.UsageError, match="output must be a path, not 5"):
        ohp.prune(toys.attention(), 5, heads="0:1")  # type: ignore[arg-type]
    with pytest.raises(ohp.UsageError, match=r"which 0\.5 does not"):
        ohp.sweep(toys.attention(), 0.5, data="random")  # type: ignore[arg-type]


def test_objects_are_of_settings() -> None:
    assert set(OBJECTS) <= {name for call in CALLS for name in call.keywords}


def test_what_is_off_already_may_be_switched_off() -> None:
    """A loop over both values of a switch is no mistake; switching on without effect is one."""
    call = next(call for call in CALLS if call.name == "prune")
    assert call.read({"heads": "0:1", "refit": False}).refit is False
    with pytest.raises(ohp.UsageError, match="refit= requires data="):
        call.read({"heads": "0:1", "refit": True})


@pytest.mark.parametrize("units", SCORED)
def test_units_are_text_a_mapping_or_a_file(units: str, tmp_path: Path) -> None:
    """All kinds alike, by the numbers of sites."""
    model = mixtures.RUNNABLE["relu"].model() if units == "experts" else toys.stack()
    (spec := tmp_path / "spec.json").write_text('{"0": [1]}', encoding="utf-8")
    forms: list[Any] = ["0:1", {0: [1]}, {"0": (1,)}, {"0": range(1, 2)}, '{"0": [1]}', str(spec), spec]
    plans = [ohp.plan_pruning(model, **{units: form}).to_dict() for form in forms]
    assert plans == [plans[0]] * len(forms)


@pytest.mark.parametrize("name", [name for name in ohp.__all__ if "progress" in _parameters(name)])
def test_progress_is_a_bar_a_function_or_nothing(name: str) -> None:
    known = _parameters(name).values()
    models = ["none.onnx"] * sum(item.kind is item.POSITIONAL_OR_KEYWORD for item in known)
    assert _parameters(name)["progress"].default is None
    with pytest.raises(ohp.UsageError, match="progress must be True or a function, not 'yes'"):
        getattr(ohp, name)(*models, progress="yes")


def test_the_bar_says_what_is_done(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, short_clocks: None
) -> None:
    monkeypatch.setattr(reporting, "QUIET_SECONDS", 0.0)
    told: list[str] = []
    for shown in (True, lambda what, done, of: told.append(what), None, False):
        ohp.prune(toys.attention(), heads="0:1", progress=shown)
    assert "validating" in capsys.readouterr().err and "validating" in told
    ohp.bench(toys.attention(), repeats=5, memory=False, progress=True)
    assert capsys.readouterr().err
