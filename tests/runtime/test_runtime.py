"""Execution providers are tried, not believed; sessions are quiet and clean up."""

from __future__ import annotations

import gc
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from onnxheadprune import InferenceError, ProviderError, runtime
from onnxheadprune.runtime import CPU, CUDA, Provider, Session, memory_limits, providers, session
from onnxheadprune.runtime.memory_limits import give_back
from onnxheadprune.runtime.providers import probe, resolve_provider
from tests.conftest import Outcome
from tests.graphs import toys
from tests.limits import within

FEED = {"x": np.random.default_rng(0).standard_normal((2, 3, toys.HIDDEN)).astype(np.float32)}


Pretend = Callable[..., None]


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Pretend]:
    """ONNX Runtime has the providers of a table and fails on them, or runs them on the CPU; `nvidia-smi` shows a card.

    Nothing of ours is replaced: probes run, and read why a library does not load.
    """
    program = tmp_path / "driver" / "nvidia-smi"
    program.parent.mkdir()
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    own = onnxruntime.InferenceSession

    def forget() -> None:
        providers._gpus.cache_clear()
        probe.cache_clear()

    def lets(obstacles: dict[str, str | None], card: str = "") -> None:
        class Pretended(own):  # type: ignore[misc, valid-type]
            def __init__(self, model: Any, options: Any, providers: list[Any], **more: Any) -> None:
                self.asked = next((name for name in obstacles if name in providers), None)
                if self.asked is None:
                    super().__init__(model, options, providers=providers, **more)
                    return
                obstacle = obstacles[self.asked]
                if obstacle is not None:
                    os.write(2, f"Failed to load the provider with error: {obstacle}\n".encode())
                    raise RuntimeError("the provider was not loaded")
                super().__init__(model, providers=[CPU], **more)

            def get_providers(self) -> list[str]:
                return super().get_providers() if self.asked is None else [self.asked]

        program.write_text(f"#!/bin/sh\necho '{card}'\nexit {0 if card else 9}\n", encoding="utf-8")
        program.chmod(0o755)
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [*obstacles, CPU])
        monkeypatch.setattr(onnxruntime, "InferenceSession", Pretended)
        forget()

    yield lets
    forget()


def test_auto_takes_cuda_only_if_the_probe_ran(pretend: Pretend) -> None:
    pretend({CUDA: None})
    assert resolve_provider("auto").name == CUDA
    pretend({CUDA: "libcublas.so is missing"})
    taken = resolve_provider("auto")
    assert (taken.name, taken.reason, taken.warning) == (CPU, "no GPU is visible", None)


def test_a_gpu_that_cannot_be_used_is_said_first(
    pretend: Pretend, command: Callable[..., Outcome], tmp_path: Path
) -> None:
    """With the remedy; where there is none to be seen, nobody hears of libraries."""
    onnx.save(toys.attention(), tmp_path / "toy.onnx")
    words = ("prune", tmp_path / "toy.onnx", "--heads", "0:1", "-o")
    pretend({CUDA: "libcublas.so is missing"})
    quiet = command(*words, tmp_path / "quiet.onnx")
    assert quiet.exit_code == 0, quiet.stderr
    assert "libcublas" not in quiet.stdout + quiet.stderr and "CUDA" not in quiet.stdout
    pretend({CUDA: "libcublas.so is missing"}, "NVIDIA H100, 580.1, 81559, 9.0")
    loud = command(*words, tmp_path / "loud.onnx")
    assert loud.exit_code == 0, loud.stderr
    first = " ".join(loud.stdout.split("toy.onnx:")[0].split())
    assert "NVIDIA H100 is there, but CUDA does not run: libcublas.so is missing; install" in first


def test_what_is_not_built_in_is_an_error() -> None:
    with pytest.raises(ProviderError, match=r"SpaceExecutionProvider does not run here.*built without it"):
        resolve_provider("Space")


def test_a_session_gives_outputs_by_name() -> None:
    session = Session(toys.attention(), Provider(CPU, "test"))
    assert {name: value.shape for name, value in session.run(FEED).items()} == {"y": (2, 3, toys.HIDDEN)}
    assert session.providers == (CPU,)
    assert sum(session.placement().values()) > 10


def test_errors_are_one_sentence(capfd: pytest.CaptureFixture[str]) -> None:
    session = Session(toys.attention(), Provider(CPU, "test"), name="my model")
    with pytest.raises(InferenceError, match=r"^my model does not run: ") as caught:
        session.run({"x": np.zeros((2, 3, 5), dtype=np.float32)})
    assert "\n" not in str(caught.value)
    broken = toys.attention()
    broken.graph.node[0].op_type = "NoSuchOperator"
    with pytest.raises(InferenceError, match=r"^the model does not load in ONNX Runtime: "):
        Session(broken, Provider(CPU, "test"))
    assert capfd.readouterr() == ("", "")


def test_a_silent_fallback_is_an_error() -> None:
    """ONNX Runtime itself only warns when the asked-for provider is not there."""
    with (
        pytest.warns(UserWarning, match="not in available provider names"),
        pytest.raises(ProviderError, match="fell back from CoreMLExecutionProvider to CPUExecutionProvider"),
    ):
        Session(toys.attention(), Provider("CoreMLExecutionProvider", "test"))


