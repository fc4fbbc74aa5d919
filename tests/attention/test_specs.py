"""A head spec that lists too much."""

from __future__ import annotations

import itertools

import pytest

from onnxheadprune import UsageError
from onnxheadprune.attention.specs import MAX_LISTED, parsed


@pytest.mark.slow
def test_a_mapping_that_lists_too_much() -> None:
    with pytest.raises(UsageError, match="lists more than 1,048,576 heads"):
        parsed({0: itertools.repeat(1, MAX_LISTED + 1)})
