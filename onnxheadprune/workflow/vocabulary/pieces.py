"""The pieces of a SentencePiece model, cut in its bytes: the message is a list of fields, and pieces are one kind."""

from __future__ import annotations

from collections.abc import Collection, Iterator

PIECE = 1 << 3 | 2
"""Tag of a piece in the model, and of the text in a piece."""
VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5


def trimmed_pieces(content: bytes, gone: Collection[str]) -> bytes:
    """A SentencePiece model without some pieces.

    Args:
        content: of the file.
        gone: texts of the pieces.

    Raises:
        ValueError: if it is no such model.
    """
    parts = []
    for tag, start, body, end in _fields(content):
        text = None
        if tag == PIECE:
            inner = content[body:end]
            text = next((inner[at:last].decode() for key, _, at, last in _fields(inner) if key == PIECE), "")
        if text is None or text not in gone:
            parts.append(content[start:end])
    return b"".join(parts)


def _fields(content: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Yield each field of a message: its tag, where it starts, where its content starts, and where it ends."""
    at = 0
    while at < len(content):
        start = at
        tag, at = _varint(content, at)
        if tag & 7 == VARINT:
            body, (_, end) = at, _varint(content, at)
        elif tag & 7 == LENGTH:
            size, body = _varint(content, at)
            end = body + size
        elif tag & 7 in (FIXED32, FIXED64):
            body, end = at, at + (4 if tag & 7 == FIXED32 else 8)
        else:
            raise ValueError("it is no SentencePiece model")
        if end > len(content):
            raise ValueError("it is no SentencePiece model, or is cut off")
        yield tag, start, body, end
        at = end


def _varint(content: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while at < len(content) and shift < 70:
        byte = content[at]
        number |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return number, at
    raise ValueError("it is no SentencePiece model, or is cut off")
