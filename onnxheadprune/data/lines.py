"""Texts of a file: one per line, a field of JSON lines, or a column of Parquet. Files may be larger than the memory."""

from __future__ import annotations

import codecs
import itertools
import json
import os
import tempfile
import weakref
from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import IO

from onnxheadprune.data.formats import format_of
from onnxheadprune.errors import UsageError, heed, named_setting, require_packages
from onnxheadprune.model.documents import NotJsonError, parse_json, regular_file
from onnxheadprune.settings.inputs import DataFormat

MAX_LINE = 2**20
"""Characters of a sample, of which `max_length` tokens are used."""
FIELD = "text"
"""The field of JSON lines and Parquet that is read if none is named."""
BLOCK = 32
"""Samples that are read at once from some place of a file."""
MOST_BLOCKS = 2**16
"""Places of a file that are known; blocks of a file with more of them are longer."""


@dataclass(frozen=True)
class Reading:
    """The part of a file of samples that is read."""

    # of JSON lines and Parquet, `text` if None; dots lead into nested ones ("answer.value")
    field: str | None = None
    # the field with the target text of an encoder-decoder model. None takes the text itself.
    target: str | None = None
    most: int | None = None  # samples to read from the start of the file; None reads all
    format: DataFormat | None = None  # "text", "jsonl" or "parquet"; None detects it by the content


WHOLE = Reading()


@dataclass(frozen=True)
class Text:
    """One sample."""

    source: str  # the input text
    target: str | None = None  # the target text, None if the file has none


class Texts:
    """The non-empty samples of a file: all are checked once, and read one block at a time.

    Attributes:
        path: of the file.
        count: samples.
    """

    def __init__(self, path: str | os.PathLike[str], reading: Reading = WHOLE) -> None:
        """Check every sample, and store where blocks of them begin.

        Args:
            path: a UTF-8 file with one sample a line, JSON lines or Parquet.
        """
        kind = reading.format or format_of(path)
        has_fields = kind in ("jsonl", "parquet")
        if not has_fields and (reading.field is not None or reading.target is not None):
            raise UsageError(
                f"the text {path} is read line by line and has no fields; those of JSON lines and Parquet"
                " have names"
            )
        self.path, self.count = path, 0
        self._row = _spooled_row if kind == "parquet" else _json_row if has_fields else _plain_row
        self._reading = reading
        # Closed with the samples, which are read for as long as they are.
        self._stream = tempfile.TemporaryFile() if kind == "parquet" else _opened(path)  # noqa: SIM115
        weakref.finalize(self, self._stream.close)
        if kind == "parquet":
            _spool(self._stream, path, reading)
        self._starts, self._length = array("Q"), BLOCK
        first: Text | None = None
        differ = False
        for text in self._indexed():
            first, differ = first or text, differ or text != (first or text)
        if first is None:
            raise UsageError(f"the text {path} is empty")
        if self.count > 1 and not differ:
            raise UsageError(
                f"all {self.count:,} samples of the text {path} are the same, so nothing can be measured on them;"
                " give samples that differ"
            )

    def _indexed(self) -> Iterator[Text]:
        """All requested samples, storing the offsets of blocks."""
        start = 0
        for number in itertools.count(1):
            line = self._stream.readline(4 * MAX_LINE)
            if not line or self.count == self._reading.most:
                break
            text = self._row(line, f"line {number} of {self.path}", self._reading)
            if text.source:
                if self.count % self._length == 0:
                    self._begin(start)
                self.count += 1
                yield text
            start += len(line)
        self._end = start

    def _begin(self, start: int) -> None:
        if len(self._starts) == MOST_BLOCKS:
            self._starts, self._length = self._starts[::2], 2 * self._length
        self._starts.append(start)

    @property
    def blocks(self) -> int:
        """Blocks of samples."""
        return len(self._starts)

    def block(self, number: int) -> list[Text]:
        """The samples of a block."""
        start = self._starts[number]
        end = self._starts[number + 1] if number + 1 < self.blocks else self._end
        self._stream.seek(start)
        lines = self._stream.read(end - start).split(b"\n")
        rows = (self._row(line, f"a line of {self.path}", self._reading) for line in lines)
        return [text for text in rows if text.source]

    def __iter__(self) -> Iterator[Text]:
        return (text for number in range(self.blocks) for text in self.block(number))


