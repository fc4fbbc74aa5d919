"""Attention without a softmax over all pairs."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.zoo.case import Case
from tests.zoo.families._stack import (
    HEADS,
    INNER,
    SCALE,
    SIZE,
    WIDTH,
    Block,
    linear,
    merge_heads,
    parameter,
    softmax_attention,
    split_heads,
    stacked,
)

FEATURES, PROJECTED = 12, 3


def _linear(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention with a kernel that is a plain product of the given features."""
    context = q @ (k.transpose(-1, -2) @ v)
    normalizer = q @ k.sum(-2, keepdim=True).transpose(-1, -2)
    return context / (normalizer + 1e-3)


def _elu(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Katharopoulos et al. 2020: features ``elu(x) + 1``."""
    return _linear(functional.elu(q) + 1, functional.elu(k) + 1, v)


def _relu(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """EfficientViT: ReLU features; the normaliser comes from a column of ones on the values."""
    both = q.relu() @ (k.relu().transpose(-1, -2) @ functional.pad(v, (0, 1), value=1.0))
    return both[..., :-1] / (both[..., -1:] + 1e-3)


def _einsum(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The same written with einsums."""
    q, k = q.softmax(-1), k.exp()
    normalizer = 1.0 / torch.einsum("bhnd,bhd->bhn", q, k.sum(2))
    state = torch.einsum("bhnd,bhne->bhde", k, v)
    return torch.einsum("bhde,bhnd,bhn->bhne", state, q, normalizer)


def _efficient(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Shen et al. 2021: softmax over features for queries, over positions for keys."""
    return q.softmax(-1) @ (k.softmax(-2).transpose(-1, -2) @ v)


def _sigmoid(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Ramapuram et al. 2024: an element-wise sigmoid instead of the softmax."""
    return torch.sigmoid(q @ k.transpose(-1, -2) * SCALE - 1.0) @ v


def _gated(own: Any, context: Tensor, x: Tensor) -> Tensor:
    """The context is multiplied with a sigmoid gate computed from the block's input."""
    return context * torch.sigmoid(own.gate(x))


class HeadGated(Block):
    """One gate per head and position."""

    def context(self, x: Tensor, memory: Tensor | None = None) -> Tensor:
        gate = torch.sigmoid(self.gate(x)).transpose(1, 2).unsqueeze(-1)
        return merge_heads(softmax_attention(*self.heads(x)) * gate)


def _performer(own: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Choromanski et al. 2021: positive random features, the same for all heads."""

    def lift(x: Tensor) -> Tensor:
        x = x * SIZE**-0.25
        lifted = x @ own.features.t()
        norm = x.square().sum(-1, keepdim=True) / 2
        return torch.exp(lifted - norm - lifted.amax((-1, -2), keepdim=True)) + 1e-4

    return _linear(lift(q), lift(k), v)


def _linformer(own: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Wang et al. 2020: keys and values projected along a sequence of fixed length 8, per head or alike."""
    return softmax_attention(q, own.shorten_k @ k, own.shorten_v @ v)


def _nystrom(own: Any, q: Tensor, k: Tensor, v: Tensor, coupled: bool = False) -> Tensor:
    """Xiong et al. 2021: landmarks, an iterative pseudo-inverse and a depthwise convolution.

    The published code scales the pseudo-inverse by the largest row and column sums over *all*
    heads (and samples), which couples them; ``coupled`` does that.
    """
    q, batch = q * SCALE, q.shape[0]
    q_marks, k_marks = (t.reshape(batch, HEADS, 4, 2, SIZE).mean(-2) for t in (q, k))
    first = (q @ k_marks.transpose(-1, -2)).softmax(-1)
    middle = (q_marks @ k_marks.transpose(-1, -2)).softmax(-1)
    last = (q_marks @ k.transpose(-1, -2)).softmax(-1)
    rows, columns = middle.abs().sum(-1), middle.abs().sum(-2)
    largest = rows.max() * columns.max() if coupled else (rows.amax(-1) * columns.amax(-1))[..., None, None]
    z, eye = middle.transpose(-1, -2) / largest, torch.eye(middle.shape[-1])
    for _ in range(3):
        xz = middle @ z
        z = 0.25 * z @ (13 * eye - xz @ (15 * eye - xz @ (7 * eye - xz)))
    local: Tensor = own.conv(v)
    return first @ z @ (last @ v) + local


def _channels(own: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """XCiT: attention between the channels of a head instead of between positions."""
    q, k = (functional.normalize(t.transpose(-1, -2), dim=-1) for t in (q, k))
    weights = (q @ k.transpose(-1, -2) * own.temperature).softmax(-1)
    return (weights @ v.transpose(-1, -2)).transpose(-1, -2)


def _retention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """RetNet's parallel form: scores times a decay per head, no softmax."""
    places = torch.arange(q.shape[2])
    gap = (places[:, None] - places[None]).float()
    decay = torch.log(1 - torch.exp2(-2.0 - torch.arange(HEADS).float()))
    weights = torch.where(gap >= 0, torch.exp(gap * decay[:, None, None]), 0.0)
    return (q @ k.transpose(-1, -2) * SCALE * weights) @ v


class Differential(nn.Module):
    """Ye et al. 2024: the difference of two softmax maps, with a norm per head."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k = nn.Linear(WIDTH, 2 * INNER), nn.Linear(WIDTH, 2 * INNER)
        self.v, self.out = nn.Linear(WIDTH, INNER), nn.Linear(INNER, WIDTH)
        self.norm, self.weight = nn.LayerNorm(SIZE), nn.Parameter(torch.empty(1))

    def forward(self, x: Tensor) -> Tensor:
        q, k = (split_heads(f(x), 2 * HEADS) for f in (self.q, self.k))
        maps = (q @ k.transpose(-1, -2) * SCALE).softmax(-1).unflatten(1, (HEADS, 2))
        context = self.norm((maps[:, :, 0] - self.weight * maps[:, :, 1]) @ split_heads(self.v(x)))
        return self.out(merge_heads(context))


class DepthwiseConv(nn.Module):
    """CvT / EfficientViT: depthwise convolutions on packed Q, K and V, all channel-first."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Conv1d(WIDTH, 3 * INNER, 1)
        self.local = nn.Conv1d(3 * INNER, 3 * INNER, 3, padding=1, groups=3 * INNER)
        self.mix = nn.Conv1d(3 * INNER, 3 * INNER, 1, groups=3 * HEADS)
        self.out = nn.Conv1d(INNER, WIDTH, 1)

    def forward(self, x: Tensor) -> Tensor:
        packed = self.mix(self.local(self.qkv(x.transpose(1, 2))))
        q, k, v = packed.view(x.shape[0], 3, HEADS, SIZE, x.shape[1]).unbind(1)
        weights = (q.transpose(-1, -2) @ k * SCALE).softmax(-1)
        context = (v @ weights.transpose(-1, -2)).reshape(x.shape[0], INNER, x.shape[1])
        out: Tensor = self.out(context)
        return out.transpose(1, 2)


def cases() -> list[Case]:
    def made(
        name: str, *attend: Any, make: Any = Block, note: str = "", dynamic: bool = True, **parts: Any
    ) -> Case:
        block = partial(make, *attend, **parts)
        return stacked(name, "approximate", block, note=note, dynamic=dynamic)

    fixed = partial(made, dynamic=False)
    short = {f"shorten_{name}": parameter(PROJECTED, 8) for name in "kv"}
    own = {f"shorten_{name}": parameter(HEADS, PROJECTED, 8) for name in "kv"}
    local = {"conv": partial(nn.Conv2d, HEADS, HEADS, (3, 1), padding=(1, 0), groups=HEADS, bias=False)}
    coupled = "the pseudo-inverse is scaled by a maximum over all heads"
    features = lambda: nn.Buffer(torch.randn(FEATURES, SIZE))  # noqa: E731
    return [
        made("linear-elu", _elu),
        made("linear-relu", _relu),
        made("linear-einsum", _einsum),
        made("linear-efficient", _efficient),
        made("sigmoid", _sigmoid),
        made("gated", softmax_attention, _gated, gate=linear(WIDTH, INNER)),
        made("gated-per-head", make=HeadGated, gate=linear(WIDTH, HEADS)),
        made("performer", _performer, features=features),
        fixed("linformer", _linformer, **short),
        fixed("linformer-per-head", _linformer, **own),
        fixed("nystrom", _nystrom, **local),
        fixed("nystrom-coupled", partial(_nystrom, coupled=True), note=coupled, **local),
        made("channel-attention", _channels, temperature=parameter(HEADS, 1, 1)),
        made("retention", _retention),
        made("differential", make=Differential, note="two Q/K heads per value head"),
        made("depthwise-conv", make=DepthwiseConv),
    ]
