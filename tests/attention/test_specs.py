"""What is said about a head spec that cannot be carried out, and whether what is offered instead can."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from onnxheadprune import UsageError, inspect
from onnxheadprune.attention.specs import MAX_LISTED, parsed, resolved
from tests.graphs import toys


@pytest.mark.slow
def test_a_mapping_that_lists_too_much() -> None:
    with pytest.raises(UsageError, match="lists more than 1,048,576 heads"):
        parsed({0: itertools.repeat(1, MAX_LISTED + 1)})


def test_a_name_that_two_sites_have() -> None:
    (site,) = inspect(toys.attention())
    names = ("encoder.layer.0.attention", "decoder.layer.0.attention")
    sites = [replace(site, index=index, name=name) for index, name in enumerate(names)]
    both = r"attn\.0 \(encoder.layer.0.attention\), attn\.1 \(decoder.layer.0.attention\)"
    with pytest.raises(UsageError, match=f"'layer.0' is ambiguous: {both}; use the full"):
        resolved(parsed("layer.0:1"), sites)
    assert resolved(parsed("decoder.layer.0:1"), sites) == {1: (1,)}
