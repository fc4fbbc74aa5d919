"""Scores of experts: REAP by its definition, of what PyTorch's routers choose and each expert outputs."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from onnxheadprune import score  # noqa: E402
from tests.zoo.conftest import Zoo  # noqa: E402

pytestmark = pytest.mark.samples

CASES = "mixtral qwen2-moe qwen3-moe olmoe gpt-oss granite-moe deepseek-v3 glm4-moe jamba".split()


class Seen(NamedTuple):
    """Per token the chosen experts, their router weights and the norms of their outputs."""

    chosen: Any
    weights: Any
    norms: Any


def seen_by(model: Any, ids: Any) -> list[Seen]:
    """The choices of each mixture in PyTorch, with the output of every expert computed alone."""
    found, ones = [], torch.ones((ids.numel(), 1))

    def note(experts: Any, given: Any) -> None:
        tokens, chosen, weights = (item.reshape(ids.numel(), -1) for item in given[:3])
        outputs = [experts.forward(tokens, one, ones) for one in chosen.split(1, dim=1)]
        found.append(Seen(chosen, weights, torch.stack([item.norm(dim=-1) for item in outputs], dim=1)))

    mixtures = [module for module in model.modules() if type(module).__name__.endswith("Experts")]
    hooks = [module.register_forward_pre_hook(note) for module in mixtures]
    with torch.no_grad():
        model(ids, torch.ones_like(ids))
    for hook in hooks:
        hook.remove()
    return found


def defined(seen: Seen, experts: int) -> Any:
    """Scores by their definition, as shares of the mixture."""
    weights = seen.weights / seen.weights.sum(dim=1, keepdim=True)
    count, weighted = (
        torch.zeros(experts).index_add(0, seen.chosen.flatten(), each.flatten().float())
        for each in (torch.ones_like(weights), weights * seen.norms)
    )
    found = weighted / count.clamp(min=1)
    return found / found.sum()


@pytest.mark.first_case
@pytest.mark.parametrize("case", CASES)
def test_scores_are_pytorchs(zoo: Zoo, case: str) -> None:
    original = zoo(case)
    ids = torch.randint(3, 60, (12, 7), generator=torch.Generator().manual_seed(1))
    data = {"input_ids": ids.numpy(), "attention_mask": np.ones((12, 7), np.int64)}
    found = score(original.export("ts17"), method="reap", data=data, units=frozenset({"experts"})).sites
    for site, mixture in zip(found, seen_by(original.module, ids), strict=True):
        want = defined(mixture, len(site.scores))
        np.testing.assert_allclose(site.scores, want, rtol=2e-3, atol=1e-5)
