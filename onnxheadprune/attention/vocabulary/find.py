"""The vocabulary of a model, found by dataflow from its integer inputs to the tables that they index."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from onnxheadprune.attention.sites.streams import Streams
from onnxheadprune.attention.vocabulary.ids import (
    Flow,
    blocked_at,
    carried,
    flow_of,
    integer_inputs,
    stored_behind,
    table_of,
)
from onnxheadprune.attention.vocabulary.logits import (
    Axis,
    Tokens,
    Vocabulary,
    holds_others,
    origin_of,
    with_logits,
)
from onnxheadprune.errors import RefusedError, UsageError
from onnxheadprune.model.graph.operator import GENERATES, is_a
from onnxheadprune.model.graph.view import GraphView, Value

TOKENS = re.compile(r"input_ids|token")


def vocabularies(view: GraphView) -> tuple[Vocabulary, ...]:
    """All possible vocabularies of a model: integer inputs, grouped by the tables they index."""
    flows = _flows(view)
    return tuple(_vocabulary(view, inputs, flows, None) for inputs in _grouped(flows))


def _flows(view: GraphView) -> dict[Value, Flow]:
    return {value: flow for value in integer_inputs(view) if (flow := flow_of(value)).lookups}


def _grouped(flows: Mapping[Value, Flow]) -> list[list[Value]]:
    """The inputs with token ids that index the same tables; that two tables are equally long means nothing."""
    groups: list[tuple[list[Value], set[Value]]] = []
    for value, flow in flows.items():
        inputs, tables = [value], {table for item in flow.tables for table in item.stored}
        for group in [item for item in groups if not tables.isdisjoint(item[1])]:
            groups.remove(group)
            inputs, tables = [*group[0], *inputs], tables | group[1]
        groups += [(inputs, tables)] if tables else []
    return [inputs for inputs, _ in groups if not all(holds_others(value.name) for value in inputs)]


def vocabulary_of(
    view: GraphView,
    name: str,
    inputs: Sequence[str] = (),
    rows: int | None = None,
    logits: Sequence[str] | None = None,
) -> Vocabulary:
    """The vocabulary of a model.

    Args:
        inputs: names of the inputs with token ids; without, they are found by dataflow.
        rows: how many tokens there are, where another file of the network says so.
        logits: names of the outputs with a number for each token; None where the model decides.
    """
    flows = _flows(view)
    found = [(_vocabulary(view, group, flows, None), group) for group in _grouped(flows)]
    if inputs:
        unknown = set(inputs) - {item for entry, _ in found for item in entry.inputs}
        if unknown:
            listed = ", ".join(item for entry, _ in found for item in entry.inputs) or "none"
            raise UsageError(
                f"no table of {name} is indexed by an input {min(unknown)}; inputs that index tables: {listed}"
            )
        # Labels index no table, and ids of another table that they are compared with are no reason to cut it.
        own = [item for item in found if any(value.name in inputs for value in item[1])]
        found = own or [item for item in found if set(inputs) & set(item[0].inputs)]
    if rows is not None:
        found = [(entry, group) for entry, group in found if entry.rows == rows]
        if not found:
            return _vocabulary(view, [], {}, logits, rows)
    if len(found) > 1 and not inputs:
        named = [item for item in found if any(TOKENS.search(name.lower()) for name in item[0].inputs)]
        likely = named or [item for item in found if item[0].logits]
        found = likely if len(likely) == 1 else found
    # Who names inputs of several tables says that all of them hold the same tokens.
    if len(found) > 1 and (not inputs or len({entry.rows for entry, _ in found}) > 1):
        listed = " or ".join(f"{entry.inputs[0]} ({entry.rows:,} rows)" for entry, _ in found)
        raise UsageError(f"several inputs of {name} may hold token ids: {listed}; name it with `token_ids`")
    if not found:
        raise RefusedError(f"{name} has no vocabulary: {why_none(view)}")
    return _vocabulary(view, [value for _, group in found for value in group], flows, logits)


def why_none(view: GraphView) -> str:
    """Return why no integer input indexes a table."""
    generating = next((node for node in view.nodes if node in GENERATES), None)
    if generating is not None:
        return f"{generating.label} runs a decoder of its own; export the decoder alone"
    for node in view.nodes:
        if any(table_of(node, index) is not None for index in node.roles.rows):
            blocker = blocked_at({value: value.name for value in integer_inputs(view)}, node)
            if blocker is not None:
                return blocker
    for value in integer_inputs(view):
        readers = (use.node for item in carried(value)[0] for use in item.consumers)
        marking = next((node for node in readers if is_a(node, "OneHot")), None)
        if marking is not None:
            return (
                f"{marking.label} makes vectors of the ids in {value.name}, and no node picks rows of a table"
            )
    return "no integer input picks rows of a stored table"


def _vocabulary(
    view: GraphView,
    inputs: Sequence[Value],
    flows: Mapping[Value, Flow],
    chosen: Sequence[str] | None,
    rows: int = 0,
) -> Vocabulary:
    # A smaller table has no rows for the last tokens.
    rows = max((item.rows for value in inputs for item in flows[value].tables if item.rows), default=rows)
    known: dict[Axis, str] = {}
    rest: dict[Axis, str] = {}
    tables: dict[Value, None] = {}
    streams = Streams()
    for value, flow in flows.items():
        counted = known if value in inputs else rest
        for lookup in flow.tables:
            counted |= dict.fromkeys(origin_of(Axis(lookup.value, lookup.axis), streams).stored, value.name)
        for lookup in flow.lookups if value in inputs else ():
            if lookup.rows is not None and lookup.rows <= rows:
                for index in lookup.tables:
                    tables |= dict.fromkeys(stored_behind(lookup.node.input(index), lookup.rows))
    held = [item for value in inputs for item in flows[value].values]
    stored = frozenset(token for value in inputs for token in flows[value].stored)
    return with_logits(Tokens(view, rows, inputs, held, stored, tables, known, rest, streams), chosen)
