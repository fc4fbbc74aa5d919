"""The character sample: real, and cut by a target at a small price."""

from __future__ import annotations

import numpy as np

from tests.conftest import SAMPLES


def test_labels_are_the_next_characters() -> None:
    windows = []
    for part in ("test", "calibration"):
        with np.load(SAMPLES / f"char_gpt_{part}.npz") as file:
            assert np.array_equal(file["input_ids"][:, 1:], file["labels"][:, :-1])
            assert file["input_ids"].min() >= 0 and file["labels"].max() < 96
            windows.append({row.tobytes() for row in file["input_ids"]})
    assert not windows[0] & windows[1]
