"""The order of the laws."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.laws.cutting import ROWS

PLACES = {name: place for place, name in enumerate(ROWS)}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All laws of a row run one after the other, so that they share its analysis and its cuts."""
    items.sort(key=_place)


def _place(item: pytest.Item) -> int:
    if item.path.parent != Path(__file__).parent:
        return len(PLACES)
    called = getattr(item, "callspec", None)
    return PLACES.get(str(called.params.get("row")), -1) if called else -1
