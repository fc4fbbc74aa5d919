"""Texts of a file: one a line, a field of JSON lines, or a column of Parquet."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from onnxheadprune.errors import UsageError, heed_interrupt
from onnxheadprune.model.documents import NotJsonError, parse_json, read_text, regular_file
from onnxheadprune.selection.activations.formats import format_of
from onnxheadprune.settings.inputs import DataFormat

MAX_TEXT = 2**26
"""Bytes of a file of samples, or of the columns that are read; a few hundred samples are enough."""
MAX_LINE = 2**20
"""Characters of a sample, of which `max_length` tokens are used."""
FIELD = "text"
"""The field of JSON lines and Parquet that is read if none is named."""


@dataclass(frozen=True)
class Reading:
    """What is read of a file of samples.

    Attributes:
        field: of JSON lines and Parquet, `text` if None; dots lead into nested ones ("answer.value").
        target: another field: what a model with an encoder and a decoder is to give. None takes the text itself.
        most: samples that are read, from the start of the file; None reads all.
        format: "text", "jsonl" or "parquet"; None goes by the content.
    """

    field: str | None = None
    target: str | None = None
    most: int | None = None
    format: DataFormat | None = None


WHOLE = Reading()


@dataclass(frozen=True)
class Text:
    """One sample.

    Attributes:
        source: what is read.
        target: what is to be given for it, None if the file does not say.
    """

    source: str
    target: str | None = None


def read_texts(path: str | os.PathLike[str], reading: Reading = WHOLE) -> list[Text]:
    """The samples of a file, without those that are empty.

    Args:
        path: a UTF-8 file with one sample a line, JSON lines or Parquet.
        reading: what is read of it.

    Raises:
        UsageError: if it cannot be read, lacks the field, holds no text or too much of it.
    """
    kind = reading.format or format_of(path)
    if kind == "parquet":
        found = _of_rows(_parquet(path, reading), path, reading)
    elif kind == "jsonl":
        found = _of_rows(_json_lines(path, reading), path, reading)
    elif reading.field is not None or reading.target is not None:
        raise UsageError(
            f"the text {path} is read line by line and has no fields; those of JSON lines and Parquet"
            " have names"
        )
    else:
        found = (Text(line.strip()) for line in _content(path, reading).splitlines())
    texts = list(itertools.islice((text for text in found if text.source), reading.most))
    if not texts:
        raise UsageError(f"the text {path} is empty")
    longest = max(len(part) for text in texts for part in (text.source, text.target or ""))
    if longest > MAX_LINE:
        raise UsageError(
            f"a line of the text {path} has {longest:,} characters, and up to {MAX_LINE:,} are read; put one sample"
            " on a line"
        )
    return texts


def _content(path: str | os.PathLike[str], reading: Reading) -> str:
    return read_text(path, "the text", MAX_TEXT, beginning=reading.most is not None)


def _json_lines(path: str | os.PathLike[str], reading: Reading) -> Iterator[Mapping[str, object]]:
    # Inside of a JSON text, lines may be broken by characters that only Python takes for line ends.
    for number, line in enumerate(_content(path, reading).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except NotJsonError as error:
            raise UsageError(f"line {number} of {path} is {error}; put one JSON object on a line") from error
        if not isinstance(row, dict):
            raise UsageError(f'line {number} of {path} is no JSON object like {{"{FIELD}": "..."}}')
        yield row


def _parquet(path: str | os.PathLike[str], reading: Reading) -> Iterator[Mapping[str, object]]:
    try:
        from pyarrow import parquet
    except ImportError as error:
        heed_interrupt(error)
        raise UsageError(
            f"{path} needs pyarrow to be read; pip install onnxheadprune[parquet], or save it as JSON lines"
        ) from error
    file = regular_file(path, "the text")
    named = [name for name in (reading.field or FIELD, reading.target) if name is not None]
    held = 0
    try:
        with parquet.ParquetFile(file) as table:
            known = table.schema_arrow.names
            wanted = list(dict.fromkeys(name if name in known else name.split(".")[0] for name in named))
            missing = [name for name in wanted if name not in known]
            if missing:
                raise UsageError(_lacks(str(path), missing[0], known))
            for batch in table.iter_batches(batch_size=64, columns=wanted):
                held += batch.nbytes
                if held > MAX_TEXT:
                    raise UsageError(
                        f"the fields {', '.join(wanted)} of {path} hold more than {MAX_TEXT:,} bytes, and a few hundred"
                        " samples are enough; read the first ones with --max-samples"
                    )
                yield from batch.to_pylist()
    except (UsageError, MemoryError):
        raise
    except Exception as error:  # pyarrow's errors share no base class
        raise UsageError(f"{path} cannot be read as a Parquet file: {error!s:.300}") from error


def _of_rows(
    rows: Iterable[Mapping[str, object]], path: str | os.PathLike[str], reading: Reading
) -> Iterator[Text]:
    for number, row in enumerate(rows, 1):
        source = _field(row, reading.field or FIELD, f"row {number} of {path}")
        target = None
        if reading.target is not None:
            target = _field(row, reading.target, f"row {number} of {path}")
        yield Text(source, target)


def _field(row: Mapping[str, object], name: str, where: str) -> str:
    """The text of a field; nothing for null.

    Raises:
        UsageError: if there is no such field, or it is no text.
    """
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
    return value.strip()


def _lacks(where: str, name: str, known: Iterable[str]) -> str:
    held = ", ".join(map(str, itertools.islice(known, 12))) or "none"
    return f"{where} has no field {name}; it has {held}. Name the one with the text with --text-field"
