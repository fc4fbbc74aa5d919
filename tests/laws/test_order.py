"""A cut is a set: in one call, or in several in any order, the same units leave the same file, byte for byte."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from onnx import ModelProto, TensorProto

from onnxheadprune import RefusedError, UsageError, prune
from tests.graphs.net import Cut
from tests.graphs.table import Row
from tests.laws.cutting import LEGAL, assert_equal, feeds, one_of, spec
from tests.liveness.one_node import run

APART = ("a cache of all layers",)
"""Rows with one cache for several layers: each call leaves it as wide as the widest of them."""

LONE = ("MultiHeadAttention",)
"""Rows of which one head is left, whose cache is not told from one that all heads share."""


def parts_of(row: Row) -> Sequence[Cut]:
    """Two sets of units, of one site or of two; and a whole one behind a part."""
    sites = [site for site in row.sites if site.reason is None and site.units > 1 and site.of != "experts"]
    if not sites:
        return []
    first, last = sites[0], sites[-1]
    parts: list[Cut] = [{first.key: first.sets[0]}]
    if len(first.sets) > 2:
        parts.append({first.key: first.sets[2]})
    if last is not first:
        parts.append({last.key: last.sets[-1]})
    return parts


def adds_only_shapes(once: ModelProto, original: ModelProto) -> bool:
    """Whether a cut writes no node of its own, and no copy of a weight."""
    known = {name for node in original.graph.node for name in node.output}
    stored = {tensor.name for tensor in original.graph.initializer}
    return all(name in known for node in once.graph.node for name in node.output) and all(
        tensor.name in stored or tensor.data_type == TensorProto.INT64 for tensor in once.graph.initializer
    )


def cut_model(model: ModelProto, cut: Cut) -> ModelProto:
    """Cut as users do: `prune` refuses what no later call could read."""
    return prune(model, heads=spec(cut), validate=False).model


@one_of(12, [row for row in LEGAL if parts_of(row)])
def test_order(row: Row, pytestconfig: pytest.Config) -> None:
    """Both laws; in a plain run every other row is cut in one of the two orders."""
    parts = parts_of(row)
    if len(parts) > 1:
        orders = [[parts[0], parts[-1]], [parts[-1], parts[0]]]
        both = pytestconfig.getoption("all")
        one_call_or_several_in_any_order(row, orders if both else orders[LEGAL.index(row) % 2 :][:1])
    if row.name not in LONE:
        the_whole_behind_a_part(row, parts[0])


def one_call_or_several_in_any_order(row: Row, orders: Sequence[Sequence[Cut]]) -> None:
    """Byte for byte where no cut adds nodes; else the same sites, records and numbers."""
    joined: dict[str, list[int]] = {}
    for part in orders[0]:
        for key, units in part.items():
            joined[key] = sorted([*joined.get(key, ()), *units])
    for order in orders:
        model = row.model
        try:
            once = cut_model(row.model, joined)
            for part in order:
                model = cut_model(model, part)
        except RefusedError:
            continue  # A part alone is not legal where sites stay equal, or leaves what is not found again.
        if adds_only_shapes(once, row.model) and adds_only_shapes(model, row.model):
            assert model.SerializeToString(deterministic=True) == once.SerializeToString(deterministic=True)
        assert list(model.metadata_props) == list(once.metadata_props)
        feed = feeds(row.name)[0]
        narrowed = row.graph.narrowed(feed, joined)
        got, want = run(model, feed if row.name in APART else narrowed), run(once, narrowed)
        if row.name in APART:
            got, want = ({name: item[name] for name in [*item][:1]} for item in (got, want))
        assert_equal(got, want)


def the_whole_behind_a_part(row: Row, part: Cut) -> None:
    """It has the inputs and outputs of the whole at once, or is refused: the cache that it would keep is narrower."""
    whole = dict.fromkeys(part, "*")
    try:
        once = prune(row.model, heads=whole, validate=False).model
        twice = prune(cut_model(row.model, part), heads=whole, validate=False).model
    except (RefusedError, UsageError):
        return  # The part may have been the whole.
    assert list(twice.graph.input) == list(once.graph.input)
    assert list(twice.graph.output) == list(once.graph.output)
