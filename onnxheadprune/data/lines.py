"""Texts of a file, read in one pass: one per line, a field of JSON lines, or a column of Parquet."""

from __future__ import annotations

import codecs
import itertools
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from onnxheadprune.data.formats import format_of
from onnxheadprune.errors import UsageError, heed, require_packages
from onnxheadprune.model.documents import NotJsonError, parse_json, regular_file
from onnxheadprune.settings.inputs import DataFormat

MAX_LINE = 2**20
"""Characters of a sample, of which `max_length` tokens are used."""
FIELD = "text"
"""The field of JSON lines and Parquet that is read if none is named."""
MOST, MOST_CHARACTERS = 2**17, 2**27
"""Samples of a file, and characters of them, that are held. Of a longer file every second is, or fewer."""


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


def read_texts(path: str | os.PathLike[str], reading: Reading = WHOLE) -> list[Text]:
    """The non-empty samples of a file, spread evenly over it where they are too many. All are checked.

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
    rows = _parquet_rows(path, reading) if kind == "parquet" else _lines(path, reading, has_fields)
    kept, count, every, held, differ = list[Text](), 0, 1, 0, False
    for text in itertools.islice((row for row in rows if row.source), reading.most):
        if count % every == 0:
            kept.append(text)
            held += len(text.source) + len(text.target or "")
            if len(kept) > MOST or held > MOST_CHARACTERS:
                kept, every, held = kept[::2], 2 * every, held // 2
        differ = differ or text != kept[0]
        count += 1
    if not count:
        raise UsageError(f"the text {path} is empty")
    if count > 1 and not differ:
        raise UsageError(
            f"all {count:,} samples of the text {path} are the same, so nothing can be measured on them;"
            " give samples that differ"
        )
    return kept


def _lines(path: str | os.PathLike[str], reading: Reading, has_fields: bool) -> Iterator[Text]:
    file = regular_file(path, "the text")
    try:
        with file.open("rb") as stream:
            for number in itertools.count(1):
                line = stream.readline(4 * MAX_LINE)
                if not line:
                    return
                where = f"line {number} of {path}"
                yield _json_row(line, where, reading) if has_fields else _plain_row(line, where)
    except OSError as error:
        raise UsageError(f"the text {path} cannot be read: {error.strerror or error}") from error


def _plain_row(line: bytes, where: str) -> Text:
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
    text = _plain_row(line, where).source
    if not text:
        return Text("")
    try:
        row = parse_json(text)
    except NotJsonError as error:
        raise UsageError(f"{where} is {error}; put one JSON object on a line") from error
    if not isinstance(row, dict):
        raise UsageError(f'{where} is no JSON object like {{"{FIELD}": "..."}}')
    return _of_row(row, where, reading)


def _parquet_rows(path: str | os.PathLike[str], reading: Reading) -> Iterator[Text]:
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
            rows = (
                row for some in table.iter_batches(batch_size=64, columns=wanted) for row in some.to_pylist()
            )
            for number, row in enumerate(rows, 1):
                yield _of_row(row, f"row {number} of {path}", reading)
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
    return f"{where} has no field {name}; it has {held}. Name the one with the text with `text_field`"
