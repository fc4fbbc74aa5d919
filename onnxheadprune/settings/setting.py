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
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
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


class PydanticField:
    """Keywords of pydantic's `Field`, read from an annotation; it is imported only where pydantic runs."""

    __is_annotated_types_grouped_metadata__: Literal[True] = True

    def keywords(self) -> Mapping[str, Any]:
        """Keywords of `pydantic.Field`."""
        raise NotImplementedError

    def __iter__(self) -> Iterator[object]:
        import pydantic

        yield pydantic.Field(**self.keywords())


@dataclass(frozen=True)
class Bounds(PydanticField):
    """The values that a number, or the lengths that a text or a list may have; None is no bound."""

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None
    min_length: int | None = None

    def keywords(self) -> Mapping[str, Any]:
        """The bounds that there are."""
        return {name: value for name, value in vars(self).items() if value is not None}

    def __str__(self) -> str:
        """In words: "greater than 1 and less than 100"."""
        words = {"ge": "at least", "gt": "greater than", "le": "at most", "lt": "less than"}
        return " and ".join(
            f"{word} {getattr(self, name):g}"
            for name, word in words.items()
            if getattr(self, name) is not None
        )

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

    def __iter__(self) -> Iterator[object]:
        import pydantic

        pattern = rf"^[0-9]+(\.[0-9]+)?{self.UNIT}$"

        def read(value: object) -> object:
            """Files hold numbers as such, and only those with a unit as text."""
            return self.read(value) if isinstance(value, str) and re.match(pattern, value) else value

        number = Annotated[float, pydantic.Field(**self.keywords())]
        text = Annotated[str, pydantic.Field(pattern=pattern)]
        yield from super().__iter__()
        yield pydantic.BeforeValidator(read, json_schema_input_type=number | text)


@dataclass(frozen=True)
class Shares(WithUnit):
    """Bounds of a share of something, which may be given in percent: "50%" is 0.5."""

    UNIT, IN_ONE, WORDS = "%", 100.0, "a share like 0.25 or 25%"


@dataclass(frozen=True)
class Factors(WithUnit):
    """Bounds of a factor: "2x" is 2."""

    UNIT, IN_ONE, WORDS = "x", 1.0, "a factor like 1.5 or 1.5x"


@dataclass(frozen=True)
class Setting(PydanticField):
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

    def keywords(self) -> Mapping[str, Any]:
        """The description."""
        return {"description": NAMED.sub(r"\1", self.help).replace("`", "")}


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
        kind: its type, without annotations and without None.
        bounds: of its values, or of each item.
        default: MISSING where it must be given.
        section: of `SECTIONS`.
    """

    name: str
    kind: Any
    bounds: Bounds
    setting: Setting
    default: Any
    section: str

    @property
    def required(self) -> bool:
        """True if it must be given."""
        return self.default is MISSING

    def read(self, value: object, other: str = "") -> Any:
        """A value that Python or a file of another tool gives, read as the command line reads its text.

        Args:
            value: the value.
            other: what else the caller accepts, for the message.

        Raises:
            UsageError: if it is of another type, or outside the bounds.
        """
        kind, parse = self.kind, self.setting.parse
        try:
            if parse is not None:
                return self._of_items(parse, value)
            if isinstance(self.bounds, WithUnit):
                value = self.bounds.read(value)
        except ValueError as error:
            raise UsageError(f"{self.name}: {error}") from None
        if kind is Path and isinstance(value, (str, os.PathLike)) and os.fspath(value):
            return Path(value)
        if kind is str and isinstance(value, (str, os.PathLike)) and os.fspath(value):
            return os.fspath(value)
        if kind is bool and isinstance(value, bool):
            return value
        if isinstance(value, str) and value in self.words:
            return value
        if get_origin(kind) is tuple and _is_list(value) and all(isinstance(item, str) for item in value):
            return tuple(value)
        is_number = isinstance(value, Integral if kind is int else Real) and not isinstance(value, bool)
        if kind not in (int, float) or not is_number:
            expected = f"{self.expected} or {other}" if other else self.expected
            raise UsageError(f"{self.name} must be {expected}, not {_quoted(value)}")
        if not self.bounds.admit(kind(value)):
            percent = (
                f'; write "{value}%" for percent'
                if isinstance(self.bounds, Shares) and kind(value) > 1
                else ""
            )
            raise UsageError(f"{self.name} must be {self.bounds}, not {value}{percent}")
        return kind(value)

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
            return f"{', '.join(self.words[:-1])} or {self.words[-1]}" if self.words[1:] else self.words[0]
        kinds = {bool: "True or False", int: "a whole number", float: "a number", Path: "a path", str: "text"}
        return kinds.get(self.kind, "a list of texts")

    def check(self, value: float | Mapping[Any, float]) -> None:
        """Check a number, or each number of a mapping, against the bounds.

        Raises:
            UsageError: if one lies outside, or a mapping has a key that is none of the words.
        """
        is_mapping = get_origin(self.kind) is Mapping
        if isinstance(value, Mapping):
            numbers, fits = list(value.values()), is_mapping and set(value) <= set(self.words)
        else:
            numbers, fits = [value], not is_mapping
        if not fits:
            form = f"a mapping with the keys {' and '.join(self.words)}" if is_mapping else "a number"
            raise UsageError(f"{self.name} must be {form}, not {value}")
        for number in numbers:
            if not self.bounds.admit(number):
                raise UsageError(f"{self.name} must be {self.bounds}, not {number:g}")

    @property
    def words(self) -> tuple[str, ...]:
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


def check(group: type[Any], **values: float | Mapping[Any, float] | None) -> None:
    """Check numbers against the bounds of the settings of the same names; None is no number.

    Raises:
        UsageError: if one lies outside.
    """
    known = declared(group)
    for name, value in values.items():
        if value is not None:
            known[name].check(value)


def _default(item: Field[Any]) -> Any:
    return item.default if item.default_factory is MISSING else item.default_factory()


def _section(group: type[Any], name: str) -> str:
    first = next(kind for kind in reversed(group.__mro__) if name in inspect.get_annotations(kind))
    return str(first.__dict__.get("SECTION", DISPLAY))


def _declared(name: str, hint: Any, default: Any, section: str) -> Declared | None:
    kind, extras = _bare(hint)
    setting = next((item for item in extras if isinstance(item, Setting)), None)
    if setting is None:
        return None
    bounds = next((item for item in extras if isinstance(item, Bounds)), Bounds())
    return Declared(name, kind, bounds, setting, default, setting.section or section)


def _bare(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    """A type without its annotations and without None, and the annotations: outer ones first."""
    origin = get_origin(hint)
    if origin is Annotated:
        kind, extras = _bare(hint.__origin__)
        return kind, (*hint.__metadata__, *extras)
    if origin in (Union, UnionType):
        kinds = [_bare(item) for item in get_args(hint) if item is not NoneType]
        return (kinds[0][0] if len(kinds) == 1 else str), tuple(extra for _, more in kinds for extra in more)
    if origin in (tuple, Mapping):
        return hint, tuple(extra for item in get_args(hint) for extra in _bare(item)[1])
    return hint, ()


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
