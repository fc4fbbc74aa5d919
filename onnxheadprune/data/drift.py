"""Drift of outputs as one number, which ablation scores, choices and drift limits use.

One measure for each kind of output, in `prune` and in `validate`:

* Logits and probabilities (a distribution over the last axis): the Kullback-Leibler divergence from the original's
  distribution, in nats per position. It ignores a constant added to all logits, which has no effect;
  a cosine does not, and hardly changes when two close tokens swap ranks.
* Everything else (embeddings, hidden states): one minus the cosine between the vectors along the last axis.
  Embeddings are compared by their direction.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from onnxheadprune.errors import UsageError
from onnxheadprune.model.graph.main_output import MainOutput
from onnxheadprune.runtime import Array, Provider
from onnxheadprune.runtime.feeds.generate import Feed
from onnxheadprune.runtime.feeds.inputs import Input
from onnxheadprune.runtime.foreign import users_code

if TYPE_CHECKING:
    from onnxheadprune.data.calibration import Calibration


Effect: TypeAlias = Callable[[Mapping[str, Array], Mapping[str, Array], Feed], float]
"""A user's measure: outputs before, outputs after, and the feed; larger is worse."""
Measure: TypeAlias = "Effect | str"
"""A name of `MEASURES`, or a user's own."""
KL, COSINE = "kl", "cosine"
MEASURES = {KL: "kl", COSINE: "1 - cosine"}
"""Measures by the name that chooses them, with the name that outputs show."""
AUTO = "auto"
Measured: TypeAlias = tuple[float, int]
"""A sum of effects, and of how many."""
AT_ONCE = 2**21
"""Numbers that are looked at in double precision at a time: outputs a vocabulary wide would fill memory."""
MOST_SHARES = 2**24
"""Probabilities of a feed that are kept for all models that it is compared with."""
_TINY = 1e-30
_TURN = threading.Lock()


@dataclass(frozen=True, eq=False)
class Evidence:
    """Data, provider and measure for comparing outputs."""

    data: Calibration
    provider: Provider  # where to run
    effect: Measure | None = None  # the measure of drift; None chooses by the kind of output


@dataclass(frozen=True, eq=False)
class Reference:
    """The original's main output for a feed."""

    rows: Array  # [rows, features]
    parts: Sequence[slice | Array]  # those that are no padding, in pieces of `AT_ONCE` elements
    # each piece as probabilities; none where directions are compared, or where all would fill memory
    shares: Sequence[Array]


