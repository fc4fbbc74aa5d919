"""`bench`: what it measures, what it says about it, and what it refuses to compare."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest

from onnxheadprune import Benchmark, InferenceError, ProviderError, UsageError, bench, plot_latency, prune
from onnxheadprune.benchmarking import entry, measure, runner
from onnxheadprune.benchmarking.measure import Series, measure_round, warm_up
from onnxheadprune.reporting.pictures import save_figure
from onnxheadprune.runtime import CPU, CUDA, Provider, bound
from onnxheadprune.runtime import session as session_module
from onnxheadprune.runtime.bound import BoundOptions, BoundSession
from onnxheadprune.runtime.memory import footprint, kernels_in
from onnxheadprune.settings.measuring import Timing
from tests.clocks import patient
from tests.conftest import Command
from tests.graph_builder import GraphBuilder
from tests.graphs import toys

QUICK: dict[str, Any] = {"provider": "cpu", "repeats": 5, "memory": False, "threads": 1}
"""One thread: test workers share the cores."""
SHORT = ("--repeats", 5, "--threads", 1, "--provider", "cpu")


@pytest.fixture(autouse=True)
def short_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asserted of real models are counts, names and factors, not how narrow intervals are."""
    monkeypatch.setattr(measure, "SLICE", 0.002)


@pytest.fixture
def smaller(digits: Path, tmp_path: Path) -> Path:
    path = tmp_path / "smaller.onnx"
    prune(digits, path, heads="1:1,3,6 2:0-3,5,6 3:0-2,4-7", validate=False)
    return path


