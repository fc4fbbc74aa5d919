"""How far outputs move, as one number: what ablation scores and drift limits are made of."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from onnxheadprune.calibration.data import token_rows
from onnxheadprune.calibration.main_output import MainOutput
from onnxheadprune.calibration.weights import Array
from onnxheadprune.errors import UsageError
from onnxheadprune.feeds import Feed, Input
from onnxheadprune.foreign import users_code

Effect = Callable[[Mapping[str, Array], Mapping[str, Array], Feed], float]
"""A user's measure: outputs before, outputs after, and the feed; larger is worse."""


class EffectMeter:
    """Mean effect over many feeds.

    On logits it is the Kullback-Leibler divergence from the original's distribution (nats per position);
    elsewhere one minus the cosine between the vectors along the last axis. Padding does not count.
    """

    def __init__(self, main: MainOutput, inputs: Sequence[Input], effect: Effect | None = None) -> None:
        """Starts at nothing."""
        self.main = main
        self.inputs = inputs
        self.effect = effect
        self._total = 0.0
        self._count = 0

    @property
    def name(self) -> str:
        """What is measured."""
        if self.effect is not None:
            return getattr(self.effect, "__name__", "user metric")
        return "kl" if self.main.is_logits else "1 - cosine"

    def add(self, before: Mapping[str, Array], after: Mapping[str, Array], feed: Feed) -> None:
        """Adds the outputs of one feed."""
        if self.effect is not None:
            with users_code(f"the measure {self.name}"):
                found = float(self.effect(before, after, feed))
            if not math.isfinite(found):
                raise UsageError(f"the measure {self.name} gave {found}, which is no number to compare")
            self._total += found
            self._count += 1
            return
        left, right = (self._rows(outputs[self.main.name], feed) for outputs in (before, after))
        each = _divergence(left, right) if self.main.is_logits else _angle(left, right)
        self._total += float(each.sum())
        self._count += len(each)

    def mean(self) -> float:
        """The mean so far."""
        return self._total / max(self._count, 1)

    def _rows(self, output: Array, feed: Feed) -> Array:
        rows = output if output.ndim > 1 else output.reshape(1, -1)
        return token_rows(rows, (rows.ndim - 1,), feed, self.inputs).astype(np.float64)


def _divergence(before: Array, after: Array) -> Array:
    left, right = _log_softmax(before), _log_softmax(after)
    result: Any = (np.exp(left) * (left - right)).sum(axis=-1)
    return np.asarray(result)


def _log_softmax(logits: Array) -> Array:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    result: Any = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return np.asarray(result)


def _angle(before: Array, after: Array) -> Array:
    norms = np.linalg.norm(before, axis=-1) * np.linalg.norm(after, axis=-1)
    cosine = (before * after).sum(axis=-1) / np.maximum(norms, 1e-30)
    # Two zero vectors agree; one alone does not.
    return np.where(norms > 0, 1 - cosine, np.where(np.abs(before - after).sum(axis=-1) > 0, 1.0, 0.0))
