"""The declaration of a setting: words, bounds and rules, as the annotation of a field or a parameter.

    min_heads: Annotated[Natural, Setting("Heads that every site keeps at least.", metavar="N")] = 1

The command line, jobs, Olive and the documentation read the same declaration. Nothing heavy is imported here, since
`--help` is made of it.

By its rules a setting that would have no effect is refused before any work. Libraries of constraints for click (cloup)
take a default for given, so they cannot say that `--min-heads 1` beside `--heads` is ignored; and the same rules hold
in jobs.
"""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence, Set
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass, replace
from numbers import Integral, Real
from pathlib import Path
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    ClassVar,
    Literal,
    TypeAlias,
    TypeGuard,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from onnxheadprune.errors import UsageError

Spell: TypeAlias = Callable[[str, str], "str | None"]
"""Writes a setting by its name and value, "" for none, as one front end has it; None where it has no such setting."""


@dataclass(frozen=True)
class Rule:
    """A condition under which a setting has an effect.

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

    def broken(self, name: str, given: Mapping[str, object], spell: Spell) -> str | None:
        """A sentence, None if the rule holds."""
        subject = f"{name}={self.value}" if self.value else name
        if not _holds(subject, given):
            return None
        shown, needs, unless = _spelled(subject, spell), self.needs.split(), self.unless.split()
        if needs and not any(_holds(word, given) for word in needs):
            return f"{shown} requires {_listed(needs, spell)}"
        obstacle = next((word for word in self.against.split() if _holds(word, given)), None)
        if obstacle is None or any(_holds(word, given) for word in unless):
            return None
        but = f" without {listed}" if (listed := _listed(unless, spell)) else ""
        return f"{shown} and {_spelled(obstacle, spell)} are mutually exclusive{but}"


def requires(words: str, *, value: str = "") -> Rule:
    """The setting, or one value of it, has an effect only with one of the others."""
    return Rule(needs=words, value=value)


def excludes(words: str, *, unless: str = "", value: str = "") -> Rule:
    """The setting, or one value of it, has no effect with any of the others."""
    return Rule(against=words, unless=unless, value=value)


NAMED = re.compile(r"\{(\w+)\}")
"""The name of a setting in the help of another one."""


MOST_QUOTED = 60
"""Characters of a value that a message repeats."""
FILES = "FILES"
"""Names of files, among the words that shells complete."""


@dataclass(frozen=True)
class Bounds:
    """The values that a number, or the lengths that a text or a list may have; None is no bound."""

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None
    min_length: int | None = None

    def __str__(self) -> str:
        """In words: "greater than 1 and less than 100"."""
        words = {"ge": "at least", "gt": "greater than", "le": "at most", "lt": "less than"}
        return " and ".join(
            f"{word} {getattr(self, name):g}"
            for name, word in words.items()
            if getattr(self, name) is not None
        )

    @property
    def interval(self) -> str:
        """In signs, as `--help` has it: "1<x<100"; "" without bounds."""
        low, high = (
            (self.gt, "<") if self.ge is None else (self.ge, "<="),
            (self.lt, "<") if self.le is None else (self.le, "<="),
        )
        if low[0] is not None and high[0] is not None:
            return f"{low[0]}{low[1]}x{high[1]}{high[0]}"
        if low[0] is not None:
            return f"x{low[1].replace('<', '>')}{low[0]}"
        return "" if high[0] is None else f"x{high[1]}{high[0]}"

    def admit(self, value: float) -> bool:
        """Return whether a number lies within."""
        return (
            (self.ge is None or value >= self.ge)
            and (self.gt is None or value > self.gt)
            and (self.le is None or value <= self.le)
            and (self.lt is None or value < self.lt)
        )


@dataclass(frozen=True)
class WithUnit(Bounds):
    """Bounds of a number that may be given as text, with its unit behind it."""

    UNIT: ClassVar[str]
    IN_ONE: ClassVar[float]
    """Units in one."""
    WORDS: ClassVar[str]
    """What it is, with an example."""

    def read(self, value: object) -> object:
        """A number from text; what is no text stays unchanged.

        Raises:
            ValueError: if the text is no number.
        """
        if not isinstance(value, str):
            return value
        number = value.removesuffix(self.UNIT)
        try:
            return float(number) / (1 if number == value else self.IN_ONE)
        except ValueError:
            raise ValueError(f"{value!r} is not {self.WORDS}") from None


@dataclass(frozen=True)
class Shares(WithUnit):
    """Bounds of a share of something, which may be given in percent: "50%" is 0.5."""

    UNIT, IN_ONE, WORDS = "%", 100.0, "a share like 0.25 or 25%"


@dataclass(frozen=True)
class Factors(WithUnit):
    """Bounds of a factor: "2x" is 2."""

    UNIT, IN_ONE, WORDS = "x", 1.0, "a factor like 1.5 or 1.5x"


@dataclass(frozen=True)
class Setting:
    """The properties of a setting that are the same wherever it is set.

    Attributes:
        help: one or two sentences about it; names of other settings stand in {braces}.
        metavar: how its value is written in `--help`.
        flags: how it is spelled on the command line, as in "-o --output"; `--NAME` if not given.
        rules: what it requires and excludes.
        parse: reads a value from text, for what is neither a number nor a word; raises ValueError with a sentence.
        creates: it names a file that is written, whose name ends in one of these, with spaces between; "*" for any.
        argument: it is given without a flag.
        section: of `SECTIONS`; that of its group if not given.
        also: what other programs, or earlier versions, call it, with spaces between.
        offers: words that shells complete beside those of its type, with spaces between; `FILES` for names of files.
        removed: words of earlier versions, and what to use in place of each.
    """

    help: str
    metavar: str | None = None
    flags: str = ""
    rules: tuple[Rule, ...] = ()
    parse: Callable[[str], Any] | None = None
    creates: str = ""
    argument: bool = False
    section: str = ""
    also: str = ""
    offers: str = ""
    removed: Mapping[str, str] = field(default_factory=dict, hash=False)


Positive = Annotated[float, Bounds(gt=0)]
Factor = Annotated[float, Factors(gt=0)]
Share = Annotated[float, Shares(gt=0, lt=1)]
NotNegative = Annotated[float, Bounds(ge=0)]
Count = Annotated[int, Bounds(ge=1)]
Natural = Annotated[int, Bounds(ge=0)]
Text = Annotated[str, Bounds(min_length=1)]


SECTIONS = (
    REMOVAL := "What to remove",
    SELECTION := "Selection",
    INPUTS := "Inputs",
    QUANTIZATION := "Quantization",
    CHANGES := "Changes to the model",
    BENCHMARK := "Benchmark",
    EXECUTION := "Execution",
    OUTPUT := "Output",
    DISPLAY := "Display",
)
"""Titles of groups of settings, in the order of `--help` and of the documentation."""


@dataclass(frozen=True)
class Declared:
    """One setting of a group or of a command.

    Attributes:
        kind: its type, without annotations and without None; of several types text, if it is one of them.
        others: the other types.
        bounds: of its values.
        default: MISSING where it must be given.
        section: of `SECTIONS`.
    """

    name: str
    kind: Any
    others: tuple[Any, ...]
    bounds: Bounds
    setting: Setting
    default: Any
    section: str

    @property
    def required(self) -> bool:
        """True if it must be given."""
        return self.default is MISSING

    @property
    def items(self) -> Declared | None:
        """The declaration of each item of a list, or of each value of a mapping; None of what is neither."""
        if get_origin(self.kind) not in (tuple, Mapping):
            return None
        first, *rest = get_args(self.kind)
        hint = rest[0] if get_origin(self.kind) is Mapping else first
        return _declared(self.name, Annotated[hint, replace(self.setting, parse=None)], MISSING, self.section)

    def of_text(self, text: str) -> Any:
        """The value that text on a command line means; see `read`."""
        if self.setting.parse is None and self.kind in (int, float) and not isinstance(self.bounds, WithUnit):
            try:
                return self.read(self.kind(text))
            except ValueError:
                pass
        return self.read(text)

    def read(self, value: object, other: str = "") -> Any:
        """The value of a setting, whoever gives it: the command line, Python, a file of a job, another tool.

        Args:
            value: the value.
            other: what else the caller accepts, for the message.

        Raises:
            UsageError: if it is of another type, or outside the bounds.
        """
        try:
            return self._read(value, other)
        except ValueError as error:
            raise UsageError(f"{self.name}: {error}") from None

    def _read(self, value: object, other: str) -> Any:
        kind, given, items = self.kind, value, self.items
        if self.setting.parse is not None:
            return self._of_items(self.setting.parse, value)
        if isinstance(self.bounds, WithUnit):
            value = self.bounds.read(value)
        if kind in (Path, str) and value == "":
            raise UsageError(f"{self.name} is empty")
        if kind in (Path, str) and isinstance(value, (str, os.PathLike)):
            return Path(value) if kind is Path else os.fspath(value)
        if isinstance(value, bool) and kind is bool:
            return value
        if isinstance(value, (str, int)) and not isinstance(value, bool) and value in self.words:
            return value
        if items is not None and _is_list(value) and get_origin(kind) is tuple:
            return tuple(map(items.read, value))
        if isinstance(value, Mapping) and any(get_origin(item) is Mapping for item in self.others):
            return value
        number = next((item for item in (kind, *self.others) if item in (int, float)), None)
        is_number = isinstance(value, Integral if number is int else Real) and not isinstance(value, bool)
        if isinstance(value, str) and value in self.setting.removed:
            raise UsageError(f"{self.name}: {value} was removed; use {self.setting.removed[value]}")
        if number is None or not is_number:
            expected = f"{self.expected} or {other}" if other else self.expected
            raise UsageError(f"{self.name} must be {expected}, not {_quoted(value)}")
        if not self.bounds.admit(number(value)):
            is_share = isinstance(self.bounds, Shares) and 1 < number(value) < 100 and "%" not in str(given)
            percent = f'; write "{given}%" for percent' if is_share else ""
            raise UsageError(f"{self.name} must be {self.bounds}, not {given}{percent}")
        return number(value)

    def _of_items(self, parse: Callable[[str], object], value: object) -> object:
        """Parse text, items of a list or pairs of a mapping by the parser of the text."""
        if isinstance(value, Mapping):
            if get_origin(self.kind) is Mapping:
                read = [parse(f"{key}={item}") for key, item in value.items()]
                return {
                    key: item for pairs in read if isinstance(pairs, Mapping) for key, item in pairs.items()
                }
        elif isinstance(value, (str, Real)) and not isinstance(value, bool):
            return parse(str(value))
        elif _is_list(value):
            return parse(",".join(map(str, value)))
        raise ValueError(f"{_quoted(value)} is not of the form {self.setting.metavar}")

    @property
    def expected(self) -> str:
        """The values that it may have, in words."""
        if self.words:
            *others, last = map(str, self.words)
            return f"{', '.join(others)} or {last}" if others else last
        kinds = {bool: "True or False", int: "a whole number", float: "a number", Path: "a path", str: "text"}
        words = [
            "a mapping" if get_origin(kind) is Mapping else kinds.get(kind)
            for kind in (self.kind, *self.others)
        ]
        return " or ".join(filter(None, words)) or "a list of texts"

    @property
    def words(self) -> tuple[Any, ...]:
        """The values that it may have, where these are words; of a list its items, of a mapping its keys."""
        kind = get_args(self.kind)[0] if get_origin(self.kind) in (tuple, Mapping) else self.kind
        return get_args(kind) if get_origin(kind) is Literal else ()


def _is_list(value: object) -> TypeGuard[Sequence[object] | Set[object]]:
    return isinstance(value, (Sequence, Set)) and not isinstance(value, (str, bytes))


def _quoted(value: object) -> str:
    """A value in few characters."""
    text = repr(value)
    return text if len(text) <= MOST_QUOTED and text.isprintable() else f"a {type(value).__name__}"


_KNOWN: dict[type[Any], Mapping[str, Declared]] = {}


def declared(group: type[Any]) -> Mapping[str, Declared]:
    """The settings of a dataclass by name, in order; fields without a declaration are none."""
    if group not in _KNOWN:
        hints = get_type_hints(group, include_extras=True)
        made = [
            _declared(item.name, hints[item.name], _default(item), _section(group, item.name))
            for item in fields(group)
        ]
        _KNOWN[group] = {item.name: item for item in made if item is not None}
    return _KNOWN[group]


def part_of(group: type[Any], given: object) -> Any:
    """The settings of one group, out of a larger one."""
    return group(**{name: getattr(given, name) for name in declared(group)})


def rules_of(settings: Mapping[str, Declared], groups: Iterable[type[Any]]) -> list[tuple[str, Rule]]:
    """The rules of some settings, and those that their groups have for themselves, by names of settings."""
    found = [(name, rule) for name, item in settings.items() for rule in item.setting.rules]
    own = [item for group in groups for item in getattr(group, "RULES", {}).items()]
    return [*found, *((name, rule) for names, rule in own for name in names.split())]


def parameters(function: Callable[..., object]) -> dict[str, Declared | type[Any]]:
    """The settings that a function takes, and the groups of settings, by the names of its parameters."""
    hints = get_type_hints(function, include_extras=True)
    found: dict[str, Declared | type[Any]] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        hint = hints[name]
        default = MISSING if parameter.default is parameter.empty else parameter.default
        made = hint if is_dataclass(hint) else _declared(name, hint, default, DISPLAY)
        assert made is not None, f"{name} is no setting"
        found[name] = made  # type: ignore[assignment]
    return found


def _default(item: Field[Any]) -> Any:
    return item.default if item.default_factory is MISSING else item.default_factory()


def _section(group: type[Any], name: str) -> str:
    first = next(kind for kind in reversed(group.__mro__) if name in inspect.get_annotations(kind))
    return str(first.__dict__.get("SECTION", DISPLAY))


def _declared(name: str, hint: Any, default: Any, section: str) -> Declared | None:
    (kind, *others), extras = _bare(hint)
    setting = next((item for item in extras if isinstance(item, Setting)), None)
    if setting is None:
        return None
    bounds = next((item for item in extras if isinstance(item, Bounds)), Bounds())
    return Declared(name, kind, tuple(others), bounds, setting, default, setting.section or section)


def _bare(hint: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Types without annotations and without None, text first, and the annotations: outer ones first."""
    origin = get_origin(hint)
    if origin is Annotated:
        kinds, extras = _bare(hint.__origin__)
        return kinds, (*hint.__metadata__, *extras)
    if origin in (Union, UnionType):
        found = [_bare(item) for item in get_args(hint) if item is not NoneType]
        kinds = tuple(kind for some, _ in found for kind in some)
        return tuple(sorted(kinds, key=lambda kind: kind is not str)), tuple(
            extra for _, more in found for extra in more
        )
    if origin in (tuple, Mapping):
        return (hint,), tuple(extra for item in get_args(hint) for extra in _bare(item)[1])
    return (hint,), ()


