"""Sweeps that are shared by processes or a cluster, or lose a worker: the curve is the same."""

from __future__ import annotations

import dataclasses
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from onnxheadprune import RefusedError, UsageError
from onnxheadprune.model.load import open_structure
from onnxheadprune.runtime import CPU, Provider
from onnxheadprune.settings.calls import PruneCall
from onnxheadprune.workflow import sweep as sweeping
from onnxheadprune.workflow.choice.cutting import Cutter
from onnxheadprune.workflow.executors import Processes, open_executor, run_all
from onnxheadprune.workflow.requests import Request
from tests.graphs import toys

HERE = Provider(CPU, "test")


def largest_change(before: Mapping[str, Any], after: Mapping[str, Any], _feed: Any) -> float:
    return float(max(np.abs(before[name] - after[name]).max() for name in before))


def test_results_come_in_the_order_of_the_tasks_whoever_is_first() -> None:
    seen: list[int] = []
    others_are_done = threading.Event()

    def slow_first(number: int) -> int:
        if number == 0:
            assert others_are_done.wait(60)
        return number * 10

    def done(position: int) -> None:
        seen.append(position)
        if sorted(seen) == [1, 2]:
            others_are_done.set()

    with ThreadPoolExecutor(3) as pool:
        found = run_all(slow_first, [0, 1, 2], pool, done)
    assert found == [0, 10, 20] and seen[-1] == 0 and sorted(seen) == [0, 1, 2]


def die(_task: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_a_process_that_dies_is_a_sentence() -> None:
    with Processes(2) as pool, pytest.raises(RefusedError, match="a process that worked on a part died"):
        run_all(die, [1, 2], pool)


@pytest.fixture(scope="module")
def pool() -> Iterator[Executor]:
    with open_executor(2) as executor:
        assert executor is not None
        yield executor


def fatal_once(task: tuple[Path, int]) -> int:
    """Ten times a number; the worker that comes here first dies."""
    marker, number = task
    try:
        marker.touch(exist_ok=False)
    except FileExistsError:
        return number * 10
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_dask_cluster_that_loses_a_worker_gives_the_same_results(tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed")
    import dask

    settings = {
        "distributed.nanny.pre-spawn-environ.PYTHONPATH": str(Path(__file__).parents[2]),
        # Workers start late on a busy machine.
        "distributed.comm.timeouts.connect": "300s",
        "distributed.comm.timeouts.tcp": "300s",
    }
    with dask.config.set(settings):
        cluster = distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=50
        )
    tasks = [(tmp_path / "died", number) for number in range(4)]
    with cluster, open_executor(dask=cluster.scheduler_address) as executor:
        assert executor is not None
        assert run_all(fatal_once, tasks, executor) == [0, 10, 20, 30]
    assert tasks[0][0].exists()


def test_a_cluster_that_is_not_there_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="no Dask scheduler answers"), open_executor(dask="nonsense://x"):
        pass


@pytest.mark.slow
@pytest.mark.usefixtures("short_clocks")
def test_a_sweep_in_two_processes_is_the_same_curve(pool: Executor) -> None:
    model: Any = open_structure(toys.stack())

    def curve(executor: Executor | None) -> sweeping.Curve:
        cutter = Cutter(model, toys.ids(24), HERE, Request(PruneCall(drift=cast("str", largest_change))))
        return sweeping.sweep_ratios(cutter, (0.0, 0.25, 0.5), executor)

    alone, shared = curve(None), curve(pool)
    assert untimed(shared) == untimed(alone) and shared.unit == "largest_change"
    # Clocks alone differ; they run here in either case, once the processes are done.
    assert [point.speed is None for point in shared.points] == [True, False, False]


def untimed(curve: sweeping.Curve) -> Any:
    points = [dataclasses.replace(point, speedup=None, speed=None) for point in curve.points]
    return dataclasses.replace(curve, points=tuple(points)).to_dict()


def test_the_knee_is_where_a_curve_bends() -> None:
    assert sweeping.parse_sweep("0:0.3:0.1") == (0, 0.1, 0.2, 0.3)
    assert sweeping.parse_sweep("0:50%:25%") == (0, 0.25, 0.5)
    assert sweeping.knee([0, 0.01, 0.02, 0.1, 1.0], [0, 0.1, 0.2, 0.3, 0.4]) == 3
    assert sweeping.knee([0, 0], [0, 0.1]) is None and sweeping.knee([1, 1, 1], [0, 0.1, 0.2]) is None
