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
from packaging.requirements import Requirement

from onnxheadprune import UsageError
from onnxheadprune.deploying.jobs.keys import schema
from onnxheadprune.deploying.jobs.reading import (
    MOST_BYTES,
    MOST_DEEP,
    MOST_VALUES,
    _rules,
    read_job,
    read_yaml,
)
from onnxheadprune.errors import installation, settings_spelled
from onnxheadprune.settings.words import option
from tests.conftest import ROOT, Command
from tests.jobs_keys import dotted_keys, sections

PLAIN = "model: m.onnx\noutput: out\nprune: {ratio: 0.5}\n"


def read(text: str, folder: Path, *settings: str) -> Any:
    path = folder / "job.yaml"
    path.write_text(text, encoding="utf-8")
    return read_job(path, settings)


VALUES: dict[str, Any] = {
    "model": "other.onnx", "output": "elsewhere", "version": 1, "name": "mine", "provider": "cpu", "seed": 7,
    "data.path": "d.npz", "data.format": "text", "data.tokenizer": "t.json",
    "data.text_field": "t", "data.target_field": "u", "data.max_samples": 3, "data.max_length": 64,
    "data.image_size": [8, 16], "data.image_mean": [0.5], "data.image_std": [0.5],
    "score.method": "ablation", "score.drift": "m:f", "score.jobs": 2, "score.dask": "local",
    "prune.heads": {"0": [1, 3]}, "prune.neurons": "0:3", "prune.experts": "0:3", "prune.layers": "1", "prune.exit": 2,
    "prune.vocab": "keep.txt", "prune.vocab_size": 12, "prune.token_ids": "input_ids",
    "prune.token_logits": "none",
    "prune.units": ["heads", "neurons"], "prune.runtime": "genai",
    "prune.method": "fisher",
    "prune.ratio": 0.3, "prune.keep": 2, "prune.target_size": 0.75, "prune.target_speedup": 1.5,
    "prune.max_drift": 1e-3, "prune.scores": "s.json", "prune.protect": "0", "prune.min_heads": 0,
    "prune.multiple_of": {"heads": 2, "neurons": 4}, "prune.uniform": True, "prune.refit": False, "prune.drift": "kl",
    "prune.fuse": "auto", "prune.cache": "renumber", "prune.allow_io_change": True,
    "prune.accept_inconclusive": True, "prune.external_data": "always", "recover.budget": "90s",
    "recover.drift": "cosine", "recover.time": "5m", "quantize.to": "int8-qdq", "quantize.per_channel": False,
    "quantize.reduce_range": True, "quantize.block_size": 64, "quantize.exclude": ["a node"],
    "validate.data": "v.npz", "validate.metric": "m:f", "validate.drift": "kl",
    "bench.batch": [1, 8], "bench.seq": [16], "bench.past": [4], "bench.dims": {"height": 32}, "bench.repeats": 5,
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


@pytest.mark.parametrize("key", [key for key, rule in _rules() if "data" in rule.needs.split()])
def test_what_requires_data_names_its_key(key: str, command: Command, tmp_path: Path) -> None:
    needed = next(rule for name, rule in _rules() if name == key and "data" in rule.needs.split())
    section, _, name = key.rpartition(".")
    value = needed.value.lower() if needed.value in ("True", "False") else needed.value or VALUES.get(key, {})
    keys: dict[str, Any] = {"model": "m.onnx", "output": "out", "prune": {"ratio": 0.5}}
    keys |= {section: {**keys.get(section, {}), name: value}} if section else {name: value}
    (tmp_path / "job.yaml").write_text(json.dumps(keys).replace('"true"', "true"), encoding="utf-8")
    outcome = command("run", tmp_path / "job.yaml")
    assert outcome.exit_code == 2 and "data.path" in outcome.stderr, outcome.stderr


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
    "an unknown key": (
        f"{PLAIN}gate:\n  max_dirft: 1\n",
        "line 5: gate.max_dirft is no key of a job; did you mean max_drift?",
    ),
    "an unknown section": (
        f"{PLAIN}deploy: {{}}",
        "line 4: deploy is no key of a job; there are model, ",
    ),
    "a wrong type": (PLAIN.replace("0.5", "x"), 'line 3: prune.ratio should be a valid number, not "x"'),
    "text for a number": (
        PLAIN.replace("0.5", "'1'"),
        'line 3: prune.ratio should be a valid number, not "1"',
    ),
    "a number for text": (PLAIN.replace("m.onnx", "3"), "line 1: model should be a valid string, not 3"),
    "yes for a number": (f"{PLAIN}score: {{jobs: true}}", "score.jobs should be a valid integer, not true"),
    "out of range": (PLAIN.replace("0.5", "1.5"), "line 3: prune.ratio should be less than 1, not 1.5"),
    "another word": (f"{PLAIN}score: {{method: luck}}", "score.method should be 'weight', 'reap', "),
    "an item of a list": (
        f"{PLAIN}bench:\n  batch:\n  - 1\n  - 0\n",
        "line 7: bench.batch.1 should be greater than or equal to 1",
    ),
    "several types": (
        f"{PLAIN}recover: {{budget: [1]}}",
        "recover.budget should be a valid number or a valid string, not [1]",
    ),
    "a section that is none": (f"{PLAIN}data: d.npz", "line 4: data should be an object"),
    "an empty section": (f"{PLAIN}bench:\n", "line 4: bench has no value; leave the key out, or write {}"),
    "no model": ("output: out\nprune: {ratio: 0.5}", "model is missing"),
    "two mistakes": (
        "output: 3\nprune: {ratio: 2}\nmodel: m",
        "line 1: output should be a valid string, not 3; and 1 more is wrong",
    ),
    "another version": (f"{PLAIN}version: 2", "line 4: version should be 1, not 2"),
    "a list": ("- a\n- b\n", "is no job: it has no keys"),
    "nothing": ("", "is no job: it has no keys"),
}
"""YAML that is no job, with the sentence; the schema refuses it, too."""
IS_WRONG = {
    "a key twice": (f"{PLAIN}model: b\n", "line 4: model is given twice, in line 1 too"),
    "a key twice below": (PLAIN.replace("0.5", "0.5, ratio: 0.6"), "line 3: prune.ratio is given twice"),
    "no YAML": (f"{PLAIN}bench: [1", "line 4: this is no YAML: "),
    "a tab": (f"{PLAIN}bench:\n\tbatch: [1]", "this is no YAML: "),
    "two documents": (f"{PLAIN}---\nmodel: b", "this is no YAML: "),
    "a zero byte": (f"{PLAIN}name: \x00", "is no YAML: "),
    "a bomb": ("a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]", "line 1: a job has no anchors and aliases"),
    "a tag": (f"{PLAIN}name: !!python/object/apply:os.system [id]", "line 4: a job has no tags, and "),
    "a plain tag": (f"{PLAIN}seed: !!int '3'", "line 4: a job has no tags, and "),
    "deep": (f"a: {'[' * (MOST_DEEP + 1)}", f"a job is nested {MOST_DEEP} deep at most"),
    "very deep": ("{a: " * 20_000, f"a job is nested {MOST_DEEP} deep at most"),
    "many values": (f"a: [{'1,' * (MOST_VALUES + 1)}]", f"a job has {MOST_VALUES:,} values at most"),
    "large": ("#" * (MOST_BYTES + 1), f"larger than {MOST_BYTES:,} bytes"),
    "a huge number": (f"{PLAIN}gate: {{max_drift: 1e999}}", "line 4: gate.max_drift is too large a number"),
    "a key that is no word": (f"{PLAIN}? [a]\n: 1", "line 4: a key is a word"),
}
"""Text that is not read at all, with the sentence."""
BAD = SAYS_WRONG | IS_WRONG


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name == "many values" else name for name in BAD]
)
def test_what_is_no_job_is_refused_in_a_sentence(name: str, command: Command, tmp_path: Path) -> None:
    text, sentence = BAD[name]
    path = tmp_path / "job.yaml"
    path.write_text(text, encoding="utf-8")
    outcome = command("run", path)
    assert outcome.exit_code == 2 and outcome.stdout == "", outcome
    assert outcome.stderr.startswith("error: ") and outcome.stderr.count("\n") == 1, outcome.stderr
    assert sentence in outcome.stderr and "job.yaml" in outcome.stderr and len(outcome.stderr) < 600
    assert [item.name for item in tmp_path.iterdir()] == ["job.yaml"]


