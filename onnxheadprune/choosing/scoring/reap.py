"""Scores of experts: how often a router chooses each for the data's tokens, and its contribution.

A mixture is measured by running it, so its form does not matter: where the scores of all experts but one are minus
infinity, and that of the one is high, its router weight is 1, and the mixture outputs the output of that
expert. So one pass gives each token's chosen experts and the output of the mixture; one more for each of the chosen
gives their outputs, since tokens are independent; and the router weights are the factors with which these sum
to the output of the mixture.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper

from onnxheadprune.attention.sites.routing import Meeting, Picks, Routing, never
from onnxheadprune.choosing.activations.chain import Chain
from onnxheadprune.choosing.activations.parts import Parts, run_feed
from onnxheadprune.choosing.scoring.method import Scored, Subject, shares
from onnxheadprune.data.drift import counted
from onnxheadprune.errors import RefusedError
from onnxheadprune.liveness.consumers import looks_only
from onnxheadprune.model.graph.operator import is_a
from onnxheadprune.model.graph.view import Node, Value
from onnxheadprune.model.tensors import Floats
from onnxheadprune.runtime import Array, Session

ALONE, ALONE_HALF = 20.0, 10.0
"""The score of an expert that is chosen alone: a softmax or a sigmoid makes it 1, and its exponential is finite."""
RARELY, SAME = 0.5, 1e-2
"""A share of minus infinity that is above it, and the difference between outputs that are the same."""
PLACES = 6
"""Values after the experts of a mixture among which its output is looked for."""
TINY = 1e-12


def reap(subject: Subject) -> Scored:
    """The mean norm of an expert's output times its router weight (2510.13999).

    The mean is over the tokens that it is chosen for; the weights of a token's experts sum up to 1.
    """
    view, evidence = subject.view, subject.data
    routings = {site: site.routing for site in subject.sites if site.routing is not None}
    if not routings:
        return Scored({})
    skipped = {
        site.label: f"{site.only_named}; score by ablation"
        for site in routings
        if site.only_named is not None
    }
    sites = [site for site in routings if site.only_named is None]
    if not sites:
        label, why = next(iter(skipped.items()))
        raise RefusedError(f"reap cannot score {label}: {why}")
    parts = Parts(view, evidence.provider, sites=sites)
    data = evidence.data
    found: dict[int, Floats] = {}
    places = {site.index: list(itertools.islice(_places(routings[site]), PLACES)) for site in sites}
    chain = Chain(parts, sites, data.feeds, data.source, behind=places)
    for number, (site, read) in enumerate(chain.contexts(), 1):
        routing = routings[site]
        try:
            reader = _Reader(parts, routing, places[site.index], data.source)
            tokens, weighted = np.zeros(routing.experts), np.zeros(routing.experts)
            for at, values in enumerate(chain.workers.each(read, range(len(data.feeds)))):
                if chain.running.reaches(at, routing.router):
                    outer = routing.outer(values[routing.router.out.name].shape)
                    counts = counted(outer, data.feeds[at], data.inputs)
                    chosen, worth = reader.read(values)
                    # Padding is no token.
                    rows = slice(None) if counts is None else counts.reshape(-1)
                    np.add.at(tokens, chosen[rows], 1.0)
                    np.add.at(weighted, chosen[rows], worth[rows])
            found[site.index] = shares((weighted / np.maximum(tokens, 1.0))[: site.num_units])
        except RefusedError as error:
            skipped[site.label] = str(error)
        subject.progress("reading what experts add", number, len(sites))
    if not found:
        raise RefusedError(next(iter(skipped.values())))
    return Scored(found, skipped=skipped)


class _Reader:
    """Reads the experts of tokens from values before a mixture."""

    def __init__(self, parts: Parts, routing: Routing, places: Sequence[Value], source: str) -> None:
        """Take the values among which the mixture's output is looked for."""
        self._parts, self._routing, self._source = parts, routing, source
        # Where scores are those of the router, or zero for what it gives minus infinity, these alone keep others out.
        self._gates = [gate for gate in routing.gates() if gate.moved]
        self._places = places
        self._output: Value | None = None
        self._together = len(routing.picks) > 1
        self._is_sure = not self._together
        self._sessions: dict[tuple[str | None, ...], Session | None] = {}

    def read(self, values: Mapping[str, Array]) -> tuple[npt.NDArray[np.int64], Floats]:
        """The experts of the tokens of one feed, from the scores of the router and the inputs of the mixture.

        Returns:
            The numbers of each token's experts, and the norms of their outputs times their weights, both
            [tokens, chosen].
        """
        routing = self._routing
        picks = [item.value.name for item in routing.picks]
        scored = [gate.value.name for gate in self._gates]
        own = {**values, **self._run(values, [*picks, *scored, *(value.name for value in self._places)])}
        chosen = np.concatenate(
            [_numbers(item, own[name]) for item, name in zip(routing.picks, picks, strict=True)], axis=1
        )
        whole = self._whole(own, len(chosen))
        shapes = {name: own[name].shape for name in scored}
        outputs = np.stack(self._outputs(values, chosen, shapes), axis=1)
        return chosen, np.linalg.norm(outputs, axis=2) * _weights(outputs, whole)

    def _whole(self, values: Mapping[str, Array], tokens: int) -> Floats:
        """The output of the mixture, [tokens, features]."""
        if self._output is None:
            fitting = (value for value in self._places if _rows_of(values[value.name]) == tokens)
            self._output = next(fitting, None)
        if self._output is None:
            raise RefusedError(
                f"the experts that {self._routing.router.label} chooses have no output of their own in the graph,"
                " with a row for each token; score by ablation"
            )
        self._places = (self._output,)
        return _as_rows(values[self._output.name], tokens)

    def _outputs(
        self,
        values: Mapping[str, Array],
        chosen: npt.NDArray[np.int64],
        shapes: Mapping[str, tuple[int, ...]],
    ) -> list[Floats]:
        """The outputs of the experts of each token, each [tokens, features].

        A router that chooses one by one always chooses several. Either those with low scores then weigh nothing, or
        each weighs 1; then leaving out one of them at a time, for one that is not chosen, tells them apart.
        """

        def of(*experts: npt.NDArray[np.int64], rest: float = 0.0) -> Floats:
            return self._only(values, np.stack(experts, axis=1), shapes, rest)

        every = [*chosen.T]
        if not self._is_sure:
            (first, second, *_), routing = every, self._routing
            self._together = not _alike(of(first), of(first, second, rest=RARELY))
            one_by_one = len(every) == len(routing.picks) < routing.experts
            if self._together and not (one_by_one and _alike(of(first, second), of(second, first))):
                raise RefusedError(
                    f"{routing.router.label} chooses experts in {len(routing.picks)} steps, whose weights depend on"
                    f" each other, so that reap cannot tell them apart; score by ablation"
                )
            self._is_sure = True
        if not self._together:
            return [of(one) for one in every]
        more = [*every, _spare(chosen, self._routing.experts)]
        sums = [of(*more[:left], *more[left + 1 :]) for left in range(len(more))]
        return [sum(sums) / len(every) - one for one in sums[:-1]]

    def _only(
        self,
        values: Mapping[str, Array],
        experts: npt.NDArray[np.int64],
        shapes: Mapping[str, tuple[int, ...]],
        rest: float,
    ) -> Floats:
        """The output of the mixture where each token has no other experts, [tokens, features].

        Args:
            experts: of each token, the highest score first, [tokens, experts].
            rest: the score of all but the first as a share of minus infinity; 0 for half of the score before.
        """
        assert self._output is not None
        routing, name = self._routing, self._routing.router.out.name
        router, is_own = values[name], experts[..., None] == np.arange(routing.experts)
        half = helper.np_dtype_to_tensor_dtype(router.dtype) == TensorProto.FLOAT16
        low = never(TensorProto.FLOAT16 if half else TensorProto.FLOAT)
        levels = (ALONE_HALF if half else ALONE) / 2.0 ** np.arange(experts.shape[1])
        levels[1:] = rest * low if rest else levels[1:]
        forced = np.where(is_own.any(1), levels @ is_own, low).astype(router.dtype)
        moved = np.moveaxis(router, routing.axis, -1).shape
        forced = np.moveaxis(forced.reshape(moved), -1, routing.axis)
        masks = {gate.mask: _mask(gate, is_own.any(1), shapes[gate.value.name]) for gate in self._gates}
        found = self._run({**values, name: forced, **masks}, [self._output.name], tuple(masks))
        return _as_rows(found[self._output.name], len(experts))

    def _run(
        self, values: Mapping[str, Array], wanted: Sequence[str], opened: Sequence[str] = ()
    ) -> Mapping[str, Array]:
        """Some values of the mixture, from its inputs and the scores of its router."""
        inner, router = self._parts.view.main.values, self._routing.router.out.name
        types = {
            name: helper.np_dtype_to_tensor_dtype(array.dtype)
            for name, array in values.items()
            if name in inner and not inner[name].is_graph_input
        }
        fixed = {router: types.pop(router)}
        key = (*wanted, None, *opened)
        if key not in self._sessions:
            self._sessions[key] = self._parts.session(types, wanted, fixed=fixed, opened=opened)
        session = self._sessions[key]
        return {} if session is None else run_feed(session, values, self._source)


