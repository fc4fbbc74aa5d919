"""The public names, spelled out: adding or losing one is a decision."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import onnx_graphsurgeon as gs

import onnxheadprune
from tests.graphs import toys

PUBLIC = [
    "Accuracy",
    "AttentionSite",
    "Benchmark",
    "Calibration",
    "CaseResult",
    "Cell",
    "Chosen",
    "Comparison",
    "Compensation",
    "Curve",
    "CurvePoint",
    "Drift",
    "EarlyExit",
    "EarlyExits",
    "FolderResult",
    "Fusion",
    "GridPoint",
    "HeadPruneError",
    "HeadScores",
    "InferenceError",
    "Latency",
    "MetricResult",
    "ModelError",
    "ModelFacts",
    "NearMiss",
    "PlannedEdit",
    "ProviderError",
    "PrunePlan",
    "PruneResult",
    "QuantizeResult",
    "Ratio",
    "Reason",
    "Recovery",
    "Refit",
    "Refusal",
    "RefusedError",
    "Selection",
    "SiteCut",
    "SiteFusion",
    "SiteScores",
    "Sites",
    "StoredSize",
    "UsageError",
    "Validation",
    "ValidationFailedError",
    "__version__",
    "apply_plan",
    "bench",
    "find_exits",
    "inspect",
    "plan_pruning",
    "plot_curve",
    "plot_heads",
    "plot_latency",
    "prune",
    "prune_folder",
    "quantize",
    "read_scores",
    "recover",
    "score",
    "select_heads",
    "sweep",
    "validate",
    "write_scores",
]


def test_all_is_what_we_promise() -> None:
    assert sorted(onnxheadprune.__all__) == sorted(PUBLIC)
    assert dir(onnxheadprune) == sorted(PUBLIC)


def test_version_is_the_projects() -> None:
    import tomllib

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert onnxheadprune.__version__ == project["version"]
    assert f"\nversion: {project['version']}\n" in (Path(__file__).parents[2] / "CITATION.cff").read_text()


def test_commands_and_functions_of_one_thing_share_the_name() -> None:
    from onnxheadprune.cli.guides import COMMANDS

    without = {"batch", "doctor", "report", "run"}
    assert set(COMMANDS) - set(PUBLIC) == without


def _modules_after(statement: str) -> set[str]:
    code = f"{statement}\nimport sys\nprint(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(result.stdout.split())


def test_import_is_cheap() -> None:
    assert not {"onnxruntime", "onnx", "numpy", "click", "rich"} & _modules_after("import onnxheadprune")


def test_help_imports_nothing_heavy() -> None:
    loaded = _modules_after("from onnxheadprune.cli import main; main(['prune', '--help'])")
    assert not {"onnxruntime", "onnx", "numpy", "rich"} & loaded


def test_finding_sites_needs_no_runtime() -> None:
    assert "onnxruntime" not in _modules_after("import onnxheadprune; onnxheadprune.inspect")


def test_paths_protos_and_graphs_are_equal(tmp_path: Path) -> None:
    import onnx

    model = toys.attention()
    path = tmp_path / "toy.onnx"
    onnx.save(model, path)
    before = model.SerializeToString()
    sources = {"path": path, "text": str(path), "proto": model, "graph": gs.import_onnx(model)}
    for source in sources.values():
        assert [site.num_heads for site in onnxheadprune.inspect(source)] == [toys.HEADS]
        plan = onnxheadprune.plan_pruning(source, heads={0: [1]})
        pruned = onnxheadprune.apply_plan(plan, source)
        assert onnxheadprune.validate(source, pruned).verdict == "passed"
    assert model.SerializeToString() == before


def test_elements_removed_is_what_weights_lose() -> None:
    result = onnxheadprune.prune(toys.attention(), heads={0: [1, 2]})
    width = 2 * toys.HEAD_SIZE
    assert result.plan.elements_removed == 4 * width * toys.HIDDEN + 3 * width
