"""`--data` takes every kind of inputs; which one is told by the content, whatever a file is called."""

from __future__ import annotations

from onnxheadprune.data.formats import format_of


def test_what_is_no_file_has_no_kind() -> None:
    assert format_of("module:function") is None
