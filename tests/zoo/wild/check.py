"""Does the engine see a package's heads as the package does? `check(folder)` answers with a `WildRow`."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from pathlib import Path

from onnxheadprune.attention.planning import analyse
from onnxheadprune.attention.sites.attention_site import AttentionSite
from onnxheadprune.edit.apply import apply_plan
from onnxheadprune.errors import RefusedError
from tests.zoo.analysed import Analysed, told
from tests.zoo.folder import Folder
from tests.zoo.match import by_weight, match_sites
from tests.zoo.runs import DifferentShapeError, Runner, distance
from tests.zoo.wild.row import WildRow

NOT_BUILT = ("failed.txt", "skipped.txt", "broken.txt")


def check(path: Path) -> WildRow:
    """Compares sites with the module's and prunes every head set; never raises for what the engine does."""
    case, _, variant = path.name.rpartition(".")
    if not Folder.is_built(path):
        said = [(path / name).read_text().strip() for name in NOT_BUILT if (path / name).exists()]
        return WildRow(case, _package(path), variant, failed=said[0] if said else "not built")
    folder = Folder(path)
    empty = WildRow(case, str(folder.case["family"]), variant, expect=str(folder.case["expect"]))
    try:
        return _Check(folder, empty).run()
    except Exception as problem:  # whatever the engine or ONNX Runtime raises is the finding
        return replace(empty, detail=told(problem))


def _package(path: Path) -> str:
    """The package of a case that was not built."""
    said = path / "package.txt"
    return said.read_text().strip() if said.exists() else "?"


class _Check(Analysed):
    def __init__(self, folder: Folder, row: WildRow) -> None:
        super().__init__(folder)
        self.row = row

    @cached_property
    def cores(self) -> list[int]:
        return [i for i, projection in enumerate(self.folder.projections) if projection["tied_to"] is None]

    @cached_property
    def matched(self) -> dict[int, AttentionSite]:
        """The site of each projection that has one."""
        projections = self.folder.projections
        whole = match_sites(self.sites, projections, self.folder.weights)
        return by_weight(self.sites, self.folder.weights) if whole is None else whole

    def run(self) -> WildRow:
        """The row."""
        matched = {core: self.matched[core] for core in self.cores if core in self.matched}
        known = {site.index for site in self.matched.values()}
        left = [site for site in self.sites if site.index not in known]
        # A site that is refused may be an attention without a projection, which the case does not list.
        extra = [site for site in left if site.removable]
        reasons = {site.reason.sentence for site in self.sites if site.reason is not None}
        misses = {miss.reason.sentence for miss in self.sites.near_misses}
        counted = len(self.sites.near_misses) + len(left) - len(extra)
        compared, equal, worst, refused, wrong = self._cuts()
        detail = [f"site {site.index} ({site.name}) is no attention of the module" for site in extra]
        return replace(
            self.row,
            true=tuple(self.folder.projections[core]["num_heads"] for core in self.cores),
            found=len(matched),
            heads=tuple(matched[core].num_heads if core in matched else None for core in self.cores),
            extra=len(extra),
            compared=compared,
            equal=equal,
            refusals=self.general(reasons | refused),
            misses=self.general(misses),
            silent=max(0, len(self.cores) - len(matched) - counted),
            detail="; ".join(detail + wrong),
            error=worst,
        )

    def _cuts(self) -> tuple[int, int, float, set[str], list[str]]:
        """Cuts compared and equal, the largest error, why others were refused, and what is wrong."""
        compared = equal = 0
        worst = 0.0
        refused: set[str] = set()
        wrong: list[str] = []
        for index, (name, heads) in enumerate(self.folder.head_sets.items()):
            gone = {i for i, removed in enumerate(heads) if removed}
            if not gone <= self.matched.keys():
                continue
            # A joint set of all sites says nothing new where one of them is refused.
            if not all(self.matched[i].removable for i in gone):
                continue
            spec = {self.matched[i].index: list(heads[i]) for i in sorted(gone)}
            if any(max(spec[self.matched[i].index]) >= self.matched[i].num_heads for i in gone):
                continue
            try:
                planning = analyse(self.folder.model, spec, self.folder.path.name)
            except RefusedError as refusal:
                refused.add(str(refusal))
                continue
            compared += 1
            pruned = Runner(apply_plan(planning.plan, self.folder.model))
            error = self._apart(pruned, index)
            if error <= float(self.folder.tolerance or 0.0):
                equal, worst = equal + 1, max(worst, error)
            else:
                wrong.append(f"{name} {spec}: off by {error:.1e}")
        return compared, equal, worst, refused, wrong

    def _apart(self, pruned: Runner, head_set: int) -> float:
        errors = [0.0]
        for feed, inputs in enumerate(self.folder.feeds()):
            got = pruned(inputs)
            for name, value in self.folder.reference(head_set, feed).items():
                try:
                    errors.append(distance(got[name], value, name))
                except DifferentShapeError:
                    errors.append(float("inf"))
        return max(errors)
