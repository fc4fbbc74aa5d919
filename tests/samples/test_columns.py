"""The columns that `inspect --json` lists are PyTorch's: of the layer that sums units up and of those before it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnxheadprune import inspect
from tests.attention.columns import positions

torch = pytest.importorskip("torch")
from tests.zoo.quiet import quiet  # noqa: E402

pytestmark = pytest.mark.samples
nn = torch.nn
WIDTH, HIDDEN, TOKENS, HEADS = 8, 12, 5, 4


class Message(nn.Module):  # type: ignore[misc, name-defined]
    """LightGlue's way: what attention says is put beside the stream, and a network reads both."""

    def __init__(self) -> None:
        super().__init__()
        self.out, self.fc1, self.fc2 = (
            nn.Linear(WIDTH, WIDTH),
            nn.Linear(2 * WIDTH, HIDDEN),
            nn.Linear(HIDDEN, WIDTH),
        )

    def forward(self, x: Any) -> Any:
        message = torch.cat([x, self.out(x)], -1)
        return x + self.fc2(torch.relu(self.fc1(message)))

    def columns(self, unit: int) -> list[Any]:
        return [self.fc1.weight[:, WIDTH + unit], self.out.weight[unit]]


class Flattened(nn.Module):  # type: ignore[misc, name-defined]
    """A feature map that a linear layer reads as one row."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv1d(WIDTH, HIDDEN, 1), nn.Linear(HIDDEN * TOKENS, 3)

    def forward(self, x: Any) -> Any:
        return self.fc(torch.relu(self.conv(x.transpose(1, 2))).flatten(1))

    def columns(self, unit: int) -> list[Any]:
        return [self.fc.weight[:, unit * TOKENS : (unit + 1) * TOKENS], self.conv.weight[unit]]


class Gated(nn.Module):  # type: ignore[misc, name-defined]
    """Gates and values in one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.both, self.down = nn.Linear(WIDTH, 2 * HIDDEN), nn.Linear(HIDDEN, WIDTH)

    def forward(self, x: Any) -> Any:
        gate, value = self.both(x).chunk(2, -1)
        return x + self.down(torch.sigmoid(gate) * value)

    def columns(self, unit: int) -> list[Any]:
        return [self.down.weight[:, unit], self.both.weight[unit], self.both.weight[HIDDEN + unit]]


class Attention(nn.Module):  # type: ignore[misc, name-defined]
    """Queries, keys and values head by head in one layer, as GPT-NeoX has them."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Any) -> Any:
        q, k, v = self.qkv(x).reshape(2, TOKENS, HEADS, -1).transpose(1, 2).chunk(3, -1)
        context = (q @ k.transpose(-1, -2)).softmax(-1) @ v
        return x + self.out(context.transpose(1, 2).reshape(2, TOKENS, WIDTH))

    def columns(self, unit: int) -> list[Any]:
        size = WIDTH // HEADS
        own = slice(3 * size * unit, 3 * size * (unit + 1))
        return [self.out.weight[:, size * unit : size * (unit + 1)], self.qkv.weight[own], self.qkv.bias[own]]


@pytest.mark.parametrize("dynamo", [False, True], ids=["torchscript", "dynamo"])
@pytest.mark.parametrize(
    ("module", "field"),
    [(Message, "feed_forward"), (Flattened, "feed_forward"), (Gated, "feed_forward"), (Attention, "sites")],
)
def test_they_are_pytorchs(module: Callable[[], Any], field: str, dynamo: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    made, path = module().eval(), tmp_path / "model.onnx"
    x = torch.randn(2, TOKENS, WIDTH)
    options = {"verbose": False} if dynamo else {"opset_version": 17}
    with quiet():
        torch.onnx.export(made, (x,), path, dynamo=dynamo, **options)
    model = onnx.load(path)
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    site = inspect(model).to_dict()[field][0]
    for unit in range(site.get("num_neurons", site.get("num_heads"))):
        listed = np.concatenate([_taken(entry, unit, stored) for entry in site["tensors"]])
        for columns in made.columns(unit):
            wanted = columns.detach().numpy().reshape(-1)
            assert np.isin(wanted, listed).all(), "what PyTorch's unit has is not listed"
        rest = np.concatenate([columns.detach().numpy().reshape(-1) for columns in made.columns(unit)])
        biases = [tensor for name, tensor in made.named_parameters() if name.endswith("bias")]
        known = np.concatenate([rest, *(tensor.detach().numpy() for tensor in biases)])
        assert np.isin(listed, known).all(), "what is listed is another unit's"


def _taken(entry: Mapping[str, Any], unit: int, stored: Mapping[str, Any]) -> Any:
    return np.take(stored[entry["tensor"]], positions(entry, unit), entry["axis"]).reshape(-1)
