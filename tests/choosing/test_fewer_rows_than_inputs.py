"""Refits with fewer rows than inputs: solved by the rows, with the result of the normal equations."""

from __future__ import annotations

import numpy as np
import pytest

from onnxheadprune.choosing.activations.moments import Moments, Ridge
from onnxheadprune.choosing.compensation.fit import STRONG, fit


def moments(random: np.random.Generator, rows: int, inputs: int, weighted: bool) -> Moments:
    made = Moments(inputs, 7)
    for _ in range(3):
        x = (random.standard_normal((rows // 3, inputs)) + 0.5).astype(np.float32)
        y = random.standard_normal((rows // 3, 7)).astype(np.float32) + x[:, :7]
        made.add(x, y, random.random(rows // 3) + 0.1 if weighted else None)
    return made


def rounding(both: Moments, *, biased: bool) -> float:
    """The part of a solution that products in single precision leave open: their precision times the condition."""
    products = both.centred().covariance if biased else both.gram / both.total
    pull = min(STRONG) * np.trace(products) / len(products)
    condition = (np.linalg.eigvalsh(products)[-1] + pull) / pull
    return float(condition * np.finfo(np.float32).eps)


@pytest.mark.parametrize("biased", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("weighted", [True, False], ids=["weighted", "alike"])
def test_rows_give_what_the_gram_matrix_gives(biased: bool, weighted: bool) -> None:
    random = np.random.default_rng(0)
    learned, held = moments(random, 60, 200, weighted), moments(random, 30, 200, weighted)
    assert learned.rows is not None and held.rows is not None and learned.merged(held).rows is not None
    weight, bias = random.standard_normal((200, 7)), np.zeros(7) if biased else None
    found = fit(learned, held, weight, bias)
    assert Ridge(learned.less(weight).centred()).tried(1.0).shape == (60, 7), "factors of rows, not of inputs"
    bound = rounding(learned.merged(held), biased=biased)
    for less in (held, learned):
        less.rows = None
        plain = fit(learned, held, weight, bias)
        assert found.strength == plain.strength is not None
        apart = np.linalg.norm(found.weight - plain.weight, axis=0)
        assert (apart <= bound * np.linalg.norm(plain.weight - weight, axis=0)).all()
        assert found.after == pytest.approx(plain.after, rel=bound)


def test_rows_are_kept_only_while_they_are_few() -> None:
    random = np.random.default_rng(0)
    made = moments(random, 60, 200, False)
    assert made.rows is not None and made.first(150).rows is not None
    assert made.first(100).rows is None and made.merged(moments(random, 60, 200, False)).rows is None
    assert made.mixed(np.eye(200)).rows is None
    made.add(*(np.zeros((60, size), np.float32) for size in (200, 7)))
    assert made.rows is None