class EffectMeter:
    """Mean effect over many feeds.

    Padding does not count, nor do positions where the original itself is not finite; one where only the other model
    is not finite makes the mean infinite.
    """

    def __init__(self, main: MainOutput, inputs: Sequence[Input], effect: Measure | None = None) -> None:
        """Start with no feeds.

        Args:
            effect: "kl", "cosine" or the user's own; None or "auto" chooses by the kind of output.
        """
        if not callable(effect):
            effect = measured_in(main, effect)
        self.main, self.inputs, self.effect = main, inputs, effect
        self._total = 0.0
        self._count = 0

    @property
    def name(self) -> str:
        """The name of the measure."""
        if isinstance(self.effect, str):
            return MEASURES[self.effect]
        return getattr(self.effect, "__name__", "user metric")

    def add(self, before: Mapping[str, Array], after: Mapping[str, Array], feed: Feed) -> None:
        """Add the outputs of one feed."""
        self.take(self.measured(before, after, feed))

    def measured(self, before: Mapping[str, Array], after: Mapping[str, Array], feed: Feed) -> Measured:
        """Measure the outputs of one feed without adding the result. Thread-safe."""
        if not isinstance(self.effect, str):
            # The user's code does not know that there are several threads.
            with _TURN, users_code(f"the measure {self.name}"):
                found = float(self.effect(before, after, feed))
            if not math.isfinite(found):
                raise UsageError(f"the measure {self.name} gave {found}, which is no number to compare")
            return found, 1
        return self.apart(self.reference(before, feed), after, feed)

    def reference(self, before: Mapping[str, Array], feed: Feed) -> Reference:
        """The original's outputs for a feed, prepared for comparison with those of many models by `apart`."""
        output = np.atleast_2d(before[self.main.name])
        rows, parts = _rows(output), counted_pieces(output, feed, self.inputs)
        keeping = self.effect == KL and rows.size <= MOST_SHARES
        return Reference(
            rows, parts, [self._distribution(_single(rows[part])) for part in parts] if keeping else ()
        )

    def apart(self, reference: Reference, after: Mapping[str, Array], feed: Feed) -> Measured:
        """Measure the outputs of one feed by a named measure, without adding the result. Thread-safe."""
        rows = _rows(np.atleast_2d(after[self.main.name]))
        total, count = 0.0, 0
        for at, part in enumerate(reference.parts):
            left, right = reference.rows[part], rows[part]
            if self.effect == KL:
                left, right = _single(left), _single(right)
                shares = reference.shares[at] if reference.shares else self._distribution(left)
                each = self._divergence(left, right, shares)
            else:
                each = _angle(left.astype(np.float64), right.astype(np.float64))
            total, count = total + float(each.sum()), count + len(each)
        return total, count

    def take(self, measured: Measured) -> None:
        """Add a result of `measured`."""
        self._total += measured[0]
        self._count += measured[1]

    def mean(self) -> float:
        """The mean so far; not a number before anything was counted."""
        if not self._count:
            return math.nan
        mean = self._total / self._count
        # Rounding may leave a little less than nothing.
        return max(mean, 0.0) if isinstance(self.effect, str) else mean

    def _distribution(self, rows: Array) -> Array:
        """The probabilities of rows, in single precision."""
        with np.errstate(invalid="ignore"):
            return np.asarray(np.exp(self._log_probabilities(self._logits(rows))))

    def _divergence(self, before: Array, after: Array, shares: Array) -> Array:
        """The divergence of rows: log(E[exp(d)]) - E[d] for the differences d of the logits, less about their mean.

        In single precision: rounding counts relative to the differences, which are small where the divergence is.
        """
        with np.errstate(invalid="ignore", over="ignore"):
            apart = self._logits(after) - self._logits(before)
            apart -= _mean(shares, apart)[:, None]
            rest = _mean(shares, apart)
            np.exp(apart, out=apart)
            apart -= 1
            found = np.log1p(_mean(shares, apart).astype(np.float64)) - rest
        # Infinities among the numbers, and differences beyond single precision.
        beyond = ~np.isfinite(found)
        if not beyond.any():
            return np.asarray(found)
        return np.concatenate([found[~beyond], self._exactly(before[beyond], after[beyond])])

    def _exactly(self, before: Array, after: Array) -> Array:
        # A token that is ruled out by minus infinity is a probability of 0.
        known = (before < np.inf).all(axis=-1) & np.isfinite(before).any(axis=-1)
        wide = (self._logits(rows[known].astype(np.float64)) for rows in (before, after))
        left, right = map(self._log_probabilities, wide)
        share = np.exp(left)
        with np.errstate(invalid="ignore"):
            terms = np.where(share > 0, share * (left - right), 0.0)
        return _numbers(terms.sum(axis=-1))

    def _logits(self, rows: Array) -> Array:
        return np.log(np.maximum(rows, _TINY)) if self.main.is_probabilities else rows

    def _log_probabilities(self, rows: Array) -> Array:
        with np.errstate(invalid="ignore"):
            shifted = rows - rows.max(axis=-1, keepdims=True)
            result: Any = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
        return np.asarray(result)


