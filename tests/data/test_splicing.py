"""Which sequences are spliced: those of padded inputs whose masks say where tokens are."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from onnxheadprune import Calibration
from onnxheadprune.data.calibration import calibration_data
from onnxheadprune.data.splicing import Sequences, with_spliced
from onnxheadprune.operators import view_of
from onnxheadprune.runtime.feeds.inputs import Role
from tests.graphs import toys


def sentences() -> Calibration:
    return calibration_data(toys.sentences(), view_of(toys.encoder()))


def test_rows_of_floats_are_not_spliced() -> None:
    random = np.random.default_rng(0)
    given = [{"x": random.standard_normal((8, 5, 12)).astype(np.float32)} for _ in range(4)]
    data = calibration_data(given, view_of(toys.attention()))
    assert with_spliced(data, 10**6, 1) is data


@pytest.mark.parametrize("dtype", [np.bool_, np.int64])
def test_inverted_masks_are_not_spliced(dtype: Any) -> None:
    """In PyTorch's key padding masks True marks padding."""

    def masked(padding: bool) -> Calibration:
        data = sentences()
        name = next(item.name for item in data.inputs if item.role is Role.MASK)
        inputs = [replace(i, dtype=np.dtype(dtype)) if i.name == name else i for i in data.inputs]
        samples = [
            replace(one, feed={**one.feed, name: ((one.feed[name] == 0) == padding).astype(dtype)})
            for one in data.samples
        ]
        return replace(data, samples=tuple(samples), inputs=tuple(inputs))

    plain, found = Sequences.of(sentences()), Sequences.of(masked(False))
    assert plain is not None and found is not None
    assert [row.feed["input_ids"].tolist() for row in found.data.samples] == [
        row.feed["input_ids"].tolist() for row in plain.data.samples
    ]
    assert Sequences.of(masked(True)) is None
