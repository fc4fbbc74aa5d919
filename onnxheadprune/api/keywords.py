"""Keywords of functions: from the declarations of settings to values, names and documentation."""

from __future__ import annotations

import contextlib
import difflib
import functools
import inspect
import itertools
import os
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING, dataclass
from typing import Any, Generic, TypeVar, cast, get_origin

from onnxheadprune.errors import UsageError
from onnxheadprune.runtime.progress import Progress, silent
from onnxheadprune.settings.setting import SECTIONS, Declared, declared, first_broken, rules_of
from onnxheadprune.settings.words import described, errors_spelled_by, keyword, meant
from onnxheadprune.settings.writing import Replacing

Group = TypeVar("Group")
Function = TypeVar("Function", bound=Callable[..., object])


@dataclass(frozen=True)
class Objects:
    """The Python values that a keyword accepts beside the option's text.

    Attributes:
        type: the type, as a file of Python has it.
        words: the same in a sentence.
        fit: True for such an object.
    """

    type: str
    words: str
    fit: Callable[[object], bool]


def _is_scores(value: object) -> bool:
    from onnxheadprune.choosing.scoring.scores import HeadScores

    return isinstance(value, HeadScores)


def _is_provider(value: object) -> bool:
    from onnxheadprune.runtime import Provider

    return isinstance(value, Provider)


OBJECTS: Mapping[str, Objects] = {
    "scores": Objects("HeadScores", "the result of score", _is_scores),
    "vocab": Objects("Sequence[int]", "a list of ids", lambda value: isinstance(value, (list, tuple, range))),
    "data": Objects(
        "Mapping[str, Any] | Iterable[Mapping[str, Any]] | Calibration",
        "arrays by the names of inputs or batches of them",
        lambda value: isinstance(value, (Mapping, Iterable)) and not isinstance(value, (str, bytes)),
    ),
    "drift": Objects("Callable[..., float]", "a function", callable),
    "metric": Objects("Callable[..., Any]", "a function", callable),
    "provider": Objects("Provider", "a provider that runs here", _is_provider),
}
"""By the names of settings."""


@dataclass(frozen=True)
class Call(Generic[Group]):
    """The keywords of one function.

    Attributes:
        name: of the function.
        group: its settings.
        without: those that are no keywords of it, with spaces between.
        only: all that are keywords, with spaces between; "" where all but those are.
        replaces: it writes files, and may be allowed to replace any.
    """

    name: str
    group: type[Group]
    without: str = ""
    only: str = ""
    replaces: bool = False

    @property
    def keywords(self) -> dict[str, Declared]:
        """Its settings by name, in the order of the sections of `--help`."""
        known = {**declared(self.group), **(declared(Replacing) if self.replaces else {})}
        names = sorted(known, key=lambda name: SECTIONS.index(known[name].section))
        only = self.only.split() or names
        return {name: known[name] for name in names if name in only and name not in self.without.split()}

    def read(self, given: Mapping[str, object], **more: object) -> Group:
        """The settings of a call.

        Args:
            given: the keywords.
            more: settings that are no keywords, as the output.

        Raises:
            UsageError: if there is no such keyword, a value is of another type, or would have no effect.
        """
        known = self.keywords
        for name, value in more.items():
            if value is not None and not isinstance(value, (str, os.PathLike)):
                raise UsageError(f"{name} must be a path, not {value!r}")
        unknown = next((name for name in given if name not in known), None)
        if unknown is not None:
            instead = _instead(unknown, known) or f"; help(onnxheadprune.{self.name}) lists all"
            raise UsageError(f"{self.name}() has no keyword {unknown}{instead}")
        given = {name: value for name, value in given.items() if value is not None}
        lacking = next((name for name, item in known.items() if item.required and name not in given), None)
        if lacking is not None:
            raise UsageError(f"{self.name}() requires {lacking}=")
        read = {name: _read(known[name], value) for name, value in given.items()}
        self._check_rules(read, more)
        fields = declared(self.group)
        return self.group(**{name: value for name, value in {**read, **more}.items() if name in fields})

    def _check_rules(self, read: Mapping[str, object], more: Mapping[str, object]) -> None:
        known = self.keywords
        given = {
            name: value
            if isinstance(value, (str, int, float, tuple)) or get_origin(known[name].kind)
            else MISSING
            for name, value in read.items()
            if _differs(value, known[name].default)
        }
        given |= {name: value for name, value in more.items() if value is not None}
        spelled = {*known, *more}

        def spell(name: str, value: str) -> str | None:
            value = value or ("False" if given.get(name) is False else "")
            return keyword(name, value, "") if name in spelled else None

        implied = getattr(self.group, "IMPLIES", "").split()
        rules = rules_of(known, [self.group])
        sentence = first_broken(rules, given | dict.fromkeys(implied, True), spell, {*spelled, *implied})
        if sentence is not None:
            raise UsageError(sentence)


