"""mypy --strict accepts every Python example of the documentation, and pyright does where it is installed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.documents.blocks import PAGES, blocks_of

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of Python for each page, with its examples, and one for the notebook."""
    folder = tmp_path_factory.mktemp("examples")
    for page in PAGES:
        code = [
            block.code for block in blocks_of(page) if block.language == "python" and not block.excerpt_of
        ]
        if code:
            (folder / f"{page.stem.replace('-', '_').lower()}_page.py").write_text("\n\n".join(code))
    notebook = json.loads((ROOT / "docs" / "tutorial.ipynb").read_text(encoding="utf-8"))
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    (folder / "tutorial_page.py").write_text("\n\n".join(cells))
    return folder


def checked(*command: str, folder: Path) -> list[str]:
    """Lines with errors of examples."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    return [line for line in done.stdout.splitlines() if "error" in line and "_page.py:" in line]


def test_mypy_accepts_the_examples(examples: Path) -> None:
    (examples / "mypy.ini").write_text(
        f"[mypy]\nstrict = True\nmypy_path = {ROOT}\ndisable_error_code = import-not-found, import-untyped\n"
        "[mypy-onnxheadprune.*]\nignore_errors = True\n"
    )
    files = sorted(path.name for path in examples.glob("*_page.py"))
    assert len(files) > 5
    command = (sys.executable, "-m", "mypy", "--config-file", "mypy.ini", "--no-incremental", *files)
    assert checked(*command, folder=examples) == []
    (examples / "wrong_page.py").write_text(
        'import onnxheadprune as ohp\n\nohp.prune("a.onnx", ratio=[1])\nohp.bench("a.onnx", btch=1)\n'
    )
    assert len(checked(*command[: -len(files)], "wrong_page.py", folder=examples)) == 2
    (examples / "wrong_page.py").unlink()


@pytest.mark.skipif(shutil.which("pyright") is None, reason="pyright is not installed")
def test_pyright_accepts_the_examples(examples: Path) -> None:
    (examples / "pyrightconfig.json").write_text(
        json.dumps(
            {"extraPaths": [str(ROOT)], "reportMissingImports": False, "reportUnusedExpression": False}
        )
    )
    assert checked("pyright", "--pythonpath", sys.executable, folder=examples) == []
