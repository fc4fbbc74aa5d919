"""A gradient graph in one precision, run on a batch: its loss comes back, its gradients stay on the device."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto

from onnxheadprune.runtime import Provider, Session
from onnxheadprune.runtime.feeds.generate import Feed
from onnxheadprune.runtime.resident import Resident, ResidentSession
from onnxheadprune.training.losses import LOSS

FIRST_SCALE = 2.0**16
"""Loss scale to begin with. Gradients of the stream are about one over positions times features, and float16 has all
its digits from 2^-14 to 2^16."""
LEAST_SCALE = 1.0
"""Where even this is too much for float16, it is not the loss scale that makes numbers too large."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """A way to compute gradients.

    Attributes:
        name: "float32", "tf32" or "float16", the type of the operands of products.
        model: of the loss and the gradients.
        tf32: whether CUDA may round products to TF32.
        scale: name of the input for a loss scale, "" where it has none.
        sound: name of the output that is finite where all gradients are, "" where it has none.
    """

    name: str
    model: ModelProto
    tf32: bool = False
    scale: str = ""
    sound: str = ""


@dataclass(frozen=True, eq=False)
class Tensors:
    """Tensors that stay on the device.

    Attributes:
        inputs: weights by the name of the input.
        gradients: where they are written, by the name of the output.
    """

    inputs: Mapping[str, Resident]
    gradients: Mapping[str, Resident]


@dataclass(frozen=True)
class Slope:
    """The loss and gradient norm of one batch, on the host.

    Attributes:
        loss: of the batch.
        usable: whether loss and gradients are finite; only of a candidate with a loss scale are gradients looked at.
    """

    loss: float
    usable: bool


class Slopes:
    """One candidate, ready to run.

    Attributes:
        candidate: which one.
        scale: the loss scale, a power of two.
        exhausted: whether gradients were too large for float16 without any scale.
    """

    def __init__(self, candidate: Candidate, provider: Provider, tensors: Tensors) -> None:
        """Loads the graph.

        Raises:
            InferenceError: if ONNX Runtime does not take it.
        """
        self.candidate = candidate
        self.scale = FIRST_SCALE if candidate.scale else 1.0
        self.exhausted = False
        name = "the gradient of the pruned model"
        session = Session(candidate.model, provider, name=name, optimize=True, tf32=candidate.tf32)
        self._session = ResidentSession(session, tensors.inputs, tensors.gradients)

    def at(self, feed: Feed) -> Slope:
        """Loss and gradients of a batch. Gradients that are not finite halve the loss scale."""
        if not self.candidate.scale:
            loss = float(self._session.run(feed)[LOSS])
            return Slope(loss, math.isfinite(loss))
        outputs = self._session.run({**feed, self.candidate.scale: np.array(self.scale, np.float32)})
        loss = float(outputs[LOSS])
        sound = bool(np.isfinite(outputs[self.candidate.sound]))
        if math.isfinite(loss) and not sound:
            self.exhausted = self.scale <= LEAST_SCALE
            self.scale = max(self.scale / 2, LEAST_SCALE)
        return Slope(loss, math.isfinite(loss) and sound)