@pytest.mark.parametrize("name", SAYS_WRONG)
def test_the_schema_refuses_what_the_types_refuse(name: str) -> None:
    said = read_yaml(SAYS_WRONG[name][0], "job").value
    with pytest.raises(jsonschema.ValidationError):
        by_schema().validate(said)


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("prune.ratio=much", '--set prune.ratio: prune.ratio should be a valid number, not "much"'),
        ("prune.ratoi=1", "--set prune.ratoi: prune.ratoi is no key of a job; did you mean ratio?"),
        ("model.x=1", "--set model.x: model has no keys below it"),
        ("prune", "--set takes KEY=VALUE like prune.ratio=0.3, not 'prune'"),
        (".=1", "--set takes KEY=VALUE"),
        ("bench.batch=[1", "--set bench.batch, line 1: this is no YAML"),
        ("bench={batch: }", "--set bench: bench.batch has no value"),
        ("name=*a", "--set name, line 1: a job has no anchors"),
        ("model=null", "model is missing"),
    ],
)
def test_what_is_set_wrongly_is_refused(setting: str, sentence: str, tmp_path: Path) -> None:
    with settings_spelled(option), pytest.raises(UsageError, match=re.escape(sentence)):
        read(PLAIN, tmp_path, setting)


def test_a_setting_replaces_adds_and_takes_away(tmp_path: Path) -> None:
    job = read(PLAIN, tmp_path, "prune.ratio=null", "prune.keep=2", "bench={}", "bench.batch=[4]", "name=a=b")
    assert (job.keys.prune.ratio, job.keys.prune.keep, job.keys.bench.batch) == (None, 2, (4,))
    assert job.name == "a=b"


