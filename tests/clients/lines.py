"""Text for calibration, of the words that the small models know."""

from __future__ import annotations

from pathlib import Path

WORDS = 90
LINES = [" ".join(f"w{(7 * line + 3 * word) % WORDS}" for word in range(3 + line % 9)) for line in range(64)]


def written(place: Path) -> Path:
    """A file with these lines."""
    path = place / "lines.txt"
    path.write_text("\n".join(LINES), encoding="utf-8")
    return path
