"""Further opinions of `validate`: the deployment, the CPU, the user's metric, limits for pipelines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from onnxheadprune import ProviderError, apply_plan, plan_pruning, validate
from onnxheadprune import runtime as runtime_module
from onnxheadprune.runtime import CPU, CUDA, Provider, Session
from onnxheadprune.runtime import session as session_module
from onnxheadprune.validation import runs
from onnxheadprune.validation.result import drift_gate
from tests import attacks
from tests.conftest import Command
from tests.graphs import toys

ELSEWHERE = Provider("CUDAExecutionProvider", "pretended")


def pruned(model: Any, heads: str = "0:1") -> Any:
    return apply_plan(plan_pruning(model, heads=heads), model)


class Elsewhere(Session):
    """A session that says it runs on another provider and runs on the CPU."""

    def __init__(self, model: Any, provider: Provider, **options: Any) -> None:
        super().__init__(model, Provider(CPU, provider.reason), **options)
        self.asked = provider.name


def pretend(monkeypatch: pytest.MonkeyPatch, session: type[Session]) -> None:
    monkeypatch.setattr(runs, "Session", session)


# Deployment


def test_every_random_feed_is_deployed() -> None:
    model = toys.attention(cache=True)
    result = validate(model, pruned(model), provider="cpu")
    exact, deployments = (
        [case.shapes for case in result.cases if case.settings == settings]
        for settings in ("exact", "deployed")
    )
    # Padding on the left leaves tokens with nothing to attend to, which each fused operator fills as it likes.
    assert deployments == [shapes for shapes in exact if shapes["x"][1] != 19]
    assert (len(exact), len(deployments)) == (5, 4)


def test_an_optimizer_that_breaks_one_length_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong(Session):
        def __init__(self, model: Any, provider: Provider, **options: Any) -> None:
            super().__init__(model, provider, **options)
            self.broken = options.get("optimize", False) and "pruned" in options["name"]

        def run(self, feed: Any) -> Any:
            off = 0.1 * (self.broken and feed["x"].shape[0] == 1)
            return {name: value + np.float32(off) for name, value in super().run(feed).items()}

    monkeypatch.setattr(runs, "Session", Wrong)
    model = toys.attention()
    result = validate(model, pruned(model), provider="cpu")
    assert result.verdict == "failed"
    assert "deployed settings, x [1," in result.reason


# A second opinion


@pytest.mark.slow
def test_the_cpu_gives_a_second_opinion(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, Elsewhere)
    model = toys.attention()
    result = validate(model, pruned(model), provider=ELSEWHERE)
    assert result.verdict == "passed"
    assert [case.settings for case in result.cases][-2:] == ["on the CPU", "against the CPU"]
    on_cpu = validate(model, pruned(model), provider="cpu")
    assert {case.settings for case in on_cpu.cases} == {"exact", "deployed"}


def test_a_provider_that_makes_everything_equal_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wrong head is gone, and the provider's kernels hide it: both models give the masked result there."""
    model = toys.attention()
    wrong = attacks.unnamed(pruned(model, "0:2"))
    right = pruned(model, "0:1")
    entries = {entry.key: entry.value for entry in right.metadata_props}
    for entry in wrong.metadata_props:
        entry.value = entries[entry.key]

    class Hiding(Elsewhere):
        def __init__(self, model: Any, provider: Provider, **options: Any) -> None:
            hidden = provider.name == CUDA and "pruned" in options["name"]
            super().__init__(right if hidden else model, provider, **options)

    pretend(monkeypatch, Hiding)
    result = validate(model, wrong, provider=ELSEWHERE)
    assert result.verdict == "failed"
    assert "on the CPU settings" in result.reason


