"""Rules between settings: a setting that would have no effect is refused before any work.

Libraries of constraints for click (cloup) take a default for given, so they cannot say that `--min-heads 1` beside
`--heads` is ignored; and the same rules hold in jobs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Rule:
    """When a setting has an effect.

    The fields are lists of words with spaces between them. A word is a setting's name, or `name=value` for a setting
    with that value, or a mapping with that key. Words that a command or a section does not have are left out.

    Attributes:
        needs: one of these must be given too.
        against: with any of these the setting would have no effect,
        unless: except where one of these is given as well.
        value: the rule is about the setting with this value; "" is any.
    """

    needs: str = ""
    against: str = ""
    unless: str = ""
    value: str = ""

    def resolved(self, find: Callable[[str], str | None]) -> Rule | None:
        """The rule with the names of one command or job, None where it does not apply."""

        def known(words: str) -> str:
            pairs = ((find(name), equals + value) for name, equals, value in map(_parts, words.split()))
            return " ".join(dict.fromkeys(f"{name}{rest}" for name, rest in pairs if name is not None))

        needs, against = known(self.needs), known(self.against)
        return Rule(needs, against, known(self.unless), self.value) if needs or against else None

    def broken(self, name: str, given: Mapping[str, object], spelled: Mapping[str, str]) -> str | None:
        """A sentence, None if the rule holds."""
        subject = f"{name}={self.value}" if self.value else name
        if not _holds(subject, given):
            return None
        shown, needs, unless = _spell(subject, spelled), self.needs.split(), self.unless.split()
        if needs and not any(_holds(word, given) for word in needs):
            return f"{shown} requires {_listed(needs, spelled)}"
        obstacle = next((word for word in self.against.split() if _holds(word, given)), None)
        if obstacle is None or any(_holds(word, given) for word in unless):
            return None
        but = f" without {_listed(unless, spelled)}" if any(_name(word) in spelled for word in unless) else ""
        return f"{shown} and {_spell(obstacle, spelled)} are mutually exclusive{but}"


def requires(words: str, *, value: str = "") -> Rule:
    """The setting, or one value of it, has an effect only with one of the others."""
    return Rule(needs=words, value=value)


def excludes(words: str, *, unless: str = "", value: str = "") -> Rule:
    """The setting, or one value of it, has no effect with any of the others."""
    return Rule(against=words, unless=unless, value=value)


def first_broken(
    rules: Iterable[tuple[str, Rule]], given: Mapping[str, object], spelled: Mapping[str, str]
) -> str | None:
    """The sentence about the first setting that would have no effect, None if there is none.

    Args:
        rules: names of settings, each with a rule in full names.
        given: values of the settings that somebody gave, and of those that are implied.
        spelled: how settings are written; what is implied is not.
    """
    sentences = (rule.broken(name, given, spelled) for name, rule in rules)
    return next((sentence for sentence in sentences if sentence is not None), None)


def _parts(word: str) -> tuple[str, str, str]:
    return word.partition("=")


def _name(word: str) -> str:
    return _parts(word)[0]


def _holds(word: str, given: Mapping[str, object]) -> bool:
    name, _, value = _parts(word)
    if name not in given or not value:
        return name in given
    found = given[name]
    return value in found if isinstance(found, Mapping) else str(found) == value


def _spell(word: str, spelled: Mapping[str, str]) -> str:
    """The word as it is typed: "--fuse auto", "--no-refit"."""
    name, _, value = _parts(word)
    if value == "False":
        return spelled[name].replace("--", "--no-", 1)
    return spelled[name] if value in ("", "True") else f"{spelled[name]} {value}"


def _listed(words: Collection[str], spelled: Mapping[str, str]) -> str:
    *most, last = (_spell(word, spelled) for word in words if _name(word) in spelled)
    return f"{', '.join(most)} or {last}" if most else last
