"""What commands make of exports: the same of both exporters', fused operators, and a proof without data."""

from __future__ import annotations

import random
from pathlib import Path

import onnx
import pytest

pytest.importorskip("torch")

from onnxheadprune import RefusedError, inspect, plan_pruning, prune
from tests.conftest import Command
from tests.fusion.running import executed
from tests.runtime.feeding import renamed
from tests.zoo.conftest import Zoo, exported

pytestmark = pytest.mark.samples

CONSTANTS = 0.01
"""How much of what goes may be constants, which exporters fold and share in ways of their own."""
FUSED = ("MultiHeadAttention", "GroupQueryAttention", "Attention")
FUSIBLE = (
    *("bert", "bert-sdpa", "vit", "vit-sdpa", "gpt2", "gpt2-sdpa", "cache-gpt2", "cache-gpt2-sdpa"),
    *("llama-mha", "llama-mha-sdpa", "llama-gqa", "llama-gqa-sdpa", "llama-mqa"),
    *("cache-llama-mha", "cache-llama-mha-sdpa", "cache-llama-gqa", "cache-llama-gqa-sdpa"),
    *("t5", "swin", "deberta-v2", "bloom", "falcon-mqa", "mha-seq-first"),
)


def removed(model: onnx.ModelProto, spec: dict[str, str | list[int]]) -> int:
    """Return how many elements go, 0 where the cut is refused."""
    try:
        return plan_pruning(model, heads=spec).elements_removed
    except RefusedError:
        return 0


@pytest.mark.first_case
@pytest.mark.parametrize(
    "case", ["bert", "cache-llama-gqa", "conformer-rotary", "gpt2", "gptj", "mpt", "wav2vec2"]
)
def test_both_exporters_get_the_same_answers(zoo: Zoo, case: str) -> None:
    answers = []
    for variant in ("ts17", "dyn18"):
        model = onnx.load(zoo(case).export(variant))
        keys = [site.key for site in inspect(model).every]
        specs: dict[str, str | list[int]] = {**dict.fromkeys(keys, "*"), **{f"{key}:0": [0] for key in keys}}
        answers.append({name: removed(model, {name.partition(":")[0]: gone}) for name, gone in specs.items()})
    assert any(answers[0].values())
    assert answers[1] == pytest.approx(answers[0], rel=CONSTANTS)


@pytest.mark.each_choice
@pytest.mark.parametrize("mode", ["contrib", "onnx"])
@pytest.mark.parametrize("variant", ["ts17", "dyn18", "dyn23"])
@pytest.mark.parametrize("case", FUSIBLE)
def test_all_sites_run_fused(
    zoo: Zoo, case: str, variant: str, mode: str, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    model = exported(zoo(case), variant, pytestconfig)
    sites = inspect(model)
    if all(site.cores[0].op_type in FUSED for site in sites):
        pytest.skip("the exporter fused it")
    draw = random.Random(5)
    heads = {site.index: list(draw.choice(site.groups)) for site in sites if len(site.groups) > 1}
    for chosen in ({}, heads):
        result = prune(model, tmp_path / "out.onnx", heads=chosen, fuse=mode, provider="cpu")
        assert result.fusion is not None and len(result.fusion.made) == len(sites), str(result.fusion)
        assert result.validation is not None and result.validation.verdict == "passed"
        operators = executed(result.model, tmp_path)
        assert sum(operators[name] for name in FUSED) == len(sites)
        assert operators["Softmax"] == 0


@pytest.mark.each_choice
@pytest.mark.parametrize("names", ["as exported", "x0, x1"])
@pytest.mark.parametrize(
    "case", ["bart", "bert", "cache-gpt2", "cache-llama-mha", "opt", "t5", "wav2vec2", "xlnet"]
)
def test_a_cut_is_proven_without_data(
    zoo: Zoo, case: str, names: str, tmp_path: Path, command: Command
) -> None:
    """Inputs are made from the graph alone, whatever they are called."""
    model = onnx.load(zoo(case).export("ts17"))
    path = tmp_path / "model.onnx"
    onnx.save(model if names == "as exported" else renamed(model), path)
    answer = command("prune", path, "--heads", "0:1", "-o", tmp_path / "cut.onnx", "--json")
    assert answer.exit_code == 0, answer.stderr
    assert answer.document["validation"]["verdict"] == "passed"
