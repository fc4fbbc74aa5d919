"""Decoders with fused attention: inputs that they accept."""

from __future__ import annotations

import pytest

from onnxheadprune.operators import view_of
from onnxheadprune.runtime.feeds.generate import FeedMaker
from tests.graphs import fused as toys


@pytest.mark.parametrize("repeated", [False, True])
def test_a_named_head_size_is_read_off_the_graph(repeated: bool) -> None:
    maker = FeedMaker(view_of(toys.decoder(repeated=repeated)))
    for case in maker.cases:
        feed, _ = next(maker.candidates(case))
        assert feed["past_key_values.0.key"].shape[1::2] == (toys.KV_HEADS, toys.HEAD_SIZE)


def test_smaller_cases_follow_where_several_tokens_meet_a_cache() -> None:
    maker = FeedMaker(view_of(toys.decoder()))
    shapes = [feed["past_key_values.0.key"].shape[0::2] for feed, _ in maker.candidates(maker.cases[0])]
    assert {(2, 5), (1, 5), (2, 0)} <= set(shapes)
