"""Hypothesis damages models; a corpus of what once went wrong is tried every time.

`benchmarks/robustness.py fuzz` tries thousands, each in a process that may die, and validates what is pruned.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxheadprune import HeadPruneError, inspect
from tests.fuzzing import damage_bytes, damage_fields, mutated, seeds, tried
from tests.limits import within

CORPUS = sorted((Path(__file__).parents[1] / "corpus").glob("*.onnx"))
SEEDS = seeds()


def survives(data: bytes, folder: Path, *, run: bool = False) -> str:
    path, out = folder / "m.onnx", folder / "out"
    out.mkdir(exist_ok=True)
    for left in out.iterdir():
        left.unlink()
    path.write_bytes(data)
    with within(10):
        return tried(path, out / "o.onnx", run=run)


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_corpus(path: Path, tmp_path: Path) -> None:
    survives(path.read_bytes(), tmp_path)


def test_there_is_a_corpus() -> None:
    assert len(CORPUS) >= 6


@given(seed=st.sampled_from(sorted(SEEDS)), rng=st.randoms(use_true_random=False))
def test_damaged_models(seed: str, rng: random.Random, tmp_path: Path) -> None:
    survives(mutated(SEEDS[seed], rng), tmp_path)


@given(data=st.binary(max_size=300))
def test_bytes_that_are_no_model(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(data)
    with within(10), pytest.raises(HeadPruneError):
        inspect(path)


def test_the_damage_is_real() -> None:
    """Both kinds change models, and unchanged ones are pruned and pass."""
    rng = random.Random(0)
    data = SEEDS["plain"]
    assert sum(damage_bytes(data, rng) != data for _ in range(50)) > 45
    from onnx import ModelProto

    changed = 0
    for _ in range(50):
        model = ModelProto.FromString(data)
        damage_fields(model, rng)
        changed += model.SerializeToString() != ModelProto.FromString(data).SerializeToString()
    assert changed > 40


@pytest.mark.parametrize("seed", SEEDS)
def test_undamaged_models_pass(seed: str, tmp_path: Path) -> None:
    assert survives(SEEDS[seed], tmp_path, run=True) == "passed"
