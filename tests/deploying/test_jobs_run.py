"""Jobs from the first step to the verdict: what is done once, what is done again, and what limits say."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from junitparser import JUnitXml

from onnxheadprune.cli import main
from onnxheadprune.deploying.jobs.keys import SECTIONS
from onnxheadprune.deploying.jobs.reading import read_job
from onnxheadprune.deploying.jobs.run import CALLS, STATE, TOLD, JobContext, readings
from onnxheadprune.settings.setting import declared
from tests.conftest import Command, Outcome
from tests.graphs import toys

JOB = """
model: toy.onnx
output: out
provider: cpu
data:
  path: ids.npz
score:
  method: taylor
prune:
  ratio: 0.25
validate:
  data: test.npz
gate:
  max_drift: 10
  max_size_ratio: 1.5
  max_operations_ratio: 1
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a job, its model and data; commands are called from elsewhere."""
    folder = furnished(tmp_path / "place")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    return folder


def furnished(folder: Path) -> Path:
    """The folder with all that the job reads."""
    folder.mkdir()
    onnx.save(toys.stack(), folder / "toy.onnx")
    ids(folder / "ids.npz", 20, 3)
    ids(folder / "test.npz", 6, 6)
    (folder / "job.yaml").write_text(JOB, encoding="utf-8")
    return folder


def told(outcome: Outcome) -> dict[str, str]:
    """What became of each step."""
    return {step["name"]: step["status"] for step in outcome.document["steps"]}


def run(command: Command, place: Path, *settings: str) -> Outcome:
    words = [word for setting in settings for word in ("--set", setting)]
    return command("run", place / "job.yaml", "--json", *words)


ALL = ("score", "prune", "validate")
REQUIRED = {"prune": "prune={ratio: 0.25}", "quantize": "quantize={to: int4}"}


@pytest.mark.slow
def test_a_job_from_end_to_end(command: Command, place: Path) -> None:
    outcome = command("run", place / "job.yaml", "--junit", place / "gates.xml")
    assert outcome.exit_code == 0, outcome
    for sentence in (
        "validate  done",
        "limit       kept: drift of logits is",
        "accepted: exact, ",
    ):
        assert sentence in outcome.stdout
    made = {path.name for path in (place / "out").iterdir()}
    assert made == {"score.json", "pruned.onnx", "prune.json", "validate.json", STATE, *TOLD}
    verdict = json.loads((place / "out" / "verdict.json").read_text())
    assert verdict["accepted"] and verdict["exit_code"] == 0 and verdict["model"].endswith("out/pruned.onnx")
    assert [gate["name"] for gate in verdict["gates"]] == [
        "max_drift",
        "max_size_ratio",
        "max_operations_ratio",
    ]
    assert verdict["run"]["command"].startswith("onnxheadprune run ")
    page = (place / "out" / "report.html").read_text()
    assert "toy.onnx: 2 of 8 heads removed" in page
    assert page.count("kept: drift of logits is") == 1 and page.count("kept: pruned.onnx takes") == 2
    summary = (place / "out" / "summary.md").read_text()
    assert "## job" in summary and " accepted: " in summary and "| heads | 8 | 6 |" in summary
    (suite,) = JUnitXml.fromfile(str(place / "gates.xml"))
    assert [case.name for case in suite] == [*ALL, *(gate["name"] for gate in verdict["gates"])]
    assert (suite.tests, suite.failures, suite.errors, suite.skipped) == (6, 0, 0, 0)
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.slow
def test_the_scores_of_the_step_are_those_that_heads_go_by(command: Command, place: Path) -> None:
    assert run(command, place, "validate=null", "gate=null").exit_code == 0
    alone = place / "alone.json"
    data = ("--data", place / "ids.npz", "--provider", "cpu")
    assert command("score", place / "toy.onnx", "--method", "taylor", "-o", alone, *data).exit_code == 0
    made = json.loads((place / "out" / "score.json").read_text())
    assert made["sites"] == json.loads(alone.read_text())["sites"]
    options = ("--scores", alone, "--ratio", "0.25", "-o", place / "alone.onnx")
    assert command("prune", place / "toy.onnx", *options, *data).exit_code == 0
    assert (place / "alone.onnx").read_bytes() == (place / "out" / "pruned.onnx").read_bytes()


UNITS = ("validate=null", "gate=null", "score.method=taylor", "prune.multiple_of={neurons: 2}")


def test_layers_have_no_scores(command: Command, place: Path) -> None:
    outcome = run(command, place, *UNITS, "prune.units=[layers]")
    assert (
        outcome.exit_code == 2
        and "layers are removed as a whole, so they have none" in outcome.document["error"]
    )
    assert not (place / "out" / "score.json").exists()


@pytest.fixture(scope="module")
def finished_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose job is done."""
    folder = furnished(tmp_path_factory.mktemp("jobs") / "place")
    assert main(["run", str(folder / "job.yaml")]) == 0
    return folder


