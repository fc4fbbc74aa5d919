"""`--fuse auto`: candidates are proven, measured beside the unfused model, and the fastest is kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from onnx import ModelProto

from onnxheadprune import fusing, prune
from onnxheadprune.benchmarking.measure import ROUNDS
from onnxheadprune.errors import RefusedError
from onnxheadprune.fusion import FuseMode, Fusion
from tests.fusion.blocks import EAGER, block

Ratios = Mapping[str, tuple[float, str]]


@dataclass
class Stopwatch:
    """Stands in for the benchmark: the ratio and verdict of each candidate, by its name."""

    ratios: Ratios
    seen: tuple[str, ...] = ()

    def __call__(self, *models: Any, **_: Any) -> Any:
        self.seen = tuple(model.name for model in models)

        def cells(index: int) -> tuple[Any, ...]:
            value, verdict = self.ratios[self.seen[index]]
            comparison = SimpleNamespace(ratio=SimpleNamespace(value=value), verdict=verdict)
            return (SimpleNamespace(comparison=comparison, point=SimpleNamespace(label="batch 1")),)

        return SimpleNamespace(cells_of=cells)


def run(monkeypatch: pytest.MonkeyPatch, ratios: Ratios, heads: dict[int, list[int]]) -> Any:
    watch = Stopwatch(ratios)
    monkeypatch.setattr(fusing, "benchmark", watch)
    result = prune(block(EAGER), heads, fuse="auto", provider="cpu")
    assert watch.seen == ("unfused", "contrib", "onnx")
    return result


def kinds(result: Any) -> set[str]:
    return {node.op_type for node in result.model.graph.node} & {"MultiHeadAttention", "Attention", "Softmax"}


@pytest.mark.parametrize(
    ("ratios", "chosen", "kind"),
    [
        ({"contrib": (0.7, "faster"), "onnx": (0.8, "faster")}, "contrib", "MultiHeadAttention"),
        ({"contrib": (0.9, "faster"), "onnx": (0.8, "faster")}, "onnx", "Attention"),
        ({"contrib": (1.2, "slower"), "onnx": (0.99, "no measurable difference")}, "none", "Softmax"),
    ],
)
def test_the_fastest_is_kept(
    monkeypatch: pytest.MonkeyPatch, ratios: Ratios, chosen: FuseMode, kind: str
) -> None:
    result = run(monkeypatch, ratios, {0: [1]})
    assert result.fusion.mode == "auto"
    assert result.fusion.chosen == chosen
    assert kinds(result) == {kind}
    measured = {trial.mode: trial.ratios["batch 1"] for trial in result.fusion.trials}
    assert measured == {name: ratio for name, (ratio, _) in ratios.items()}
    assert result.validation.verdict == "passed"


def test_nothing_faster_and_nothing_removed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    ratios = {"contrib": (1.2, "slower"), "onnx": (1.1, "slower")}
    with pytest.raises(RefusedError, match=r"no fused form is measurably faster.*contrib: 1\.20 at batch 1"):
        run(monkeypatch, ratios, {})


def test_a_candidate_that_is_not_exact_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    original = fusing.fuse

    def broken(model: ModelProto, mode: FuseMode, name: str) -> tuple[ModelProto, Fusion]:
        made, fusion = original(model, mode, name)
        if mode == "contrib":
            for node in made.graph.node:
                for attribute in node.attribute:
                    if attribute.name == "scale":
                        attribute.f = 3.0
        return made, fusion

    monkeypatch.setattr(fusing, "fuse", broken)
    watch = Stopwatch({"onnx": (0.5, "faster")})
    monkeypatch.setattr(fusing, "benchmark", watch)
    result = prune(block(EAGER), {0: [1]}, fuse="auto", provider="cpu")
    assert watch.seen == ("unfused", "onnx")
    assert result.fusion is not None
    assert result.fusion.chosen == "onnx"
    assert "differs from the masked reference" in result.fusion.trials[0].obstacle


def test_it_really_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    setting = fusing.Setting(seconds=0.05, repeats=ROUNDS)
    monkeypatch.setattr("onnxheadprune.api.Setting", lambda *_: setting)
    result = prune(block(EAGER), {0: [1]}, fuse="auto", provider="cpu")
    assert result.fusion is not None
    assert result.fusion.chosen in ("contrib", "onnx", "none")
    assert all(0.01 < ratio < 100 for trial in result.fusion.trials for ratio in trial.ratios.values())
    assert {trial.mode for trial in result.fusion.trials} == {"contrib", "onnx"}
    assert result.to_dict()["fusion"]["trials"][0]["ratios"]