def test_large_models_go_through_a_file_that_is_removed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(memory_limits, "INLINE_LIMIT", 1000)
    monkeypatch.setattr(memory_limits, "MAPPED_FROM", 1000)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    model = toys.attention(extra_weight=5000)
    loaded = Session(model, Provider(CPU, "test"))
    expected = toys.attention(extra_weight=5000)
    assert model == expected
    outputs = loaded.run(FEED)["y"]
    assert any(tmp_path.iterdir())
    del loaded
    gc.collect()
    assert not any(tmp_path.iterdir())
    monkeypatch.undo()
    assert np.array_equal(outputs, Session(model, Provider(CPU, "test")).run(FEED)["y"])


@pytest.mark.slow
def test_a_crash_stays_in_its_own_process(monkeypatch: pytest.MonkeyPatch) -> None:
    provider = Provider(CPU, "test")
    broken = toys.attention()
    broken.graph.node[0].op_type = "NoSuchOperator"
    assert runtime.survives_optimization([toys.attention()], provider)
    assert runtime.survives_optimization([toys.attention(), broken], provider)
    monkeypatch.setattr(session, "_LOAD", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    assert not runtime.survives_optimization([toys.attention()], provider)


def test_threads_leave_the_streams_as_they_were(capfd: pytest.CaptureFixture[str]) -> None:
    """Each of them loads sessions, whose printing is hidden; the last one must not restore a stream of another."""
    before = sys.stdout, sys.stderr
    model = toys.attention()
    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            list(pool.map(lambda _: Session(model, Provider(CPU, "test")), range(16)))
    assert (sys.stdout, sys.stderr) == before
    sys.stdout.write("still heard\n")
    assert capfd.readouterr().out == "still heard\n"


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory cannot be reset here")
@pytest.mark.parametrize("form", ["float16", "int8", "int8, converted ahead"])
def test_weights_are_converted_when_they_are_needed(form: str) -> None:
    """Not all of them before: in float16 a decoder of 1 billion weights took 3 GB of float32 copies."""
    dtype, kind = (np.float16, TensorProto.FLOAT16) if form == "float16" else (np.int8, TensorProto.FLOAT)
    names = [f"w{at}" for at in range(12)]
    stored = [numpy_helper.from_array(np.ones((1024, 1024), dtype), name) for name in names]
    scale = numpy_helper.from_array(np.float32(0.001), "scale")
    ahead = [helper.make_node("DequantizeLinear", [name, "scale"], [f"{name}f"]) for name in names]
    read = names if form == "float16" else [f"{name}f" for name in names]
    products = [helper.make_node("MatMul", [f"x{at}", name], [f"x{at + 1}"]) for at, name in enumerate(read)]
    nodes = [node for pair in zip(ahead, products, strict=True) for node in pair]
    nodes = {"float16": products, "int8": nodes}.get(form, [*ahead, *products])
    ends = [helper.make_tensor_value_info(name, kind, [1, 1024]) for name in ("x0", "x12")]
    graph = helper.make_graph(nodes, "products", ends[:1], ends[1:], [*stored, scale])
    opsets = [helper.make_opsetid("", 17)]
    session = Session(helper.make_model(graph, opset_imports=opsets, ir_version=9), Provider(CPU, "test"))
    give_back()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = _kilobytes("VmRSS")
    session.run({"x0": np.zeros((1, 1024), helper.tensor_dtype_to_np_dtype(kind))})
    assert _kilobytes("VmHWM") - before < 4 * 2**12, "four weights in float32, of twelve"


def _kilobytes(key: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key))


def looping(trips: int) -> ModelProto:
    """A toy whose output goes through a Loop of so many turns."""
    model = toys.attention()
    flag, value = helper.make_tensor_value_info, TensorProto.FLOAT
    body = helper.make_graph(
        [helper.make_node("Identity", ["on"], ["still"]), helper.make_node("Identity", ["v"], ["w"])],
        "body",
        [flag("turn", TensorProto.INT64, []), flag("on", TensorProto.BOOL, []), flag("v", value, None)],
        [flag("still", TensorProto.BOOL, []), flag("w", value, None)],
    )
    for name, number in (("trips", np.int64(trips)), ("always", np.bool_(True))):
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(number), name))
    model.graph.node.append(helper.make_node("Loop", ["trips", "always", "y"], ["z"], body=body))
    model.graph.output[0].name = "z"
    return model


@pytest.mark.slow
def test_a_loop_that_never_ends_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "PATIENCE", 0.5)
    endless = Session(looping(2**62), resolve_provider("cpu"))
    with within(20), pytest.raises(InferenceError, match=r"takes longer than .* and it has a loop"):
        endless.run(FEED)
    quick = Session(looping(3), resolve_provider("cpu"))
    plain = Session(toys.attention(), resolve_provider("cpu"))
    monkeypatch.setattr(session, "PATIENCE", 60)
    assert np.array_equal(quick.run(FEED)["z"], plain.run(FEED)["y"])
