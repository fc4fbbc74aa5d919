"""Random stacks of layers: ways to write a residual sum, norms, branches, wraps and names in all combinations.

A structure is a PyTorch model that knows its layers. `bypassed` runs it with some of them as the identity.
"""

from __future__ import annotations

import copy
import io
import math
import random
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto
from torch import Tensor, nn
from torch.nn import functional

HIDDEN, HEADS, VOCABULARY, LAYERS = 24, 3, 31, 3
Arrays: TypeAlias = dict[str, NDArray[Any]]
Context: TypeAlias = dict[str, Any]
"""Inputs of layers besides their state, and the output that one has for the others."""


class Sum(nn.Module):
    """A residual sum, written in one of many ways."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = FORMS[form]
        self.gamma = nn.Parameter(0.5 + torch.rand(HIDDEN))
        self.alpha = nn.Parameter(torch.rand(1))
        self.square = nn.Parameter(torch.randn(HIDDEN, HIDDEN) / math.sqrt(HIDDEN))
        self.low = nn.Parameter(torch.randn(HIDDEN, 6) / math.sqrt(HIDDEN))
        self.both = nn.Parameter(torch.randn(2 * HIDDEN, HIDDEN) / math.sqrt(HIDDEN))

    def forward(self, state: Tensor, added: Tensor) -> Tensor:
        return self.form(state, added.expand_as(state), self)


HALF = HIDDEN // 2
FORMS: Mapping[str, Callable[[Tensor, Tensor, Sum], Tensor]] = {
    "add": lambda x, f, _: x + f,
    "added": lambda x, f, _: f + x,
    "sub": lambda x, f, _: x - f,
    "neg": lambda x, f, _: -(-x - f),
    "mean": lambda x, f, _: torch.stack([x, f]).mean(0) * 2,
    "stacked": lambda x, f, _: torch.stack([x, f]).sum(0),
    "einsum": lambda x, f, _: torch.einsum("nbsd,n->bsd", torch.stack([x, f]), torch.tensor([1.0, 0.5])),
    "concat": lambda x, f, _: torch.cat([x.unsqueeze(-1), f.unsqueeze(-1)], -1).sum(-1),
    "scatter elements": lambda x, f, _: torch.scatter_add(x, -1, torch.arange(HIDDEN).expand(x.shape), f),
    "scatter nd": lambda x, f, _: (
        _flat(x).index_put((torch.arange(x.shape[0] * x.shape[1]),), _flat(f), accumulate=True).view(x.shape)
    ),
    "where": lambda x, f, _: torch.where(torch.arange(HIDDEN) % 4 != 3, x + f, x),
    "halves": lambda x, f, _: torch.cat([x[..., :HALF] + f[..., :HALF], x[..., HALF:] - f[..., HALF:]], -1),
    "scaled": lambda x, f, _: 0.8 * x + 0.6 * f,
    "layer scale": lambda x, f, own: x + own.gamma * f,
    "float64": lambda x, f, _: (x.double() + f.double()).float(),
    "flat": lambda x, f, _: (_flat(x) + _flat(f)).view(x.shape),
    "turned": lambda x, f, _: (x.transpose(1, 2) + f.transpose(1, 2)).transpose(1, 2),
    "factor": lambda x, f, own: x + own.alpha * f,
    "gated": lambda x, f, own: torch.lerp(x, f, torch.sigmoid(x @ own.square)),
    "lerp": lambda x, f, _: torch.lerp(x, f, 0.4),
    "clamp": lambda x, f, _: (x + f).clamp(-4, 4),
    "maximum": lambda x, f, _: torch.maximum(x, f),
    "product": lambda x, f, _: x * (1 + f),
    "linear": lambda x, f, own: torch.cat([x, f], -1) @ own.both,
    "projected": lambda x, f, own: x @ own.square + f,
    "low rank": lambda x, f, own: x @ own.low @ own.low.T + f,
}
"""Ways to write a residual sum, and some that are none."""


def _flat(x: Tensor) -> Tensor:
    return x.reshape(-1, HIDDEN)


class LayerNorm(nn.LayerNorm):
    """Without the scales of one and shifts of zero that make several in a row equal to one."""

    def __init__(self) -> None:
        super().__init__(HIDDEN)
        nn.init.normal_(self.weight, 1, 0.3)
        nn.init.normal_(self.bias, 0, 0.3)


class RMSNorm(nn.Module):
    """In single operators."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(1 + 0.3 * torch.randn(HIDDEN))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.weight


