"""Progress of long work."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")
Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and of how much."""


class Note(str):
    """A message that is no step of the work."""

    __slots__ = ()


def silent(_what: str, _done: int, _of: int) -> None:
    """The progress of those who do not want to hear of it."""


def reported(items: Iterable[Item], what: str, of: int, progress: Progress) -> Iterator[Item]:
    """Yield results of work, and report each."""
    for done, item in enumerate(items, 1):
        progress(what, done, of)
        yield item


def part_of(progress: Progress, number: int, parts: int) -> Progress:
    """Return the progress of one of several equal parts of some work."""
    return lambda what, done, of: progress(what, number * of + done, parts * of)


def prefixed(progress: Progress, place: str, spell: Callable[[str], str] = str) -> Progress:
    """Return the progress of one of several works, which says where it is; a message stays one."""

    def tell(what: str, done: int, of: int) -> None:
        text = place + spell(str(what))
        progress(Note(text) if isinstance(what, Note) else text, done, of)

    return tell
