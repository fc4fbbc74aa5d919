"""The installed package has types that a user's own mypy reads (PEP 561)."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.slow
SCRIPT = """\
import onnxheadprune as ohp

result = ohp.prune("model.onnx", "smaller.onnx", heads={0: [1, 2]})
passed: bool = result.validation is not None and result.validation.passed
sites = [site.name for site in ohp.inspect("model.onnx")]
"""
WRONG = 'wrong: int = ohp.inspect("model.onnx")\n'


def test_a_users_script_is_checked_against_the_installed_package(tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv" / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", str(ROOT)]
    subprocess.run(pip, check=True)
    script = tmp_path / "script.py"

    def errors(text: str) -> list[str]:
        script.write_text(text, encoding="utf-8")
        mypy = [
            sys.executable,
            "-m",
            "mypy",
            "--strict",
            "--no-incremental",
            "--python-executable",
            str(python),
        ]
        done = subprocess.run([*mypy, str(script)], cwd=tmp_path, capture_output=True, text=True, check=False)
        return [
            line.rpartition("[")[2].rstrip("]") for line in done.stdout.splitlines() if ": error: " in line
        ]

    assert errors(SCRIPT) == []
    assert errors(SCRIPT + WRONG) == ["assignment"]
