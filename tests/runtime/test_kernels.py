"""Tests of linear algebra hold whatever kernels OpenBLAS picks: each CPU rounds and orders sums in its own way."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

KERNELS = ("Haswell", "SkylakeX", "Zen")
ROOMS = "tests/choosing tests/training tests/gradients tests/data"
"""Where sums of products are compared with numbers."""


@pytest.mark.slow
@pytest.mark.parametrize("kernel", KERNELS)
def test_tolerances_hold_under_all_kernels(kernel: str) -> None:
    cpu = Path("/proc/cpuinfo")
    if kernel == "SkylakeX" and not (cpu.is_file() and "avx512f" in cpu.read_text()):
        pytest.skip("this CPU lacks AVX-512")
    words = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", *ROOMS.split()]
    environment = {**os.environ, "OPENBLAS_CORETYPE": kernel}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
