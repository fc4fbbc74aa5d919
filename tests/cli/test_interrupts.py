"""Ctrl-C is 130, also where it comes while a library is imported and the library calls it something else."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from onnxheadprune.cli.outcome import INTERRUPTED
from tests.calibration_files import tokenizer
from tests.conftest import SAMPLES
from tests.graphs import toys
from tests.sources import FILES, nodes

STOPPED = '''
import os, signal, sys, time

class Stopped:
    """Is interrupted where a module is looked for, and says what extension modules say of that: nothing true."""

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] != sys.argv[1]:
            return None
        sys.meta_path.remove(self)
        found = []
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(10)
        except KeyboardInterrupt as error:
            found.append(error)
        if sys.argv[2] == "lost":
            raise ImportError("numpy.core.multiarray failed to import")
        raise ImportError("initialization failed") from found[0]

sys.meta_path.insert(0, Stopped())
from onnxheadprune.cli import main
sys.exit(main(sys.argv[3:]))
'''
CUT = "prune model.onnx --heads 0:1 -o out.onnx"
SCORED = "score model.onnx"
LINES = {
    "numpy": CUT,
    "onnx": CUT,
    "google": CUT,
    "onnxruntime": CUT,
    "rich": CUT,
    "matplotlib": f"{SCORED} --heatmap h.svg",
    "scipy": "prune model.onnx --ratio 0.5 --data random -o out.onnx",
    "threadpoolctl": "prune model.onnx --ratio 0.5 --data random -o out.onnx",
    "PIL": f"score {SAMPLES / 'digits_vit.onnx'} --data pictures",
    "pyarrow": "score ids.onnx --data text.parquet",
    "dask": "sweep model.onnx 0:0.5:0.5 --data random --dask local",
    "distributed": "sweep model.onnx 0:0.5:0.5 --data random --dask local",
    "onnx_ir": "quantize model.onnx -o out.onnx --to int4",
    "yaml": "run job.yaml --junit j.xml",
    "junitparser": "run job.yaml --junit j.xml",
}
JOB = 'model: model.onnx\noutput: out\nprune: {heads: {"0": [1]}}\n'
ELSEWHERE = {"click", "olive", "onnx_graphsurgeon", "tokenizers"}
"""What the command line is made of, what imports us, what only Python takes, and what runs in a process of its own."""


def roots() -> set[str]:
    """All packages of others that are imported anywhere."""
    found: set[str] = set()
    for path in FILES:
        for node in nodes(path):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add((node.module or "").partition(".")[0])
    return {name for name in found if name not in sys.stdlib_module_names and name != "onnxheadprune"}


@pytest.mark.slow
def test_every_library_is_interrupted() -> None:
    assert roots() - ELSEWHERE <= set(LINES), roots() - ELSEWHERE - set(LINES)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    onnx.save(toys.attention(), tmp_path / "model.onnx")
    onnx.save(toys.attention(ids=True), tmp_path / "ids.onnx")
    (tmp_path / "pictures").mkdir()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "pictures" / "one.png")
    (tmp_path / "text.parquet").write_bytes(b"PAR1")
    tokenizer(tmp_path, words=toys.VOCABULARY)
    (tmp_path / "job.yaml").write_text(JOB)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("library", "kind"), [("onnxruntime", "chained"), *((name, "lost") for name in LINES)]
)
def test_an_interrupt_while_a_library_is_imported(library: str, kind: str, place: Path) -> None:
    words = [sys.executable, "-c", STOPPED, library, kind, *LINES[library].split()]
    done = subprocess.run(words, cwd=place, capture_output=True, text=True, timeout=120)
    assert done.returncode == INTERRUPTED, (library, done.stdout, done.stderr)
    assert "error: interrupted" in done.stderr and "imported" not in done.stderr, done.stderr
    assert not list(place.glob("out*")) or library in ("junitparser",)
