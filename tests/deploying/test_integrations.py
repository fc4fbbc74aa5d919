"""Head pruning as a part of other tools, as far as it works without them; `tests/clients/all olive` runs the rest."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from importlib.util import find_spec
from inspect import get_annotations
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxheadprune import UsageError, inspect, validate
from onnxheadprune.integrations import olive
from onnxheadprune.integrations.cutting import PARAMETERS, PassKeys, call_of, cut, default_of, type_of
from onnxheadprune.settings.cutting import Cut
from onnxheadprune.settings.registry import METHODS
from onnxheadprune.settings.setting import declared
from tests.conftest import ROOT
from tests.deploying import exports
from tests.graphs import toys

without_olive = pytest.mark.skipif(find_spec("olive") is not None, reason="Olive is installed here")


def heads_left(model: Path) -> list[int]:
    return [site.num_heads for site in inspect(model).sites]


@pytest.mark.slow
def test_a_folder_in_a_folder_out(tmp_path: Path) -> None:
    folder, out = exports.encoder(tmp_path / "in"), tmp_path / "out"
    outcome = cut(folder, out, call_of({"heads": "0:1", "runtime": "sentence-transformers"}))
    assert outcome.heads == {0: (1,)}
    before, after = exports.contents(folder), exports.contents(out)
    side = {name for name in before if not name.startswith("onnx/")}
    assert side and {name: after[name] for name in side} == {name: before[name] for name in side}
    model = "onnx/model.onnx"
    assert heads_left(out / model)[0] == heads_left(folder / model)[0] - 1
    assert validate(folder / model, out / model).verdict == "passed"
    card = (out / "README.md").read_text()
    assert "\n# in\n" in card
    assert "as the pass HeadPruning wrote them" in card


def test_whole_groups_are_the_same_share_of_every_layer(tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    uneven = toys.stack(heads=4, kv_heads=4)
    names = {tensor.name: tensor for tensor in uneven.graph.initializer}
    # The heads of the first site are worth next to nothing, so single heads all go there.
    weak = next(name for name in names if "out" in name or name.endswith("o.weight"))
    array = onnx.numpy_helper.to_array(names[weak]) * np.float32(1e-3)
    names[weak].CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(array), weak))
    onnx.save(uneven, model)
    found = {}
    for whole in (False, True):
        settings = call_of({"ratio": 0.25, "whole_groups": whole, "method": "weight"})
        found[whole] = cut(model, tmp_path / f"{whole}.onnx", settings).heads
    assert {len(gone) for gone in found[True].values()} == {1}
    assert sum(map(len, found[False].values())) == sum(map(len, found[True].values()))


def test_a_word_is_read_where_olive_makes_a_path_of_it(tmp_path: Path) -> None:
    for value in (tmp_path / "optimum", str(tmp_path / "optimum")):
        assert call_of({"runtime": value}).runtime == "optimum"
    with pytest.raises(UsageError, match="runtime must be"):
        call_of({"runtime": "elsewhere"})


def test_settings_that_contradict_each_other(tmp_path: Path) -> None:
    for wrong in (
        {"ratio": 1.5},
        {"ratio": 0.5, "units": "pairs"},
        {"ratio": 0.5, "method": "dice"},
        {"target_speedup": 150.0},
    ):
        with pytest.raises(UsageError):
            call_of(wrong)
    model = tmp_path / "model.onnx"
    onnx.save(toys.stack(), model)
    with pytest.raises(UsageError, match="a folder"):
        cut(model, tmp_path / "out.onnx", call_of({"heads": "0:1", "runtime": "optimum"}))
    with pytest.raises(UsageError, match="mutually exclusive"):
        call_of({"data": "lines.txt"}, toys.ids(feeds=1))


def test_every_default_has_the_type_that_is_declared_for_it() -> None:
    """Olive checks defaults as it does what users give; without a default it hands over None."""
    for name, item in PARAMETERS.items():
        default = default_of(item)
        assert isinstance(default, type_of(item) | int | None), name
        assert default is not None or not item.default, name
    assert call_of({name: default_of(item) for name, item in PARAMETERS.items()}) == call_of({})


def test_olive_is_not_imported_before_it_is_used() -> None:
    code = "import sys, onnxheadprune.integrations.olive; sys.exit('olive' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@without_olive
def test_without_olive_a_sentence_says_so() -> None:
    with pytest.raises(UsageError, match="pip install olive-ai"):
        olive.package_config()
    with pytest.raises(UsageError, match="pip install olive-ai"):
        _ = olive.HeadPruning
    words = [sys.executable, "-m", "onnxheadprune.integrations.olive"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and "Traceback" not in done.stderr
    with pytest.raises(AttributeError):
        _ = olive.Nothing


def test_the_entry_names_what_olive_finds_there() -> None:
    module, _, name = str(olive.PASS["module_path"]).rpartition(".")
    assert importlib.import_module(module) is olive and name in olive.__all__


def test_the_page_shows_settings_that_exist() -> None:
    page = (ROOT / "docs" / "deploying.md").read_text(encoding="utf-8")
    example = re.search(r"```json\n(.*?)```", page, re.DOTALL)
    assert example is not None
    prune = json.loads(example[1])["passes"]["prune"]
    assert prune.pop("type") == "HeadPruning"
    assert set(prune) <= {*PARAMETERS, "data_config"}
    for name in (*get_annotations(PassKeys), "data_config"):
        assert f"`{name}`" in page, f"the page says nothing of {name}"
    assert set(PARAMETERS["method"].words) == {"measured", *METHODS}
    assert PARAMETERS["units"] == declared(Cut)["units"]
    assert call_of({"keep": 3, "method": "weight"}).method == "weight"
