"""Windows of text, as language models are trained on: short texts are joined, and long ones divided.

A decoder reads forwards: what it outputs for a token depends on those in front of it alone. So a window may hold
several texts, and all of it counts, where lines cost their padding, or share a feed with lines of their length only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from onnxheadprune.attention.sites.find import view_of
from onnxheadprune.data.prompts import Pair, Prompts
from onnxheadprune.data.vocabulary import Tokens
from onnxheadprune.errors import InferenceError
from onnxheadprune.model.graph.main_output import main_output
from onnxheadprune.model.load import LoadedModel
from onnxheadprune.runtime import CPU, Array, Provider, Session
from onnxheadprune.runtime.feeds.generate import Feed

Logits = Callable[[Feed], Array | None]
"""The logits of a feed, [samples, tokens, vocabulary]; None where the model does not run on it."""
LEAST = 512
"""Windows that a text has at least, if its lines are joined: as many as a choice looks at."""
CHANGED = 1e-4
"""Difference of logits, as a share of the largest one, that is not rounding."""


@dataclass(frozen=True)
class Windows:
    """How texts are made windows.

    Attributes:
        length: tokens of a window, at most.
        start: tokens that every text starts with, and so every window does.
        between: tokens between two texts.
        joins: whether a window holds several texts; without, long ones are divided alone.
    """

    length: int
    start: Sequence[int] = ()
    between: Sequence[int] = ()
    joins: bool = False

    def of(self, texts: Sequence[Tokens]) -> list[Tokens]:
        """The windows of some texts; no token is dropped, and none is in two of them."""
        if not self.joins:
            return [window for text in texts for window in self._divided(text)]
        stream: Tokens = []
        for text in texts:
            stream += [*self.between, *text] if stream else text
        return self._divided(stream)

    def _divided(self, tokens: Tokens) -> list[Tokens]:
        """Tokens in parts that are equally long, but for one token."""
        if len(tokens) <= self.length:
            return [tokens]
        first = len(self.start)
        body = tokens[first:] if tokens[:first] == list(self.start) else tokens
        count = math.ceil(len(body) / max(self.length - first, 1))
        places = [len(body) * part // count for part in range(count + 1)]
        return [[*self.start, *body[start:end]] for start, end in pairwise(places)]


def logits_of(model: LoadedModel) -> Logits | None:
    """Run a model of language; None for any other.

    It runs on the CPU, which refuses a position that a table has not; others read what lies behind it.

    Args:
        model: whose main output has an entry per sample, position and token.
    """
    view = view_of(model)
    main = main_output(view, ())
    if main is None or not main.is_logits or len(view.main.values[main.name].shape or ()) != len("BSV"):
        return None
    sessions: list[Session] = []

    def run(feed: Feed) -> Array | None:
        try:
            sessions[:] = sessions or [Session(model, Provider(CPU, "a trial"), name=model.name)]
            return sessions[0].run(feed)[main.name]
        except InferenceError:
            return None

    return run


def windows_for(texts: Sequence[Tokens], alone: Windows, prompts: Prompts, logits: Logits) -> Windows | None:
    """The windows of a model that reads forwards; None for any other, or where each text is a window anyway.

    Texts are joined where that leaves windows enough, each of two texts or more. Positions beyond those of the longest
    text are tried: what a table of them, or a cache, cannot take no window has.
    """
    total = sum(map(len, texts)) + len(alone.between) * (len(texts) - 1)
    most = max(map(len, texts))
    longest, length = min(most, alone.length), min(alone.length, total // LEAST)
    joins = length >= longest and 2 * total <= length * len(texts)
    if not joins and most <= alone.length:
        return None
    joined = replace(alone, length=length, joins=True)
    window = max((joined if joins else alone).of(texts), key=len)
    if not _reads_forwards(window[:longest], texts, prompts, logits):
        return None

    def runs(length: int) -> bool:
        return logits(prompts.feed([Pair(window[:length], window[:length])])) is not None

    length = _longest(runs, longest, len(window)) if joins else 0
    return replace(joined, length=length) if length > longest else alone


def _reads_forwards(window: Tokens, texts: Sequence[Tokens], prompts: Prompts, logits: Logits) -> bool:
    """Return whether no token changes the logits of those in front of it: measured, unless a cache says so."""
    if any(item.is_cache for item in prompts.inputs):
        return True
    other = next((token for text in texts for token in text if token != window[-1]), None)
    if other is None or len(window) < 2:
        return False
    before, after = (logits(prompts.feed([Pair(row, row)])) for row in (window, [*window[:-1], other]))
    if before is None or after is None or before.shape[:2] != (1, len(window)):
        return False
    apart = np.abs(before.astype(np.float64) - after)[0].max(axis=-1)
    changed = apart > CHANGED * np.abs(before.astype(np.float64)).max()
    return bool(changed[-1]) and not changed[:-1].any()


def _longest(runs: Callable[[int], bool], known: int, wanted: int) -> int:
    """The largest length up to the one that is wanted on which a model runs."""
    if runs(wanted):
        return wanted
    while known + 1 < wanted:
        middle = (known + wanted) // 2
        known, wanted = (middle, wanted) if runs(middle) else (known, middle)
    return known
