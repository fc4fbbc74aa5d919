"""Write the types of the keywords of the Python API: python tools/keywords.py."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from inspect import get_annotations
from pathlib import Path
from typing import Any, get_args, get_origin

from onnxheadprune.api.functions import CALLS
from onnxheadprune.api.keywords import OBJECTS, Call
from onnxheadprune.settings.setting import Declared, WithUnit, declared

FILE = Path(__file__).parents[1] / "onnxheadprune" / "api" / "typed.py"
HEAD = '''\
"""Types of the keywords of the Python API, made from the declarations of settings by `python tools/keywords.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Required, TypedDict

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
    from typing import Any

    from onnxheadprune.attention.specs import HeadSpec
    from onnxheadprune.choosing.scoring.scores import HeadScores
    from onnxheadprune.data.calibration import Calibration
    from onnxheadprune.runtime import Provider
'''


LONG = 60
"""Characters of a list of words that has a name, so that a line has room for it."""


def text() -> str:
    """The file as the declarations have it."""
    items = [item for call in CALLS for item in call.keywords.values()]
    named = {words: item.name.title() for item in items if len(words := f"Literal[{_words(item)}]") > LONG}
    made = "\n\n".join("\n".join(lines) + "\n" for lines in classes())
    for words, name in named.items():
        made = made.replace(words, name)
    names = "\n".join(f"{name} = {words}" for words, name in named.items())
    return f"{HEAD}\n{names}\n\n\n{made}"


def classes() -> Iterator[list[str]]:
    """Yield a class for each group of settings that several functions have as a whole, then one for each function."""
    whole = {
        call.name: [group for group, own in groups_of(call) if own <= set(call.keywords)] for call in CALLS
    }
    counted = Counter(group for groups in whole.values() for group in groups)
    for group, users in counted.items():
        if users > 1:
            call = next(call for call in CALLS if group in whole[call.name])
            own = dict(groups_of(call))[group]
            yield class_of(f"_{group.__name__}", [], (group.__doc__ or "").partition("\n")[0], call, own)
    for call in CALLS:
        bases = [group for group in whole[call.name] if counted[group] > 1]
        inherited = {name for group in bases for name in dict(groups_of(call))[group]}
        title = "".join(part.title() for part in call.name.split("_"))
        names = [f"_{group.__name__}" for group in bases]
        rest = set(call.keywords) - inherited
        yield class_of(f"{title}Keywords", names, f"Keywords of `{call.name}`.", call, rest)


def groups_of(call: Call[Any]) -> Iterator[tuple[type[Any], set[str]]]:
    """Yield the groups with several settings that a call has, each with the names of its own."""
    known = declared(call.group)
    for group in reversed(call.group.__mro__):
        own = {name for name in get_annotations(group) if name in known}
        if len(own) > 1:
            yield group, own


def class_of(name: str, bases: list[str], doc: str, call: Call[Any], own: Collection[str]) -> list[str]:
    """The lines of a class with the types of some keywords."""
    lines = [f"class {name}({', '.join(bases) or 'TypedDict'}, total=False):", f'    """{doc}"""']
    lines += [""] * bool(own)
    for item in call.keywords.values():
        if item.name in own:
            text = type_of(item)
            lines.append(f"    {item.name}: {f'Required[{text}]' if item.required else text}")
    return lines


def type_of(item: Declared) -> str:
    """The type of a keyword, as a file of Python has it."""
    kind = item.kind
    if get_origin(kind) is tuple:
        each = f"Literal[{_words(item)}]" if item.words else get_args(kind)[0]
        named = (
            each if isinstance(each, str) else {"int": "int", "float": "float"}.get(_bare_name(each), "str")
        )
        alone = f"{named} | " if named in ("int", "float") else ""
        text = f"{alone}Collection[{named}]" + (" | str" if item.setting.parse is not None else "")
    elif get_origin(kind) is Mapping:
        key = f"Literal[{_words(item)}]" if item.words else "str"
        text = f"Mapping[{key}, int] | str"
    elif item.setting.parse is not None:
        text = "int | Sequence[int] | str"
    elif item.words:
        text = f"Literal[{_words(item)}]"
    elif isinstance(item.bounds, WithUnit):
        text = "float | str"
    else:
        text = {bool: "bool", int: "int", float: "float", Path: "str | os.PathLike[str]"}.get(kind, "str")
    if any(get_origin(other) is Mapping for other in item.others):
        text = "HeadSpec"
    if float in item.others:
        text = f"{text} | float"
    if item.name in OBJECTS:
        text = f"{text} | {OBJECTS[item.name].type}"
    if item.name == "data":
        text = f"os.PathLike[str] | {text}"
    return text if item.required or item.default is not None else f"{text} | None"


def _words(item: Declared) -> str:
    return ", ".join(f'"{word}"' for word in item.words)


def _bare_name(kind: Any) -> str:
    return getattr(getattr(kind, "__origin__", kind), "__name__", "str")


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
