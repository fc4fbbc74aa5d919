"""Options that take a time: "90s", "5m", "1h"."""

from __future__ import annotations

import math

import click

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def duration(text: str) -> float:
    """A time in seconds, as people write it; a bare number is one of seconds.

    Raises:
        click.BadParameter: if it is none.
    """
    spelled = text.strip().lower()
    unit = _UNITS.get(spelled[-1:])
    try:
        seconds = float(spelled if unit is None else spelled[:-1]) * (unit or 1.0)
    except ValueError:
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds > 0):
        raise click.BadParameter(f"{text!r} is no time like 90s, 5m or 1h")
    return seconds