def counted_pieces(output: Array, feed: Feed, inputs: Sequence[Input]) -> list[slice | Array]:
    """The rows of an output [..., features] that are no padding, in pieces of `AT_ONCE` elements."""
    outer, features = output.shape[:-1], output.shape[-1]
    mask = counted(outer, feed, inputs)
    if mask is None:
        return [*pieces((math.prod(outer), features))]
    known = np.flatnonzero(mask)
    return [known[part] for part in pieces((len(known), features))]


def _rows(output: Array) -> Array:
    """An output as [rows, features]."""
    return output.reshape(math.prod(output.shape[:-1]), output.shape[-1])


def _single(rows: Array) -> Array:
    return rows.astype(np.float32, copy=False)


def _mean(shares: Array, numbers: Array) -> Array:
    """The mean of each row by its probabilities."""
    return np.asarray(np.einsum("ij,ij->i", shares, numbers))


def measured_in(main: MainOutput, effect: str | None) -> str:
    """The name in `MEASURES` of the measure for an output."""
    if effect is None or effect == AUTO:
        return KL if main.is_logits else COSINE
    if effect not in MEASURES:
        names = ", ".join(MEASURES)
        raise UsageError(f"a drift is measured by {AUTO}, {names} or module:function, not {effect!r}")
    return effect


def pieces(shape: tuple[int, ...]) -> list[slice]:
    """Return the rows of a matrix in pieces of `AT_ONCE` elements."""
    step = max(1, AT_ONCE // max(shape[-1], 1))
    return [slice(start, start + step) for start in range(0, max(shape[0], 1), step)]


def _angle(before: Array, after: Array) -> Array:
    known = np.isfinite(before).all(axis=-1)
    before, after = before[known], after[known]
    with np.errstate(invalid="ignore"):
        norms = np.linalg.norm(before, axis=-1) * np.linalg.norm(after, axis=-1)
        cosine = (before * after).sum(axis=-1) / np.maximum(norms, _TINY)
        apart = np.abs(before - after).sum(axis=-1) > 0
    # Two zero vectors agree; one alone does not.
    found = np.where(norms > 0, 1 - cosine, np.where(apart, 1.0, 0.0))
    return _numbers(np.where(np.isfinite(after).all(axis=-1), found, np.nan))


def _numbers(effects: Array) -> Array:
    """The effects; infinite where the model is not finite and the original is."""
    return np.where(np.isnan(effects), np.inf, effects)


def token_rows(array: Array, axes: Sequence[int], feed: Feed, inputs: Sequence[Input]) -> Array:
    """An activation as rows of features, without padding.

    Args:
        inputs: the graph inputs; a mask among them tells which positions are padding.

    Returns:
        [rows, features] in float32.
    """
    others = [axis for axis in range(array.ndim) if axis not in axes]
    moved = array.transpose(*others, *axes)
    outer = moved.shape[: len(others)]
    features = math.prod(moved.shape[len(others) :])
    rows = moved.reshape(*outer, features).astype(np.float32, copy=False)
    mask = counted(outer, feed, inputs)
    return rows.reshape(math.prod(outer), features) if mask is None else rows[mask]


def counted(shape: tuple[int, ...], feed: Feed, inputs: Sequence[Input]) -> Array | None:
    """Return which positions are no padding, by a mask input of their shape; None without such a mask.

    Every figure on outputs and activations asks this function. A mask that also covers cached tokens ends with the
    positions.
    """
    masks = [feed[item.name] for item in inputs if item.tells_padding]
    past = {
        feed[item.name].shape[axis]
        for item in inputs
        if item.is_cache
        for axis, dim in enumerate(item.dims)
        if axis != item.batch_axis and not isinstance(dim, int)
    }
    if len(shape) == 2:
        masks = [
            mask[:, -shape[1] :] if mask.ndim == 2 and mask.shape[1] - shape[1] in past else mask
            for mask in masks
        ]
    mask = next((mask for mask in masks if mask.shape == shape or shape == (mask.size,)), None)
    return None if mask is None else mask.reshape(shape) != 0
