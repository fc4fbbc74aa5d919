"""Python functions and `validate.data` of jobs take every kind of data that the command line takes."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

import onnxheadprune as ohp
from onnxheadprune.settings.inputs import DataFormat
from tests.options.models import write_models

FUNCTIONS = [
    name
    for name in ohp.__all__
    if inspect.isfunction(getattr(ohp, name)) and "data" in inspect.signature(getattr(ohp, name)).parameters
]
CALLS: Mapping[str, Mapping[str, Any]] = {
    "prune": {"ratio": 0.25},
    "prune_folder": {"ratio": 0.25},
    "quantize": {"to": "int8-qdq"},
    "recover": {"budget": 1},
    "score": {},
    "select_heads": {"ratio": 0.25},
    "sweep": {"ratios": [0, 0.5]},
    "validate": {},
}
"""What each function is given beside models and data."""
FORMS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "npz": ("toy", {"data": "toy.npz"}),
    "a folder of npz": ("toy", {"data": Path("arrays")}),
    "text": ("toy", {"data": "lines.txt"}),
    "text read otherwise": ("toy", {"data": "rows.jsonl", "text_field": "question", "max_length": 2}),
    "jsonl": ("toy", {"data": "rows.jsonl"}),
    "parquet": ("toy", {"data": "rows.parquet"}),
    "images": ("vision", {"data": "pictures", "image_size": (16, 8)}),
    "random": ("toy", {"data": "random"}),
    "function": ("toy", {"data": "feeds_for_forms:feeds"}),
}
"""Models and data that fits them."""


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_models(tmp_path_factory.mktemp("shelf"))
    lines = [f"w{row % 9} w{row % 7} w3" for row in range(40)]
    (folder / "lines.txt").write_text("\n".join(lines))
    (folder / "rows.jsonl").write_text(
        "\n".join(json.dumps({"text": line, "question": line}) for line in lines)
    )
    with np.load(folder / "toy.npz") as arrays:
        feeds = dict(arrays)
    (folder / "arrays").mkdir()
    np.savez(folder / "arrays" / "first.npz", **feeds)
    (folder / "feeds_for_forms.py").write_text(
        "import numpy as np\n\ndef feeds():\n    with np.load('toy.npz') as arrays:\n        yield dict(arrays)\n"
    )
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    parquet.write_table(pytest.importorskip("pyarrow").Table.from_pylist(rows), folder / "rows.parquet")
    return folder


@pytest.fixture(autouse=True)
def at_the_shelf(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(shelf)
    monkeypatch.syspath_prepend(str(shelf))


def test_every_kind_of_the_command_line_is_tried() -> None:
    assert {*get_args(DataFormat), "random"} <= FORMS.keys() and CALLS.keys() == set(FUNCTIONS)


@pytest.mark.slow
@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_take_text_by_its_path(name: str, short_clocks: None) -> None:
    function = getattr(ohp, name)
    models = ["toy.onnx", "toy-less.onnx"]
    count = 2 if name in ("recover", "validate") else 1
    subjects = ["export-toy"] if name == "prune_folder" else models[:count]
    data = {"data": "lines.txt"} | ({"tokenizer": "tokenizer.json"} if name == "prune_folder" else {})
    assert function(*subjects, **data, **CALLS[name], provider="cpu") is not None


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_detected(form: str) -> None:
    model, data = FORMS[form]
    method: Any = "taylor"
    scores = ohp.score(f"{model}.onnx", **data, method=method, provider="cpu")
    assert all(np.isfinite(values).all() for site in scores.sites for values in [np.asarray(site.scores)])