def test_words_mean_what_yaml_1_2_says() -> None:
    said = read_yaml(
        "a: no\nb: 1e-3\nc: 2026-01-01\nd: True\ne: -3\nf: '5'\ng: 1_000\nh: {0: [1]}", "x"
    ).value
    assert said == {
        "a": "no", "b": 1e-3, "c": "2026-01-01", "d": True, "e": -3, "f": "5", "g": "1_000", "h": {"0": [1]},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ("score: {}\nprune: {heads: '0:1'}", "line 3: score requires prune.ratio"),
        ("prune: {}", "line 3: prune requires prune.heads, prune.neurons"),
        ("prune: {ratio: 0.5, keep: 2}", "prune.ratio and prune.keep are mutually exclusive"),
        ("prune: {heads: '0:1', ratio: 0.5}", "prune.heads and prune.ratio are mutually exclusive"),
        ("prune: {heads: '0:1', min_heads: 2}", "prune.min_heads requires prune.ratio"),
        ("prune: {keep: 1}\nrecover: {}", "recover requires data.path"),
        ("prune: {keep: 1}\ngate: {min_speedup: 2}", "gate.min_speedup requires bench"),
        ("prune: {keep: 1}\ngate: {max_drift: 2}", "gate.max_drift requires validate"),
        ("prune: {keep: 1}\ngate: {}", "gate requires gate.max_drift"),
        ("prune: {keep: 1}\nquantize: {to: int8-qdq}", "quantize.to int8-qdq requires"),
        ("prune: {keep: 1}\nquantize: {to: int4, per_channel: true}", "quantize.per_channel and"),
        ("prune: {keep: 1}\nvalidate: {metric: 'm:f'}", "validate.metric requires validate.data"),
        ("prune: {keep: 1}\nbench: {repeats: 5, time_budget: 1}", "bench.time_budget and"),
    ],
)  # fmt: skip
def test_keys_that_would_do_nothing(more: str, sentence: str, command: Command, tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(f"model: m.onnx\noutput: out\n{more}\n", encoding="utf-8")
    outcome = command("run", path)
    assert outcome.exit_code == 2 and sentence in outcome.stderr, outcome.stderr


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
