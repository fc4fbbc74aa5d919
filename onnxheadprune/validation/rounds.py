"""Rounds: every model runs a few feeds in one turn, so that models are opened once a round and not once a feed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

from onnxheadprune.errors import InferenceError, without_frames
from onnxheadprune.runtime import Array, Session
from onnxheadprune.runtime.feeds.generate import Feed, Outputs

ROUND_BYTES = 2**24
"""Outputs of one model that wait for those of the others."""


@dataclass(frozen=True, eq=False)
class OriginalRun:
    """A feed that the original ran."""

    feed: Feed  # the inputs
    before: Outputs  # what the original gave
    # whether to run it as a deployment does later. Where padding leaves a token nothing to attend to, fused
    # operators give other numbers than the graph spells, and no one reads them.
    deploy: bool = True
    labels: Array | None = None  # of the user's samples, None without


class Runner:
    """A model that is loaded when it first runs, and can run a round of feeds ahead."""

    def __init__(self, make: Callable[[], Session], fit: Callable[[Feed], Feed] = dict) -> None:
        """Load nothing yet."""
        self._make, self._fit = make, fit
        self._found: dict[int, Outputs | InferenceError] = {}

    @cached_property
    def session(self) -> Session:
        """The loaded model."""
        return self._make()

    def ahead(self, feeds: Iterable[Feed]) -> None:
        """Run a round of feeds. `run` returns what each gave, once, or raises what it raised."""
        session = self.session
        self._found = {id(feed): _attempt(session, self._fit(feed)) for feed in feeds}

    def run(self, feed: Feed) -> Outputs:
        """The outputs for a feed."""
        found = self._found.pop(id(feed), None)
        if found is None:
            return self.session.run(self._fit(feed))
        if isinstance(found, InferenceError):
            raise without_frames(found)
        return found


def _attempt(session: Session, feed: Feed) -> Outputs | InferenceError:
    try:
        return session.run(feed)
    except InferenceError as error:
        return without_frames(error)


def rounds(items: Iterable[OriginalRun]) -> Iterator[list[OriginalRun]]:
    """Feeds in order, as many at a time as their outputs leave room for, at least one."""
    held: list[OriginalRun] = []
    size = 0
    for item in items:
        held.append(item)
        size += sum(value.nbytes for value in item.before.values())
        if size >= ROUND_BYTES:
            yield held
            held, size = [], 0
    if held:
        yield held
