"""Words that a setting takes are those that the room knows which does the work."""

from __future__ import annotations

from typing import get_args

import pytest

from onnxheadprune.edit import records
from onnxheadprune.fusion.result import FuseMode
from onnxheadprune.model.storage.layout import ExternalData
from onnxheadprune.settings.cutting import Fuse
from onnxheadprune.settings.measuring import To
from onnxheadprune.settings.writing import Beside


@pytest.mark.parametrize(
    ("setting", "kind"), [(Fuse, FuseMode), (To, records.To), (Beside, ExternalData)], ids=str
)
def test_words_of_a_setting_are_those_of_the_work(setting: object, kind: object) -> None:
    """Declarations load nothing heavy, so the words are declared twice."""
    assert get_args(setting) == get_args(kind)
