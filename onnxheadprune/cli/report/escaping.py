"""Names from models and files, as they may be shown: they move no cursor, no colour and no reading direction."""

from __future__ import annotations

import re

_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f"  # C0 and C1 controls: ESC, newline, NUL, the one-byte CSI
    "\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"  # bidi, zero width, ends of lines
    "\ud800-\udfff\U000e0000-\U000e007f]"  # halves of pairs, tags
)
_BUT_LINES = re.compile(f"(?!\\n){_UNSAFE.pattern}")


def escaped(text: str, *, lines: bool = False) -> str:
    r"""The text with every character that is no letter but a command spelled out, as in "\x1b[31m".

    Args:
        text: what somebody else wrote.
        lines: leave newlines.
    """
    return (_BUT_LINES if lines else _UNSAFE).sub(_spelled, text)


def _spelled(found: re.Match[str]) -> str:
    number = ord(found[0])
    if number < 0x100:
        return f"\\x{number:02x}"
    if number < 0x10000:
        return f"\\u{number:04x}"
    return f"\\U{number:08x}"
