"""How a command line ended, and when two endings are the same failure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TypeAlias

Words: TypeAlias = tuple[str, ...]
TIMEOUT = -1000
"""Stands for the exit code of what was ended because it took too long."""
_IDENTIFIER = re.compile(r"[./_:#\\\d]")
"""What names and numbers have inside of them, and words of a sentence have not."""
_LISTING = frozenset({"and", "or", "more"})
"""Words that come and go with the length of a list of names."""


@dataclass(frozen=True)
class Ending:
    """How a command line ended.

    Attributes:
        exit_code: of the command; the negative number of a signal that ended its process, or `TIMEOUT`.
        kind: the class of the error, "" without one.
        sentence: the error as people read it.
        place: the function that a bug showed in, "" for errors that are meant.
        left_out: where no site was found, why what looks like attention is none.
        output: all that was printed.
    """

    exit_code: int
    kind: str = ""
    sentence: str = ""
    place: str = ""
    left_out: tuple[str, ...] = ()
    output: str = ""


@dataclass(frozen=True)
class Failure:
    """What an ending must have in common with that of the original to be the same failure.

    Names and numbers do not count: a smaller model has others. A bug shows itself by where it is raised.

    Attributes:
        ending: that of the original, or of a model that ends alike and has anonymous names.
        names: words that are names in the original's sentence, as far as they could be words of any sentence.
        saying: text that must be printed, None to compare sentences.
    """

    ending: Ending
    names: frozenset[str] = frozenset()
    saying: str | None = None

    def is_shown_by(self, other: Ending) -> bool:
        """Whether another model fails the same way."""
        ours = self.ending
        if other.exit_code != ours.exit_code:
            return False
        if self.saying is not None:
            return self.saying in other.output
        if (other.kind, other.place) != (ours.kind, ours.place):
            return False
        if self._words(other.sentence) != self._words(ours.sentence):
            return False
        reasons = {self._words(reason) for reason in ours.left_out}
        others = {self._words(reason) for reason in other.left_out}
        return others <= reasons and bool(others) == bool(reasons)

    def _words(self, sentence: str) -> Words:
        return tuple(word for word in words(sentence) if word not in self.names)


def words(sentence: str) -> Words:
    """The words of a sentence without punctuation, numbers and what can only be a name.

    >>> words("site 3 (encoder.layer.3) cannot lose heads: Softmax -> /attn/p mixes them")
    ('site', 'cannot', 'lose', 'heads', 'Softmax', 'mixes', 'them')
    """
    found = []
    for chunk in sentence.split():
        core = chunk.strip("\"'()[]{},;:.`")
        if not _IDENTIFIER.search(core):
            found += [word for word in re.findall(r"[^\W_]+", core) if word not in _LISTING]
    return tuple(found)


def told(ending: Ending) -> str:
    """An ending in a few words: "exit code 3, RefusedError"."""
    if ending.exit_code == TIMEOUT:
        return "takes longer than the limit"
    if ending.exit_code < 0:
        return f"crashes with signal {-ending.exit_code}"
    return f"exit code {ending.exit_code}" + (f", {ending.kind}" if ending.kind else "")
