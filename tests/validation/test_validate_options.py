"""Further opinions of `validate`: the deployment, the CPU, the user's metric, limits for pipelines."""

from __future__ import annotations

from collections.abc import Callable
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
from tests.corruptions import one_corrupted_weight, stale_reshape, wrong_head_in_the_record
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


METRICS = """
import numpy as np
def accuracy(outputs, feed):
    return outputs["logits"].argmax(1) == feed["labels"]
def whole(outputs, feeds):
    right = [o["logits"].argmax(1) == f["labels"] for o, f in zip(outputs, feeds)]
    return np.concatenate(right).mean()
def broken(outputs, feed):
    return outputs["nothing"]
def nan(outputs, feed):
    return float("nan")
def lonely(outputs):
    return 1
number = 3
"""


@pytest.fixture
def metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_metrics_for_tests.py").write_text(METRICS)
    monkeypatch.chdir(tmp_path)


@pytest.mark.slow
@pytest.mark.usefixtures("metrics")
def test_metrics_from_the_command_line(
    command: Command, digits: Path, digits_test: Path, tmp_path: Path
) -> None:
    model = onnx.load(digits)
    path = tmp_path / "smaller.onnx"
    onnx.save(pruned(model, "*:0"), path)
    arguments = ("validate", digits, path, "--provider", "cpu", "--data", digits_test, "--json")
    found = {}
    for name in ("accuracy", "whole"):
        outcome = command(*arguments, "--metric", f"my_metrics_for_tests:{name}")
        assert outcome.exit_code == 0
        found[name] = outcome.document["metric"]
        accuracy = outcome.document["accuracy"]
    # The last batch of 450 is 2 images; every batch counts by its size.
    assert found["whole"]["original"] == pytest.approx(accuracy["original"])
    assert found["accuracy"]["original"] == pytest.approx(accuracy["original"])
    assert found["accuracy"]["pruned"] == pytest.approx(accuracy["pruned"])


# Limits


@pytest.mark.slow
def test_drift_that_is_too_large_is_exit_code_1(command: Command, tmp_path: Path) -> None:
    model = toys.attention()
    paths = tmp_path / "model.onnx", tmp_path / "smaller.onnx"
    onnx.save(model, paths[0])
    onnx.save(pruned(model), paths[1])
    arguments = ("validate", *paths, "--provider", "cpu", "--json")
    kept, broken = (command(*arguments, "--max-drift", limit) for limit in (1.9, 1e-9))
    assert (kept.exit_code, kept.document["accepted"]) == (0, True)
    assert (broken.exit_code, broken.document["accepted"]) == (1, False)
    (gate,) = broken.document["gates"]
    assert gate["value"] == pytest.approx(1 - broken.document["drift"]["cosine"])
    assert broken.document["verdict"] == "passed"
    text = command("validate", *paths, "--provider", "cpu", "--max-drift", 1e-9)
    assert text.exit_code == 1
    assert "broken: drift of y is" in text.stdout
    near, far = (validate(*paths, provider="cpu", max_drift=limit) for limit in (1.9, 1e-9))
    assert (near.passed, far.passed) == (True, False)
    assert [item.to_dict() for item in far.gates] == [gate]
    assert "rejected: the limit is broken; exact" in str(far)


def test_no_drift_to_judge_breaks_the_limit() -> None:
    assert not drift_gate(None, 1.0).passed


@pytest.mark.slow
def test_speed_that_is_not_reached_is_exit_code_1(command: Command, tmp_path: Path) -> None:
    model = toys.attention()
    paths = tmp_path / "model.onnx", tmp_path / "smaller.onnx"
    onnx.save(model, paths[0])
    onnx.save(pruned(model), paths[1])
    sizes = ("--batch", 1, "--seq", 2, "--repeats", 5, "--threads", 1)
    arguments = ("validate", *paths, "--provider", "cpu", "--json", *sizes)
    broken = command(*arguments, "--min-speedup", 50)
    assert (broken.exit_code, broken.document["accepted"]) == (1, False)
    assert broken.document["benchmark"]["cells"][0]["point"]["seq"] == 2
    kept = command(*arguments, "--min-speedup", 0.01)
    assert (kept.exit_code, kept.document["accepted"]) == (0, True)


# Shown to fail, from the command line


@pytest.mark.slow
@pytest.mark.parametrize("corrupt", [wrong_head_in_the_record, one_corrupted_weight, stale_reshape])
def test_wrong_models_are_exit_code_1(
    command: Command, tmp_path: Path, corrupt: Callable[[Any], None]
) -> None:
    model = toys.attention()
    smaller = pruned(model)
    paths = tmp_path / "model.onnx", tmp_path / "smaller.onnx"
    onnx.save(model, paths[0])
    corrupt(smaller)
    onnx.save(smaller, paths[1])
    outcome = command("validate", *paths, "--provider", "cpu", "--json", "--min-speedup", 0.01)
    assert outcome.exit_code == 1
    assert outcome.document["verdict"] == "failed"
    assert outcome.document["accepted"] is False
    assert "benchmark" not in outcome.document
