"""In which precision products of a training run: what is fastest on the device and agrees with float32 there."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto

from onnxheadprune.choosing.gradients.differentiate import Gradient
from onnxheadprune.choosing.gradients.halving import halved
from onnxheadprune.errors import InferenceError
from onnxheadprune.runtime import CUDA, Array, Provider, Session
from onnxheadprune.runtime.feeds.generate import Feed
from onnxheadprune.runtime.resident import Resident, ResidentSession
from onnxheadprune.training.losses import LOSS, PREFIX

FIRST_SCALE = 2.0**16
"""Loss scale to begin with. Gradients of the stream are about one over positions times features, and float16 has all
its digits from 2^-14 to 2^16."""
LEAST_SCALE = 1.0
"""The least loss scale: where even this is too much for float16, another cause makes numbers too large."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """A way to compute gradients."""

    name: str  # "float32", "tf32" or "float16", the type of the operands of products
    model: ModelProto  # of the loss and the gradients
    tf32: bool = False  # whether CUDA may round products to TF32
    scale: str = ""  # name of the input for a loss scale, "" where it has none
    sound: str = ""  # name of the output that is finite where all gradients are, "" where it has none


@dataclass(frozen=True, eq=False)
class Tensors:
    """Tensors that stay on the device."""

    inputs: Mapping[str, Resident]  # weights by the name of the input
    gradients: Mapping[str, Resident]  # where they are written, by the name of the output


@dataclass(frozen=True)
class Slope:
    """The loss and gradient norm of one batch, on the host."""

    loss: float  # of the batch
    # whether loss and gradients are finite; only of a candidate with a loss scale are gradients looked at
    usable: bool


class Slopes:
    """One candidate, ready to run.

    Attributes:
        candidate: which one.
        scale: the loss scale, a power of two.
        exhausted: whether gradients were too large for float16 without any scale.
    """

    def __init__(self, candidate: Candidate, provider: Provider, tensors: Tensors) -> None:
        """Load the graph."""
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


FLOAT32, TF32, FLOAT16 = "float32", "tf32", "float16"
FARTHEST = 0.05
"""The largest distance of loss and gradients from those in float32, as a share of them. On MiniLM gradients of two
batches of 16 are as far apart as they are long, so a twentieth of that is lost in the noise that a step has anyway;
rounding all operands of products to float16 gave 0.016."""
GAIN = 0.9
"""Part of the time of the best one so far that another must not exceed: chance on the clock is to decide nothing."""
REPEATS = 5


def candidates_of(gradient: Gradient, provider: Provider) -> list[Candidate]:
    """The ways to compute gradients that a provider may be faster in, float32 first.

    CPUs compute in float32 at best, and of other providers than CUDA no word of TF32 and float16 is known here.
    """
    found = [Candidate(FLOAT32, gradient.model)]
    if provider.name == CUDA:
        found += [Candidate(TF32, gradient.model, tf32=True), in_float16(gradient)]
    return found


def in_float16(gradient: Gradient) -> Candidate:
    """The candidate with products in float16 and a loss scale."""
    given = [info.name for info in gradient.model.graph.input if info.name.startswith(PREFIX)]
    made = halved(gradient, given)
    return Candidate(FLOAT16, made.model, scale=made.scale, sound=made.sound)


def _seconds_of(run: Callable[[], object]) -> float:
    """The shortest time of a few runs, of which each is done when it returns."""
    found = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        run()
        found.append(time.perf_counter() - start)
    return min(found)


def decided(
    candidates: Sequence[Candidate],
    provider: Provider,
    tensors: Tensors,
    feed: Feed,
    timed: Callable[[Callable[[], object]], float] = _seconds_of,
) -> Slopes:
    """The fastest candidate whose loss and gradients on a batch are those of the first, within what steps can bear."""
    best = Slopes(candidates[0], provider, tensors)
    if len(candidates) == 1:
        return best
    loss = best.at(feed).loss
    gradients = [item.copy() for item in tensors.gradients.values()]
    pace = timed(lambda: best.at(feed))
    for candidate in candidates[1:]:
        try:
            tried = Slopes(candidate, provider, tensors)
            if not _agrees(tried, tensors, feed, loss, gradients):
                continue
            took = timed(lambda run=tried: run.at(feed))  # type: ignore[misc]
        except InferenceError:
            # Not every operator has a kernel for every type everywhere.
            continue
        if took <= GAIN * pace:
            best, pace = tried, took
    return best


def _agrees(tried: Slopes, tensors: Tensors, feed: Feed, loss: float, gradients: Sequence[Array]) -> bool:
    # With too large a loss scale some gradients are infinite, which halves it.
    found = tried.at(feed)
    while not found.usable and math.isfinite(found.loss) and not tried.exhausted:
        found = tried.at(feed)
    if not found.usable or not abs(found.loss - loss) <= FARTHEST * abs(loss):
        return False
    return distance([item.copy() for item in tensors.gradients.values()], gradients) <= FARTHEST


def distance(found: Sequence[Array], expected: Sequence[Array]) -> float:
    """Return how far gradients are from what they should be, as a share of it: 0 is equal, 1 says nothing.

    It is the root mean square over tensors by their sizes, for a step moves each weight by about the learning rate,
    however small the gradients of its tensor are. What should be nothing (keys have biases that a softmax does not
    see) and is rounding alone weighs no more than a tensor that is lost.
    """
    total = count = 0.0
    for mine, other in zip(found, expected, strict=True):
        length = np.linalg.norm(other.astype(np.float64))
        apart = np.linalg.norm(mine.astype(np.float64) - other)
        share = min(float(apart / length), 1.0) if length else float(apart > 0)
        total += mine.size * share**2
        count += mine.size
    return float(np.sqrt(total / max(count, 1.0)))
