"""The only code that writes to a model: applies a plan to a copy."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, MutableSequence
from dataclasses import replace

from onnx import (
    AttributeProto,
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    helper,
    numpy_helper,
)

from onnxheadprune.edit.edits import (
    MAIN,
    AddConstant,
    DropBranchOutput,
    DropInputs,
    DropIo,
    DropNode,
    DropOutputs,
    DropTensor,
    EdgeGather,
    Edit,
    InScope,
    InsertNode,
    OnNode,
    Rename,
    SetAttribute,
    SetDim,
    SetInput,
    SetOutput,
    SetRecord,
    SliceTensor,
    scope_of,
)
from onnxheadprune.edit.nodes import as_proto
from onnxheadprune.edit.plan import PrunePlan, fingerprint
from onnxheadprune.edit.records import record_of, write_record
from onnxheadprune.edit.renaming import array_of, declared, remove_named, rename_values, settle_constants
from onnxheadprune.errors import RefusedError
from onnxheadprune.model.analysis_errors import explaining_failures
from onnxheadprune.model.bodies import graphs_in
from onnxheadprune.model.graph.operator import opset_of
from onnxheadprune.model.messages import copied, keep, replace_all
from onnxheadprune.model.storage.tensors import defer_cut, is_outside
from onnxheadprune.model.tensors import cut

NO_DEFAULTS_NEEDED = 4
"""From this version of the format on, a stored tensor need not be an input with a default as well."""


def apply_plan(plan: PrunePlan, model: ModelProto) -> ModelProto:
    """A copy of `model` with the plan carried out; everything outside the plan is bit-identical."""
    if fingerprint(model) != plan.fingerprint:
        raise RefusedError("this plan was made for another model")
    pruned = copied(model)
    with explaining_failures((model, "the model")):
        _Surgeon(pruned).operate([item.edit for item in plan.edits])
    return pruned


def apply_edits(edits: Iterable[Edit], model: ModelProto) -> ModelProto:
    """A copy of `model` with edits carried out that were made for exactly this model."""
    changed = copied(model)
    with explaining_failures((model, "the model")):
        _Surgeon(changed).operate(edits)
    return changed


class _Surgeon:
    def __init__(self, model: ModelProto) -> None:
        self.model = model
        self.opset = opset_of(model)
        self.graphs: dict[str, GraphProto] = {MAIN: model.graph}
        self.nodes: dict[str, NodeProto] = {}
        self.inserted: dict[str, list[NodeProto]] = defaultdict(list)
        self.dropped: set[str] = set()

    def operate(self, edits: Iterable[Edit]) -> None:
        edits = list(edits)
        stored = {tensor.name for tensor in self.model.graph.initializer}
        # References are positions in the original, so all of them are resolved before anything moves.
        for edit in edits:
            match edit:
                case OnNode():
                    self._node(edit.node)
                case InScope():
                    self._graph(edit.scope)
                case InsertNode():
                    self._graph(scope_of(edit.before))
        for edit in edits:
            self._apply(edit)
        for edit in edits:
            if isinstance(edit, DropTensor):
                remove_named(self._graph(edit.scope).initializer, {edit.name})
                remove_named(self._graph(edit.scope).value_info, {edit.name})
        _drop_branch_outputs(
            (self._node(edit.node), edit.index) for edit in edits if isinstance(edit, DropBranchOutput)
        )
        self._rebuild(edits)
        renamed: dict[str, dict[str, str]] = defaultdict(dict)
        for edit in edits:
            if isinstance(edit, Rename):
                renamed[edit.scope][edit.name] = edit.after
        for scope, names in renamed.items():
            rename_values(self._graph(scope), names)
        # Bodies were copied with the nodes that own them.
        for graph in graphs_in(self.model.graph) if len(self.graphs) > 1 else [self.model.graph]:
            settle_constants(graph)
        if self.model.ir_version < NO_DEFAULTS_NEEDED:
            _declare_stored(self.model.graph, stored)

    def _graph(self, ref: str) -> GraphProto:
        if ref not in self.graphs:
            owner, _, attribute = ref.rpartition(".")
            node = self._node(owner)
            self.graphs[ref] = next(item.g for item in node.attribute if item.name == attribute)
        return self.graphs[ref]

    def _node(self, ref: str) -> NodeProto:
        if ref not in self.nodes:
            scope, _, position = ref[:-1].rpartition("[")
            self.nodes[ref] = self._graph(scope).node[int(position)]
        return self.nodes[ref]

    def _apply(self, edit: Edit) -> None:
        match edit:
            case SliceTensor():
                self._slice(edit)
            case AddConstant():
                tensor = numpy_helper.from_array(array_of(edit), edit.name)
                self._graph(edit.scope).initializer.append(tensor)
            case SetInput():
                _set_at(self._node(edit.node).input, edit.index, edit.value)
            case SetOutput():
                self._node(edit.node).output[edit.index] = edit.value
            case DropInputs():
                _drop(self._node(edit.node).input, edit.indices)
            case DropOutputs():
                gone = _drop(self._node(edit.node).output, edit.indices)
                remove_named(self._graph(scope_of(edit.node)).value_info, gone)
            case SetAttribute():
                _set_attribute(self._node(edit.node), edit)
            case SetDim():
                self._set_dim(edit)
            case InsertNode():
                self.inserted[edit.before].append(as_proto(edit, self.opset))
            case DropNode():
                self.dropped.add(edit.node)
            case SetRecord():
                record = record_of(self.model)
                units = record.with_units(dict(edit.units))
                write_record(self.model, replace(record, units=units, contract=edit.contract))
            case DropIo():
                graph = self._graph(edit.scope)
                remove_named(graph.input if edit.role == "input" else graph.output, {edit.name})
            case DropTensor() | EdgeGather() | Rename() | DropBranchOutput():
                pass

    def _slice(self, edit: SliceTensor) -> None:
        graph = self._graph(edit.scope)
        tensor = _find_tensor(graph, edit.name)
        if edit.target != edit.name:
            graph.initializer.append(tensor)
            tensor = graph.initializer[-1]
            tensor.name = edit.target
        # Data that is not in memory is cut while it is copied.
        if is_outside(tensor):
            defer_cut(tensor, edit.selection)
        else:
            cut(tensor, edit.selection)

    def _set_dim(self, edit: SetDim) -> None:
        graph = self._graph(edit.scope)
        for info in declared(graph):
            dims = info.type.tensor_type.shape.dim
            # A declaration of fewer axes than the value has is no truth about it, before the cut and behind it.
            if info.name == edit.value and edit.axis < len(dims):
                dim = dims[edit.axis]
                dim.ClearField("dim_param")
                dim.ClearField("dim_value")
                if edit.dim is not None:
                    dim.dim_value = edit.dim

    def _rebuild(self, edits: list[Edit]) -> None:
        """Write node lists with insertions and without dropped nodes, innermost scopes first."""
        touched = {scope_of(ref) for ref in (*self.inserted, *self.dropped)}
        for scope in sorted(touched, key=len, reverse=True):
            graph = self._graph(scope)
            nodes: list[NodeProto] = []
            gone: set[str] = set()
            for position, node in enumerate(graph.node):
                ref = f"{scope}[{position}]"
                nodes += self.inserted.get(ref, [])
                if ref in self.dropped:
                    gone.update(node.output)
                else:
                    nodes.append(node)
            nodes += self.inserted.get(f"{scope}[{len(graph.node)}]", [])
            replace_all(graph.node, nodes)
            gone -= {edit.name for edit in edits if isinstance(edit, AddConstant)}
            remove_named(graph.value_info, gone)


def _drop_branch_outputs(outputs: Iterable[tuple[NodeProto, int]]) -> None:
    """Take outputs off nodes and their bodies, the last ones first, so that the others keep their places till then."""
    for node, index in sorted(outputs, key=lambda item: -item[1]):
        del node.output[index]
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                del attribute.g.output[index]


def _declare_stored(graph: GraphProto, before: Collection[str]) -> None:
    """Make inputs of stored tensors that are new, as old versions of the format have it."""
    declared = {info.name for info in graph.input}.union(before)
    for tensor in graph.initializer:
        if tensor.name not in declared:
            graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))


def _find_tensor(graph: GraphProto, name: str) -> TensorProto:
    tensor: TensorProto
    for tensor in graph.initializer:
        if tensor.name == name:
            return tensor
    node = next(node for node in graph.node if name in node.output)
    tensor = next(attribute.t for attribute in node.attribute if attribute.name == "value")
    return tensor


def _set_at(inputs: MutableSequence[str], index: int, name: str) -> None:
    while len(inputs) <= index:
        inputs.append("")
    inputs[index] = name


def _drop(names: MutableSequence[str], indices: Collection[int]) -> set[str]:
    gone = {names[index] for index in indices}
    replace_all(names, [name for index, name in enumerate(names) if index not in indices])
    return gone


def _set_attribute(node: NodeProto, edit: SetAttribute) -> None:
    keep(node.attribute, lambda attribute: attribute.name != edit.name)
    if edit.value is not None:
        node.attribute.append(helper.make_attribute(edit.name, edit.value))
