"""`--fuse`: rewrites the attention of every site into a fused operator, where that is exact."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from onnx import ModelProto, helper

from onnxheadprune.attention.sites.all_sites import AttentionSite, Sites
from onnxheadprune.attention.sites.core import Core
from onnxheadprune.attention.sites.find import sites_of
from onnxheadprune.edit import apply
from onnxheadprune.edit.edits import DropNode, Edit
from onnxheadprune.edit.records import record_of, write_record
from onnxheadprune.errors import RefusedError
from onnxheadprune.fusion.emit import Names
from onnxheadprune.fusion.forms import (
    GROUP_QUERY,
    MULTI_HEAD,
    MULTI_HEAD_SPREAD,
    STANDARD,
    STANDARD_PACKED,
    Fit,
    Operator,
    emit,
    fit,
)
from onnxheadprune.fusion.match import match
from onnxheadprune.fusion.result import FuseMode, Fusion, SiteFusion
from onnxheadprune.liveness.layouts import is_fused
from onnxheadprune.liveness.refusals import Refusal
from onnxheadprune.liveness.unused import settled
from onnxheadprune.model.graph.operator import opset_of
from onnxheadprune.model.graph.restated import converted_to
from onnxheadprune.model.graph.view import GraphView
from onnxheadprune.operators import view_of

OPERATORS: dict[str, tuple[tuple[Operator, ...], ...]] = {
    "contrib": ((GROUP_QUERY,), (MULTI_HEAD, MULTI_HEAD_SPREAD)),
    "onnx": ((STANDARD, STANDARD_PACKED),),
}
"""Per mode, operators in order of preference; among equals the one with the fewest nodes around it."""


def fuse(model: ModelProto, mode: FuseMode, name: str = "model") -> tuple[ModelProto, Fusion]:
    """A copy of a model whose attention runs in fused operators.

    Sites that cannot be fused exactly stay unchanged, with the reason in the result.

    Returns:
        The fused model (the model itself if nothing was fused), and what became of each site.
    """
    before = opset_of(model)
    source = _raised(model, name) if mode == "onnx" and before < ATTENTION_OPSET else model
    view = view_of(source)
    sites = sites_of(view, name)
    work = _Work(view, sites, mode)
    edits = work.run()
    fusion = Fusion(mode, tuple(work.outcome(site) for site in sites), opset_of(source), before, mode)
    if not fusion.made:
        return model, Fusion(mode, fusion.sites, before, before, mode)
    fused = apply.apply_edits(edits, source)
    if mode == "contrib":
        _import_microsoft(fused)
    write_record(fused, replace(record_of(fused), fused=fusion.record()))
    return fused, fusion


@dataclass
class _Work:
    """Fits operators to all sites, and takes back those whose attention would still be computed."""

    view: GraphView
    sites: Sites
    mode: FuseMode
    reasons: dict[int, str] = field(default_factory=dict)
    fits: dict[int, list[Fit]] = field(default_factory=dict)

    def run(self) -> list[Edit]:
        """The edits of all sites that can be fused."""
        near: set[int] = set()
        for site in self.sites:
            self._fit(site, near)
        while True:
            edits = self._edits()
            dropped = {edit.node for edit in edits if isinstance(edit, DropNode)}
            kept = [index for index, fits in self.fits.items() if not _is_gone(fits, dropped)]
            if not kept:
                return edits
            for site in self.sites:
                if site.index in kept:
                    self._retry(site, near)

    def _retry(self, site: AttentionSite, near: set[int]) -> None:
        """Something reads values in the middle of what was to go."""
        del self.fits[site.index]
        if site.index in near:
            self.reasons[site.index] = "its attention weights are used elsewhere too"
            return
        near.add(site.index)
        self._fit(site, near)

    def _fit(self, site: AttentionSite, near: set[int]) -> None:
        found: list[Fit] = []
        if all(is_fused(node) for node in site.cores):
            return
        for core in () if site.block is None else site.block.cores:
            item = self._fit_core(core, site.index in near)
            if isinstance(item, Refusal):
                self.reasons[site.index] = item.sentence
                return
            found.append(item)
        self.fits[site.index] = found

    def _fit_core(self, core: Core, near: bool) -> Fit | Refusal:
        matched = match(core)
        if isinstance(matched, Refusal):
            return matched
        refusal: Refusal | None = None
        for operators in OPERATORS[self.mode]:
            fits = [fit(matched, operator, near) for operator in operators]
            good = [item for item in fits if isinstance(item, Fit)]
            if good:
                return min(good, key=lambda item: item.cost)
            refusal = next(item for item in fits if isinstance(item, Refusal))
        assert refusal is not None
        return refusal

    def _edits(self) -> list[Edit]:
        names = Names(self.view)
        edits: dict[Edit, frozenset[str]] = {}
        by_core = sorted(
            (item.match.core.index, site.name, item)
            for site in self.sites
            for item in self.fits.get(site.index, ())
        )
        for _, name, item in by_core:
            edits |= dict.fromkeys(emit(item, names).edits, frozenset({name}))
        edits = settled(self.view, edits)
        return list(edits)

    def outcome(self, site: AttentionSite) -> SiteFusion:
        """The fused operator of a site, or the reason why there is none."""
        if site.index in self.fits:
            return SiteFusion(site.index, site.name, self.fits[site.index][0].operator.op_type)
        if site.index in self.reasons:
            return SiteFusion(site.index, site.name, reason=self.reasons[site.index])
        return SiteFusion(site.index, site.name, site.cores[0].op_type, before=True)


def _is_gone(fits: Sequence[Fit], dropped: set[str]) -> bool:
    return all(
        node.ref in dropped
        for item in fits
        for node in (item.match.core, item.match.softmax, item.match.product)
    )


ATTENTION_OPSET = 23
ATTENTION_IR = 11


def _raised(model: ModelProto, name: str) -> ModelProto:
    """The model at the first opset that has `Attention`."""
    try:
        result = converted_to(model, ATTENTION_OPSET)
    except ValueError as error:
        raise RefusedError(_sentence(model, name, str(error))) from error
    result.ir_version = max(model.ir_version, ATTENTION_IR)
    return result


def _sentence(model: ModelProto, name: str, reason: str) -> str:
    return (
        f"{name} has opset {opset_of(model)}, Attention needs {ATTENTION_OPSET}, and the opset cannot be"
        f" raised: {reason}; use `fuse=contrib`"
    )


def _import_microsoft(model: ModelProto) -> None:
    """Declare the domain of ONNX Runtime's own operators."""
    if all(item.domain != "com.microsoft" for item in model.opset_import):
        model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
