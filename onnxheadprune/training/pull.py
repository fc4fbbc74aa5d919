"""A pull of weights towards those that a training starts from, as an ONNX graph where they are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxheadprune.runtime import Provider
from onnxheadprune.runtime.resident import Resident
from onnxheadprune.training.in_place import in_place

STRENGTH = 0.9
"""The pull of a whole training at its peak rate, as a share of the way back: the same for every length of it."""
EVERY = 10
"""Steps after which it is made good, all at once."""
TEXT = """
kept = Mul(parameter, keep)
start_part = Mul(start, share)
new_parameter = Add(kept, start_part)
"""


class Pull:
    """Weights, and where they are drawn to."""

    def __init__(self, parameters: Sequence[Resident], provider: Provider) -> None:
        """Takes the weights as they are now for the start."""
        starts = [Resident(item.copy(), provider) for item in parameters]
        self._session = in_place(
            TEXT,
            {"parameter": parameters, "start": starts},
            ("parameter",),
            {"keep": None, "share": None},
            provider,
        )
        self._due = 0.0

    def add(self, share: float, step: int) -> None:
        """Accumulate the pull of a step, and apply the sum every `EVERY` steps."""
        self._due += share
        if step % EVERY == 0:
            self.settle()

    def settle(self) -> None:
        """Makes good what is due."""
        if self._due:
            keep = np.exp(-self._due)
            self._session.run({"keep": np.array(keep, np.float32), "share": np.array(1 - keep, np.float32)})
            self._due = 0.0
