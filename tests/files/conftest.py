"""A folder in which each call of `calls.py` finds its files."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.files.calls import furnish


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "place"
    folder.mkdir()
    furnish(folder)
    monkeypatch.chdir(folder)
    return folder
