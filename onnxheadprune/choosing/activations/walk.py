"""Two models walk side by side: the original, and the same with other numbers in maps that lie behind already.

Both run once, block by block, on all of the data. What enters the next block is kept (`kept.py`), so the cost of a map
does not depend on how many lie before it. What depends on no changed map is the same in both, and kept once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeAlias

from onnxheadprune.choosing.activations.boundaries import Boundaries
from onnxheadprune.choosing.activations.kept import Kept, Room
from onnxheadprune.choosing.activations.parts import Parts, run_feed
from onnxheadprune.model.graph.view import Value
from onnxheadprune.runtime import Array, Session
from onnxheadprune.runtime.feeds.generate import Feed

Reader: TypeAlias = Callable[[int], dict[str, Array]]
"""Gives values for a feed, by name: the wanted ones, those that cross to the stage, and the feed itself."""


class Walk:
    """Both models at the place where a stage begins.

    Attributes:
        parts: makes sessions of the original's parts.
        boundaries: where it is cut.
        feeds: what both run on.
        stored: contents of stored tensors that differ in the changed model, by name.
    """

    def __init__(
        self,
        parts: Parts,
        boundaries: Boundaries,
        feeds: Sequence[Feed],
        stored: Mapping[str, Array],
        source: str = "the data",
        room: Room | None = None,
    ) -> None:
        """Stands at the inputs.

        Args:
            parts: makes sessions of the original's parts.
            boundaries: where it is cut.
            feeds: what to run on.
            stored: contents of stored tensors that differ in the changed model, by name; it grows on the way.
            source: how to call the feeds in errors.
            room: the memory that what is kept may take.
        """
        self.parts, self.boundaries, self.feeds = parts, boundaries, feeds
        self._source = source
        self.stored = stored
        self._room = room or Room()
        self._original, self._changed, self._ahead = (Kept(self._room) for _ in range(3))
        self._stage = -1
        self._apart = False
        """Whether the two models differ in front of this stage."""

    def enter(self, stage: int) -> None:
        """Takes both models to a stage. What is in `stored` by then stays so in front of it.

        Raises:
            UsageError: if the model does not run on the feeds.
        """
        while self._stage < stage:
            self._step()

    def original(self, wanted: Iterable[Value]) -> Reader:
        """Reads values of the original. Each feed is read once in a stage, and is carried to the next one by it.

        Like that of the changed model it may be asked by several threads, for another feed each.
        """
        names, after = {value.name for value in wanted}, self._crossing_to(self._stage + 1)
        session = self._session({*names, *after}, {})

        def read(feed: int) -> dict[str, Array]:
            values = self._run(session, self._values(feed, changed=False))
            self._ahead.put(feed, {name: values[name] for name in after})
            if self._apart:
                self._original.drop(feed, self.boundaries.changed)
            return values

        return read

    def changed(self, wanted: Iterable[Value]) -> Reader:
        """Reads values of the changed model, with what is in `stored` now."""
        session = self._session({value.name for value in wanted}, self.stored)
        return lambda feed: self._run(session, self._values(feed, changed=True))

    def _step(self) -> None:
        after = self._crossing_to(self._stage + 1)
        carry = self.original(())
        apart = self._apart or bool(self.stored)
        moving = [name for name in after if name in self.boundaries.changed] if apart else []
        session = self._session(moving, self.stored)
        moved = Kept(self._room)

        def move(feed: int) -> None:
            values = self._values(feed, changed=True)
            if feed not in self._ahead:
                carry(feed)
            if moving:
                values = self._run(session, values)
                moved.put(feed, {name: values[name] for name in moving})
            self._original.drop(feed)
            self._changed.drop(feed)

        for _ in self.parts.workers.each(move, range(len(self.feeds))):
            pass
        self._original.close()
        self._changed.close()
        self._original, self._changed, self._ahead = self._ahead, moved, Kept(self._room)
        self._stage, self._apart = self._stage + 1, apart

    def _crossing_to(self, stage: int) -> Mapping[str, int]:
        crossing = self.boundaries.crossing
        return crossing[stage] if 0 <= stage < len(crossing) else {}

    def _values(self, feed: int, *, changed: bool) -> dict[str, Array]:
        values = {**self.feeds[feed], **self._original.of(feed)}
        return {**values, **self._changed.of(feed)} if changed else values

    def _session(self, names: Iterable[str], stored: Mapping[str, Array]) -> Session | None:
        return self.parts.session(self._crossing_to(self._stage), names, stored)

    def _run(self, session: Session | None, values: dict[str, Array]) -> dict[str, Array]:
        return values if session is None else values | run_feed(session, values, self._source)
