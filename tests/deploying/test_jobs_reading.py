"""Jobs are read strictly: types make the schema, and what is no job is refused with its key and line."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from packaging.requirements import Requirement

from onnxheadprune.deploying.jobs.keys import schema
from onnxheadprune.deploying.jobs.reading import (
    MOST_BYTES,
    MOST_DEEP,
    read_job,
    read_yaml,
)
from onnxheadprune.errors import installation
from tests.conftest import ROOT, Command
from tests.deploying.jobs_keys import dotted_keys, sections

PLAIN = "model: m.onnx\noutput: out\nprune: {ratio: 0.5}\n"


def read(text: str, folder: Path, *settings: str) -> Any:
    path = folder / "job.yaml"
    path.write_text(text, encoding="utf-8")
    return read_job(path, settings)


VALUES: dict[str, Any] = {
    "model": "other.onnx", "output": "elsewhere", "version": 1, "name": "mine", "provider": "cpu", "seed": 7,
    "custom_ops": "ops.so",
    "data.path": "d.npz", "data.format": "text", "data.tokenizer": "t.json",
    "data.text_field": "t", "data.target_field": "u", "data.max_samples": 3, "data.max_length": 64,
    "data.image_size": [8, 16], "data.image_mean": [0.5], "data.image_std": [0.5],
    "score.method": "ablation", "score.drift": "m:f",
    "prune.heads": {"0": [1, 3]}, "prune.neurons": "0:3", "prune.experts": "0:3", "prune.layers": "1", "prune.exit": 2,
    "prune.vocab": "keep.txt", "prune.vocab_size": 12, "prune.token_ids": "input_ids",
    "prune.token_logits": "none",
    "prune.units": ["heads", "neurons"], "prune.runtime": "genai",
    "prune.method": "taylor",
    "prune.ratio": 0.3, "prune.keep": 2, "prune.target_size": 0.75, "prune.target_speedup": 1.5,
    "prune.max_drift": 1e-3, "prune.scores": "s.json", "prune.protect": "0", "prune.min_heads": 0,
    "prune.multiple_of": {"heads": 2, "neurons": 4}, "prune.uniform": True,
    "prune.refit": False, "prune.drift": "kl",
    "prune.fuse": "auto", "prune.cache": "renumber", "prune.allow_io_change": True,
    "prune.accept_inconclusive": True, "prune.external_data": "always", "recover.budget": "90s",
    "recover.drift": "cosine", "recover.time": "5m", "quantize.to": "int8-qdq", "quantize.per_channel": False,
    "quantize.reduce_range": True, "quantize.block_size": 64, "quantize.exclude": ["a node"],
    "validate.data": "v.npz", "validate.metric": "m:f", "validate.drift": "kl",
    "bench.batch": [1, 8], "bench.seq": [16], "bench.past": [4], "bench.dims": {"height": 32}, "bench.repeats": 7,
    "bench.time_budget": 2.5, "bench.threads": 1, "bench.cuda_graph": True, "bench.memory": False,
    "gate.max_drift": 0.1, "gate.min_accuracy": 0.9, "gate.max_accuracy_drop": 0.01, "gate.min_metric": -1.0,
    "gate.max_metric": 2, "gate.max_metric_drop": 0.1, "gate.min_speedup": 1.1, "gate.max_file_bytes": 100,
    "gate.max_size_ratio": 0.9, "gate.max_operations_ratio": 0.9, "gate.strict": True,
}  # fmt: skip
"""A good value for every key that is no section."""


@cache
def by_schema() -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(schema())


def test_every_key_has_a_value_here() -> None:
    assert set(VALUES) == set(dotted_keys()) - set(sections())


@pytest.mark.parametrize("key", VALUES)
def test_every_key_is_set_on_the_command_line(key: str, tmp_path: Path) -> None:
    """The value arrives in the typed keys, and the schema takes it too."""
    needed = ["quantize={to: int4}"] if key.startswith("quantize.") else []
    job = read(PLAIN, tmp_path, *needed, f"{key}={json.dumps(VALUES[key])}")
    value = job.keys
    for name in key.split("."):
        value = getattr(value, name)
    expected = VALUES[key]
    plain = {site: list(gone) for site, gone in value.items()} if key == "prune.heads" else value
    plain = str(plain) if isinstance(plain, Path) else plain
    assert (list(plain) if isinstance(expected, list) else plain) == expected
    by_schema().validate(job.document)


def test_every_key_is_described_in_the_schema() -> None:
    document = schema()
    jsonschema.Draft202012Validator.check_schema(document)
    assert document["additionalProperties"] is False
    for part in document["$defs"].values():
        assert part["additionalProperties"] is False and part["description"]
        assert all(item.get("description") or "$ref" in item for item in part["properties"].values())
    assert "null" not in json.dumps(document)


def test_the_schema_is_printed(command: Command) -> None:
    outcome = command("run", "--schema")
    assert outcome.exit_code == 0 and json.loads(outcome.stdout) == schema()
    assert command("run", "job.yaml", "--schema").exit_code == 2


SAYS_WRONG = {
    "an unknown key": f"{PLAIN}gate:\n  max_dirft: 1\n",
    "an unknown section": f"{PLAIN}deploy: {{}}",
    "a wrong type": PLAIN.replace("0.5", "x"),
    "text for a number": PLAIN.replace("0.5", "'1'"),
    "a number for text": PLAIN.replace("m.onnx", "3"),
    "yes for a number": f"{PLAIN}bench: {{repeats: true}}",
    "out of range": PLAIN.replace("0.5", "1.5"),
    "another word": f"{PLAIN}score: {{method: luck}}",
    "an item of a list": f"{PLAIN}bench:\n  batch:\n  - 1\n  - 0\n",
    "several types": f"{PLAIN}recover: {{budget: [1]}}",
    "a section that is none": f"{PLAIN}data: d.npz",
    "an empty section": f"{PLAIN}bench:\n",
    "no model": "output: out\nprune: {ratio: 0.5}",
    "two mistakes": "output: 3\nprune: {ratio: 2}\nmodel: m",
    "another version": f"{PLAIN}version: 2",
    "a list": "- a\n- b\n",
    "nothing": "",
}
"""YAML that is no job; `tests/screens/run.txt` shows what is said of it, and the schema refuses it, too."""
UNREAD = {
    "a zero byte": f"{PLAIN}name: \x00",
    "deep": f"a: {'[' * (MOST_DEEP + 1)}",
    "very deep": "{a: " * 20000,
    "large": "#" * (MOST_BYTES + 1),
}
"""Text that no transcript can hold."""


@pytest.mark.parametrize("name", UNREAD)
def test_what_no_job_has_is_not_read(name: str, command: Command, tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(UNREAD[name], encoding="utf-8")
    outcome = command("run", path)
    assert outcome.exit_code == 2 and outcome.stdout == "", outcome
    assert outcome.stderr.count("\n") == 1 and len(outcome.stderr) < 600, outcome.stderr
    assert [item.name for item in tmp_path.iterdir()] == ["job.yaml"]


@pytest.mark.parametrize("name", SAYS_WRONG)
def test_the_schema_refuses_what_the_types_refuse(name: str) -> None:
    with pytest.raises(jsonschema.ValidationError):
        by_schema().validate(yaml.safe_load(SAYS_WRONG[name]))


def test_words_mean_what_yaml_1_2_says() -> None:
    text = "a: no\nb: 1e-3\nc: 2026-01-01\nd: True\ne: -3\nf: '5'\ng: 1_000\nh: {0: [1]}"
    said, _ = read_yaml(text, "x")
    assert said == {
        "a": "no", "b": 1e-3, "c": "2026-01-01", "d": True, "e": -3, "f": "5", "g": "1_000", "h": {"0": [1]},
    }  # fmt: skip


def test_packages_that_are_missing_are_named(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "yaml" else found(name))
    (tmp_path / "job.yaml").touch()
    outcome = command("run", tmp_path / "job.yaml")
    assert outcome.exit_code == 2
    assert f"run requires yaml, which is not installed: {installation('jobs')}" in outcome.stderr


EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
    "optional-dependencies"
]
SOURCES = {str(path): path.read_text(encoding="utf-8") for path in (ROOT / "onnxheadprune").rglob("*.py")}
NAMED = sorted(
    {
        extra
        for text in SOURCES.values()
        for extra in re.findall(r"(?:installation\(|require_packages\(f?\"[^\"]*\", )\"(\w+)", text)
    }
)


def test_every_extra_of_users_is_named_in_a_message() -> None:
    assert {"cuda", "dask", "images", "ir", "jobs", "parquet", "plots"} == set(NAMED) <= EXTRAS.keys()


@pytest.mark.parametrize("extra", NAMED)
def test_installations_name_what_an_extra_requires(extra: str) -> None:
    program, verb, *named = shlex.split(installation(extra))
    assert (program, verb) == ("pip", "install")
    assert {str(Requirement(name)) for name in named} == {str(Requirement(name)) for name in EXTRAS[extra]}


def test_no_message_installs_the_package_itself() -> None:
    # No index has it: such a command would install nothing, or something else.
    assert [name for name, text in SOURCES.items() if "onnxheadprune[" in text] == []
