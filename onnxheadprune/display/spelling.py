"""Formatting of names, numbers and sets of numbers for the terminal, pages and notebooks.

Once `escaped`, names from models and files cannot move the cursor, or change colours or the reading direction.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import PurePath

_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f"  # C0 and C1 controls: ESC, newline, NUL, the one-byte CSI
    "\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"  # bidi, zero width, ends of lines
    "\ud800-\udfff\U000e0000-\U000e007f]"  # halves of pairs, tags
)
_BUT_LINES = re.compile(f"(?!\\n){_UNSAFE.pattern}")


def escaped(text: str, *, lines: bool = False) -> str:
    r"""The text with every control character escaped, as in "\x1b[31m"."""
    return (_BUT_LINES if lines else _UNSAFE).sub(_spelled, text)


def _spelled(found: re.Match[str]) -> str:
    number = ord(found[0])
    return (
        f"\\x{number:02x}" if number < 256 else f"\\u{number:04x}" if number < 65536 else f"\\U{number:08x}"
    )


def in_markdown(text: str) -> str:
    """The text in one line, escaped for Markdown and its tables."""
    return "".join(f"\\{c}" if c in "\\|`*_<>[]" else c for c in escaped(" ".join(text.split())))


def count(number: int) -> str:
    """A number with thousands separators."""
    return f"{number:,}"


def many(number: int, noun: str) -> str:
    """The number with its noun: "1 head", "2 heads"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def size(bytes_: int) -> str:
    """A number of bytes in a suitable unit."""
    amount = float(bytes_)
    for unit in ("B", "kB", "MB", "GB"):
        # Numbers that would be rounded to 1000.00 are 1.00 of the next unit.
        if amount < 999.995 or unit == "GB":
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.2f} {unit}"
        amount /= 1000
    raise AssertionError("unreachable")


def rounded(amount: float, unit: str = "") -> str:
    """An amount in three digits: "9.52 M", with a unit "576 kB"."""
    for prefix in ("", "k", "M", "G", "T"):
        if amount < 999.5 or prefix == "T":
            break
        amount /= 1000
    digits = f"{amount:.0f}" if not prefix or amount >= 99.95 else f"{amount:.{1 if amount >= 9.995 else 2}f}"
    return f"{digits} {prefix}{unit}".rstrip()


def moved(before: float, after: float) -> str:
    """The change of a number in whole percent, small ones with a decimal: "-34 %", "-1.5 %"."""
    if not before or abs(part := 100 * (after - before) / before) < 9.95:
        return change(before, after)
    return f"{part:+.0f} %"


def measure(error: float) -> str:
    """A relative error: "0" or "3.1e-07"."""
    return f"{error:.1e}" if error else "0"


def share(part: float) -> str:
    """A fraction as a percentage."""
    return f"{100 * part:.1f} %"


def accuracy(part: float) -> str:
    """A share of correct answers, with a resolution of one in ten thousand."""
    return f"{100 * part:.2f} %"


def change(before: float, after: float) -> str:
    """The change of a number, with its sign: "-24.3 %", "+1.2 %", "-<0.1 %", "unchanged"."""
    if before == after:
        return "unchanged"
    if not before:
        return "new"
    part = 100 * (after - before) / before
    return f"{part:+.1f} %" if abs(part) >= 0.05 else f"{'+' if part > 0 else '-'}<0.1 %"


def short_names(names: Sequence[str]) -> tuple[str, ...]:
    """File names instead of paths, with as many folders as make them distinct.

    >>> short_names(["/a/b/m.onnx", "/a/c/m.onnx"])
    ('b/m.onnx', 'c/m.onnx')
    """
    parts = [PurePath(name).parts or (name,) for name in names]
    for depth in range(1, max(map(len, parts), default=1) + 1):
        short = tuple("/".join(item[-depth:]) for item in parts)
        if len(set(short)) == len(set(names)):
            return short
    return tuple(names)


def file_name(name: str) -> str:
    """The last part of a path, or the name of a model without a path."""
    return PurePath(name).name or name


def shortened(text: str, most: int) -> str:
    """The text, shortened in the middle: beginning and end may both distinguish it from others."""
    if len(text) <= most:
        return text
    end = (most - 1) // 2
    return f"{text[: most - 1 - end]}\u2026{text[len(text) - end :]}"


def spelled(numbers: Iterable[int]) -> str:
    """Numbers in order, runs of them as ranges.

    >>> spelled([3, 0, 1, 2, 7])
    '0-3,7'
    """
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def first_few(names: Iterable[object], most: int = 8) -> str:
    """Names in a sentence, of many the first ones and how many more there are.

    >>> first_few(["a", "b", "c"], 2)
    'a, b and 1 more'
    """
    every = list(map(str, names))
    more = f" and {len(every) - most} more" if len(every) > most else ""
    return ", ".join(every[:most]) + more


def reasons(named: Iterable[tuple[str, str]]) -> list[str]:
    """A line for each reason, with the first name that it is for: "a and 2 more: the reason"."""
    names: dict[str, list[str]] = {}
    for name, reason in named:
        names.setdefault(reason, []).append(name)
    return [f"{first_few(some, 1)}: {reason}" for reason, some in names.items()]


def read_ranges(text: str, most: int) -> tuple[int, ...]:
    """The numbers that `spelled` wrote."""
    found: list[int] = []
    for part in text.split(",") if text else ():
        first, dash, last = part.partition("-")
        start, stop = _number(first), _number(last if dash else first)
        if (
            start is None
            or stop is None
            or not start + bool(dash) <= stop <= most
            or (found and start <= found[-1])
        ):
            raise ValueError(f"{part[:40]!r} is no range of numbers up to {most} behind those before it")
        found += range(start, stop + 1)
    return tuple(found)


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None