class Clock:
    """A clock that only models move."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Fake:
    """A model that takes what it is told to take."""

    def __init__(self, clock: Clock, *seconds: float) -> None:
        self.clock, self.seconds, self.calls = clock, list(seconds), 0

    def run(self) -> None:
        self.clock.now += self.seconds[min(self.calls, len(self.seconds) - 1)]
        self.calls += 1


# The measuring itself


def test_a_warm_up_ends_when_the_median_settles() -> None:
    clock = Clock()
    slow_start = Fake(clock, 0.09, *[0.09] * measure.WINDOW, *[0.05] * measure.WINDOW, 0.02)
    assert warm_up(slow_start, clock) == (pytest.approx(0.02), True)
    assert slow_start.calls == 1 + 4 * measure.WINDOW


def test_slow_models_warm_up_in_few_runs() -> None:
    clock = Clock()
    slow = Fake(clock, 3.0, 2.0, 2.0)
    assert warm_up(slow, clock) == (2.0, True)
    assert slow.calls == 3


def test_a_warm_up_that_does_not_settle_ends_too() -> None:
    clock = Clock()
    faster_and_faster = Fake(clock, *(0.09 * 0.98**run for run in range(1000)))
    assert warm_up(faster_and_faster, clock)[1] is False


def test_models_take_turns() -> None:
    clock = Clock()
    fakes = [Fake(clock, 0.02), Fake(clock, 0.01), Fake(clock, 0.02)]
    series = [Series() for _ in fakes]
    order: list[int] = []
    for index, fake in enumerate(fakes):
        original = fake.run

        def run(original: Callable[[], None] = original, index: int = index) -> None:
            order.append(index)
            original()

        fake.run = run  # type: ignore[method-assign]
    measure_round(fakes, series, Timing(repeats=40), np.random.default_rng(0), clock)
    assert [len(item.blocks[0]) for item in series] == [8, 8, 8]
    assert [np.median(item.blocks[0]) for item in series] == pytest.approx([0.02, 0.01, 0.02])
    turns = [tuple(order[start : start + 3]) for start in range(len(order) - 24, len(order), 3)]
    assert all(sorted(turn) == [0, 1, 2] for turn in turns)
    assert len(set(turns)) > 1


def test_time_ends_a_round() -> None:
    clock = Clock()
    series = [Series(), Series()]
    measure_round(
        [Fake(clock, 0.1), Fake(clock, 0.1)], series, Timing(time_budget=10), np.random.default_rng(0), clock
    )
    assert 9 <= len(series[0].blocks[0]) <= 11


# Results


@pytest.mark.slow
def test_a_benchmark_tells_what_it_measured(digits: Path, smaller: Path) -> None:
    said: list[str] = []
    result = bench(digits, smaller, batch=[1, 4], progress=lambda what, *_: said.append(what), **QUICK)
    assert said[0] == "measuring: round 1 of 5, batch 1" and len(said) == 10
    assert [point.batch for point in result.points] == [1, 4]
    assert len(result.cells) == 4 and len(result.noise) == 2
    assert [facts.comparable for facts in result.models] == [True, True]
    assert result.models[0].params > result.models[1].params
    assert result.models[0].file_bytes == digits.stat().st_size
    assert result.models[0].operators["LayerNormalization"] == 9
    assert result.models[0].placement.keys() == {CPU}
    for cell in result.cells:
        latency = cell.latency
        assert 0 < latency.p50 <= latency.p90 <= latency.p99
        assert latency.low <= latency.high
        assert latency.throughput == pytest.approx(cell.point.batch / latency.p50)
        assert cell.flops.attention_share is not None and 0.3 < cell.flops.attention_share < 0.6
    compared = result.cells_of(1)[0].comparison
    assert compared is not None and compared.bound is not None
    flops = [result.cells_of(index)[0].flops.total for index in (0, 1)]
    assert compared.bound == pytest.approx(flops[0] / flops[1])
    assert compared.reached == pytest.approx(compared.speedup / compared.bound)
    document = json.loads(json.dumps(result.to_dict()))
    assert set(document["verdicts"]) == {"1"}


@pytest.mark.slow
def test_one_model_alone_is_measured_too(digits: Path) -> None:
    result = bench(digits, batch=[2], **QUICK)
    assert len(result.cells) == 1 and result.cells[0].comparison is None


@pytest.mark.slow
def test_models_may_come_from_memory() -> None:
    model = toys.attention()
    result = bench(model, model, batch=[1], seq=[4], min_speedup=50, **QUICK)
    assert not result.passed and [gate.limit for gate in result.gates] == [50]
    assert "rejected" in str(result)
    with pytest.raises(UsageError, match="min_speedup= requires a second model"):
        bench(model, batch=[1], seq=[4], min_speedup=50, **QUICK)
    assert result.models[0].name == "toy"
    assert result.models[0].file_bytes > 0


@pytest.mark.slow
@patient
def test_a_much_smaller_model_is_faster() -> None:
    heavy, light = toys.attention(hidden=64, heads=16), toys.attention(hidden=64, heads=1)
    result = bench(heavy, light, batch=[8], seq=[64], provider="cpu", time_budget=1, memory=False, threads=1)
    assert result.verdict(1) == "faster"
    assert result.guaranteed(1) > 1.2
    assert [gate.passed for gate in result.limited(1.5)] == [True]
    assert [gate.passed for gate in result.limited(100)] == [False]
    slower = bench(light, heavy, batch=[8], seq=[64], provider="cpu", time_budget=1, memory=False, threads=1)
    assert slower.verdict(1) == "slower"


# The grid


@pytest.mark.slow
def test_decode_steps_have_a_cache_and_one_token() -> None:
    model = toys.attention(cache=True)
    smaller = prune(model, heads="0:1", validate=False).model
    result = bench(model, smaller, batch=[2], seq=[6], past=[5, 9], **QUICK)
    assert [(point.seq, point.past) for point in result.points] == [(6, 0), (1, 5), (1, 9)]
    assert [point.seq == 1 and bool(point.past) for point in result.points] == [False, True, True]
    assert result.points[2].label == "batch 2, 1 token after 9"


@pytest.mark.slow
def test_a_cache_alone_means_decode_steps_alone() -> None:
    result = bench(toys.attention(cache=True), batch=[1], past=[3], **QUICK)
    assert [(point.seq, point.past) for point in result.points] == [(1, 3)]


@pytest.mark.slow
def test_sizes_are_chosen_so_that_the_model_runs(tiny: Path) -> None:
    """Its position table has fewer rows than the usual 128."""
    result = bench(tiny / "bert-torchscript-eager.onnx", batch=[1], **QUICK)
    assert result.points[0].seq in (64, 32, 16, 8)
    with pytest.raises(InferenceError, match="does not run"):
        bench(tiny / "bert-torchscript-eager.onnx", batch=[1], seq=[100000], **QUICK)


def test_dims_win_over_roles() -> None:
    result = bench(toys.attention(), batch=[2], dims={"sequence": 11}, **QUICK)
    width = toys.HEADS * toys.HEAD_SIZE
    projections, core = 4 * 2 * 2 * 11 * toys.HIDDEN * width, 2 * 2 * 2 * 11 * 11 * width
    assert result.cells[0].flops.total == projections + core


# What is not comparable


@pytest.mark.slow
def test_fused_and_unfused_are_not_comparable(digits: Path, tmp_path: Path) -> None:
    """Gelu of one block is written so that ONNX Runtime no longer recognises it."""
    model = onnx.load(digits)
    erf = next(node for node in model.graph.node if node.op_type == "Erf")
    erf.op_type = "Tanh"
    other = tmp_path / "other.onnx"
    onnx.save(model, other)
    facts = bench(digits, other, batch=[1], **QUICK).models[1]
    assert not facts.comparable
    (difference,) = facts.differences
    assert "4 com.microsoft:BiasGelu in the first model and 3 in this one" in difference


@pytest.mark.slow
def test_a_site_that_is_gone_takes_its_fused_operators_along(digits: Path, tmp_path: Path) -> None:
    path = tmp_path / "gone.onnx"
    prune(digits, path, heads="1:0-7", validate=False)
    assert bench(digits, path, batch=[1], **QUICK).models[1].comparable


def test_other_places_are_not_comparable() -> None:
    both = {CUDA: 90, CPU: 4}
    assert not entry.differences({}, {}, both, both)
    assert "9 nodes landed on the CPU" in entry.differences({}, {}, both, {CUDA: 85, CPU: 9})[0]
    assert "those of this one on CPU and CUDA" in entry.differences({}, {}, {CUDA: 90}, both)[0]


class Pretending:
    """A session that says it runs on CUDA and runs on the CPU.

    Args:
        session: the real one.
        placed: what it says where its nodes are.
    """

    def __init__(self, session: Any, placed: str) -> None:
        self._session, self._placed = session, placed

    def get_providers(self) -> list[str]:
        return [CUDA, CPU]

    def get_provider_graph_assignment_info(self) -> list[Any]:
        parts = self._session.get_provider_graph_assignment_info()
        return [SimpleNamespace(ep_name=self._placed, get_nodes=part.get_nodes) for part in parts]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)


class FakeRuntime:
    """An onnxruntime with CUDA, on a machine without.

    Attributes:
        asked: the options of the first provider of each session.
        refuses: an option that makes a session fail.
    """

    def __init__(self, placed: str = CUDA, refuses: str | None = None) -> None:
        self.real, self.placed, self.refuses = session_module.onnx_runtime(), placed, refuses
        self.asked: list[dict[str, str]] = []

    def InferenceSession(self, source: Any, options: Any, providers: Any, **_: Any) -> Pretending:
        settings = providers[0][1]
        if self.refuses in settings:
            raise RuntimeError("this graph cannot be captured")
        self.asked.append(settings)
        return Pretending(self.real.InferenceSession(source, options, providers=[CPU]), self.placed)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


def pretend_cuda(monkeypatch: pytest.MonkeyPatch, fake: FakeRuntime) -> Provider:
    monkeypatch.setattr(session_module, "onnx_runtime", lambda: fake)
    monkeypatch.setattr(bound, "DEVICES", {})
    return Provider(CUDA, "pretended")


@pytest.mark.slow
def test_a_session_whose_nodes_all_fell_back_is_an_error(
    monkeypatch: pytest.MonkeyPatch, digits: Path
) -> None:
    """The session lists the provider, as ONNX Runtime does, and places nothing on it."""
    provider = pretend_cuda(monkeypatch, FakeRuntime(placed=CPU))
    with pytest.raises(
        ProviderError, match="not one node of the model runs on CUDAExecutionProvider"
    ) as caught:
        BoundSession(digits, provider)
    assert caught.value.exit_code == 4
    with pytest.raises(ProviderError, match="not one node"):
        bench(digits, provider=provider)


@pytest.mark.slow
def test_cuda_graphs_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeRuntime()
    provider = pretend_cuda(monkeypatch, fake)
    model = toys.attention()
    options = {**QUICK, "provider": provider, "batch": [1], "seq": [2, 3]}
    result = bench(model, model, cuda_graph=True, **options)
    assert result.settings["cuda_graph"] is True
    assert {"enable_cuda_graph": "1"} in fake.asked
    assert result.models[0].placement.keys() == {CUDA}
    assert not any("CUDA graphs" in note for note in result.notes)


@pytest.mark.slow
def test_cuda_graphs_that_cannot_be_captured_are_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    provider = pretend_cuda(monkeypatch, FakeRuntime(refuses="enable_cuda_graph"))
    options = {**QUICK, "provider": provider, "batch": [1], "seq": [2]}
    result = bench(toys.attention(), cuda_graph=True, **options)
    assert result.settings["cuda_graph"] is False
    assert any("without CUDA graphs" in note and "cannot be captured" in note for note in result.notes)


# Memory and kernels


@pytest.mark.slow
def test_memory_grows_with_the_batch(digits: Path) -> None:
    provider = Provider(CPU, "test")
    small, large = (
        footprint(digits, provider, {"images": np.zeros((batch, 1, 8, 8), dtype=np.float32)})
        for batch in (1, 512)
    )
    if small.peak_bytes is None:
        pytest.skip(small.how)
    assert large.peak_bytes is not None and large.peak_bytes > 2 * small.peak_bytes
    assert "resident memory" in large.how


@pytest.mark.slow
def test_memory_that_cannot_be_measured_says_why(digits: Path, tmp_path: Path) -> None:
    provider = Provider(CPU, "test")
    nothing = footprint(tmp_path / "nothing.onnx", provider, {})
    assert nothing.peak_bytes is None and "does not exist" in nothing.how
    late = footprint(digits, provider, {}, timeout=0.01)
    assert late.peak_bytes is None and "longer than" in late.how


@pytest.mark.slow
def test_attention_kernels_are_read() -> None:
    printed = (
        "Operator=MultiHeadAttention Node=Attention_0 DataType=fp16 SdpaKernel=FLASH_ATTENTION\n"
        "Operator=MultiHeadAttention Node=Attention_1 DataType=fp16 SdpaKernel=FLASH_ATTENTION\n"
        "Operator=GroupQueryAttention DataType=fp16 SdpaKernel=EFFICIENT_ATTENTION\n"
    )
    assert kernels_in(printed) == (
        "MultiHeadAttention: FLASH_ATTENTION",
        "GroupQueryAttention: EFFICIENT_ATTENTION",
    )


# The command


@pytest.mark.slow
def test_the_command(command: Command, digits: Path, smaller: Path, tmp_path: Path) -> None:
    table, picture = tmp_path / "out.csv", tmp_path / "out.svg"
    outcome = command(
        *(
            "bench",
            digits,
            smaller,
            "--batch",
            "1,4",
            "--repeats",
            5,
            "--threads",
            1,
            "--provider",
            "cpu",
            "--no-memory",
        ),
        *("--csv", table, "--plot", picture, "--verbose"),
    )
    assert outcome.exit_code == 0
    assert "interval" in outcome.stdout and "batch 4" in outcome.stdout
    assert "9 LayerNormalization" in outcome.stdout
    rows = list(csv.DictReader(table.open()))
    assert [(row["batch"], row["verdict"] != "") for row in rows] == [
        ("1", False),
        ("1", True),
        ("4", False),
        ("4", True),
    ]
    assert picture.read_text().lstrip().startswith("<?xml")


@pytest.mark.slow
@patient
def test_json_is_one_document(command: Command, digits: Path) -> None:
    outcome = command("bench", digits, digits, "--batch", 1, *SHORT, "--json")
    assert outcome.exit_code == 0
    assert outcome.document["cells"][1]["comparison"]["verdict"] == "no measurable difference"
    assert outcome.document["models"][0]["memory"]["peak_bytes"] != 0
    assert outcome.stderr == ""


@pytest.mark.slow
def test_a_speedup_that_is_not_reached_is_exit_code_1(command: Command, digits: Path) -> None:
    arguments = (
        "bench",
        digits,
        digits,
        "--batch",
        1,
        "--repeats",
        5,
        "--threads",
        1,
        "--provider",
        "cpu",
        "--no-memory",
    )
    broken = command(*arguments, "--min-speedup", 3, "--json")
    assert broken.exit_code == 1
    (gate,) = broken.document["gates"]
    assert gate["name"] == "min_speedup" and gate["limit"] == 3 and not gate["passed"]
    kept = command(*arguments, "--min-speedup", 0.2)
    assert kept.exit_code == 0
    assert "kept" in kept.stdout


@pytest.mark.slow
def test_pictures_are_drawn(tmp_path: Path) -> None:
    model = toys.attention(cache=True)
    result: Benchmark = bench(model, batch=[1, 2], seq=[3, 6], past=[4], **QUICK)
    for name in ("picture.png", "picture.svg"):
        save_figure(plot_latency(result), tmp_path / name)
        assert (tmp_path / name).stat().st_size > 5000


def test_embeddings_with_an_unnamed_length_have_a_sequence() -> None:
    model = toys.attention()
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "d1"
    result = bench(model, batch=[1], seq=[6], **QUICK)
    assert result.points[0].label == "batch 1, seq 6"


def test_a_runtime_that_crashes_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "loads_without_crash", lambda *_: False)
    with pytest.raises(InferenceError, match="crashes when it optimizes toy"):
        bench(toys.attention(dtype=np.float16), **QUICK)
    assert bench(toys.attention(), batch=[1], seq=[2], **QUICK).cells


@pytest.mark.slow
def test_a_graph_that_cannot_be_written_is_measured_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """As TensorRT's, which holds compiled nodes."""
    original = bound.create

    def create(source: Any, options: Any, *rest: Any) -> Any:
        if options.optimized_model_filepath:
            raise InferenceError("Unable to serialize model as it contains compiled nodes")
        return original(source, options, *rest)

    monkeypatch.setattr(bound, "create", create)
    model = toys.attention()
    result = bench(model, model, batch=[1], seq=[2], **QUICK)
    assert result.models[0].operators == {}
    assert result.models[1].comparable