def _numbers(picks: Picks, array: Array) -> npt.NDArray[np.int64]:
    """Numbers of the experts of each token, [tokens, chosen]."""
    rows = np.moveaxis(array, picks.axis, -1) if picks.axis < array.ndim else array[..., None]
    rows = rows.reshape(-1, rows.shape[-1])
    if picks.by_score:
        rows = np.argsort(-rows.astype(np.float64), axis=1, kind="stable")[:, : picks.chosen]
    return rows.astype(np.int64)


def _spare(chosen: npt.NDArray[np.int64], experts: int) -> npt.NDArray[np.int64]:
    """One unchosen expert per token, [tokens]."""
    is_free = (chosen[..., None] != np.arange(experts)).all(axis=1)
    return np.asarray(np.argmax(is_free, axis=1))


def _alike(one: Floats, other: Floats) -> bool:
    return bool(np.linalg.norm(one - other) <= SAME * np.linalg.norm(one))


def _rows_of(array: Array) -> int:
    return array.size // max(array.shape[-1], 1) if array.ndim > 1 else 0


def _as_rows(array: Array, tokens: int) -> Floats:
    return array.reshape(tokens, -1).astype(np.float64)


def _mask(gate: Meeting, is_own: npt.NDArray[np.bool_], shape: Sequence[int]) -> npt.NDArray[np.bool_]:
    """The mask of a gate, from the only experts of each token, [tokens, experts], and the shape of its scores."""
    labels, axes = gate.live.array, gate.live.axes
    every = np.concatenate([is_own, np.ones((len(is_own), 1), np.bool_)], axis=1)
    alive = every[:, np.minimum(labels - 1, is_own.shape[1])]
    others = [axis for axis in range(len(shape)) if axis not in axes]
    spread = alive.reshape(*(shape[axis] for axis in others), *labels.shape)
    return np.asarray(spread.transpose(np.argsort([*others, *axes])))