def _opened(path: str | os.PathLike[str]) -> IO[bytes]:
    file = regular_file(path, "the text")
    try:
        return file.open("rb")
    except OSError as error:
        raise UsageError(f"the text {path} cannot be read: {error.strerror or error}") from error


def _plain_row(line: bytes, where: str, reading: Reading) -> Text:
    """A line of text."""
    try:
        text = line.removeprefix(codecs.BOM_UTF8).decode()
    except UnicodeDecodeError as error:
        raise UsageError(f"{where} is not UTF-8 text; save it as UTF-8") from error
    if "\0" in text:
        raise UsageError(f"{where} is not UTF-8 text (it holds zero bytes, as UTF-16 does); save it as UTF-8")
    if len(text) > MAX_LINE:
        raise UsageError(f"{where} has more than {MAX_LINE:,} characters; put one sample on a line")
    return Text(text.strip())


def _json_row(line: bytes, where: str, reading: Reading) -> Text:
    """A JSON object on a line."""
    text = _plain_row(line, where, reading).source
    if not text:
        return Text("")
    try:
        row = parse_json(text)
    except NotJsonError as error:
        raise UsageError(f"{where} is {error}; put one JSON object on a line") from error
    if not isinstance(row, dict):
        raise UsageError(f'{where} is no JSON object like {{"{FIELD}": "..."}}')
    return _of_row(row, where, reading)


def _spooled_row(line: bytes, where: str, reading: Reading) -> Text:
    return Text(*json.loads(line)) if line else Text("")


def _spool(stream: IO[bytes], path: str | os.PathLike[str], reading: Reading) -> None:
    """Write the texts of a Parquet file, a line each: columns are not read from the middle."""
    for number, row in enumerate(itertools.islice(_parquet(path, reading), reading.most), 1):
        text = _of_row(row, f"row {number} of {path}", reading)
        stream.write(json.dumps([text.source, text.target]).encode() + b"\n")
    stream.seek(0)


def _parquet(path: str | os.PathLike[str], reading: Reading) -> Iterator[Mapping[str, object]]:
    require_packages(f"{path}, unless it is saved as JSON lines,", "parquet", "pyarrow")
    from pyarrow import parquet

    file = regular_file(path, "the text")
    named = [name for name in (reading.field or FIELD, reading.target) if name is not None]
    try:
        with parquet.ParquetFile(file) as table:
            known = table.schema_arrow.names
            wanted = list(dict.fromkeys(name if name in known else name.split(".")[0] for name in named))
            missing = [name for name in wanted if name not in known]
            if missing:
                raise UsageError(_lacks(str(path), missing[0], known))
            for batch in table.iter_batches(batch_size=64, columns=wanted):
                yield from batch.to_pylist()
    except UsageError:
        raise
    except Exception as error:  # pyarrow's errors share no base class
        heed(error)
        raise UsageError(f"{path} cannot be read as a Parquet file: {error!s:.300}") from error


def _of_row(row: Mapping[str, object], where: str, reading: Reading) -> Text:
    source = _field(row, reading.field or FIELD, where)
    return Text(source, None if reading.target is None else _field(row, reading.target, where))


def _field(row: Mapping[str, object], name: str, where: str) -> str:
    """The text of a field; nothing for null."""
    value: object = row
    for part in (name,) if name in row else name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise UsageError(_lacks(where, name, row))
        value = value[part]
    if value is None:
        return ""
    if not isinstance(value, str):
        raise UsageError(f"the field {name} of {where} is no text, but of type {type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"the field {name} of {where} holds half a character, so it is no text") from error
    if len(value) > MAX_LINE:
        raise UsageError(f"the field {name} of {where} has more than {MAX_LINE:,} characters; divide it")
    return value.strip()


def _lacks(where: str, name: str, known: Iterable[str]) -> str:
    held = ", ".join(map(str, itertools.islice(known, 12))) or "none"
    return f"{where} has no field {name}; it has {held}. Name the one with the text with {named_setting('text_field')}"