def test_a_provider_with_a_wrong_kernel_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is wrong in the same way for both models, so that they are equal there."""

    class Doubling(Elsewhere):
        def run(self, feed: Any) -> Any:
            factor = np.float32(1.5 if self.asked == CUDA else 1)
            return {name: value * factor for name, value in super().run(feed).items()}

    pretend(monkeypatch, Doubling)
    model = toys.attention()
    result = validate(model, pruned(model), provider=ELSEWHERE)
    assert result.verdict == "failed"
    assert "against the CPU" in result.reason


def test_a_session_that_fell_back_is_exit_code_4(monkeypatch: pytest.MonkeyPatch) -> None:
    ort = runtime_module.onnx_runtime()

    class Module:
        """An onnxruntime that takes the CPU without a word, as older ones do."""

        def InferenceSession(self, source: Any, options: Any, **_: Any) -> Any:
            return ort.InferenceSession(source, options, providers=[CPU])

        def __getattr__(self, name: str) -> Any:
            return getattr(ort, name)

    monkeypatch.setattr(session_module, "onnx_runtime", Module)
    model = toys.attention()
    with pytest.raises(ProviderError, match="fell back from CUDAExecutionProvider to CPU") as caught:
        validate(model, pruned(model), provider=ELSEWHERE)
    assert caught.value.exit_code == 4


# The user's metric


def mean_of_y(outputs: Any, feed: Any) -> float:
    return float(outputs["y"].mean())


def test_a_metric_is_the_mean_over_samples() -> None:
    """An input without a batch axis may be longer than the batch."""
    model = toys.attention()
    shared = helper.make_tensor_value_info("position_ids", TensorProto.INT64, ["sequence"])
    model.graph.input.append(shared)
    smaller = pruned(model)
    random = np.random.default_rng(0)
    feeds = [
        {
            "x": random.standard_normal((count, 3, toys.HIDDEN)).astype(np.float32),
            "position_ids": np.arange(3),
        }
        for count in (1, 4)
    ]
    result = validate(model, smaller, provider="cpu", data=feeds, metric=mean_of_y).metric
    assert result is not None
    together = np.concatenate([feed["x"] for feed in feeds])
    for value, candidate in ((result.original, model), (result.pruned, smaller)):
        expected = Session(candidate, Provider(CPU, "test")).run({**feeds[0], "x": together})["y"].mean()
        assert value == pytest.approx(float(expected), rel=1e-4)
    assert (result.name, result.samples) == ("mean_of_y", 5)


# Limits


def test_limits_decide_what_is_accepted() -> None:
    model = toys.attention()
    smaller = pruned(model)
    near, far = (validate(model, smaller, provider="cpu", max_drift=limit) for limit in (1.9, 1e-9))
    assert near.passed and far.verdict == "passed" and not far.passed
    (gate,) = far.gates
    assert far.drift is not None and gate.value == pytest.approx(1 - far.drift.cosine)


def test_a_verdict_that_rests_on_numbers_alone_is_tried_and_not_accepted_by_strict(
    command: Command, tmp_path: Path
) -> None:
    """The cut doubles what is longer than anybody runs: its graph is not the planned one, and numbers do not tell."""
    model, paths = attacks.text_model(), [tmp_path / f"{name}.onnx" for name in ("model", "right", "wrong")]
    for path, made in zip(paths, (model, attacks.pruned(model), attacks.pruned(model)), strict=True):
        if path.stem == "wrong":
            attacks.doubled_beyond(10**6)(made)
        onnx.save(made, path)
    for path, exact, strict in ((paths[1], "yes", True), (paths[2], "tried", False)):
        found = [validate(paths[0], path, provider="cpu", strict=strict) for strict in (False, True)]
        assert {item.exact for item in found} == {exact}
        assert [item.passed for item in found] == [True, strict]
    words = ("validate", paths[0], paths[2], "--provider", "cpu", "--json")
    outcomes = [command(*words, *strict) for strict in ((), ("--strict",))]
    assert [outcome.exit_code for outcome in outcomes] == [0, 1]
    assert [outcome.document["accepted"] for outcome in outcomes] == [True, False]


def test_no_drift_to_judge_breaks_the_limit() -> None:
    assert not drift_gate(None, 1.0).passed