def _weights(outputs: Floats, whole: Floats) -> Floats:
    """The factors by which outputs of experts sum up to that of the mixture, divided by their sum, [tokens, chosen]."""
    gram = np.einsum("tif,tjf->tij", outputs, outputs)
    count = gram.shape[1]
    size = np.trace(gram, axis1=1, axis2=2)[:, None, None] + TINY
    products = np.einsum("tif,tf->ti", outputs, whole)
    factors = np.linalg.solve(gram / size + TINY * np.eye(count), products[..., None] / size)[..., 0]
    sums = factors.sum(axis=1, keepdims=True)
    return np.where(np.abs(sums) > TINY, factors / np.where(sums == 0, 1.0, sums), 1 / count)


def _places(routing: Routing) -> Iterator[Value]:
    """Yield values after the experts that everything dependent on the router passes through, nearest first.

    One of them is the output of the mixture; before that, experts may lie side by side. An addition to
    anything else ends the search.
    """
    ends = {end.node for end in routing.ends}
    met = (item.node for item in routing.meetings)
    last = max(node.index for node in (*met, *ends, *routing.through, *routing.picked))
    waiting: dict[Value, set[Node]] = {}
    reached, heap = set[Value](), list[tuple[int, Node]]()

    def reach(value: Value) -> None:
        readers = {use.node for use in value.consumers if not looks_only(use)}
        reached.add(value)
        if readers:
            waiting[value] = readers
        for node in readers:
            heapq.heappush(heap, (node.index, node))

    reach(routing.router.out)
    done = set[Node]()
    while heap:
        node = heapq.heappop(heap)[1]
        if node in done:
            continue
        done.add(node)
        foreign = any(value and value not in reached and not value.is_constant for value in node.inputs)
        if node.scope.parent is not None or (
            is_a(node, "Add") and foreign and node.index > last and node not in ends
        ):
            return
        for value in {value for value in node.inputs if value in waiting}:
            waiting[value].discard(node)
            if not waiting[value]:
                del waiting[value]
        for made in node.outputs:
            if made is not None:
                reach(made)
        if node.index >= last and len(waiting) == 1 and waiting.keys() <= {*node.outputs}:
            yield next(iter(waiting))
