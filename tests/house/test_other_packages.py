"""A package of somebody else registers an operator of its own domain, a scoring method and a runtime."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import onnx
import pytest
from onnx import ModelProto

import onnxheadprune as ohp
from tests.conftest import ROOT
from tests.documents.blocks import blocks_of
from tests.graph_text import model_of
from tests.vocabulary.graphs import ATTENTION, PLAIN, WEIGHTS

SOURCE = ROOT / "tests" / "custom_ops" / "bend.c"
"""The kernel of the operator."""
PAGE = ROOT / "docs" / "extending.md"
"""The package is that of the first blocks of the page."""
_POINTS, _OPERATORS, _SETTINGS, _METHOD, *_ = (
    block.code for block in blocks_of(PAGE) if block.language in ("text", "python")
)
FILES = {
    "mylib-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: mylib\nVersion: 1.0\n",
    "mylib-1.0.dist-info/entry_points.txt": _POINTS.replace("project.entry-points.", "").replace('"', ""),
    "mylib/__init__.py": "",
    "mylib/operators.py": _OPERATORS,
    "mylib/settings.py": _SETTINGS,
    "mylib/late.py": _METHOD,
    "mylib/runtime.py": """\
from onnxheadprune.deploying.clients.contract import Client

CLIENT = Client("mylib", "My library", reads=("config.json",))
""",
}
NARROW = {"w_q": [6, 3], "w_k": [6, 3], "w_v": [6, 3], "w_o": [3, 6]}


def bending() -> ModelProto:
    """Attention with an operator of another domain between the context and the projection."""
    plain = ATTENTION.format(masked=PLAIN).replace("Reshape(ct, whole)", "Reshape(bent, whole)")
    body = plain.replace("joined =", "bent = mylib.Bend(ct) joined =")
    opsets = 'opset_import: ["" : 17, "mylib" : 1]'
    return model_of(
        f"<ir_version: 10, {opsets}> g (float[b, s, 6] x) => (float[b, s, 6] y) <{WEIGHTS}> {{ {body} }}", 0
    )


def call(folder: Path, *line: str, files: Mapping[str, str] = FILES) -> subprocess.CompletedProcess[str]:
    """Run a command where a package with these files is installed."""
    site = folder / "site"
    for name, text in files.items():
        path = site / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    onnx.save(bending(), folder / "bend.onnx")
    environment = {**os.environ, "PYTHONPATH": str(site)}
    command = [sys.executable, "-m", "onnxheadprune", *line]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


PRUNE = ("prune", "bend.onnx", "--heads", "0:1", "-o", "out.onnx", "--provider", "cpu")


def test_its_operator_is_cut_through_and_refused_by_name_without_a_kernel(tmp_path: Path) -> None:
    cut = call(tmp_path, *PRUNE, "--no-validate")
    assert cut.returncode == 0, cut.stderr
    sizes = {tensor.name: [*tensor.dims] for tensor in onnx.load(tmp_path / "out.onnx").graph.initializer}
    assert {name: sizes[name] for name in NARROW} == NARROW
    proof = call(tmp_path, *PRUNE)
    assert proof.returncode == 3
    assert "mylib:Bend" in proof.stderr and "--custom-ops FILE" in proof.stderr


def test_a_library_that_is_none_is_refused(tmp_path: Path) -> None:
    onnx.save(bending(), tmp_path / "bend.onnx")
    for library in (tmp_path / "missing.so", tmp_path, tmp_path / "bend.onnx"):
        with pytest.raises(ohp.UsageError):
            ohp.prune(bending(), heads="0:1", custom_ops=library, provider="cpu")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("there is no C compiler")
    made = tmp_path_factory.mktemp("library") / "bend.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(made), str(SOURCE)], check=True)
    return made


def test_a_cut_is_proven_with_the_library_of_its_operators(library: Path, tmp_path: Path) -> None:
    proven = call(tmp_path, *PRUNE, "--custom-ops", str(library), "--json")
    assert proven.returncode == 0, proven.stderr
    assert json.loads(proven.stdout)["validation"]["verdict"] == "passed"
    with_library = call(tmp_path, "validate", "bend.onnx", "out.onnx", "--custom-ops", str(library))
    assert with_library.returncode == 0, with_library.stderr


def test_the_library_is_a_keyword_of_one_call(library: Path) -> None:
    model = bending()
    ohp.bench(model, model, custom_ops=library, provider="cpu", repeats=7, dims={"b": 1, "s": 2})
    with pytest.raises(ohp.HeadPruneError, match="mylib:Bend"):
        ohp.bench(model, model, provider="cpu", repeats=7, dims={"b": 1, "s": 2})


def test_its_scoring_method_and_runtime_are_offered(tmp_path: Path) -> None:
    scored = call(tmp_path, "score", "bend.onnx", "--method", "late", "-o", "scores.json")
    assert scored.returncode == 0, scored.stderr
    document = json.loads((tmp_path / "scores.json").read_text())
    assert document["unit"] == "share of the site by place"


@pytest.mark.first_case
@pytest.mark.parametrize("module", ["operators", "settings"])
def test_a_module_that_cannot_be_imported_is_named(module: str, tmp_path: Path) -> None:
    broken = {**FILES, f"mylib/{module}.py": "import nothing_of_that_name\n"}
    run = call(tmp_path, *PRUNE, files=broken)
    assert run.returncode == 2 and f"mylib registers {module}" in run.stderr, run.stderr
    assert "Traceback" not in run.stderr