NORMS: Mapping[str, Callable[[], nn.Module]] = {
    "layer": LayerNorm,
    "rms": RMSNorm,
    "none": nn.Identity,
}
PLACES = ("pre", "post", "sandwich")


class Attention(nn.Module):
    def __init__(self, kv: int = HEADS) -> None:
        super().__init__()
        self.kv, self.size = kv, HIDDEN // HEADS
        self.q_proj, self.o_proj = nn.Linear(HIDDEN, HIDDEN), nn.Linear(HIDDEN, HIDDEN)
        self.k_proj, self.v_proj = (nn.Linear(HIDDEN, kv * self.size) for _ in range(2))

    def forward(self, x: Tensor, context: Context) -> Tensor:
        source = context.get("source", x)
        q, k, v = self.q_proj(x), self.k_proj(source), self.v_proj(source)
        if context.get("shares"):
            k, v = context.setdefault("first", (k, v))
        q, k, v = (t.unflatten(-1, (-1, self.size)).transpose(1, 2) for t in (q, k, v))
        scores = q @ k.transpose(-1, -2) / math.sqrt(self.size) + context.get("bias", 0.0)
        return self.o_proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(HIDDEN, 2 * HIDDEN), nn.Linear(2 * HIDDEN, HIDDEN)

    def forward(self, x: Tensor, _: Context) -> Tensor:
        return self.fc2(functional.gelu(self.fc1(x)))


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate_proj, self.up_proj = (nn.Linear(HIDDEN, 2 * HIDDEN, bias=False) for _ in range(2))
        self.down_proj = nn.Linear(2 * HIDDEN, HIDDEN, bias=False)

    def forward(self, x: Tensor, _: Context) -> Tensor:
        return self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))


class Parallel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn, self.mlp = Attention(), FeedForward()

    def forward(self, x: Tensor, context: Context) -> Tensor:
        return self.attn(x, context) + self.mlp(x, context)


class Convolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dw = nn.Conv1d(HIDDEN, HIDDEN, 3, padding=1, groups=HIDDEN)

    def forward(self, x: Tensor, _: Context) -> Tensor:
        return self.dw(x.transpose(1, 2)).transpose(1, 2)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(HIDDEN, HIDDEN, batch_first=True)

    def forward(self, x: Tensor, _: Context) -> Tensor:
        return self.rnn(x)[0]


class Experts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.router, self.experts = nn.Linear(HIDDEN, 2), nn.ModuleList(FeedForward() for _ in range(2))

    def forward(self, x: Tensor, context: Context) -> Tensor:
        share = self.router(x).softmax(-1)
        return sum(share[..., i, None] * expert(x, context) for i, expert in enumerate(self.experts))