def first_broken(
    rules: Iterable[tuple[str, Rule]],
    given: Mapping[str, object],
    spell: Spell,
    known: Collection[str] | None = None,
) -> str | None:
    """The sentence about the first setting that would have no effect, None if there is none.

    Args:
        rules: names of settings, each with a rule; in full names, or in those of `known`, others being left out.
        given: values of the settings that somebody gave, and of those that are implied.
        spell: how settings are written, with a value or without; None for what is implied.
    """
    for name, rule in rules:
        in_force = rule if known is None else rule.resolved(lambda word: word if word in known else None)
        sentence = None if in_force is None else in_force.broken(name, given, spell)
        if sentence is not None:
            return sentence
    return None


def _parts(word: str) -> tuple[str, str, str]:
    return word.partition("=")


def _holds(word: str, given: Mapping[str, object]) -> bool:
    name, _, value = _parts(word)
    if name not in given or not value:
        return name in given
    found = given[name]
    return value in found if isinstance(found, Mapping) else str(found) == value


def _spelled(word: str, spell: Spell) -> str:
    name, _, value = _parts(word)
    return spell(name, value) or word


def _listed(words: Collection[str], spell: Spell) -> str:
    """Words as their callers write them, "" if all are implied."""
    shown = [text for name, _, value in map(_parts, words) if (text := spell(name, value)) is not None]
    return f"{', '.join(shown[:-1])} or {shown[-1]}" if shown[1:] else "".join(shown)
