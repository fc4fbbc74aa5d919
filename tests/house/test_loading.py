"""What a request does not ask for is not loaded, nor required: in a fresh process, by kind of request."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import packages_distributions
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxheadprune.cli.guides import COMMANDS
from tests.graphs import toys
from tests.sources import FILES, PACKAGE, nodes

HEAVY = {
    "PIL",
    "dask",
    "matplotlib",
    "onnx_graphsurgeon",
    "onnx_ir",
    "onnxscript",
    "pandas",
    "pyarrow",
    "rich.markdown",
    "rich.progress",
    "rich.syntax",
    "scipy",
    "threadpoolctl",
    "tokenizers",
    "torch",
    "transformers",
    "yaml",
}
"""Libraries that take long to import, of which none of these requests needs any."""
ROOMS = frozenset(path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists())


@dataclass(frozen=True)
class Call:
    """A command line, what it must not load (rooms or their folders, but for some modules), and libraries it needs."""

    line: str
    never: frozenset[str]
    but: frozenset[str] = frozenset()
    heavy: frozenset[str] = frozenset()


PAGES = frozenset({"reporting.page", "reporting.pictures"})
"""Drawn for who asks for a page or a picture."""
SCORED = frozenset(f"choosing.scoring.{method}" for method in ("ablation", "reap", "taylor"))
OTHERS = frozenset({"deploying", "integrations"}) | PAGES
CHOICE = frozenset({"choosing", "training", "fusion", "edit.gradients"})
"""Needed where the tool chooses what goes, or changes what stays."""
LIMITS = frozenset({"benchmarking.gate", "benchmarking.flops"})
"""A limit and whether it was kept, and the operations of a run: every result has room for them."""
MEASURES = frozenset({"data.drift"})
"""The measure of a difference, which a proof takes."""
NAMED = frozenset({"data.sources"})
"""Where data is read if any is named."""
PAIRS = frozenset({"deploying.pairs"})
"""Two models, of files or of folders."""
FINDERS = frozenset(f"attention.sites.{name}" for name in ("mixtures", "neurons"))
"""The searches for units of other kinds, each as long as all else that a cut of heads takes."""
CALLS = {
    "help": Call("--help", ROOMS - {"cli", "errors", "settings"}),
    "named heads": Call(
        "prune {model} --heads 0:1 -o {out} --provider cpu",
        CHOICE | OTHERS | FINDERS | {"benchmarking", "data"},
        LIMITS | MEASURES | NAMED,
    ),
    "without a proof": Call(
        "prune {model} --heads 0:1 -o {out} --no-validate",
        CHOICE | OTHERS | FINDERS | {"benchmarking", "data"},
        LIMITS | NAMED,
    ),
    "named heads with data": Call(
        "prune {model} --heads 0:1 -o {out} --provider cpu --data {data}",
        CHOICE | OTHERS | {"benchmarking"},
        LIMITS,
    ),
    "a share": Call(
        "prune {model} --ratio 0.2 -o {out} --provider cpu --data {data}",
        CHOICE - {"choosing"} | OTHERS | SCORED | {"benchmarking", "choosing.gradients"},
        LIMITS,
        heavy=frozenset({"scipy", "threadpoolctl"}),
    ),
    "fuse": Call(
        "prune {model} --fuse contrib -o {out} --provider cpu",
        (CHOICE - {"fusion"}) | OTHERS | {"benchmarking", "data"},
        LIMITS | MEASURES | NAMED,
    ),
    "inspect": Call(
        "inspect {model}",
        CHOICE | OTHERS | {"benchmarking", "data", "validation"},
        frozenset({"benchmarking.flops", "data.tokenizing", "data.vocabulary"}),
    ),
    "validate": Call(
        "validate {model} {cut} --provider cpu",
        CHOICE | OTHERS | {"benchmarking", "data"},
        LIMITS | MEASURES | NAMED | PAIRS,
    ),
    "bench": Call(
        "bench {model} {cut} --provider cpu", CHOICE | OTHERS | {"data", "workflow", "attention"}, PAIRS
    ),
}
LOADED = """
import json, sys
{work}
ours = {{name: module.__file__ for name, module in sys.modules.items() if name.startswith("onnxheadprune")}}
print("LOADED" + json.dumps([ours, list(sys.modules)]))
"""


def loaded_by(work: str) -> tuple[dict[str, Path], set[str]]:
    """Our modules below the package with their files, and all libraries, after some Python in a fresh process."""
    run = subprocess.run(
        [sys.executable, "-c", LOADED.format(work=work)], capture_output=True, text=True, check=True
    )
    ours, everything = json.loads(run.stdout.rpartition("LOADED")[2])
    files = {name.removeprefix("onnxheadprune").lstrip("."): Path(file) for name, file in ours.items()}
    return files, {name for name in everything if name in HEAVY}


def carried_out(line: str) -> str:
    """Python that runs a command line and fails where it does."""
    return f"from onnxheadprune.cli import main\nassert main({line.split()!r}) == 0"


def unasked(files: dict[str, Path], call: Call) -> set[str]:
    """What is loaded and must not be; packages that only hold others do not count."""
    modules = {name for name, file in files.items() if file.name != "__init__.py"} - call.but
    return {name for name in modules if any(f"{name}.".startswith(f"{room}.") for room in call.never)}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("loading")
    model, cut = folder / "model.onnx", folder / "cut.onnx"
    onnx.save(toys.attention(ids=True), model)
    np.savez(folder / "data.npz", input_ids=np.arange(20).reshape(4, 5) % toys.VOCABULARY)
    from onnxheadprune import prune

    prune(model, cut, heads="0:1", validate=False)
    return {"model": model, "cut": cut, "data": folder / "data.npz"}


@pytest.mark.slow
@pytest.mark.parametrize("name", CALLS)
def test_a_request_loads_what_it_asks_for(name: str, files: dict[str, Path], tmp_path: Path) -> None:
    call = CALLS[name]
    line = call.line.format(**files, out=tmp_path / "out.onnx")
    ours, heavy = loaded_by(carried_out(line))
    assert unasked(ours, call) == set()
    assert heavy <= call.heavy


@pytest.mark.slow
def test_help_of_all_commands_loads_settings_and_click_alone() -> None:
    """What a clock would show on a quiet machine: a command's help in a fifth of a second."""
    calls = "\n".join(carried_out(f"{name} --help") for name in COMMANDS)
    ours, heavy = loaded_by(calls)
    assert {name.partition(".")[0] for name in ours} <= {"", "cli", "errors", "settings"}
    assert not [name for name in ours if name.startswith("reporting.")] and heavy == set()