class Mixer(nn.Module):
    """Mixes tokens or channels without any product of two activations."""

    def __init__(self, mix: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.mix, self.proj = mix, nn.Linear(HIDDEN, HIDDEN)

    def forward(self, x: Tensor, _: Context) -> Tensor:
        return self.mix(self.proj(x))


BRANCHES: Mapping[str, Callable[[], nn.Module]] = {
    "attn": Attention,
    "mqa": lambda: Attention(1),
    "mlp": FeedForward,
    "glu": Gated,
    "both": Parallel,
    "conv": Convolution,
    "gru": Recurrent,
    "moe": Experts,
    "mean": lambda: Mixer(lambda x: x.mean(1, keepdim=True) - x),
    "cumsum": lambda: Mixer(lambda x: x.cumsum(1) / 4),
    "shift": lambda: Mixer(lambda x: functional.pad(x, (0, 0, 1, 0))[:, :-1]),
    "sort": lambda: Mixer(lambda x: x.sort(-1).values),
}
RECIPES: Sequence[Sequence[str]] = (
    *(("attn", "mlp"), ("mqa", "glu"), ("both",), ("attn", "conv", "mlp"), ("mlp", "attn", "conv", "mlp")),
    *(("attn", "moe"), ("mean", "mlp"), ("cumsum", "glu"), ("shift", "mlp"), ("sort",), ("conv", "mlp")),
    *(("gru", "mlp"), ("mlp",), ("attn",)),
)
EXTRAS = ("", "", "positions", "time", "bias", "shared keys", "dense")
WRAPS = ("plain", "plain", "plain", "parent", "numbered", "encoder-decoder", "streams", "shared", "stages")
PATHS = ("encoder.layer", "layers", "blocks.0.blocks", "h", "model.decoder.layers")
NAMES = ("module", "weights", "none")


@dataclass(frozen=True)
class Structure:
    """One combination."""

    seed: int
    forms: tuple[str, ...]
    recipe: Sequence[str]
    norm: str
    place: str
    extra: str
    wrap: str
    path: str
    names: str
    dynamo: bool

    def __str__(self) -> str:
        parts = (self.wrap, "+".join(self.recipe), "+".join(self.forms), self.norm, self.place, self.extra)
        return "-".join(filter(None, (*parts, self.names, "dynamo" if self.dynamo else ""))).replace(" ", "_")


def structures(count: int) -> Iterator[Structure]:
    """Structures in which every way to write a sum, every recipe and every wrap occurs."""
    forms = list(FORMS)
    for seed in range(count):
        some = random.Random(seed)
        wrap, names = WRAPS[seed % len(WRAPS)], some.choice(NAMES)
        # Without names, what lies between two states may begin behind the layer that joins earlier ones.
        extras = EXTRAS if names == "module" else EXTRAS[:-1]
        yield Structure(
            seed,
            (forms[seed % len(forms)], some.choice(("add", *forms))),
            RECIPES[seed % len(RECIPES)],
            some.choice(list(NORMS)),
            some.choice(PLACES),
            some.choice(extras) if wrap == "plain" else "",
            wrap,
            some.choice(PATHS),
            names,
            some.random() < 0.2,
        )


class Step(nn.Module):
    """One residual branch with its norms, from state to state."""

    def __init__(self, structure: Structure, branch: str, form: str) -> None:
        super().__init__()
        norm = NORMS[structure.norm]
        self.before = norm() if structure.place != "post" else nn.Identity()
        self.after = norm() if structure.place == "sandwich" else nn.Identity()
        self.behind = norm() if structure.place == "post" else nn.Identity()
        self.add_module(branch, BRANCHES[branch]())
        self.kind, self.residual, self.is_bypassed = branch, Sum(form), False

    def branch(self, x: Tensor, context: Context) -> Tensor:
        return self.after(getattr(self, self.kind)(self.before(x), context))

    def forward(self, x: Tensor, context: Context) -> Tensor:
        state = self.behind(self.residual(x, self.branch(x, context)))
        return x if self.is_bypassed else state


class Added(nn.Module):
    """A step that adds what does not come from the stream: embeddings of positions, or of a time."""

    def __init__(self, extra: str) -> None:
        super().__init__()
        self.is_of_time, self.is_bypassed = extra == "time", False
        self.positions = nn.Parameter(torch.randn(8, HIDDEN))
        self.time = nn.Linear(4, HIDDEN)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        added = self.time(context["time"]).unsqueeze(1) if self.is_of_time else self.positions[: x.shape[1]]
        return x if self.is_bypassed else x + added


class Layer(nn.Module):
    """Steps, and what else a layer may do with the state."""

    def __init__(self, structure: Structure, recipe: Sequence[str], number: int) -> None:
        super().__init__()
        self.extra, self.number, self.is_bypassed = structure.extra, number, False
        forms = structure.forms
        self.steps: list[Step | Added] = [Added(self.extra)] if self.extra in ("positions", "time") else []
        self.steps += [Step(structure, kind, forms[at % len(forms)]) for at, kind in enumerate(recipe)]
        for at, step in enumerate(self.steps):
            self.add_module(f"{step.kind if isinstance(step, Step) else 'added'}_{'abcde'[at]}", step)
        self.table = nn.Parameter(torch.randn(HEADS, 8, 8))
        self.merge = nn.Linear((number + 1) * HIDDEN, HIDDEN)

    def forward(self, state: Tensor, context: Context) -> Tensor:
        x = state
        if self.extra == "bias" and "bias" not in context:  # as T5 does
            context["bias"] = self.table[:, : x.shape[1], : x.shape[1]]
        if self.extra == "dense":
            x = self.merge(torch.cat(context["states"], -1))
        for step in self.steps:
            x = step(x, context)
        return state if self.is_bypassed else x


class Joint(nn.Module):
    """Two streams and one attention."""

    def __init__(self) -> None:
        super().__init__()
        self.attn, self.norm_x, self.norm_y = Attention(), LayerNorm(), LayerNorm()
        self.mlp_x, self.mlp_y, self.is_bypassed = FeedForward(), FeedForward(), False
        self.steps: list[Step | Added] = []

    def forward(self, state: tuple[Tensor, Tensor], context: Context) -> tuple[Tensor, Tensor]:
        x, y = state
        both = self.attn(torch.cat([self.norm_x(x), self.norm_y(y)], 1), context)
        x, y = x + both[:, : x.shape[1]], y + both[:, x.shape[1] :]
        return state if self.is_bypassed else (x + self.mlp_x(x, context), y + self.mlp_y(y, context))


class Model(nn.Module):
    """A whole structure.

    Attributes:
        by_path: its layers, in order of execution.
        runs: a layer for each time that one runs: copies with the same parameters where one runs several times.
    """

    def __init__(self, structure: Structure) -> None:
        super().__init__()
        self.structure = structure
        self.word, self.norm = nn.Embedding(VOCABULARY, HIDDEN), LayerNorm()
        self.head = nn.Linear(HIDDEN, VOCABULARY)
        self.down = nn.Linear(2 * HIDDEN, HIDDEN)
        self.by_path: dict[str, Layer | Joint] = {}
        recipe, path, wrap = structure.recipe, structure.path, structure.wrap
        if wrap == "encoder-decoder":
            for stack in ("encoder", "decoder"):
                for number in range(LAYERS - 1):
                    kinds = ("attn", "attn", "mlp") if stack == "decoder" else recipe
                    self._add(f"{stack}.layers.{number}", Layer(structure, kinds, number))
        elif wrap == "numbered":  # each branch is a numbered module of its own
            for number, kind in enumerate(recipe * 2):
                self._add(f"net.{number}", Layer(structure, (kind,), number))
        else:
            for number in range(1 if wrap == "shared" else LAYERS):
                layer = Joint() if wrap == "streams" else Layer(structure, recipe, number)
                self._add(f"{path}.{number}", layer)
        self.runs, self.is_reference = list(self.by_path.values()), False
        if wrap == "shared":
            (layer,) = self.runs
            same = {id(parameter): parameter for parameter in layer.parameters()}
            self.runs = [copy.deepcopy(layer, dict(same)) for _ in range(LAYERS)]

    def _add(self, path: str, layer: Layer | Joint) -> None:
        *names, last = path.split(".")
        place: nn.Module = self
        for name in names:
            if name not in place._modules:
                place.add_module(name, nn.Module())
            place = place.get_submodule(name)
        place.add_module(last, layer)
        self.by_path[path] = layer

    def forward(self, ids: Tensor, time: Tensor) -> Tensor:
        x = self.word(ids)
        context: Context = {"time": time, "shares": self.structure.extra == "shared keys"}
        layers = self.runs if self.is_reference else list(self.by_path.values())
        if self.structure.wrap == "streams":
            state = x, self.word(ids[:, 2:])
            for layer in layers:
                state = layer(state, context)
            return self.head(state[0])
        if self.structure.wrap == "shared" and not self.is_reference:
            layers *= LAYERS
        context["states"] = [x]
        for at, layer in enumerate(layers):
            if self.structure.wrap == "encoder-decoder" and at == LAYERS - 1:
                x, context = self.word(ids[:, 2:]), {"source": x}
            if self.structure.wrap == "stages" and at == LAYERS - 1:
                x = self.down(x.unflatten(1, (-1, 2)).flatten(2))
            # Where the sum is in the parent, the layer is what is added.
            added = layer(x, context)
            x = added if self.structure.wrap != "parent" else x if layer.is_bypassed else x + added
            context.setdefault("states", []).append(x)
        return self.head(self.norm(x))

    @property
    def states(self) -> list[nn.Module]:
        """The modules between two states of the stream, in order; layers without steps as a whole."""
        return [part for layer in self.runs for part in layer.steps or [layer]]

    def without(self, parts: Collection[nn.Module], feed: Arrays) -> NDArray[Any]:
        """The output with layers or steps as the identity."""
        self.is_reference = True
        for part in parts:
            part.is_bypassed = True
        with torch.no_grad():
            output = self(*(torch.from_numpy(array) for array in feed.values()))
        self.is_reference = False
        for part in parts:
            part.is_bypassed = False
        found: NDArray[Any] = output.numpy()
        return found


def model_of(structure: Structure) -> Model:
    """The PyTorch model, with weights that let every branch matter."""
    torch.manual_seed(structure.seed)
    model = Model(structure).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter *= 1.5
    return model


def feed_of(structure: Structure) -> Arrays:
    """Inputs."""
    chance = np.random.default_rng(structure.seed)
    return {
        "ids": chance.integers(0, VOCABULARY, (2, 8)),
        "time": chance.standard_normal((2, 4)).astype(np.float32),
    }


def exported(model: Model) -> ModelProto:
    """The graph, with the names that the structure asks for."""
    file = io.BytesIO()
    inputs = tuple(torch.from_numpy(array) for array in feed_of(model.structure).values())
    names: dict[str, Any] = {"input_names": ["ids", "time"], "output_names": ["logits"]}
    if model.structure.dynamo:
        program = torch.onnx.export(copy.deepcopy(model), inputs, dynamo=True, verbose=False, **names)
        assert program is not None
        graph = program.model_proto
    else:
        torch.onnx.export(copy.deepcopy(model), inputs, file, dynamo=False, opset_version=17, **names)
        graph = onnx.load_from_string(file.getvalue())
    if model.structure.names != "module":
        _rename(graph.graph, keep_weights=model.structure.names == "weights")
    return graph


def _rename(graph: GraphProto, keep_weights: bool) -> None:
    """Replaces names by numbers, those of inputs and outputs excepted."""
    kept = {item.name for item in (*graph.input, *graph.output)} | {""}
    kept |= {tensor.name for tensor in graph.initializer} if keep_weights else set()
    new: dict[str, str] = {}

    def name(old: str) -> str:
        return old if old in kept else new.setdefault(old, f"v{len(new)}")

    del graph.value_info[:]
    for tensor in graph.initializer:
        tensor.name = name(tensor.name)
    for node in graph.node:
        node.name = node.doc_string = ""
        del node.metadata_props[:]
        node.input[:], node.output[:] = map(name, node.input), map(name, node.output)