def _instead(unknown: str, known: Mapping[str, Declared]) -> str:
    """The keyword meant by an unknown name: other programs' name for it, or one with a similar spelling."""
    also = (item.name for item in known.values() if unknown.replace("_", "-") in item.setting.also.split())
    words = (f'{name}="{word}"' for name, word in meant(unknown.replace("_", "-"), known))
    near = (f"{name}=" for name in difflib.get_close_matches(unknown, known, 1))
    found = next(itertools.chain((f"{name}=" for name in also), words, near), None)
    return "" if found is None else f"; use {found}"


def _read(item: Declared, value: object) -> object:
    objects = OBJECTS.get(item.name)
    if objects is None or isinstance(value, (str, os.PathLike)):
        return item.read(value)
    if not objects.fit(value):
        return item.read(value, objects.words)
    return value


def _differs(value: object, default: object) -> bool:
    """Return whether a keyword asks for anything: what is off already may be switched off in a loop over both."""
    if value is False and default is None:
        return False
    return type(value) is not type(default) or value != default


def keywords_of(call: Call[Any]) -> Callable[[Function], Function]:
    """Give a function its keywords: in its signature, and in its documentation in place of the line {settings}."""

    def decorate(function: Function) -> Function:
        own = inspect.signature(function)
        fixed = [item for item in own.parameters.values() if item.kind is not item.VAR_KEYWORD]
        keywords = [
            inspect.Parameter(
                item.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=inspect.Parameter.empty if item.required else _shown(item.default),
            )
            for item in call.keywords.values()
        ]
        last = [item for item in fixed if item.kind is item.KEYWORD_ONLY]
        first = [item for item in fixed if item not in last]
        plain = [item.replace(annotation=inspect.Parameter.empty) for item in (*first, *keywords, *last)]
        function.__signature__ = own.replace(parameters=plain)  # type: ignore[attr-defined]
        place = re.compile(r"^( *)\{settings\}\n", re.MULTILINE)
        function.__doc__ = place.sub(lambda found: "".join(_lines(call, found[1])), function.__doc__ or "")

        @functools.wraps(function)
        def called(*arguments: Any, **settings: Any) -> object:
            with errors_spelled_by(keyword), contextlib.ExitStack() as stack:
                if "force" in call.keywords:
                    from onnxheadprune.model.storage.claims import replacing

                    stack.enter_context(replacing(settings.get("force") is True))
                if settings.get("custom_ops") is not None:
                    from onnxheadprune.runtime.custom_ops import custom_operators

                    library: Any = _read(call.keywords["custom_ops"], settings["custom_ops"])
                    stack.enter_context(custom_operators(library))
                if "progress" in own.parameters:
                    settings["progress"] = stack.enter_context(_heard(settings.get("progress")))
                return function(*arguments, **settings)

        return cast("Function", called)

    return decorate


@contextlib.contextmanager
def _heard(progress: object) -> Iterator[Progress]:
    """Progress as the workflow calls it: of the caller, True for a bar on stderr, nothing for None and False."""
    if progress is True:
        from onnxheadprune.reporting.console import err
        from onnxheadprune.reporting.progress import progress_on

        with progress_on(err()) as tell:
            yield tell
    elif callable(progress):
        yield progress
    elif progress is None or progress is False:
        yield silent
    else:
        raise UsageError(f"progress must be True or a function, not {progress!r}")


def _shown(default: Any) -> Any:
    """A default as users would write it."""
    is_text = isinstance(default, tuple) and default and all(isinstance(item, str) for item in default)
    return ",".join(default) if is_text else default


def _lines(call: Call[Any], indent: str) -> Iterator[str]:
    for item in call.keywords.values():
        yield (
            textwrap.fill(
                f"{item.name}: {_said(item)}",
                100,
                initial_indent=indent,
                subsequent_indent=f"{indent}    ",
                break_on_hyphens=False,
            )
            + "\n"
        )


def _said(item: Declared) -> str:
    """The help of a keyword; that of an option `--no-x` describes `x=False`."""
    text = described(item)
    return f"False: {text[0].lower()}{text[1:]}" if item.setting.flags.startswith("--no-") else text
