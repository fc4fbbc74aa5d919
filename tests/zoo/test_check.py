"""The check itself: it must say WRONG when something is wrong."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from onnx import numpy_helper

pytest.importorskip("torch")

from onnxheadprune.edit.edits import SliceTensor
from tests.zoo.conftest import Zoo
from tests.zoo.row import EXPERTS, HEADS, LAYERS, NEURONS, TOKENS, Counts, Outcome

if TYPE_CHECKING:
    from tests.zoo.build import Original

pytestmark = pytest.mark.samples
Patch = pytest.MonkeyPatch


def patched(patch: Patch, name: str, damage: Callable[..., Any]) -> None:
    """Put a function in place of one that `check` calls; it gets that one first."""
    from tests.zoo import check

    real = getattr(check, name)
    patch.setattr(check, name, lambda *given: damage(real, *given))


def other_heads(patch: Patch) -> None:
    """PyTorch silences the neighbours of the heads, or of the groups, that are cut."""
    from tests.zoo.build import Original

    real = Original.silenced

    def silenced(self: Original, name: str, heads: Any, feed: int) -> Any:
        moved = [
            [(head + len(item.groups[0])) % item.num_heads for head in gone]
            for gone, item in zip(heads, self.case.projections, strict=True)
        ]
        return real(self, f"{name}, moved", moved, feed)

    patch.setattr(Original, "silenced", silenced)


def moved(sites: Any, heads: Any) -> Any:
    count = {site.index: site.num_heads for site in sites}
    return {index: [(head + 1) % count[index] for head in gone] for index, gone in heads.items()}


def other_mask(patch: Patch) -> None:
    patched(
        patch, "masked_reference", lambda real, view, sites, heads: real(view, sites, moved(sites, heads))
    )


def other_second_mask(patch: Patch) -> None:
    def damage(real: Any, planning: Any) -> Any:
        return real(replace(planning, heads=moved(planning.touched, planning.heads)))

    patched(patch, "SecondMask", damage)


def corrupted(patch: Patch) -> None:
    """One number of one weight is another."""

    def damage(real: Any, plan: Any, model: Any) -> Any:
        pruned = real(plan, model)
        cut = {item.edit.target for item in plan.edits if isinstance(item.edit, SliceTensor)}
        matrices = [item for item in pruned.graph.initializer if item.name in cut and len(item.dims) == 2]
        for tensor in matrices[:1]:
            array = numpy_helper.to_array(tensor).copy()
            array.flat[0] = array.flat[0] + 1.0 if array.dtype.kind == "f" else array.flat[0] ^ 0x40
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
        return pruned

    patched(patch, "apply_plan", damage)


def no_cut(patch: Patch) -> None:
    patched(patch, "apply_plan", lambda real, plan, model: model)


def other_caches(patch: Patch) -> None:
    def damage(real: Any, case: Any, heads: Any) -> Any:
        count = case.projections[0].kv_num_heads
        kept = real(case, heads)
        return {name: (axis, [(k + 1) % count for k in left]) for name, (axis, left) in kept.items()}

    patched(patch, "kept_caches", damage)


def other_units(patch: Patch) -> None:
    """The graph loses others than PyTorch: of layers the last in place of every second."""

    def damage(real: Any, sites: Any, kind: str) -> Any:
        for cut in real(sites, kind):
            units = {
                site: tuple((unit + 1) % site.num_units for unit in gone) for site, gone in cut.units.items()
            }
            if kind != LAYERS:
                yield replace(cut, units=units)
            elif cut.name == "last":
                yield replace(cut, units={sites.of(LAYERS)[0]: (0,)})

    patched(patch, "cuts_of", damage)


def other_tokens(patch: Patch) -> None:
    def damage(real: Any, *given: Any) -> Any:
        made = real(*given)
        return replace(made, kept=np.roll(made.kept, 1))

    patched(patch, "trimming", damage)


@pytest.mark.parametrize(
    ("case", "variant", "kind", "damage", "told"),
    [
        ("bert", "ts17", HEADS, other_heads, "PyTorch"),
        ("bert", "ts17half", HEADS, other_heads, "PyTorch"),
        ("vit", "dyn18", HEADS, other_heads, "PyTorch"),
        ("gpt2", "ts17+fp16", HEADS, other_heads, "PyTorch"),
        ("cache-llama-gqa", "ts17", HEADS, other_heads, "PyTorch"),
        ("bert", "ts17+int8dyn", HEADS, other_mask, "masked reference"),
        ("cache-llama-gqa", "ts17", HEADS, other_mask, "decoding steps"),
        ("hand-no-bias", "ts17", HEADS, other_second_mask, "the second mask"),
        ("bert", "ts17", HEADS, corrupted, "off by"),
        ("bert", "dyn18", NEURONS, corrupted, "off by"),
        ("bert", "ts17+int8dyn", HEADS, corrupted, "off by"),
        ("bert", "ts17+fp16", NEURONS, corrupted, "off by"),
        ("bert", "ts17", NEURONS, no_cut, "as much as before"),
        ("cache-llama-gqa", "ts17", HEADS, other_caches, "off by"),
        ("bert", "ts17", NEURONS, other_units, "PyTorch"),
        ("bert", "ts17", LAYERS, other_units, "PyTorch"),
        ("experts-all", "ts17", EXPERTS, other_units, "PyTorch"),
        ("bert", "ts17", TOKENS, other_tokens, "PyTorch"),
        ("cache-gpt2", "ts17", TOKENS, other_tokens, "PyTorch"),
    ],
)
def test_what_is_damaged_is_wrong(
    zoo: Zoo,
    monkeypatch: Patch,
    case: str,
    variant: str,
    kind: str,
    damage: Callable[[Patch], None],
    told: str,
) -> None:
    from tests.zoo.check import check

    damage(monkeypatch)
    verdict = check(zoo(case), variant, [kind]).verdicts[kind]
    assert verdict.outcome is Outcome.WRONG
    assert told in verdict.words


def test_a_crash_is_a_row(zoo: Zoo, monkeypatch: Patch) -> None:
    from tests.zoo.check import check

    def crash(*_: object) -> None:
        raise KeyError("a bug")

    patched(monkeypatch, "sites_of", crash)
    row = check(zoo("bert"), "ts17")
    assert {verdict.outcome for verdict in row.verdicts.values()} == {Outcome.ERROR}
    assert "KeyError: 'a bug' (test_check.py:" in row.verdicts[NEURONS].words


def phantom(original: Original) -> None:
    """The module says that a feed-forward layer sums up heads, too."""
    first, *_ = original.case.projections
    added = replace(first, path="model.encoder.layer.0.intermediate.dense", head_size=8)
    original.case = replace(original.case, projections=(*original.case.projections, added))


def expecting(answer: Any) -> Callable[[Original], None]:
    return lambda original: setattr(original, "case", replace(original.case, expect=answer))


def counting(**counts: Any) -> Callable[[Original], None]:
    return lambda original: setattr(original, "counts", replace(original.counts, **counts))


def without_projections(original: Original) -> None:
    original.case = replace(original.case, projections=(), expect="no-site")


@pytest.mark.parametrize(
    ("case", "change", "problems"),
    [
        ("sub-layer-norm", expecting("refused"), set()),
        ("sub-layer-norm", expecting("exact"), {HEADS}),
        ("bert", expecting("refused"), {HEADS}),
        ("bert", expecting("no-site"), {HEADS}),
        ("bert", counting(heads=(2, 4)), {"heads"}),
        ("bert", counting(kv=(4, 2)), {"kv"}),
        ("bert", counting(layers=(7,), blocks=7), {"layers", "blocks"}),
        ("bert", without_projections, {"extra"}),
        ("bert", phantom, {HEADS}),
    ],
)
def test_what_the_module_says_is_compared(
    zoo: Zoo, case: str, change: Callable[[Original], None], problems: set[str]
) -> None:
    from tests.zoo.check import check

    original = copy.copy(zoo(case))
    vars(original).update(_silenced={})
    for name in ("counts", "weights", "sets"):
        vars(original).pop(name, None)
    change(original)
    row = check(original, "ts17", [HEADS])
    assert row.problems.keys() == problems, str(row)
    assert isinstance(row.true, Counts)
