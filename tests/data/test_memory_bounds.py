"""Memory that does not depend on the vocabulary: batches are divided by the size of the outputs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxheadprune.data.rows import bounded
from onnxheadprune.operators import view_of
from onnxheadprune.runtime.feeds.data import Sample
from onnxheadprune.runtime.feeds.generate import FeedMaker
from tests.graph_text import model_of
from tests.graphs import toys

WORDS, LINES, LENGTH = 151_936, 32, 127


def words(
    batch: str = "b", words: int = WORDS, logits: str = "b, s", states: str = "", length: str = "s"
) -> onnx.ModelProto:
    """Ids to logits, which are declared to count what `logits` says.

    Args:
        states: what is done to embeddings `e` before the last layer reads `x`.
    """
    return model_of(
        f"""<ir_version: 9, opset_import: ["": 17]>
        words (int64[{batch}, {length}] input_ids) => (float[{logits.replace("b", batch)}, {words}] logits)
        <float[{words}, 1] table, float[1, {words}] head, int64[2] flat = {{-1, 1}}, int64[1] one = {{1}}> {{
            e = Gather(table, input_ids)
            {states or "x = Identity(e)"}
            logits = MatMul(x, head)
        }}"""
    )


MERGED = {"logits": "rows", "states": "x = Reshape(e, flat)"}
"""Logits [batch * tokens, words]."""
PICKED = {
    "logits": "rows",
    "states": "at = NonZero(e)\nturned = Transpose(at)\ny = GatherND(e, turned)\nx = Reshape(y, flat)",
}
"""The same, of a number of tokens that nobody knows."""


def sample(words: int) -> Sample:
    ids = np.random.default_rng(0).integers(0, words, (LINES, LENGTH))
    return Sample({"input_ids": ids}, np.arange(LINES), "test")


@pytest.mark.parametrize("form", [MERGED, PICKED], ids=["merged", "picked"])
def test_outputs_that_no_input_counts_are_bounded(form: dict[str, str]) -> None:
    view = view_of(words(**form))
    parts = bounded(sample(WORDS), view, FeedMaker(view).inputs)
    assert {len(part.feed["input_ids"]) for part in parts} == {1}


MEASURED = """
import pathlib, re, runpy
try:
    runpy.run_module("onnxheadprune", run_name="__main__")
finally:
    print(re.search(r"VmHWM:\\s+(\\d+)", pathlib.Path("/proc/self/status").read_text())[1])
"""
"""The command, and the most memory that it has had; what a system says of a child counts its parent's, too."""


@pytest.mark.slow
@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="this system does not say what a process has had"
)
@pytest.mark.parametrize("arguments", [["--heads", "0:0"], ["--ratio", "0.25"]], ids=["named", "chosen"])
def test_memory_of_a_cut_with_data(arguments: list[str], tmp_path: Path) -> None:
    """Ten lines of 127 words in 151,936: 3 GB at a time before."""
    model = toys.attention(ids=True)
    for item in model.graph.initializer:
        if item.name == "embed.weight":
            table = np.random.default_rng(0).standard_normal((WORDS, toys.HIDDEN)).astype(np.float32)
            item.CopyFrom(onnx.numpy_helper.from_array(table, item.name))
    head = onnx.numpy_helper.from_array(np.ascontiguousarray(table.T), "head")
    model.graph.initializer.append(head)
    model.graph.node.append(onnx.helper.make_node("MatMul", ["y", "head"], ["logits"]))
    logits = onnx.helper.make_tensor_value_info("logits", 1, ["batch", "sequence", WORDS])
    model.graph.output[0].CopyFrom(logits)
    onnx.save(model, tmp_path / "model.onnx")
    ids = np.random.default_rng(0).integers(0, WORDS, (10, LENGTH))
    np.savez(tmp_path / "data.npz", input_ids=ids)
    command = [sys.executable, "-c", MEASURED, "prune", str(tmp_path / "model.onnx"), *arguments]
    command += ["--data", str(tmp_path / "data.npz"), "-o", str(tmp_path / "out.onnx")]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert int(printed.splitlines()[-1]) < 5 * 2**18, "kilobytes"
