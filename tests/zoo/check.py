"""Does pruning one folder of the zoo give what PyTorch says? `check(folder)` answers with a `Row`."""

from __future__ import annotations

from pathlib import Path

import onnx

from onnxheadprune.attention.masking import masked_reference
from onnxheadprune.attention.planning import Planning, analyse
from onnxheadprune.attention.sites.attention_site import AttentionSite
from onnxheadprune.edit.apply import apply_plan
from onnxheadprune.errors import RefusedError
from onnxheadprune.runtime.tolerances import tolerance_for
from tests.zoo.analysed import Analysed, told
from tests.zoo.decode import can_decode, decode_error, one_pass
from tests.zoo.folder import Folder, HeadSet, Kept, narrowed
from tests.zoo.legal import is_legal
from tests.zoo.match import match_sites
from tests.zoo.row import Outcome, Row
from tests.zoo.runs import Arrays, DifferentShapeError, Runner, distance

FINE = 1e-3
"""PyTorch's numbers alone decide up to this tolerance; coarser ones could hide a wrong head."""

ROUTED = ("gpt-oss", "mixtral", "qwen3-moe")
"""Rounded weights may send a token to another expert; with them, PyTorch's float32 numbers decide nothing."""


def check(path: Path) -> Row:
    """Prunes every head set of a folder and compares; never raises for what the engine does."""
    checked = _Check(Folder(path))
    try:
        outcome, detail = checked.run()
    except Exception as problem:  # whatever the engine or ONNX Runtime raises is the finding
        outcome, detail = Outcome.ERROR, told(problem)
    return checked.row(outcome, detail)


class _Check(Analysed):
    def __init__(self, folder: Folder) -> None:
        super().__init__(folder)
        self.gathers: set[str] = set()
        self.refusals: set[str] = set()
        self.error = 0.0
        self.steps = False

    def row(self, outcome: Outcome, detail: str) -> Row:
        case = self.folder.case
        return Row(
            case["name"],
            case["variant"],
            case["family"],
            outcome,
            self.general(self.gathers),
            self.general(self.refusals),
            detail,
            self.error,
            self.steps,
        )

    def run(self) -> tuple[Outcome, str]:
        """The outcome, and what is wrong."""
        expect = self.folder.case["expect"]
        matched = match_sites(self.sites, self.folder.projections, self.folder.weights)
        if expect == "no-site" or matched is None:
            return self._without_sites(expect)
        done = refused = 0
        for index, (name, heads) in enumerate(self.folder.head_sets.items()):
            try:
                planning = self._plan(heads, matched)
            except RefusedError as refusal:
                if expect == "exact" and not is_legal(str(refusal), heads, self.folder):
                    return Outcome.UNEXPECTED, f"{name} {heads}: {refusal}"
                self.refusals.add(str(refusal))
                refused += 1
                continue
            problem = self._compare(index, heads, planning)
            if problem:
                return Outcome.WRONG, f"{name} {heads}: {problem}"
            done += 1
        if expect == "refused" or not done:
            return (Outcome.REFUSED, "") if refused else (Outcome.UNEXPECTED, "no head set was refused")
        return (Outcome.GATHERS if self.gathers else Outcome.EXACT), ""

    def _without_sites(self, expect: str) -> tuple[Outcome, str]:
        """Where not every projection has a site: is that expected, and does the engine say why?"""
        able = [site.name for site in self.sites if site.removable]
        reasons = [site.reason.sentence for site in self.sites if site.reason is not None]
        reasons += [miss.reason.sentence for miss in self.sites.near_misses]
        self.refusals |= set(reasons)
        found = f"{len(self.sites)} sites for {len(self.folder.projections)} projections"
        if expect == "exact":
            return Outcome.UNEXPECTED, found
        if able:
            return Outcome.UNEXPECTED, f"{', '.join(able)} should not be removable"
        if expect == "no-site":
            return Outcome.NO_SITE, ""
        return (Outcome.REFUSED, "") if reasons else (Outcome.UNEXPECTED, f"{found} and no near miss")

    def _plan(self, heads: HeadSet, matched: dict[int, AttentionSite]) -> Planning:
        spec = {matched[index].index: list(gone) for index, gone in enumerate(heads) if gone}
        planning = analyse(self.folder.model, spec, self.folder.path.name)
        self.gathers |= {gather.reason for gather in planning.plan.edge_gathers}
        return planning

    def _compare(self, index: int, heads: HeadSet, planning: Planning) -> str:
        """What is wrong with one head set, "" if nothing is."""
        folder = self.folder
        model = apply_plan(planning.plan, folder.model)
        if folder.passes_checker:
            try:
                onnx.checker.check_model(model)
            except onnx.checker.ValidationError as error:
                return f"the pruned model is invalid: {str(error).strip().splitlines()[0]}"
        pruned, kept = Runner(model), folder.kept_caches(heads)
        if planning.plan.edge_gathers:  # a cache that could not be narrowed must then be whole
            kept |= folder.whole_caches(model)
        masked = self._masked(planning)
        routed = masked is not None and folder.case["name"].removesuffix("-sdpa") in ROUTED
        for feed, inputs in enumerate(folder.feeds()):
            got = pruned(narrowed(inputs, kept))
            if folder.tolerance is not None and not routed:
                want = narrowed(folder.reference(index, feed), kept)
                if problem := self._apart(got, want, folder.tolerance, f"PyTorch on feed {feed}"):
                    return problem
            if masked is not None:
                want = narrowed(masked(inputs), kept)
                limit = min(tolerance_for(planning.view).exact, folder.case["effect"][index] / 2)
                if problem := self._apart(got, want, limit, f"the masked reference on feed {feed}"):
                    return problem
        return self._decode(pruned, kept, planning)

    def _masked(self, planning: Planning) -> Runner | None:
        tolerance = self.folder.tolerance
        if tolerance is not None and tolerance <= FINE:
            return None
        return Runner(masked_reference(planning.view, planning.sites, planning.heads))

    def _decode(self, pruned: Runner, kept: Kept, planning: Planning) -> str:
        """Steps through the narrowed cache; not where activations are quantized by each feed's own range."""
        case, tolerance = self.folder.case, self.folder.tolerance
        if tolerance is None or not can_decode(case):
            return ""
        whole = self.folder.feeds()[0]
        masked = Runner(masked_reference(planning.view, planning.sites, planning.heads))
        try:
            one_pass(masked, case, whole)
        except Exception:  # an export that takes no empty cache
            return ""
        error = decode_error(pruned, masked, case, narrowed(whole, kept), whole)
        self.error = max(self.error, error)
        self.steps = True
        return "" if error <= tolerance else f"off by {error:.1e} from one pass after the decoding steps"

    def _apart(self, got: Arrays, want: Arrays, limit: float, what: str) -> str:
        try:
            error = max(distance(got[name], value, name) for name, value in want.items())
        except DifferentShapeError as problem:
            return str(problem)
        self.error = max(self.error, error)
        return "" if error <= limit else f"off by {error:.1e} from {what}"
