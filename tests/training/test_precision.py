"""Which precision a training takes, and what becomes of numbers that are beyond it."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, helper

from onnxheadprune.runtime import CUDA, Provider
from onnxheadprune.runtime.resident import Resident, ResidentSession
from onnxheadprune.training.batches import Batches
from onnxheadprune.training.budget import Budget
from onnxheadprune.training.checkpoint import Checkpoint
from onnxheadprune.training.losses import PREFIX
from onnxheadprune.training.optimizer import Adam
from onnxheadprune.training.precision import (
    FARTHEST,
    FIRST_SCALE,
    LEAST_SCALE,
    Candidate,
    Slopes,
    candidates_of,
    decided,
    distance,
)
from onnxheadprune.training.training import Plan, Training
from tests import toys
from tests.training.learning import PROVIDER, Lesson, float16_on_cpu, lesson
from tests.training.trainings import Stop, trained

TARGET = f"{PREFIX}hidden0.weight"


@pytest.fixture(scope="module")
def plain() -> Lesson:
    return lesson()


def clock(*seconds: float) -> Callable[[Callable[[], object]], float]:
    """Takes these times, whatever runs take."""
    left = list(seconds)

    def timed(run: Callable[[], object]) -> float:
        run()
        return left.pop(0)

    return timed


def taken(given: Lesson, candidates: list[Candidate], *seconds: float) -> str:
    return decided(candidates, PROVIDER, given.tensors(), given.feed(), clock(*seconds)).candidate.name


# Which one


@pytest.mark.slow
def test_float16_is_taken_where_it_agrees_and_is_faster(plain: Lesson) -> None:
    assert taken(plain, plain.candidates, 2.0, 1.0) == "float16"
    assert taken(plain, plain.candidates, 2.0, 1.9) == "float32"
    assert taken(plain, plain.candidates, 1.0, 2.0) == "float32"


@pytest.mark.slow
def test_a_third_one_must_beat_the_second(plain: Lesson) -> None:
    first, second = plain.candidates
    candidates = [first, replace(second, name="other"), second]
    assert taken(plain, candidates, 2.0, 1.0, 0.5) == "float16"
    assert taken(plain, candidates, 2.0, 1.0, 0.95) == "other"


def test_wrong_gradients_are_refused_however_fast(plain: Lesson) -> None:
    first, second = plain.candidates
    wrong = ModelProto()
    wrong.CopyFrom(second.model)
    name = next(iter(plain.gradient.outputs.values()))
    (node,) = [node for node in wrong.graph.node if name in node.output]
    node.output[0] = "turned"
    wrong.graph.node.append(helper.make_node("Neg", ["turned"], [name]))
    assert taken(plain, [first, replace(second, model=wrong)], 2.0) == "float32"


def test_a_graph_that_does_not_load_is_refused(plain: Lesson) -> None:
    first, second = plain.candidates
    broken = ModelProto()
    broken.CopyFrom(second.model)
    broken.graph.node[-1].op_type = "NoSuchOperator"
    assert taken(plain, [first, replace(second, model=broken)], 2.0) == "float32"


def large_scores(model: ModelProto) -> None:
    """Scores of attention beyond 65,504: sound in float32, infinite in float16."""
    for name in ("q_weight0", "k_weight0"):
        toys.set_initializer(model, name, toys.get_initializer(model, name) * np.float32(1000))


@pytest.mark.slow
def test_activations_beyond_float16_are_refused() -> None:
    given = lesson(large_scores)
    first, second = given.candidates
    exact, half = (Slopes(item, PROVIDER, given.tensors()).at(given.feed()) for item in (first, second))
    assert exact.usable and not math.isfinite(half.loss)
    assert taken(given, [first, second], 2.0) == "float32"


def test_the_cpu_has_float32_alone_and_cuda_two_more(plain: Lesson) -> None:
    assert [item.name for item in candidates_of(plain.gradient, PROVIDER)] == ["float32"]
    found = candidates_of(plain.gradient, Provider(CUDA, "test"))
    assert [(item.name, item.tf32, bool(item.scale)) for item in found] == [
        ("float32", False, False),
        ("tf32", True, False),
        ("float16", False, True),
    ]


def test_the_distance_is_that_of_all_weights() -> None:
    random = np.random.default_rng(0)
    large, small = random.standard_normal((30, 30)), 1e-9 * random.standard_normal(100)
    assert distance([large, small], [large, small]) == 0
    assert math.isclose(distance([1.01 * large, 1.01 * small], [large, small]), 0.01)
    # A tensor that is lost counts by its size, however small its gradients are.
    assert math.isclose(distance([large, 0 * small], [large, small]), math.sqrt(0.1))
    assert math.isclose(distance([large, 1e9 * small], [large, small]), math.sqrt(0.1))
    assert math.isclose(distance([large, small], [large, 0 * small]), math.sqrt(0.1))


# The loss scale


def test_gradients_beyond_float16_halve_the_loss_scale(plain: Lesson) -> None:
    """Until they fit: then they are those of float32."""
    tensors = plain.tensors()
    feed = plain.feed()
    feed[TARGET] = feed[TARGET] * np.float32(1e5)
    exact, half = (Slopes(item, PROVIDER, tensors) for item in plain.candidates)
    assert exact.at(feed).usable
    expected = [item.copy() for item in tensors.gradients.values()]
    assert half.scale == FIRST_SCALE and half.candidate.scale
    scales = []
    while not (found := half.at(feed)).usable:
        assert math.isfinite(found.loss) and not half.exhausted and half.scale not in scales
        scales.append(half.scale)
    assert scales == [FIRST_SCALE / 2**number for number in range(1, len(scales) + 1)] and len(scales) > 2
    assert 1e-5 < distance([item.copy() for item in tensors.gradients.values()], expected) < FARTHEST


@pytest.mark.slow
def test_gradients_beyond_float16_without_a_scale_are_computed_in_float32(plain: Lesson) -> None:
    feed = plain.feed()
    feed[TARGET] = feed[TARGET] * np.float32(1e12)
    with float16_on_cpu():
        student = lesson().made.student
        student.choose(plain.feed())
        assert student.precision == "float16"
        found = student.slope(feed)
        while student.precision == "float16":
            before = student.scale
            assert not found.usable and before >= LEAST_SCALE
            found = student.slope(feed)
            assert student.scale < before or before == LEAST_SCALE
    assert found.usable and student.precision == "float32"
    assert all(np.isfinite(item.copy()).all() for item in student.gradients)


@pytest.mark.slow
def test_a_loss_that_float16_alone_cannot_hold_is_computed_in_float32() -> None:
    given = lesson(large_scores)
    with float16_on_cpu():
        student = lesson().made.student
        student.choose(given.feed())
        student.take(given.masters())
        assert student.precision == "float16"
        found = student.slope(given.feed())
    assert found.usable and student.precision == "float32"
    assert math.isclose(found.loss, student.loss(given.feed()), rel_tol=1e-5)


# Steps


def training(given: Lesson) -> Training:
    made = Training(
        given.made.student,
        given.made.teacher,
        Batches(given.data),
        [],
        [],
        Plan(Budget(epochs=1)),
        Checkpoint(None, ""),
        1,
    )
    student = given.made.student
    made.adam = Adam(student.masters, student.gradients, student.provider)
    student.choose(given.feed())
    return made


@pytest.mark.slow
@pytest.mark.parametrize("float16", [False, True])
def test_a_loss_that_is_no_number_leaves_the_weights_alone(float16: bool) -> None:
    with float16_on_cpu() if float16 else nullcontext():
        given = lesson()
        made = training(given)
        first = made._step(given.feed(), 1e-3)
        assert math.isfinite(first) and made.adam.steps == 1
        assert made.student.precision == ("float16" if float16 else "float32")
        before = given.masters()
        moments = [item.copy() for item in (*made.adam.means, *made.adam.squares)]
        broken = given.feed()
        broken[TARGET] = np.full_like(broken[TARGET], np.nan)
        assert math.isnan(made._step(broken, 1e-3))
        assert made.adam.steps == 1 and made.student.precision == ("float16" if float16 else "float32")
        assert all(map(np.array_equal, given.masters(), before))
        after = [item.copy() for item in (*made.adam.means, *made.adam.squares)]
        assert all(map(np.array_equal, after, moments))


@pytest.mark.slow
def test_a_step_with_infinite_gradients_is_skipped() -> None:
    with float16_on_cpu():
        given = lesson()
        made = training(given)
        large = given.feed()
        large[TARGET] = large[TARGET] * np.float32(1e5)
        before, scale = given.masters(), made.student.scale
        assert math.isfinite(made._step(large, 1e-3))
        assert made.adam.steps == 0 and made.student.scale == scale / 2
        assert all(map(np.array_equal, given.masters(), before))
        for _ in range(20):
            made._step(large, 1e-3)
        assert made.adam.steps > 0
        assert not any(map(np.array_equal, given.masters(), before))
        kept = made._kept()
        assert (kept.taken, kept.precision, kept.scale) == (made.adam.steps, "float16", made.student.scale)


@pytest.mark.slow
@pytest.mark.parametrize("float16", [False, True])
def test_no_weights_move_between_steps(float16: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    with float16_on_cpu() if float16 else nullcontext():
        given = lesson()
        made = training(given)
        before = given.masters()
        moved: list[object] = []
        with monkeypatch.context() as patch:
            patch.setattr(Resident, "copy", moved.append)
            patch.setattr(Resident, "take", lambda item, array: moved.append(item))
            asked: list[set[str]] = []
            run = ResidentSession.run
            patch.setattr(
                ResidentSession, "run", lambda self, feed: asked.append(set(feed)) or run(self, feed)
            )
            for _ in range(3):
                made._step(given.feed(), 1e-3)
        assert moved == [] and len(asked) == 6 and made.adam.steps == 3
        assert not set().union(*asked) & {item.name for item in given.made.trained}
        assert not any(map(np.array_equal, given.masters(), before))


# From end to end


@pytest.mark.slow
def test_a_training_in_float16_is_gone_on_with_in_float16(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole.onnx", tmp_path / "parts.onnx"
    with float16_on_cpu():
        found = trained(whole)
        with pytest.raises(MemoryError):
            trained(parts, progress=Stop(MemoryError, 8))
        again = trained(parts, resume=True)
    assert found.precision == again.precision == found.to_dict()["precision"] == "float16"
    assert again.resumed == 6 and found.after < found.before
    assert parts.read_bytes() == whole.read_bytes()
    exact = trained(tmp_path / "exact.onnx")
    assert exact.precision == "float32" and exact.after != found.after
    assert math.isclose(exact.after, found.after, rel_tol=0.05)