@pytest.fixture
def finished(finished_once: Path, place: Path) -> Path:
    """A copy of it, which is as done: nothing of it hangs on where it is."""
    shutil.rmtree(place)
    return Path(shutil.copytree(finished_once, place))


def ids(path: Path, count: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    arrays = {name: random.integers(0, toys.VOCABULARY, (count, 6)) for name in ("input_ids", "labels")}
    np.savez(path, **arrays)  # type: ignore[arg-type]  # names of arrays


def damaged(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1] + b"\0")


CHANGED: Mapping[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "toy.onnx": (lambda path: onnx.save(toys.stack(seed=1), path), ALL),
    "ids.npz": (lambda path: ids(path, 20, 4), ALL),
    "test.npz": (lambda path: ids(path, 2, 5), ("validate",)),
    "out/pruned.onnx": (damaged, ("prune", "validate")),
    "out/prune.json": (Path.unlink, ("prune", "validate")),
    "out/score.json": (damaged, ALL),
}
"""Files that change, and the steps that are done again."""
SET = {
    "score.method=ablation": ALL, "prune.min_heads=2": ("prune", "validate"), "validate.drift=cosine": ("validate",),
    "seed=1": ALL, "gate.max_drift=20": (), "name=other": (),
}  # fmt: skip
OFTEN = ("ids.npz", "out/pruned.onnx", "prune.min_heads=2", "gate.max_drift=20")
CASES = [pytest.param(what, marks=() if what in OFTEN else pytest.mark.slow) for what in (*CHANGED, *SET)]


@pytest.mark.parametrize("what", CASES)
def test_what_has_changed_is_done_again_and_all_behind_it(
    what: str, command: Command, finished: Path
) -> None:
    settings = (what,) if what in SET else ()
    if what in CHANGED:
        CHANGED[what][0](finished / what)
    outcome = run(command, finished, *settings)
    assert outcome.exit_code == 0, outcome
    again = SET[what] if what in SET else CHANGED[what][1]
    assert {name for name, status in told(outcome).items() if status == "done"} == set(again)
    assert set(told(run(command, finished, *settings)).values()) == {"unchanged"}


