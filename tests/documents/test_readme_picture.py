"""The README's pictures: they show the figures beside them, and are read on white and on a dark page."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.readme_picture import ACCURACY, GOES, INK, PICTURE, SPEED, STAYS
from tests.pictures import contrast

QUALITY, SPEEDS = PICTURE.with_name("quality.svg"), PICTURE.with_name("speed.svg")
DARK = "#0d1117"
"""The darkest page of a code host."""


@pytest.mark.parametrize("page", ["#ffffff", DARK])
def test_it_is_read_on_every_page(page: str) -> None:
    assert contrast(INK, page) >= 4, "text"
    assert all(contrast(colour, page) >= 3 for colour in (STAYS, ACCURACY, SPEED))
    assert contrast(GOES, page) >= 2.4, "hollow squares of heads that are gone may be fainter"


@pytest.mark.parametrize("picture", [PICTURE, QUALITY, SPEEDS])
def test_it_loads_nothing_and_stays_small(picture: Path) -> None:
    content = picture.read_text(encoding="utf-8")
    assert "<image" not in content and 'href="http' not in content and len(content) < 150_000
    assert "<title>" in content or "<dc:title>" in content
