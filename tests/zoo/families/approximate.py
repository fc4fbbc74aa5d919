"""Attention without a softmax over all pairs."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from tests.zoo.case import Case
from tests.zoo.families._stack import (
    HEADS,
    INNER,
    SCALE,
    SIZE,
    WIDTH,
    Block,
    merge_heads,
    softmax_attention,
    split_heads,
    stacked,
)

FEATURES = 12
PROJECTED = 3


def _linear(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Attention with a kernel that is a plain product of the given features."""
    context = q @ (k.transpose(-1, -2) @ v)
    normalizer = q @ k.sum(-2, keepdim=True).transpose(-1, -2)
    return context / (normalizer + 1e-3)


class LinearElu(Block):
    """Katharopoulos et al. 2020: features ``elu(x) + 1``."""

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return _linear(nn.functional.elu(q) + 1, nn.functional.elu(k) + 1, v)


class LinearRelu(Block):
    """EfficientViT: ReLU features; the normaliser comes from a column of ones on the values."""

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        padded = nn.functional.pad(v, (0, 1), value=1.0)
        both = q.relu() @ (k.relu().transpose(-1, -2) @ padded)
        return both[..., :-1] / (both[..., -1:] + 1e-3)


class LinearEinsum(Block):
    """The same written with einsums."""

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        q, k = q.softmax(-1), k.exp()
        normalizer = 1.0 / torch.einsum("bhnd,bhd->bhn", q, k.sum(2))
        state = torch.einsum("bhnd,bhne->bhde", k, v)
        return torch.einsum("bhde,bhnd,bhn->bhne", state, q, normalizer)


class Efficient(Block):
    """Shen et al. 2021: softmax over features for queries, over positions for keys."""

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return q.softmax(-1) @ (k.softmax(-2).transpose(-1, -2) @ v)


class Sigmoid(Block):
    """Ramapuram et al. 2024: an element-wise sigmoid instead of the softmax."""

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(q @ k.transpose(-1, -2) * SCALE - 1.0) @ v


class Gated(Block):
    """The context is multiplied with a sigmoid gate computed from the block's input."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(WIDTH, INNER)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.context(x) * torch.sigmoid(self.gate(x)))


class HeadGated(Block):
    """One gate per head and position."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(WIDTH, HEADS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate = torch.sigmoid(self.gate(x)).transpose(1, 2).unsqueeze(-1)
        return self.out(merge_heads(self.attend(*self.heads(x)) * gate))


class Performer(Block):
    """Choromanski et al. 2021: positive random features, the same for all heads."""

    features: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("features", torch.randn(FEATURES, SIZE))

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return _linear(self._lift(q), self._lift(k), v)

    def _lift(self, x: torch.Tensor) -> torch.Tensor:
        x = x * SIZE**-0.25
        lifted = x @ self.features.t()
        norm = x.square().sum(-1, keepdim=True) / 2
        return torch.exp(lifted - norm - lifted.amax((-1, -2), keepdim=True)) + 1e-4


class Linformer(Block):
    """Wang et al. 2020: keys and values projected along a sequence of fixed length 8.

    ``per_head`` gives each head its own projection.
    """

    def __init__(self, per_head: bool = False) -> None:
        super().__init__()
        lead = (HEADS,) if per_head else ()
        self.shorten_k = nn.Parameter(torch.empty(*lead, PROJECTED, 8))
        self.shorten_v = nn.Parameter(torch.empty(*lead, PROJECTED, 8))

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return softmax_attention(q, self.shorten_k @ k, self.shorten_v @ v)


