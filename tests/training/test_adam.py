"""The optimizer, against the formula of the paper and against itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from onnxheadprune.training.optimizer import BETAS, BLOCK, EPSILON, Adam

SHAPES = ((3, 4096), (7,), (), (2, BLOCK // 2 + 5))
STEPS = 5
Arrays = list[npt.NDArray[Any]]


def gradients() -> list[Arrays]:
    """Per step those of all tensors, of very different sizes; some are nothing at all."""
    random = np.random.default_rng(0)
    made = [[np.asarray(random.standard_normal(shape), np.float32) for shape in SHAPES] for _ in range(STEPS)]
    for arrays in made:
        arrays[0][0] *= np.float32(1e-6)
        arrays[0][1, :100] = 0
    return made


def start() -> Arrays:
    random = np.random.default_rng(1)
    return [np.asarray(random.standard_normal(shape), np.float32) for shape in SHAPES]


class Trained:
    """Tensors with an optimizer."""

    def __init__(self) -> None:
        self.parameters = start()
        self.adam = Adam(self.parameters)

    def steps(self, given: list[Arrays], rate: float = 1e-2) -> Arrays:
        for arrays in given:
            self.adam.step(arrays, rate)
        return [item.copy() for item in self.parameters]

    def take(self, numbers: Arrays) -> None:
        for item, array in zip(self.parameters, numbers, strict=True):
            np.copyto(item, array)


def test_steps_are_those_of_the_paper() -> None:
    found = Trained().steps(gradients())
    for number, array in enumerate(start()):
        expected = array.astype(np.float64)
        mean, square = np.zeros_like(expected), np.zeros_like(expected)
        for step, arrays in enumerate(gradients(), 1):
            gradient = arrays[number].astype(np.float64)
            mean = BETAS[0] * mean + (1 - BETAS[0]) * gradient
            square = BETAS[1] * square + (1 - BETAS[1]) * gradient**2
            fair = mean / (1 - BETAS[0] ** step), square / (1 - BETAS[1] ** step)
            expected = expected - 1e-2 * fair[0] / (np.sqrt(fair[1]) + EPSILON)
        assert found[number].shape == array.shape
        assert np.abs(found[number] - expected).max() < 1e-6
        assert np.abs(found[number] - array).max() > 1e-3


def test_what_goes_on_later_ends_in_the_same_bytes() -> None:
    whole = Trained().steps(gradients())
    one, other = Trained(), Trained()
    middle = one.steps(gradients()[:2])
    other.steps(gradients()[3:])
    other.take(middle)
    other.adam.take([*one.adam.means, *one.adam.squares], one.adam.steps)
    assert all(map(np.array_equal, other.steps(gradients()[2:]), whole))
