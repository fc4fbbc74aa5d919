"""Names of sites: the module path that the exporter left in node names, metadata or initializer names."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from onnxheadprune.attention.sites.projection import Projection
from onnxheadprune.model.graph.view import Node
from onnxheadprune.model.graph.walks import stored_behind

SCOPES = "pkg.torch.onnx.name_scopes"
GENERIC = re.compile(r"^(node_|n\d|val_|Mat[mM]ul|Gemm|Einsum|Conv|_|onnx::|\d)")


def named_apart(blocks: Iterable[tuple[Sequence[Projection], Sequence[Node]]], kind: str) -> list[str]:
    """One name per block, of what its nodes have in common; equal names get a running number.

    Args:
        blocks: the projections of each, and the nodes that make its units.
        kind: the name, with a number, of blocks whose nodes have no names.
    """
    names = [_name(*block) or f"{kind}_{index}" for index, block in enumerate(blocks)]
    counts = Counter(names)
    seen: Counter[str] = Counter()
    unique = []
    for name in names:
        seen[name] += 1
        unique.append(name if counts[name] == 1 else f"{name}#{seen[name]}")
    return unique


def _name(projections: Sequence[Projection], makers: Sequence[Node]) -> str:
    """The path that the known paths of all nodes begin with."""
    paths = [*(_projection_path(projection) for projection in projections), *map(module_path, makers)]
    known = [path for path in paths if path]
    if not known:
        return ""
    common = list(known[0])
    for path in known[1:]:
        length = 0
        while length < min(len(common), len(path)) and common[length] == path[length]:
            length += 1
        if length:
            common = common[:length]
    if len(known) == 1 and len(common) > 1:
        common = common[:-1]
    return ".".join(common)


def module_path(node: Node) -> list[str]:
    """The path of the module that a node came from, without the operator itself."""
    for entry in node.proto.metadata_props:
        if entry.key == SCOPES:
            scopes = [part.strip(" '\"") for part in entry.value.strip("[]").split(",")]
            modules = [scope for scope in scopes[:-1] if scope]
            return modules[-1].split(".") if modules else []
    name = node.proto.name.strip("/")
    if "/" in name:
        return [part for step in name.split("/")[:-1] for part in step.split(".")]
    if "." in name and not GENERIC.match(name):
        return name.split(".")[:-1]
    return []


def _projection_path(projection: Projection) -> list[str]:
    stored = stored_behind(projection.operand)
    weight = stored.name if stored is not None and stored.is_initializer else ""
    if "." in weight and not GENERIC.match(weight):
        return re.sub(r"\.(weight|kernel|bias)(_.*)?$", "", weight).split(".")
    return module_path(projection.node)
