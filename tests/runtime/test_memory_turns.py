"""Memory of runs: what one run frees is there for the next one."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

RUNS = 4
FAULTS = f"""
import resource
import numpy as np
from onnx import parser
from onnxheadprune.runtime import CPU, Provider, Session

model = parser.parse_model('''<ir_version: 9, opset_import: ["": 17]>
test (float[n, 1] x) => (float[n, 1] y)
<int64[2] many = {{1, 1024}}>
{{
    wide = Expand(x, many)
    weights = Softmax<axis = -1>(wide)
    y = ReduceMax<axes = [1], keepdims = 1>(weights)
}}''')
session = Session(model, Provider(CPU, "test"), keeping=True)
feed = {{"x": np.ones((2**14, 1), np.float32)}}  # two values of 64 MB


def faults():
    session.run(feed)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


faults()
before = faults()
print(max(faults() for _ in range({RUNS})) - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is a function of glibc")
def test_what_a_run_frees_is_used_by_the_next_one() -> None:
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    pages_of_a_run = 2 * 2**26 // 4096
    assert int(done.stdout) < RUNS * pages_of_a_run // 10
