"""A real trained model end to end: all-MiniLM-L6-v2 out of a PyPI package."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest

from onnxheadprune import inspect, prune

pytest.importorskip("torch")
pytestmark = pytest.mark.samples
SCRIPT = Path(__file__).parents[2] / "sample_models" / "export_minilm.py"
HEADS, HEAD_SIZE, HIDDEN = 12, 32, 384


@pytest.fixture(scope="module")
def minilm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("minilm") / "minilm.onnx"
    subprocess.run([sys.executable, str(SCRIPT), str(path)], check=True, capture_output=True, timeout=600)
    return path


@pytest.fixture(scope="module")
def heads() -> dict[int, list[int]]:
    """18 of 72 heads, different ones in every layer."""
    pool = [(layer, head) for layer in range(6) for head in range(HEADS)]
    chosen: dict[int, list[int]] = {}
    for layer, head in random.Random(7).sample(pool, 18):
        chosen.setdefault(layer, []).append(head)
    return chosen


@pytest.fixture(scope="module")
def pruned(minilm: Path, heads: Mapping[int, list[int]]) -> Path:
    output = minilm.with_name("pruned.onnx")
    result = prune(minilm, output, heads=heads, provider="cpu")
    assert result.validation is not None
    assert result.validation.verdict == "passed"
    return output


def feed(sequence: int, seed: int) -> dict[str, npt.NDArray[np.int64]]:
    ids = np.random.default_rng(seed).integers(1000, 20000, size=(3, sequence), dtype=np.int64)
    mask = np.ones_like(ids)
    mask[0, sequence // 2 :] = 0
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}


def outputs(
    model: onnx.ModelProto | str, feeds: Mapping[str, npt.NDArray[np.int64]]
) -> npt.NDArray[np.float32]:
    source = model if isinstance(model, str) else model.SerializeToString()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    result = session.run(None, dict(feeds))[0]
    assert isinstance(result, np.ndarray)
    return result


def test_sites(minilm: Path) -> None:
    sites = inspect(minilm)
    assert [(site.num_heads, site.head_size, site.removable) for site in sites] == [
        (HEADS, HEAD_SIZE, True)
    ] * 6


def test_weights_shrink_by_exactly_the_heads(
    minilm: Path, pruned: Path, heads: Mapping[int, list[int]]
) -> None:
    def elements(path: Path) -> int:
        return sum(
            int(np.prod(tensor.dims)) for tensor in onnx.load(path).graph.initializer if tensor.data_type == 1
        )

    removed = sum(len(per_layer) for per_layer in heads.values())
    assert removed == 18
    # Q, K, V and the output projection, and the biases of the first three.
    assert elements(minilm) - elements(pruned) == removed * HEAD_SIZE * (4 * HIDDEN + 3)


def test_optimizer_still_fuses_every_layer(
    minilm: Path, pruned: Path, heads: Mapping[int, list[int]]
) -> None:
    optimizer = pytest.importorskip("onnxruntime.transformers.optimizer")

    def fused(path: Path) -> onnx.ModelProto:
        options = {"model_type": "bert", "num_heads": HEADS, "hidden_size": HIDDEN, "opt_level": 0}
        model = optimizer.optimize_model(str(path), **options).model
        assert isinstance(model, onnx.ModelProto)
        return model

    def attention_heads(model: onnx.ModelProto) -> list[int]:
        nodes = [node for node in model.graph.node if node.op_type == "Attention"]
        return [
            attribute.i for node in nodes for attribute in node.attribute if attribute.name == "num_heads"
        ]

    assert attention_heads(fused(minilm)) == [HEADS] * 6
    small = fused(pruned)
    assert attention_heads(small) == [HEADS - len(heads.get(layer, ())) for layer in range(6)]
    for sequence, seed in ((7, 0), (33, 1)):
        expected = outputs(str(pruned), feed(sequence, seed))
        np.testing.assert_allclose(
            outputs(small, feed(sequence, seed)), expected, atol=2e-5 * np.abs(expected).max()
        )