@pytest.mark.slow
def test_another_version_does_all_again(
    command: Command, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnxheadprune.deploying.ledger.__version__", "9")
    assert told(run(command, finished)) == dict.fromkeys(ALL, "done")


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_job_that_is_interrupted_goes_on_and_says_nothing_of_an_earlier_run(
    command: Command, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as during:
        during.setattr("onnxheadprune.workflow.validate.prove", interrupted)
        assert run(command, finished, "prune.min_heads=2").exit_code == 130
    assert not any((finished / "out" / name).exists() for name in TOLD)
    again = run(command, finished, "prune.min_heads=2")
    assert told(again) == {"score": "unchanged", "prune": "unchanged", "validate": "done"}


LIMITS = {
    "max_drift": ("1e-9", "drift of logits is "),
    "min_accuracy": ("0.99", "accuracy at logits is "),
    "max_accuracy_drop": ("0", "accuracy at logits falls by "),
    "min_metric": ("1e9", "mean gives "),
    "max_metric": ("-1e9", "mean gives "),
    "max_metric_drop": ("0", "mean falls by "),
    "max_file_bytes": ("10", "pruned.onnx takes "),
    "max_size_ratio": ("0.1", "of the original's bytes, at most 0.1"),
    "max_operations_ratio": ("0.1", "of the original's operations, at most 0.1"),
}
METRIC = """
def mean(outputs, feed):
    return -abs(float(outputs["logits"].mean()))

def same(outputs, feed):
    return 1.0
"""


@pytest.mark.parametrize("name", LIMITS)
def test_a_limit_that_is_broken(name: str, command: Command, finished: Path) -> None:
    """Exit code 1, a verdict, a failure in JUnit's words. The function of a metric lies beside the job."""
    limit, sentence = LIMITS[name]
    (finished / "measures_of_jobs.py").write_text(METRIC, encoding="utf-8")
    words = ["--set", f"gate={{{name}: {limit}}}", "--junit", finished / "gates.xml"]
    if "metric" in name:
        words += ["--set", "validate.metric=measures_of_jobs:mean"]
    outcome = command("run", finished / "job.yaml", "--json", *words)
    (gate,) = outcome.document["gates"]
    kept = gate["value"] >= gate["limit"] if name.startswith("min") else gate["value"] <= gate["limit"]
    assert gate["passed"] is kept
    if "drop" not in name:
        assert outcome.exit_code == 1 and not kept
    assert outcome.exit_code == (0 if kept else 1) and outcome.document["accepted"] is kept
    (suite,) = JUnitXml.fromfile(str(finished / "gates.xml"))
    case = next(case for case in suite if case.name == name)
    assert bool(case.result) is not kept and suite.failures == (0 if kept else 1)
    assert kept or sentence in case.result[0].message
    assert sentence.split()[0] in (finished / "out" / "summary.md").read_text()


@pytest.mark.slow
def test_what_could_not_be_measured_keeps_no_limit(command: Command, finished: Path) -> None:
    np.savez(finished / "test.npz", input_ids=np.ones((2, 6), np.int64))
    outcome = run(command, finished, "gate={min_accuracy: 0}")
    (gate,) = outcome.document["gates"]
    assert outcome.exit_code == 1 and gate["value"] is None and not gate["passed"]


@pytest.mark.slow
@pytest.mark.usefixtures("one_glance")
def test_a_limit_on_speed(command: Command, finished: Path) -> None:
    settings = ("bench={batch: [2], seq: [4], repeats: 7, memory: false}", "gate={min_speedup: 50}")
    outcome = run(command, finished, *settings)
    (gate,) = outcome.document["gates"]
    assert outcome.exit_code == 1 and gate["name"] == "min_speedup" and 0 < gate["value"] < 50
    assert told(outcome) == {
        "score": "unchanged",
        "prune": "unchanged",
        "validate": "unchanged",
        "bench": "done",
    }
    assert run(command, finished, settings[0], "gate={min_speedup: 1e-4}").exit_code == 0


@pytest.mark.slow
def test_a_step_that_fails_is_in_the_verdict(command: Command, place: Path) -> None:
    """A model whose heads do nothing: that a cut is exact cannot be shown."""
    onnx.save(toys.attention(out_scale=0.0), place / "toy.onnx")
    settings = ("data=null", "score=null", "prune={heads: '0:1'}", "validate.data=null")
    words = [word for setting in settings for word in ("--set", setting)]
    outcome = command("run", place / "job.yaml", "--json", "--junit", place / "gates.xml", *words)
    assert outcome.exit_code == 1 and "the step prune failed: validation is inconclusive" in outcome.stderr
    assert "prune.accept_inconclusive: true writes" in outcome.stderr
    document = outcome.document
    assert told(outcome) == {"prune": "failed", "validate": "not reached"}
    assert document["model"] is None and not document["accepted"] and document["gates"] == []
    assert document["validation"]["verdict"] == "inconclusive"
    assert json.loads((place / "out" / "verdict.json").read_text())["error"] == document["error"]
    (suite,) = JUnitXml.fromfile(str(place / "gates.xml"))
    assert (suite.tests, suite.errors, suite.failures, suite.skipped) == (5, 1, 0, 4)
    accepted = run(command, place, *settings, "prune.accept_inconclusive=true")
    assert told(accepted) == {"prune": "done", "validate": "done"} and accepted.exit_code == 0


def test_files_that_no_job_has_made_are_not_replaced(command: Command, place: Path) -> None:
    (place / "out").mkdir()
    for name in ("verdict.json", "pruned.onnx", "report.html", "notes.txt"):
        (place / "out" / name).write_text("mine")
        outcome = command("run", place / "job.yaml")
        assert outcome.exit_code == 2
        assert f"is a folder with files in it that no job has made ({name})" in outcome.stderr
        assert (place / "out" / name).read_text() == "mine"
        (place / "out" / name).unlink()
    (place / "out" / STATE).write_text("{}")
    outcome = command("run", place / "job.yaml")
    assert outcome.exit_code == 2 and "is not the state of a job" in outcome.stderr
    (place / "out" / STATE).unlink()
    assert command("run", place / "job.yaml").exit_code == 0
    (place / "out" / "notes.txt").write_text("beside a job's files")
    assert command("run", place / "job.yaml").exit_code == 0
    (place / "out" / "bench.json").write_text("mine")
    outcome = command("run", place / "job.yaml", "--set", "bench.batch=[1]")
    assert outcome.exit_code == 2 and "bench.json is there and no job has made it" in outcome.stderr


@pytest.mark.slow
def test_names_are_safe_in_every_report(command: Command, place: Path) -> None:
    name = "<b>|`x`\x1b[31m é"
    (place / "job.yaml").write_text(JOB.replace("score:\n  method: taylor\n", ""), encoding="utf-8")
    words = ["--set", f"name={json.dumps(name)}", "--junit", place / "j.xml"]
    outcome = command("run", place / "job.yaml", *words)
    assert outcome.exit_code == 0, outcome
    assert "\x1b" not in outcome.stdout and "\x1b" not in (place / "out" / "summary.md").read_text()
    assert "## \\<b\\>\\|\\`x\\`" in (place / "out" / "summary.md").read_text()
    (suite,) = JUnitXml.fromfile(str(place / "j.xml"))
    assert suite.name.startswith("<b>|`x`") and suite.name.endswith("é")


@pytest.mark.parametrize("section", CALLS)
def test_every_key_of_a_section_is_in_the_call_of_its_step(section: str, place: Path) -> None:
    """So that what a step does is what the command of its name does."""
    job = read_job(place / "job.yaml", [REQUIRED.get(section, f"{section}={{}}")])
    for name in declared(SECTIONS[section]):
        value = {"units": ("layers",), "data": "random"}.get(name, object())
        keys = replace(getattr(job.keys, section), **{name: value})
        call = JobContext(replace(job, keys=replace(job.keys, **{section: keys}))).calls[section]
        assert getattr(call, name) is value, name
        assert (call.provider, call.seed) == ("cpu", 0)


def test_what_lies_beside_the_model_counts_where_data_is_read(place: Path) -> None:
    """A tokenizer that is not named, an encoder that makes states: another one is another job."""
    for name in (
        "tokenizer.json",
        "tokenizer_config.json",
        "config.json",
        "encoder_model.onnx",
        "notes.json",
    ):
        (place / name).write_text("{}")
    (place / "pictures").mkdir()
    (place / "words").mkdir()
    (place / "words" / "tokenizer.json").write_text("{}")
    (place / "lines.txt").write_text("a line\n")

    def read(*settings: str) -> set[str]:
        job = read_job(place / "job.yaml", ["score=null", "validate=null", "gate=null", *settings])
        context = JobContext(job)
        found = readings(context, context.steps())
        return {reading.path.name for reading in found} - {"job.yaml", "toy.onnx"}

    assert read("data={path: lines.txt}") == {
        "lines.txt", "tokenizer.json", "tokenizer_config.json", "config.json", "encoder_model.onnx",
    }  # fmt: skip
    assert read() == {"ids.npz", "config.json", "encoder_model.onnx"}
    assert read("data={path: pictures, format: images}") == {"pictures"}
    assert read("data={path: lines.txt, format: text, tokenizer: words}") >= {"lines.txt", "tokenizer.json"}
    (place / "tokenizer.json").rename(place / "words.json")
    assert "words.json" in read("data={path: lines.txt, format: text, tokenizer: words.json}")


@pytest.mark.slow
def test_a_quantized_model_is_what_limits_are_about(command: Command, finished: Path) -> None:
    """The cut in floats is the one that is exact; what is measured is what came out."""
    settings = (
        "quantize={to: int8-dynamic}",
        "gate={max_drift: 10, max_accuracy_drop: 1, max_size_ratio: 9}",
    )
    outcome = run(command, finished, *settings)
    assert outcome.exit_code == 0, outcome
    assert told(outcome) == {
        "score": "unchanged",
        "prune": "unchanged",
        "quantize": "done",
        "validate": "done",
    }
    assert outcome.document["model"].endswith("out/quantized.onnx")
    found = json.loads((finished / "out" / "validate.json").read_text())
    assert found["verdict"] == "passed" and found["deployed"]["drift"] != found["drift"]["value"]
    drift, accuracy, size = outcome.document["gates"]
    assert (drift["value"], drift["measure"]) == (found["deployed"]["drift"], found["deployed"]["drift_unit"])
    lost = found["deployed"]["accuracy"]["original"] - found["deployed"]["accuracy"]["pruned"]
    assert accuracy["value"] == lost and size["subject"] == "quantized.onnx"
    assert "weights in int8-dynamic" in (finished / "out" / "summary.md").read_text()
    assert run(command, finished, settings[0], "gate={max_drift: 0}").exit_code == 1
    again = run(command, finished, *settings, "quantize.per_channel=false")
    assert told(again) == {"score": "unchanged", "prune": "unchanged", "quantize": "done", "validate": "done"}
    outcome = run(command, finished, settings[0], "validate.data=null")
    assert (
        outcome.exit_code == 2
        and "gate.max_drift and quantize are mutually exclusive without validate.data" in outcome.stderr
    )
    outcome = run(command, finished, "quantize={to: int4, block_size: 17}")
    assert outcome.exit_code == 2 and "a block has a power of two of inputs" in outcome.stderr
