"""Laws over all rows of the table, through the front doors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from onnx import ValueInfoProto

from onnxheadprune import ModelError, NearMiss, RefusedError, apply_plan, inspect, plan_pruning, prune
from onnxheadprune.attention.planning import planned
from onnxheadprune.attention.sites.site import Site
from tests.edit.lossless import unexplained
from tests.graphs.net import Cut
from tests.graphs.table import Found, Row
from tests.laws.census import check_census
from tests.laws.cutting import (
    LEGAL,
    ROWS,
    analysis,
    assert_equal,
    check,
    copied,
    cuts,
    feeds,
    found,
    plan,
    pruned,
    spec,
)
from tests.laws.reasons import check_reasons
from tests.liveness.known import assert_known
from tests.liveness.one_node import run, running

Numbered = Sequence[tuple[int, Cut]]
"""Legal cuts with their numbers."""
BESIDE = ("own: with its attention weights",)
"""Rows with a product beside the cores of a site, which belongs to it."""


@pytest.mark.parametrize("row", ROWS.values(), ids=str)
def test_laws(row: Row, pytestconfig: pytest.Config) -> None:
    """All laws of one row, which share its analysis and its cuts: the traceback names the law that is broken."""
    found_as_said(row)
    refused_as_said(row)
    what_is_not_removable_names_a_node(row)
    if row.missed is not None and row.name not in BESIDE:
        check_census(row.model, found(row.name))
    if row.legal:
        some = cuts(row, pytestconfig)
        types_sizes_and_numbers_are_those_that_are_computed(row)
        the_plan_says_where_a_part_of_removed_heads_stays(row)
        edge_gathers_are_counted(row, some)
        each_legal_cut_equals_the_builders_zeros(row, some)
        inputs_and_outputs_keep_names_types_and_all_but_the_heads_of_caches(row, some)
        what_the_plan_does_not_name_stays_bit_by_bit(row, some)
        # Edge gathers are nodes that only this tool writes: what finds sites has to know them.
        if pytestconfig.getoption("all") or row.gathers or LEGAL.index(row) % 3 == 0:
            the_result_is_a_model_of_the_same_sites(row)


def test_a_product_in_no_list_is_told() -> None:
    for name in ("plain decoder", "no projection, softmax"):
        none = replace(found(name), sites=(), near_misses=(), no_heads=())
        with pytest.raises(AssertionError, match="is listed otherwise"):
            check_census(ROWS[name].model, none)


def types_sizes_and_numbers_are_those_that_are_computed(row: Row) -> None:
    """What the view says of each value of the main graph holds on every input."""
    view = analysis(row.name).view
    model, shown = copied(view.model), {info.name for info in view.model.graph.output}
    values = [value.name for node in view.main.nodes for value in node.results if value.name not in shown]
    model.graph.output.extend(ValueInfoProto(name=name) for name in values)
    every = running(model)
    for feed in feeds(row.name):
        known = {name: array for name, array in feed.items() if name in view.main.values}
        assert_known(view, known | every(feed))


def found_as_said(row: Row) -> None:
    """Sites, near misses and products without heads are those that the row says, each with its numbers."""
    sites = found(row.name)
    keys = {said.key for said in row.sites}
    some = [site for site in sites.every if site.key in keys or site.KIND.units in ("heads", "experts")]
    assert [site.key for site in some] == [said.key for said in row.sites]
    for site, said in zip(some, row.sites, strict=True):
        _is_as_said(site, said)
    if row.missed is not None:
        assert len(sites.no_heads) == row.no_heads
        _are_as_said(sites.near_misses, row.missed)
    if row.hidden is not None:
        _are_as_said(sites.hidden, row.hidden)
    if row.only:
        assert {block.kind for block in sites.neurons} <= set(row.only)


def _are_as_said(misses: Sequence[NearMiss], said: Sequence[tuple[str, str]]) -> None:
    told = [(miss.reason.reason.value, miss.node) for miss in misses]
    assert len(told) == len(said), told
    for (reason, node), (why, where) in zip(told, said, strict=True):
        assert reason == why and where in node, told


def _is_as_said(site: Site, said: Found) -> None:
    facts = site.to_dict()
    groups = said.groups or said.units
    assert facts[f"num_{said.of}"] == said.units
    kind = said.kind
    if said.of == "heads":
        kind = kind or ("mha" if groups == said.units else "mqa" if groups == 1 else "gqa")
        assert facts["kv_num_heads"] == (groups if kind != "unknown" else None)
    if kind:
        assert facts["kind"] == kind
    if said.size is not None:
        assert (facts["head_size"], facts["v_head_size"]) == (said.size, said.v_size or said.size)
    if said.together is not None:
        assert site.units == tuple(map(tuple, said.together))
    assert facts["removable"] == (said.reason is None), facts["reason"]
    if said.reason is not None:
        reason, node = said.reason
        assert site.reason is not None and site.reason.reason.value == reason
        assert node in site.reason.node or node in site.reason.sentence


def refused_as_said(row: Row) -> None:
    """No unit of a site that is refused can be removed, nor a part of a set; the sets that are offered are legal."""
    refused = list(row.refused)
    for said in row.sites:
        if said.reason is not None and said.units > 1:
            refused.append(({said.key: [0]}, "."))
        elif len(said.sets) > 1 and len(said.sets[0]) > 1 and said.kind != "unknown":
            refused.append(
                ({said.key: said.sets[0][:1]}, "only go together|different numbers of query heads")
            )
    for cut, why in refused:
        with pytest.raises(RefusedError, match=why) as error:
            planned(analysis(row.name), spec(cut))
        _, _, offered = str(error.value).partition("the nearest legal sets are ")
        for units in offered.split(" or ") if offered and len(cut) == 1 else ():
            assert planned(analysis(row.name), f"{next(iter(cut))}:{units}").plan.edits


def each_legal_cut_equals_the_builders_zeros(row: Row, some: Numbered) -> None:
    """Whole sites, too; and some of these zeros change the outputs, if those are no choices of tokens."""
    shows = [check(row, pruned(row.name, number), cut) for number, cut in some]
    assert any(shows) or len(some) < len(row.legal)


def the_plan_says_where_a_part_of_removed_heads_stays(row: Row) -> None:
    """Where maps are mixed or all queries normalised; otherwise only where a gather picks what is left."""
    told = any("is still computed" in note for note in plan(row.name, 0).notes)
    assert row.stays <= told <= (row.stays or bool(row.gathers))


def what_is_not_removable_names_a_node(row: Row) -> None:
    """A reason names a node of the graph, or an input or output; and what it says of that is true."""
    view = analysis(row.name).view
    named = {name for node in view.nodes for name in (node.label, node.ref)}
    named |= {info.name for info in (*row.model.graph.input, *row.model.graph.output)}
    sites = found(row.name)
    reasons = [site.reason for site in sites.every if site.reason is not None]
    reasons += [miss.reason for miss in (*sites.near_misses, *sites.hidden)]
    assert {reason.node for reason in reasons} <= named
    check_reasons(view, sites)


def edge_gathers_are_counted(row: Row, some: Numbered) -> None:
    """As many edges need a gather as the row says."""
    sizes = {said.key: said.units for said in row.sites}
    for number, cut in some:
        cut_plan = plan(row.name, number)
        if isinstance(row.gathers, int):
            left = any(0 < len(units) < sizes[key] for key, units in cut.items())
            gathers = row.gathers if left else 0
        else:
            gathers = row.gathers[number]
        assert len(cut_plan.edge_gathers) == gathers, [str(item) for item in cut_plan.edge_gathers]


def what_the_plan_does_not_name_stays_bit_by_bit(row: Row, some: Numbered) -> None:
    """Edits of bodies have names of their own, which the walk does not follow."""
    if not any(attribute.HasField("g") for node in row.model.graph.node for attribute in node.attribute):
        for number, _ in some:
            made = unexplained(
                analysis(row.name).view.model, pruned(row.name, number), plan(row.name, number)
            )
            assert made == []


def the_result_is_a_model_of_the_same_sites(row: Row) -> None:
    """Remaining heads are found under key and name of their site, numbered as before; else `prune` refuses."""
    cut = row.legal[0]
    before = {site.key: site for site in found(row.name).every if site.KIND.units in ("heads", "experts")}
    try:
        after = {site.key: site for site in inspect(pruned(row.name)).every}
    except ModelError:
        with pytest.raises(RefusedError, match="would not be found in the pruned model"):
            prune(row.model, heads=spec(cut), provider="cpu")
        return
    for key, site in before.items():
        gone = tuple(sorted(cut.get(key, ())))
        if len(gone) == site.num_units or any(name.startswith("layer.") for name in cut):
            continue
        left = after[key]
        assert (left.removed, left.num_units) == (gone, site.num_units - len(gone))
        assert left.original_num_units == site.num_units and left.name == site.name


def inputs_and_outputs_keep_names_types_and_all_but_the_heads_of_caches(row: Row, some: Numbered) -> None:
    """Declared shapes are those of the original without what the builder says that callers no longer see."""
    for number, cut in some:
        model, feed = pruned(row.name, number), feeds(row.name)[0]
        narrowed = row.graph.narrowed(feed, cut)
        for old, new in zip(row.model.graph.input, model.graph.input, strict=True):
            assert (old.name, old.type.tensor_type.elem_type) == (new.name, new.type.tensor_type.elem_type)
            for size, before, after in zip(narrowed[new.name].shape, _shape(old), _shape(new), strict=True):
                assert after == (size if isinstance(before, int) else before)
        for old, new in zip(row.model.graph.output, model.graph.output, strict=True):
            assert (old.name, old.type.tensor_type.elem_type) == (new.name, new.type.tensor_type.elem_type)
        told = {change.name for change in plan(row.name, number).interface}
        assert told >= {name for name in feed if narrowed[name].shape != feed[name].shape}
        assert told <= {mark.value for mark in row.graph.lies}


@pytest.mark.parametrize("row", [row for row in ROWS.values() if row.agreed], ids=str)
def test_others_follow_the_heads_where_that_was_agreed_to(row: Row) -> None:
    """Without consent, inputs and outputs other than caches keep their shape."""
    cut = row.legal[0]
    agreed = plan_pruning(row.model, heads=spec(cut), allow_io_change=True)
    assert {change.name for change in agreed.interface} == set(row.agreed)
    feed = dict(feeds(row.name)[0])
    for name, axis in row.agreed.items():
        feed[name] = np.delete(feed[name], cut["0"], axis)
    assert not plan(row.name, 0).interface
    if (
        row.graph.feed["h" if "h" in row.agreed else "bias"].dtype.kind not in "iu"
        and "numbers" not in row.name
    ):
        assert_equal(run(apply_plan(agreed, row.model), feed), row.graph.outputs(cut)(feeds(row.name)[0]))


def _shape(info: ValueInfoProto) -> list[int | str]:
    return [dim.dim_param or dim.dim_value for dim in info.type.tensor_type.shape.dim]