@pytest.mark.slow
def test_operators_of_branches_count(tmp_path: Path) -> None:
    toy = GraphBuilder()
    body = {}
    for name, op_type in (("then_branch", "Softmax"), ("else_branch", "Relu")):
        node = onnx.helper.make_node(op_type, ["x"], [f"{name}_y"])
        body[name] = onnx.helper.make_graph([node], name, [], [toy.info(f"{name}_y", None)])
    toy.node("If", ["flag"], "y", **body)
    flag = onnx.helper.make_tensor_value_info("flag", onnx.TensorProto.BOOL, [])
    onnx.save(toy.model([toy.info("x", ["b", 6]), flag], [toy.info("y", None)]), tmp_path / "if.onnx")
    session = BoundSession(tmp_path / "if.onnx", Provider(CPU, "test"), BoundOptions(inspect=True))
    assert session.operators() == {"If": 1, "Relu": 1, "Softmax": 1}


@pytest.mark.slow
@pytest.mark.parametrize(("width", "columns"), [(80, "median ms"), (160, "median ms")])
@patient
def test_tables_fit_the_terminal(
    command: Command, digits: Path, monkeypatch: pytest.MonkeyPatch, width: int, columns: str
) -> None:
    monkeypatch.setattr("onnxheadprune.reporting.console.PIPE_WIDTH", width)
    outcome = command("bench", digits, digits, "--batch", 1, *SHORT, "--no-memory")
    assert outcome.stdout.splitlines()[0].startswith(f"{digits.name}   no measurable difference (")
    latencies = outcome.stdout.split("sizes")[1]
    assert columns in latencies
    assert all(word in latencies for word in ("no", "measurable", "difference"))
    assert "…" not in latencies.split("verdict")[0]
