"""Ablation that is interrupted, shared by processes or a cluster, or loses a worker: the scores are the same."""

from __future__ import annotations

import dataclasses
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxheadprune.choosing.scoring.executors import open_executor, run_all
from onnxheadprune.choosing.scoring.methods import ablation as ablating
from onnxheadprune.choosing.scoring.score import score
from onnxheadprune.choosing.scoring.scores import HeadScores
from onnxheadprune.choosing.targets import Requirements
from onnxheadprune.errors import RefusedError, UsageError
from onnxheadprune.model.load import open_structure
from onnxheadprune.runtime import CPU, Provider
from onnxheadprune.workflow import sweep as sweeping
from onnxheadprune.workflow.choice.cutting import Cutter, Trying
from tests import toys_scores

HERE = Provider(CPU, "test")


def largest_change(before: Mapping[str, Any], after: Mapping[str, Any], _feed: Any) -> float:
    return float(max(np.abs(before[name] - after[name]).max() for name in before))


def ablation(model: Any, data: Any, **options: Any) -> HeadScores:
    return score(model, method="ablation", data=data, provider=HERE, **options)


class Stop(Exception):  # noqa: N818
    """Stands for Ctrl-C."""


@pytest.fixture
def interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, list[int], Any]:
    """A run of three sites that stopped after one; the sites that were computed since; and the model."""
    model, path, computed = toys_scores.stack(layers=3), tmp_path / "scores.partial", list[int]()

    def stop(_what: str, _done: int, _of: int) -> None:
        raise Stop

    with pytest.raises(Stop):
        ablation(model, toys_scores.ids(), partial=path, progress=stop)
    assert path.is_file()
    real = ablating.ablation_scores

    def counted(view: Any, site: Any, *rest: Any) -> Any:
        computed.append(site.index)
        return real(view, site, *rest)

    monkeypatch.setattr(ablating, "ablation_scores", counted)
    return path, computed, model


@pytest.mark.slow
def test_an_interrupted_run_goes_on(interrupted: tuple[Path, list[int], Any]) -> None:
    path, computed, model = interrupted
    resumed = ablation(model, toys_scores.ids(), partial=path)
    assert computed == [1, 2] and not path.exists()
    assert resumed == ablation(model, toys_scores.ids())


@pytest.mark.slow
@pytest.mark.parametrize("change", ["data", "weights", "effect", "damage"])
def test_parts_of_another_run_are_not_taken(change: str, interrupted: tuple[Path, list[int], Any]) -> None:
    path, computed, model = interrupted
    data, options = toys_scores.ids(), {}
    if change == "data":
        data = toys_scores.ids(seed=4)
    elif change == "weights":
        model = toys_scores.stack(layers=3, seed=9)
    elif change == "effect":
        options["effect"] = largest_change
    else:
        path.write_text(path.read_text(encoding="utf-8")[:-5], encoding="utf-8")
    ablation(model, data, partial=path, **options)
    assert computed == [0, 1, 2]


def test_a_place_that_cannot_be_written_is_known_at_once(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        ablation(toys_scores.stack(layers=1), toys_scores.ids(), partial=tmp_path / "missing" / "x")


def test_results_come_in_the_order_of_the_tasks_whoever_is_first() -> None:
    seen: list[int] = []
    others_are_done = threading.Event()

    def slow_first(number: int) -> int:
        if number == 0:
            assert others_are_done.wait(60)
        return number * 10

    def done(position: int, _result: int) -> None:
        seen.append(position)
        if sorted(seen) == [1, 2]:
            others_are_done.set()

    with ThreadPoolExecutor(3) as pool:
        found = run_all(slow_first, [0, 1, 2], pool, done)
    assert found == [0, 10, 20] and seen[-1] == 0 and sorted(seen) == [0, 1, 2]
    assert run_all(slow_first, [2, 1]) == [20, 10]


def die(_task: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_a_process_that_dies_is_a_sentence() -> None:
    with open_executor(2) as pool:
        assert isinstance(pool, ProcessPoolExecutor)
        with pytest.raises(RefusedError, match="a process that worked on a part died"):
            run_all(die, [1, 2], pool)


@pytest.fixture(scope="module")
def pool() -> Iterator[Executor]:
    with open_executor(2) as executor:
        assert executor is not None
        yield executor


@pytest.mark.slow
def test_two_processes_give_the_same_scores(pool: Executor) -> None:
    model, data = toys_scores.stack(layers=3), toys_scores.ids()
    assert ablation(model, data, executor=pool) == ablation(model, data)


def fatal_once(before: Mapping[str, Any], after: Mapping[str, Any], feed: Any) -> float:
    """A measure during which the worker dies, the first time that anyone comes here."""
    marker = Path(os.environ["SCORING_TEST_MARKER"])
    try:
        marker.touch(exist_ok=False)
    except FileExistsError:
        return largest_change(before, after, feed)
    os.kill(os.getpid(), signal.SIGKILL)
    return 0.0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_dask_cluster_that_loses_a_worker_gives_the_same_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    distributed = pytest.importorskip("distributed")
    import dask

    marker = tmp_path / "died"
    model, data = toys_scores.stack(layers=4), toys_scores.ids(4)
    monkeypatch.setenv("SCORING_TEST_MARKER", str(marker))
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
    with cluster, open_executor(dask=cluster.scheduler_address) as executor:
        found = ablation(model, data, executor=executor, effect=fatal_once)
    assert marker.exists()
    assert found.sites == ablation(model, data, effect=fatal_once).sites


def test_a_cluster_that_is_not_there_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="no Dask scheduler answers"), open_executor(dask="nonsense://x"):
        pass


@pytest.mark.slow
@pytest.mark.usefixtures("short_clocks")
def test_a_sweep_in_two_processes_is_the_same_curve(pool: Executor) -> None:
    model: Any = open_structure(toys_scores.stack())

    def curve(executor: Executor | None) -> sweeping.Curve:
        cutter = Cutter(model, toys_scores.ids(24), HERE, Trying(effect=largest_change))
        return sweeping.sweep_ratios(cutter, Requirements(), (0.0, 0.25, 0.5), executor)

    alone, shared = curve(None), curve(pool)
    assert untimed(shared) == untimed(alone) and shared.unit == "largest_change"
    # Clocks alone differ; they run here in either case, once the processes are done.
    assert [point.speed is None for point in shared.points] == [True, False, False]


def untimed(curve: sweeping.Curve) -> Any:
    points = [dataclasses.replace(point, speedup=None, speed=None) for point in curve.points]
    return dataclasses.replace(curve, points=tuple(points)).to_dict()
