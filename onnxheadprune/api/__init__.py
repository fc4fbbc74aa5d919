"""The Python API: the commands as functions that never print."""

from __future__ import annotations

from onnxheadprune.display.displayed import Displayed
from onnxheadprune.display.facts import Facts


def _text(facts: Facts) -> str:
    from onnxheadprune.reporting.console import rows_of, text_of

    return text_of(rows_of(facts))


Displayed.as_text = _text
