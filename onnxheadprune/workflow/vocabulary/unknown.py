"""Words that WordPiece does not know, and the tokens without which it would spell some of them.

A word is unknown where no token matches after those that were taken so far, each the longest that matches. Without
one of those a shorter one is taken, after which a kept token may pass over the place of the failure. So the tokenizers
before and after a cut are followed through a word together; a state is the text by which one is ahead of the other.
What follows that text is open, so a few more tokens may be found than some word needs, and none fewer.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Collection, Iterator
from itertools import takewhile
from typing import NamedTuple

from onnxheadprune.model.graph.walks import reachable


class _State(NamedTuple):
    """Two tokenizers within a word."""

    before: bool  # whether the one before the cut is ahead
    text: str  # between the two


class _Matching:
    """The tokens that match at the start of a text."""

    def __init__(self, texts: Collection[str]) -> None:
        self.some = frozenset(texts) - {""}
        self.ordered = sorted(self.some)

    def longest(self, text: str) -> str:
        """The longest one that a text begins with, "" where there is none."""
        return next((text[:size] for size in range(len(text), 0, -1) if text[:size] in self.some), "")

    def beyond(self, text: str) -> Iterator[str]:
        """Yield the rest of each token that begins with a text."""
        later = self.ordered[bisect_right(self.ordered, text) :]
        return (found[len(text) :] for found in takewhile(lambda item: item.startswith(text), later))


def hiding(tokens: Collection[str], kept: Collection[str], prefix: str) -> frozenset[str]:
    """Tokens that are not kept and without which an unknown word would be spelled in tokens that are."""
    if not passing(tokens, kept, prefix):
        return frozenset()
    before, after = (_Matching(_within(some, prefix)) for some in (tokens, kept))
    starts = [*_starts(tokens, kept, ""), *_starts(tokens, kept, prefix)]
    spelled = _spelled({state for _, state in starts}, before, after)
    return frozenset(token for token, state in starts if state in spelled)


def passing(tokens: Collection[str], kept: Collection[str], prefix: str) -> frozenset[str]:
    """Kept tokens within a word that pass over a place at which no token could begin: without them none is hidden."""
    alone = frozenset(_within(tokens, prefix))
    return frozenset(prefix + text for text in _within(kept, prefix) if not alone.issuperset(text[1:]))


def _within(tokens: Collection[str], prefix: str) -> list[str]:
    """Return what tokens within a word match."""
    return [token.removeprefix(prefix) for token in tokens if token.startswith(prefix)]


def _starts(tokens: Collection[str], kept: Collection[str], prefix: str) -> Iterator[tuple[str, _State]]:
    """Yield each token that is not kept with the state after it: the longest kept one takes its place."""
    after = _Matching(_within(kept, prefix))
    for text in _within(set(tokens).difference(kept), prefix):
        shorter = after.longest(text)
        if shorter:
            yield prefix + text, _State(True, text[len(shorter) :])


def _spelled(starts: Collection[_State], before: _Matching, after: _Matching) -> set[_State]:
    """Return the states after which a word is unknown before the cut and spelled after it."""
    leading: dict[_State, list[_State]] = defaultdict(list)
    ends: list[_State] = []

    def following(state: _State) -> list[_State]:
        behind = after if state.before else before
        longest = behind.longest(state.text)
        if not longest and not state.before:
            ends.append(state)
        reached = [_State(not state.before, text) for text in behind.beyond(state.text)]
        if longest and longest != state.text:
            reached.append(_State(state.before, state.text[len(longest) :]))
        for other in reached:
            leading[other].append(state)
        return reached

    for _ in reachable(starts, following):
        pass
    return set(reachable(ends, lambda state: leading[state]))
