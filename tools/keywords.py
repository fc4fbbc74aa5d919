"""Write the types of the keywords of the Python API: python tools/keywords.py."""

from __future__ import annotations

from pathlib import Path

from onnxheadprune.api.calls import CALLS
from onnxheadprune.api.keywords import typed_dict

FILE = Path(__file__).parents[1] / "onnxheadprune" / "api" / "typed.py"
HEAD = '''\
"""Types of the keywords of the Python API, made from the declarations of settings by `python tools/keywords.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Required, TypedDict

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
    from typing import Any

    from onnxheadprune.attention.head_specs import HeadSpec
    from onnxheadprune.choosing.scoring.scores import HeadScores
    from onnxheadprune.data.calibration import Calibration
    from onnxheadprune.runtime import Provider
'''


def text() -> str:
    """The file as the declarations have it."""
    return "\n\n".join([HEAD, *("\n".join(typed_dict(call)) + "\n" for call in CALLS)])


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
