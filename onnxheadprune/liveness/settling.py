"""The completion of a sweep's result.

A sweep computes the least demands. Where a value keeps more for one reader, others that pick from it (a Slice, a
Gather) need no extra gather, and views and caches that only carry it keep the same.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from operator import or_

from onnxheadprune.liveness.answers import Answer
from onnxheadprune.liveness.carriers import (
    LOOKED_THROUGH,
    carried,
    leads_out,
    only_passed_on,
    outlet,
    passes_on,
)
from onnxheadprune.liveness.consumers import content_uses, looks_only, selecting_answer
from onnxheadprune.liveness.domain import MASKS
from onnxheadprune.liveness.live import DEAD, FULL, Live
from onnxheadprune.liveness.refusals import Refusal
from onnxheadprune.liveness.rule_calls import ask
from onnxheadprune.liveness.sweep_result import Sweep
from onnxheadprune.model.graph.view import Node, Use, Value

_MAX_VIEWS = 4


RelaxedViews = dict[Node, tuple[Live, Live, Answer]]
"""Per view: what it now reads, what it now hands on, and its answer to that."""


def _relaxed(
    node: Node, have: Live, picking: Callable[[Use], Answer | None], hops: int = _MAX_VIEWS
) -> RelaxedViews | None:
    """The views from `node` on that can take all of `have`; None if some reader after them cannot pick from that.

    Queries, keys and values are often views of one packed value (`Transpose`, then `Gather` number 1 of 3). Asked for
    precisely, each view would need a gather of its own, although the picking node can move its indices instead.
    """
    if hops == 0 or node not in LOOKED_THROUGH or node.out.is_graph_output:
        return None
    through = FULL if have.is_full else carried(node, have)
    if through is None:
        return None
    answer = ask(node, [through], MASKS)
    if isinstance(answer, Refusal) or answer.inputs.get(0) != have:
        return None
    found: RelaxedViews = {node: (have, through, answer)}
    for use in node.out.consumers:
        if looks_only(use):
            continue
        chosen = picking(use)
        if chosen is not None and chosen.accepts(through):
            continue
        behind = _relaxed(use.node, through, picking, hops - 1) if use.input_index == 0 else None
        if behind is None:
            return None
        found |= behind
    return found


def _source_of(node: Node) -> Value | None:
    """The value that a view shows, None for other nodes and for stored values, which are cut for free."""
    value = node.inputs[0] if node.inputs and node in LOOKED_THROUGH else None
    return None if value is None or value.holds_tensor else value


def settle(result: Sweep, narrowable: frozenset[Value]) -> None:
    """Complete the result of a mask sweep."""
    for value in result.reached:
        if value.holds_tensor:
            _leave_unread(result, value)
    _relax(result)
    for value, live in list(result.narrowed()):
        _pass_on(result, narrowable, value, live)


def _leave_unread(result: Sweep, value: Value) -> None:
    """A stored tensor is cut to what its readers ask for: that is all but heads where they can pick from it."""
    kept = result.kept[value]
    edges = {use: result.edge(use) for use in content_uses(value)}
    asked = reduce(or_, edges.values(), DEAD)
    if kept == asked.as_mask().dense_closure():
        return
    picking = {use: answer for use in edges if (answer := _picking(result, use)) is not None}
    if len(picking) == len(edges) and all(answer.accepts(kept) for answer in picking.values()):
        result.edges |= {(use.node.index, use.input_index): kept for use in edges}
        # What picks from another part of it, without losing any, is moved as well.
        result.answers |= {use.node: answer for use, answer in picking.items()}
        sites = frozenset[str]().union(*(result.asked.get(use.node, frozenset()) for use in edges))
        result.asked |= {use.node: result.asked.get(use.node, sites) for use in edges}


def _relax(result: Sweep) -> None:
    """Let views of shared values keep the same parts, where all their readers can pick from it."""
    for node in sorted(result.answers, key=lambda node: node.index):
        value = _source_of(node)
        have = FULL if value is None else result.kept.get(value, FULL)
        if value is None or result.edges.get((node.index, 0), FULL) in (have, DEAD):
            continue
        views = _relaxed(node, have, lambda use: _picking(result, use))
        for view, (reads, hands_on, answer) in (views or {}).items():
            result.edges[(view.index, 0)] = reads
            result.kept[view.out] = hands_on
            result.answers[view] = answer


def _picking(result: Sweep, use: Use) -> Answer | None:
    """The answer of a node that picks from this input, None for any other."""
    answer = result.answers.get(use.node)
    if answer is None:
        return selecting_answer(use)
    return answer if use.input_index in answer.selects else None


def _pass_on(result: Sweep, narrowable: frozenset[Value], value: Value, live: Live) -> None:
    """Propagate a narrowed value's kept part to the values that only carry it."""
    for use in value.consumers:
        if (use.node.index, use.input_index) in result.edges or not passes_on(use.node):
            continue
        if use.node.out not in result.kept and only_passed_on(use.node, narrowable):
            through = carried(use.node, live)
            if through is not None:
                result.kept[use.node.out] = through
                _pass_on(result, narrowable, use.node.out, through)
    output = outlet(value)
    if output is not None and output not in result.kept and leads_out(output, narrowable):
        result.kept[output] = live
        _pass_on(result, narrowable, output, live)
