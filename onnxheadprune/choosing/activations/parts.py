"""Sessions of parts of a model, from available values to wanted ones, and the inputs that reach a node."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from onnx import ModelProto, TensorProto, helper

from onnxheadprune.attention.sites.projection import Projection
from onnxheadprune.attention.sites.site import Site
from onnxheadprune.edit.submodel import NO_TYPES, submodel
from onnxheadprune.errors import InferenceError, MissingKernelError, RefusedError, UsageError
from onnxheadprune.model.graph.operator import QUANTIZERS
from onnxheadprune.model.graph.view import GraphView, Node, Value
from onnxheadprune.model.load import LoadedModel
from onnxheadprune.model.messages import insert_nodes
from onnxheadprune.model.tensors import FLOATS
from onnxheadprune.runtime import Array, Provider, Session
from onnxheadprune.runtime.workers import MOST, workers_on

if TYPE_CHECKING:
    from onnxheadprune.attention.sites.routing import Meeting
from onnxheadprune.edit.bodies import counts_where
from onnxheadprune.runtime.feeds.generate import Feed


class Parts:
    """Makes sessions of parts of one model; what they need of its weights is read then.

    Attributes:
        view: an annotated view of the model.
        provider: where the sessions run.
        workers: who runs them, several feeds at a time; each session takes the cores of one worker.
    """

    def __init__(
        self, view: GraphView, provider: Provider, feeds: int = MOST, sites: Iterable[Site] = ()
    ) -> None:
        """Make nothing yet.

        Args:
            sites: of which routers may be kept from choosing some units, by masks that count as stored tensors.
        """
        self.view, self.workers = view, workers_on(provider, feeds)
        self.provider = replace(provider, threads=self.workers.threads)
        self._gates = {gate.mask: gate for site in sites for gate in site.gates()}

    def session(
        self,
        given: Mapping[str, int],
        wanted: Iterable[str],
        *,
        fixed: Mapping[str, int] = NO_TYPES,
        opened: Collection[str] = (),
    ) -> Session | None:
        """A session of a part, None where all wanted values are given.

        A part of a model may ask more of ONNX Runtime than the whole. Then the session starts at the graph's inputs.

        Args:
            given: types of the values that are there at the place where it starts.
            fixed: types of those that are given wherever it starts.
            opened: names of stored tensors, and of masks of routers, that become inputs.
        """
        at_hand = {item.name for item in self.view.model.graph.input} | given.keys() | fixed.keys()
        names = [name for name in wanted if name not in at_hand]
        if not names:
            return None
        try:
            return self._session(self._part({**given, **fixed}, names, opened))
        except InferenceError:
            if not given:
                raise
        return self._session(self._part(fixed, names, opened))

    def between(self, values: Mapping[str, Array], given: Iterable[str], end: Value) -> Session:
        """A session from some values to another."""
        types = {name: helper.np_dtype_to_tensor_dtype(values[name].dtype) for name in given}
        return self._session(submodel([end], types))

    def _part(self, given: Mapping[str, int], names: Sequence[str], opened: Collection[str]) -> ModelProto:
        values = self.view.main.values
        small = submodel([values[name] for name in names], given, opened=opened)
        return _gated(small, [gate for name, gate in self._gates.items() if name in opened])

    def _session(self, small: ModelProto) -> Session:
        loaded = LoadedModel(small, "the model", self.view.sources)
        return Session(loaded, self.provider, name="the model", optimize=True, keeping=True)


def run_feed(session: Session, values: Mapping[str, Array], source: str) -> dict[str, Array]:
    """Run a session on the user's data and return its outputs."""
    try:
        return session.run(values)
    except MissingKernelError:
        raise
    except InferenceError as error:
        has_ids = any(array.dtype.kind == "i" and array.ndim == 2 for array in values.values())
        more = "; if it has fewer positions than tokens, cut texts off with `max_length`" if has_ids else ""
        raise UsageError(f"{source} does not fit the model: {error}{more}") from error


def require_main(value: Value) -> None:
    """Check whether a value is one of the main graph."""
    if value.scope.parent is not None:
        raise RefusedError(
            f"{value.name} lives inside the body of a control-flow operator, where its numbers cannot be read;"
            " without data heads are chosen by their weights, or by scores that you give"
        )


def _gated(small: ModelProto, gates: Iterable[Meeting]) -> ModelProto:
    """A part in which routers choose by masked scores.

    Args:
        gates: the inputs that are masked, where their nodes are in this part.
    """
    for gate in gates:
        made = next(value.name for value in gate.node.outputs if value is not None)
        at = next((at for at, node in enumerate(small.graph.node) if made in node.output), None)
        if at is None:
            continue
        small.graph.input.append(helper.make_tensor_value_info(gate.mask, TensorProto.BOOL, None))
        out, created = gate.closing()
        small.graph.initializer.append(out)
        small.graph.node[at].input[gate.index] = gate.name
        insert_nodes(small.graph, {at: created})
    return small


def context_of(projection: Projection) -> Value:
    """The context that a projection sums over, before it is quantized."""
    value, _ = projection.context
    while value.elem_type not in FLOATS and value.producer is not None:
        if value.producer not in QUANTIZERS or value.producer.inputs[0] is None:
            break
        value = value.producer.inputs[0]
    if value.elem_type not in (*FLOATS, TensorProto.UNDEFINED):
        raise RefusedError(
            f"the context of {projection.node.label} is never a float, so its heads cannot be scored on data"
        )
    return value


class Running:
    """The inputs that reach each node."""

    def __init__(self, parts: Parts, nodes: Iterable[Node], feeds: Sequence[Feed], source: str) -> None:
        """Read the conditions of some nodes for all feeds; nothing is run where they have none."""
        names = sorted({name for node in nodes for name, _ in counts_where(node)})
        self._answers: list[dict[str, bool]] = []
        if not names:
            return
        session = parts.session({}, names)
        for feed in feeds:
            values = feed if session is None else {**feed, **run_feed(session, feed, source)}
            self._answers.append({name: bool(values[name].reshape(-1)[0]) for name in names})

    def reaches(self, feed: int, node: Node) -> bool:
        """Return whether a node that was named before runs on a feed."""
        return all(self._answers[feed][name] == answer for name, answer in counts_where(node))

    def is_reached(self, node: Node, feeds: Iterable[int]) -> bool:
        """Return whether a node runs on any of some feeds."""
        return any(self.reaches(feed, node) for feed in feeds)
