"""The scripts that figures of the documents come from run with the package as it is."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

SCRIPTS = sorted((ROOT / "benchmarks").glob("*.py"))
TORCH = re.compile("^import torch$", re.M)
CASES = [
    pytest.param(
        path, id=path.stem, marks=[pytest.mark.samples] if TORCH.search(path.read_text("utf-8")) else []
    )
    for path in SCRIPTS
]
"""Those that train need PyTorch."""


@pytest.mark.parametrize("script", CASES)
def test_all_that_a_script_names_is_there(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(script.parent))
    known = set(sys.modules)
    try:
        runpy.run_path(str(script))
    finally:
        for name in set(sys.modules) - known:
            file = getattr(sys.modules[name], "__file__", None)
            if file and Path(file).parent == script.parent:
                del sys.modules[name]
