"""A transcript: command lines with what they print, as it stands in a text file.

    $ inspect missing.onnx             a command line
    [2] missing.onnx does not exist    exit code and sentence of an error; without a sentence: only the code
      4 heads                          a line of stdout
    ! note                             a line of stderr
    + out.onnx                         a file that it wrote; `~` one that it replaced
    >>> prune(7)                       a call of the Python API, the answer of which is an error
    @ job.yaml                         a text file, whose lines follow, indented; there until the next empty line
    # heading                          for readers

What a command writes is there until the next empty line, too. `<...>` stands for what differs between versions of
libraries: a line that matches stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ASKED = ("$ ", ">>> ")
ANSWERS = ("  ", "[", "! ", "+ ", "~ ")
ELISION = "<...>"
NUMBER = r"\d[\d,]*"
FIGURES = (
    (r"\b\d\d:\d\d:\d\d\b", "##:##:##"),
    (r"\b(?=[a-f]*\d)[0-9a-f]{12,16}\b", "#"),
    (rf"{NUMBER}(\.\d+)?(e[+-]?\d+)? ?(s|ms|us|µs|min)\b", r"# \3"),
    (r"\d+\.\d+\.\d+[\w.+]*", "#.#.#"),
    (rf"{NUMBER}(\.\d+)?e[+-]?\d+|{NUMBER}\.\d+|\b\d+(?= KL| \(1 - cosine\))", "#"),
)
"""Times, digests, versions and measured numbers, which are not the same everywhere."""


@dataclass
class Part:
    """A command line with its answer, or lines between command lines."""

    asked: str = ""
    answer: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)


def read(text: str) -> Iterator[Part]:
    """Split a transcript into its parts."""
    part = Part()
    for line in text.splitlines():
        if line.startswith(ASKED):
            yield part
            part = Part(line)
        elif part.asked and line.startswith(ANSWERS):
            part.answer.append(line)
        elif part.asked:
            yield part
            part = Part(lines=[line])
        else:
            part.lines.append(line)
    yield part


def written(parts: list[Part]) -> str:
    """The text of a transcript."""
    rows = [row for part in parts for row in ([part.asked, *part.answer] if part.asked else part.lines)]
    return "\n".join(rows) + "\n"


def files(lines: list[str]) -> dict[str, str]:
    """Text files that lines between commands hold."""
    found: dict[str, list[str]] = {}
    for line in lines:
        if line.startswith("@ "):
            rows = found.setdefault(line[2:], [])
        elif line.startswith("  ") and found:
            rows.append(line[2:])
    return {name: "\n".join(rows) + "\n" for name, rows in found.items()}


def normalized(text: str, folder: Path) -> str:
    """Text without what is not the same everywhere."""
    for path in {str(folder), str(folder.resolve())}:
        text = text.replace(path, "FOLDER")
    for pattern, instead in FIGURES:
        text = re.sub(pattern, instead, text)
    return re.sub(r"(?<=\S) {2,}(?=\S)", "  ", text) if "#" in text else text


def kept(before: list[str], after: list[str]) -> list[str]:
    """The new answer, with lines of the old one that stand for it."""
    stands = len(before) == len(after) and any(ELISION in line for line in before)
    return (
        [old if stands and _matches(old, new) else new for old, new in zip(before, after, strict=True)]
        if (stands)
        else after
    )


def _matches(old: str, new: str) -> bool:
    return re.fullmatch(".*".join(map(re.escape, old.split(ELISION))), new) is not None