ROOT = Path(__file__).parents[2]
BROUGHT = {"dask": "distributed", "google": "onnx"}
"""Modules that come with a package, by its name."""
HOSTS = {"olive"}
"""Programs that load a part of this package: they are there where it is imported."""


def _names(requirements: Iterable[str]) -> set[str]:
    return {re.split(r"[><=;\[ ]", item)[0].lower().replace("_", "-") for item in requirements}


def _imported(nodes: Iterable[ast.AST]) -> set[str]:
    """Top-level modules that a file imports anywhere in it."""
    found = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    found |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    return {name.split(".")[0] for name in found}


def _required(nodes: Iterable[ast.AST]) -> dict[str, str]:
    """Modules that a file asks for before it imports them, with the extra that it names."""
    calls = [
        [argument.value for argument in node.args[1:] if isinstance(argument, ast.Constant)]
        for node in nodes
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "require_packages"
    ]
    return {str(module): str(extra) for extra, *modules in calls for module in modules}


def test_what_an_installation_may_lack_is_asked_for_by_its_extra() -> None:
    """A library is installed with the package, or `require_packages` names an extra that has it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    base, extras = _names(project["dependencies"]), project["optional-dependencies"]
    required = {module: extra for path in FILES for module, extra in _required(nodes(path)).items()}
    libraries = (
        set().union(*(_imported(nodes(path)) for path in FILES))
        - sys.stdlib_module_names
        - HOSTS
        - {"onnxheadprune"}
    )
    distributions = packages_distributions()
    assert len(libraries) > 15 and len(required) > 5
    for module in libraries:
        owners = _names([BROUGHT[module]] if module in BROUGHT else distributions[module])
        if not owners & base:
            key = module if module in required else BROUGHT.get(module, module)
            assert owners & _names(extras[required[key]]), module
