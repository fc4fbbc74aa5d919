"""Experts removed from exported mixtures of transformers, against PyTorch with the router masked.

The oracle knows nothing of graphs: in PyTorch each router's scores of removed experts are minus infinity where they are
compared, in `softmax`, `topk` and `max`, while its own layer runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import onnxheadprune as ohp
from onnxheadprune import inspect
from tests.liveness.one_node import run
from tests.zoo.quiet import quiet

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
from torch.overrides import TorchFunctionMode  # noqa: E402

pytestmark = pytest.mark.samples

SIZES = {
    "vocab_size": 40,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 24,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "num_experts_per_tok": 2,
    "use_cache": False,
}
WIDTH = {"moe_intermediate_size": 24}
SHARED = WIDTH | {"n_shared_experts": 1, "first_k_dense_replace": 1}
LATENT = {
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "num_key_value_heads": 4,
}
GROUPS = {"n_routed_experts": 8, "n_group": 2, "topk_group": 1}
JAMBA = {"expert_layer_period": 1, "expert_layer_offset": 0, "attn_layer_period": 1, "attn_layer_offset": 0}
MODELS: dict[str, tuple[str, Mapping[str, Any], Sequence[Sequence[int]]]] = {
    "mixtral": ("Mixtral", {"num_local_experts": 6}, ([1, 4], [0, 2, 5])),
    "qwen2-moe": (
        "Qwen2Moe",
        WIDTH | {"num_experts": 6, "shared_expert_intermediate_size": 24},
        ([0], [1, 2, 3, 5]),
    ),
    "qwen3-moe": ("Qwen3Moe", WIDTH | {"num_experts": 6, "norm_topk_prob": True}, ([3, 5], [2])),
    "olmoe": ("Olmoe", {"num_experts": 6}, ([0, 1, 2, 3], [4])),
    "gpt-oss": ("GptOss", {"num_local_experts": 6}, ([1, 5], [0, 3])),
    "granite-moe": ("GraniteMoe", {"num_local_experts": 6}, ([2, 4], [1, 2, 3])),
    "deepseek-v3": ("DeepseekV3", SHARED | LATENT | GROUPS, ([0, 3, 4, 6],)),
    "glm4-moe": ("Glm4Moe", SHARED | {"n_routed_experts": 6, "n_group": 1, "topk_group": 1}, ([1, 2, 4],)),
    "jamba": ("Jamba", JAMBA | {"num_experts": 6, "use_mamba_kernels": False}, ([5], [0, 1])),
}
"""Per model its class, its configuration, and the experts that each mixture loses."""


def _built(name: str) -> Any:
    torch.manual_seed(0)
    stem, options, _ = MODELS[name]
    made = getattr(transformers, f"{stem}Config")(**SIZES | options)
    made._attn_implementation, made._experts_implementation = "eager", "batched_mm"
    model = getattr(transformers, f"{stem}ForCausalLM")(made).eval().float()
    for key, value in (*model.named_parameters(), *model.named_buffers()):
        if value.is_floating_point() and (value.dim() > 1 or "bias" in key):
            torch.nn.init.normal_(value, std=0.15)
    return model


class _Masked(TorchFunctionMode):
    """Scores of some experts are minus infinity wherever a router compares them."""

    def __init__(self, gone: Sequence[Sequence[int]]) -> None:
        super().__init__()
        self.waiting, self.experts = list(gone), 0
        self.out: Sequence[int] = ()

    def within(self, router: Any) -> None:
        """Masks what the next mixture compares while its router runs."""

        def begin(module: Any, _: Any) -> None:
            self.out = self.waiting.pop(0)
            self.experts = next(value.shape[0] for value in module.parameters() if value.dim() == 2)

        def end(*_: Any) -> None:
            self.out = ()

        router.register_forward_pre_hook(begin)
        router.register_forward_hook(end)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Passes on what is called."""
        if self.out and func.__name__ in ("topk", "softmax", "max"):
            scores = args[0]
            size = scores.shape[-1] * (scores.shape[-2] if scores.dim() == 3 else 1)
            size = self.experts if scores.shape[-1] == self.experts else size
            if size == self.experts:
                flat = scores.reshape(-1, size).clone()
                flat[:, list(self.out)] = -torch.inf
                args = (flat.reshape(scores.shape), *args[1:])
        return func(*args, **(kwargs or {}))


class _Logits(torch.nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Any, attention_mask: Any) -> Any:
        """Runs it without a cache."""
        return self.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).logits


