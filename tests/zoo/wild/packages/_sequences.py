"""The family of small attention packages, ESM, torchscale, PyG, tabular transformers: sequences and sets."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from tests.zoo.wild.case import Wild, sequence
from tests.zoo.wild.rules import Heads

OUT = Heads(r"\w*Attention|LocalMHA", ("to_out",), "heads")
ROW = {"x": sequence(16, 24)}


def _of(module: str, name: str, *arguments: Any, **options: Any) -> nn.Module:
    built: nn.Module = getattr(import_module(module), name)(*arguments, **options)
    return built


class _Esm(nn.Module):
    """ESM-2 without the results that are dictionaries."""

    def __init__(self, contacts: bool) -> None:
        super().__init__()
        self.esm = _of("esm.model.esm2", "ESM2", num_layers=2, embed_dim=24, attention_heads=3)
        self.contacts = contacts

    def forward(self, ids: torch.Tensor) -> Any:
        """Runs on token ids."""
        out = self.esm(ids, repr_layers=[2], return_contacts=self.contacts)
        return (out["logits"], out["contacts"]) if self.contacts else out["representations"][2]


def _hf_esm(contacts: bool) -> nn.Module:
    module = import_module("transformers")
    config = module.EsmConfig(
        vocab_size=50,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=32,
        position_embedding_type="rotary",
        pad_token_id=1,
        mask_token_id=2,
        max_position_embeddings=32,
        attn_implementation="eager",
    )
    model = module.EsmForMaskedLM(config)
    return _Contacts(model) if contacts else model


class _Contacts(nn.Module):
    """ESM's contact prediction: a regression on all attention maps."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Runs on token ids."""
        out: torch.Tensor = self.model.predict_contacts(ids, torch.ones_like(ids))
        return out


def _retention() -> nn.Module:
    return _of(
        "torchscale.component.multihead_attention",
        "MultiheadAttention",
        SimpleNamespace(xpos_rel_pos=False, multiway=False, flash_attention=False, layernorm_eps=1e-5),
        24,
        3,
        self_attention=True,
    )


class _Three(nn.Module):
    """Calls a module with one tensor three times."""

    def __init__(self, make: Any) -> None:
        super().__init__()
        self.inner = make()

    def forward(self, x: torch.Tensor) -> Any:
        """Query, key and value are the same."""
        return self.inner(x, x, x)


def _ft(**options: Any) -> nn.Module:
    return _of(
        "rtdl_revisiting_models",
        "FTTransformer",
        n_cont_features=3,
        cat_cardinalities=[4, 5],
        d_out=2,
        n_blocks=2,
        d_block=24,
        attention_n_heads=3,
        attention_dropout=0.0,
        ffn_d_hidden=32,
        ffn_d_hidden_multiplier=None,
        ffn_dropout=0.0,
        residual_dropout=0.0,
        **options,
    )


def _case(
    name: str, package: str, make: Any, inputs: Mapping[str, torch.Tensor], *rules: Heads, **rest: Any
) -> Wild:
    prefix = {"rtdl-revisiting-models": "rtdl", "torch-geometric": "pyg", "fair-esm": "esm"}.get(
        package, package
    )
    if rest.get("expect") != "no-site":
        rules = rules or (OUT,)
    return Wild(f"{prefix}-{name}" if name else prefix, package, make, inputs, rules, **rest)
