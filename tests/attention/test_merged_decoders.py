"""What a merged decoder computes with each answer of its flag has the sites of the whole, under their numbers."""

from __future__ import annotations

import pytest

from onnxheadprune.attention.main_graph_copy import branch_analyses, branch_analysis
from onnxheadprune.attention.sites.find import sites_of
from onnxheadprune.operators import view_of
from tests.graphs import pairs


@pytest.mark.parametrize("named_twice", [False, True])
@pytest.mark.parametrize("answer", [False, True])
def test_the_sites_of_a_merged_decoder_are_found_in_each_of_its_decoders(
    answer: bool, named_twice: bool
) -> None:
    view = view_of(pairs.merged(named_twice=named_twice))
    sites = sites_of(view, "merged")
    found = branch_analysis(view, sites, answer)
    assert found is not None and [site.index for site in found.sites] == [site.index for site in sites]
    assert len(list(branch_analyses(view, sites))) == 2