def _exported(model: Any, path: Path, dynamo: bool) -> None:
    ids = torch.ones((2, 5), dtype=torch.int64)
    names = ["input_ids", "attention_mask"]
    axes = {0: "batch", 1: "sequence"}
    rest: dict[str, Any] = {"dynamic_axes": dict.fromkeys((*names, "logits"), axes), "opset_version": 17}
    if dynamo:
        dims = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence")}
        rest = {"dynamic_shapes": dict.fromkeys(names, dims), "opset_version": 18, "external_data": False}
    with quiet():
        torch.onnx.export(
            _Logits(model),
            (ids, ids.clone()),
            path,
            dynamo=dynamo,
            input_names=names,
            output_names=["logits"],
            **rest,
        )


CASES = [(name, False) for name in MODELS] + [("deepseek-v3", True)]


@pytest.mark.parametrize(("name", "dynamo"), CASES, ids=[f"{name}{'.dynamo' * new}" for name, new in CASES])
def test_it_is_pytorch_with_the_router_masked(name: str, dynamo: bool, tmp_path: Path) -> None:
    model, gone, path = _built(name), MODELS[name][2], tmp_path / "model.onnx"
    _exported(model, path, dynamo)
    mixtures = inspect(path).of("experts")
    assert [site.reason for site in mixtures] == [None] * len(gone)
    made = ohp.prune(
        path, heads={site.key: out for site, out in zip(mixtures, gone, strict=True)}, provider="cpu"
    )
    assert made.validation is not None and made.validation.verdict == "passed"
    assert made.plan.edge_gathers == ()
    ids = torch.randint(1, 40, (3, 7))
    feed = {"input_ids": ids.numpy(), "attention_mask": np.ones((3, 7), np.int64)}
    masked = _Masked(gone)
    with torch.no_grad():
        whole = _Logits(model)(ids, torch.ones_like(ids)).numpy()
        for module in [item for item in model.modules() if type(item).__name__.endswith("Router")]:
            masked.within(module)
        with masked:
            want = _Logits(model)(ids, torch.ones_like(ids)).numpy()
    assert not masked.waiting
    np.testing.assert_allclose(run(made.model, feed)["logits"], want, atol=1e-4)
    assert np.abs(want - whole).max() > 1e-3


class _Seen(NamedTuple):
    """Per token the chosen experts, their router weights and the norms of their outputs."""

    chosen: Any
    weights: Any
    norms: Any


def _seen(model: Any, ids: Any) -> list[_Seen]:
    """The choices of each mixture in PyTorch, with the output of every expert computed alone."""
    found, ones = [], torch.ones((ids.numel(), 1))

    def note(experts: Any, given: Any) -> None:
        tokens, chosen, weights = given[:3]
        tokens, chosen, weights = (item.reshape(ids.numel(), -1) for item in (tokens, chosen, weights))
        outputs = [experts.forward(tokens, one, ones) for one in chosen.split(1, dim=1)]
        found.append(_Seen(chosen, weights, torch.stack([item.norm(dim=-1) for item in outputs], dim=1)))

    hooks = [
        module.register_forward_pre_hook(note)
        for module in model.modules()
        if type(module).__name__.endswith("Experts")
    ]
    with torch.no_grad():
        _Logits(model)(ids, torch.ones_like(ids))
    for hook in hooks:
        hook.remove()
    return found


def _defined(seen: _Seen, experts: int) -> Any:
    """Scores by their definition, as shares of the mixture."""
    weights = seen.weights / seen.weights.sum(dim=1, keepdim=True)
    count, weighted = (
        torch.zeros(experts).index_add(0, seen.chosen.flatten(), each.flatten().float())
        for each in (torch.ones_like(weights), weights * seen.norms)
    )
    found = weighted / count.clamp(min=1)
    return found / found.sum()


@pytest.mark.parametrize("name", MODELS)
def test_scores_are_pytorchs(name: str, tmp_path: Path) -> None:
    model, path = _built(name), tmp_path / "model.onnx"
    _exported(model, path, False)
    ids = torch.randint(1, 40, (12, 7))
    data = {"input_ids": ids.numpy(), "attention_mask": np.ones((12, 7), np.int64)}
    seen = _seen(model, ids)
    found = ohp.score(path, method="reap", data=data, units=frozenset({"experts"})).sites
    for site, mixture in zip(found, seen, strict=True):
        want = _defined(mixture, len(site.scores))
        np.testing.assert_allclose(site.scores, want, rtol=2e-3, atol=1e-5)
