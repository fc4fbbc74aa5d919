"""An early-exit network of PyTorch, scripted with its control flow: each exit is what the shorter module gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

torch = pytest.importorskip("torch")
# PyTorch wants us to compile; what it exports then has no branches, unless they are written with torch.cond.
pytestmark = [pytest.mark.samples, pytest.mark.filterwarnings("ignore")]

from onnxheadprune import find_exits, prune, validate  # noqa: E402
from tests.zoo.families._stack import WIDTH  # noqa: E402
from tests.zoo.families.early_exit import DEPTH, EarlyExit  # noqa: E402
from tests.zoo.init import spread  # noqa: E402

BATCH, LENGTH = 2, 6


def _exported(module: torch.nn.Module, path: Path) -> Path:
    x = torch.zeros(BATCH, LENGTH, WIDTH)
    torch.onnx.export(
        torch.jit.script(module),
        (x,),
        path,
        input_names=["x"],
        output_names=["y"],
        dynamic_axes={"x": {0: "batch", 1: "sequence"}, "y": {0: "batch"}},
        opset_version=17,
        dynamo=False,
    )
    return path


class Conditional(torch.nn.Module):
    """The same network written with `torch.cond`, which is exported without a script."""

    def __init__(self) -> None:
        super().__init__()
        scripted = EarlyExit(0.6)
        self.blocks, self.exits = scripted.blocks, scripted.exits

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Runs layers until one is sure."""

        def unsure(answer: torch.Tensor) -> torch.Tensor:
            return torch.softmax(answer, -1).max() < 0.6

        def early(x: torch.Tensor, answer: torch.Tensor) -> torch.Tensor:
            return answer.clone()

        def last(x: torch.Tensor, answer: torch.Tensor) -> torch.Tensor:
            made: torch.Tensor = self.exits[2](self.blocks[2](x).mean(1))
            return made

        def second(x: torch.Tensor, answer: torch.Tensor) -> torch.Tensor:
            x = self.blocks[1](x)
            answer = self.exits[1](x.mean(1))
            made: torch.Tensor = torch.cond(unsure(answer), last, early, (x, answer))
            return made

        x = self.blocks[0](x)
        answer = self.exits[0](x.mean(1))
        made: torch.Tensor = torch.cond(unsure(answer), second, early, (x, answer))
        return made


def test_branches_of_torch_cond_are_exits(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    module = spread(Conditional()).eval()
    dims = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence")}
    program = torch.onnx.export(
        module, (torch.randn(BATCH, LENGTH, WIDTH),), dynamo=True, dynamic_shapes=(dims,), verbose=False
    )
    assert program is not None
    program.save(path)
    assert [item.heads for item in find_exits(path).exits] == [8, 4]
    result = prune(path, heads={"0": [1]}, exit=2, provider="cpu")
    assert result.validation is not None and result.validation.passed


@pytest.fixture(scope="module")
def module() -> EarlyExit:
    made = spread(EarlyExit(0.6)).eval()
    assert isinstance(made, EarlyExit)
    return made


@pytest.fixture(scope="module")
def model(module: EarlyExit, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _exported(module, tmp_path_factory.mktemp("exits") / "model.onnx")


def test_the_exits_are_found(model: Path) -> None:
    exits = find_exits(model).exits
    assert [item.number for item in exits] == list(range(1, DEPTH))
    assert [len(item.sites) for item in exits] == list(range(DEPTH - 1, 0, -1))


@pytest.mark.parametrize("number", range(1, DEPTH))
def test_an_exit_is_the_module_with_fewer_layers(module: EarlyExit, model: Path, number: int) -> None:
    result = prune(model, exit=number, provider="cpu")
    assert result.validation is not None and result.validation.passed
    x = torch.randn(BATCH, LENGTH, WIDTH, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        made = x
        for block in list(module.blocks)[:number]:
            made = block(made)
        wanted = module.exits[number - 1](made.mean(1)).numpy()
    session = onnxruntime.InferenceSession(
        result.model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (found,) = session.run(["y"], {"x": x.numpy()})
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_heads_are_chosen_on_the_samples_that_reach_them(model: Path, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    feeds = [{"x": random.standard_normal((BATCH, 12, WIDTH)).astype(np.float32)} for _ in range(24)]
    result = prune(model, tmp_path / "out.onnx", ratio=0.25, data=feeds, provider="cpu")
    assert result.validation is not None and result.validation.passed and result.validation.refitted
    assert validate(model, tmp_path / "out.onnx", data=feeds, provider="cpu").passed