class Nystrom(Block):
    """Xiong et al. 2021: landmarks, an iterative pseudo-inverse and a depthwise convolution.

    The published code scales the pseudo-inverse by the largest row and column sums over *all*
    heads (and samples), which couples them; ``coupled`` does that.
    """

    def __init__(self, coupled: bool = False) -> None:
        super().__init__()
        self.coupled = coupled
        self.conv = nn.Conv2d(HEADS, HEADS, (3, 1), padding=(1, 0), groups=HEADS, bias=False)

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        q = q * SCALE
        batch = q.shape[0]
        q_marks = q.reshape(batch, HEADS, 4, 2, SIZE).mean(-2)
        k_marks = k.reshape(batch, HEADS, 4, 2, SIZE).mean(-2)
        first = (q @ k_marks.transpose(-1, -2)).softmax(-1)
        middle = (q_marks @ k_marks.transpose(-1, -2)).softmax(-1)
        last = (q_marks @ k.transpose(-1, -2)).softmax(-1)
        context = first @ self._inverse(middle) @ (last @ v)
        local: torch.Tensor = self.conv(v)
        return context + local

    def _inverse(self, x: torch.Tensor) -> torch.Tensor:
        rows, columns = x.abs().sum(-1), x.abs().sum(-2)
        if self.coupled:
            z = x.transpose(-1, -2) / (rows.max() * columns.max())
        else:
            z = x.transpose(-1, -2) / (rows.amax(-1) * columns.amax(-1))[..., None, None]
        eye = torch.eye(x.shape[-1])
        for _ in range(3):
            xz = x @ z
            z = 0.25 * z @ (13 * eye - xz @ (15 * eye - xz @ (7 * eye - xz)))
        return z


class ChannelAttention(Block):
    """XCiT: attention between the channels of a head instead of between positions."""

    def __init__(self) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.empty(HEADS, 1, 1))

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        q, k = (nn.functional.normalize(t.transpose(-1, -2), dim=-1) for t in (q, k))
        weights = (q @ k.transpose(-1, -2) * self.temperature).softmax(-1)
        return (weights @ v.transpose(-1, -2)).transpose(-1, -2)


class MaskedLinear(Block):
    """RetNet's parallel form: scores times a decay per head, no softmax."""

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
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
        self.v = nn.Linear(WIDTH, INNER)
        self.norm = nn.LayerNorm(SIZE)
        self.weight = nn.Parameter(torch.empty(1))
        self.out = nn.Linear(INNER, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k = (split_heads(f(x), 2 * HEADS) for f in (self.q, self.k))
        v = split_heads(self.v(x))
        maps = (q @ k.transpose(-1, -2) * SCALE).softmax(-1)
        maps = maps.unflatten(1, (HEADS, 2))
        context = self.norm((maps[:, :, 0] - self.weight * maps[:, :, 1]) @ v)
        return self.out(merge_heads(context))


class DepthwiseConv(nn.Module):
    """CvT / EfficientViT: depthwise convolutions on packed Q, K and V, all channel-first."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Conv1d(WIDTH, 3 * INNER, 1)
        self.local = nn.Conv1d(3 * INNER, 3 * INNER, 3, padding=1, groups=3 * INNER)
        self.mix = nn.Conv1d(3 * INNER, 3 * INNER, 1, groups=3 * HEADS)
        self.out = nn.Conv1d(INNER, WIDTH, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        packed = self.mix(self.local(self.qkv(x.transpose(1, 2))))
        q, k, v = packed.view(x.shape[0], 3, HEADS, SIZE, x.shape[1]).unbind(1)
        weights = (q.transpose(-1, -2) @ k * SCALE).softmax(-1)
        context = (v @ weights.transpose(-1, -2)).reshape(x.shape[0], INNER, x.shape[1])
        out: torch.Tensor = self.out(context)
        return out.transpose(1, 2)


def cases() -> list[Case]:
    made = partial(stacked, family="approximate")
    fixed = partial(made, dynamic=False)
    coupled = "the pseudo-inverse is scaled by a maximum over all heads"
    return [
        made("linear-elu", make=LinearElu),
        made("linear-relu", make=LinearRelu),
        made("linear-einsum", make=LinearEinsum),
        made("linear-efficient", make=Efficient),
        made("sigmoid", make=Sigmoid),
        made("gated", make=Gated),
        made("gated-per-head", make=HeadGated),
        made("performer", make=Performer),
        fixed("linformer", make=Linformer),
        fixed("linformer-per-head", make=partial(Linformer, True)),
        fixed("nystrom", make=Nystrom),
        fixed("nystrom-coupled", make=partial(Nystrom, True), note=coupled),
        made("channel-attention", make=ChannelAttention),
        made("retention", make=MaskedLinear),
        made("differential", make=Differential, note="two Q/K heads per value head"),
        made("depthwise-conv", make=DepthwiseConv),
    ]
