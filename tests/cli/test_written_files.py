"""A call writes its outputs and nothing else, wherever its libraries would keep something."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from onnxheadprune.cli.guides import COMMANDS
from tests.conftest import ROOT

EXAMPLES = {
    **{example: name for name, guide in COMMANDS.items() for example in guide.examples},
    "prune model.onnx --ratio 25% --data data.npz --recover 1 -o r.onnx --report r.html": "prune",
    "score model.onnx --method ablation --data random": "score",
}
LONG = ("bench model.onnx pruned.onnx", "bench model.onnx pruned.onnx --batch 1,8 --csv latency.csv")


def call(line: str, desk: Path, fresh: Path, **environment: str) -> set[str]:
    """Run a command line with a home and a folder for temporary files that are empty; return what is there then."""
    home, temporary = fresh / "home", fresh / "temporary"
    home.mkdir()
    temporary.mkdir()
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("XDG_", "ORT_", "MPL", "DASK"))
    }
    result = subprocess.run(
        [sys.executable, "-m", "onnxheadprune", *shlex.split(line)],
        cwd=desk,
        env={**kept, "HOME": str(home), "TMPDIR": str(temporary), "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert result.returncode in (0, 1), result.stderr
    return {str(path.relative_to(fresh)) for path in fresh.rglob("*") if path not in (home, temporary)}


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(line, marks=[] if line == "validate model.onnx pruned.onnx" else [pytest.mark.slow])
        for line in EXAMPLES
        if line not in LONG
    ],
)
def test_no_command_writes_into_the_home_or_leaves_temporary_files(
    line: str, desk: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    assert not call(line, desk, tmp_path_factory.mktemp("fresh"))
