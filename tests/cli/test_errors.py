"""Bad input gets one clear sentence, an exit code of the contract, and leaves no file behind."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from onnxheadprune import HeadPruneError, ModelError, UsageError, inspect, prune
from onnxheadprune.errors import ProviderError, RefusedError, ValidationFailedError
from tests import toys, toys_scores
from tests.conftest import ROOT, Command
from tests.graph_builder import GraphBuilder
from tests.limits import bounded


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    path = tmp_path / "toy.onnx"
    onnx.save(toys.attention(), path)
    return path


@pytest.fixture
def refused(command: Command, tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Runs a command that must fail; gives its one sentence. Nothing may have been written."""

    def run(exit_code: int, *arguments: object) -> str:
        before = _listing(tmp_path)
        result = command(*arguments)
        assert result.exit_code == exit_code, result.stderr
        assert result.stdout == ""
        (line,) = result.stderr.splitlines()
        assert line.startswith("error: ")
        assert "Traceback" not in result.stderr
        assert _listing(tmp_path) == before
        as_json = command(*arguments, "--json")
        assert as_json.exit_code == exit_code
        assert as_json.document["exit_code"] == exit_code
        assert _listing(tmp_path) == before
        return line.removeprefix("error: ")

    return run


def _listing(folder: Path) -> dict[str, bytes | None]:
    """Every file below a folder with its content."""
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


Refused = Callable[..., str]


def test_exit_codes_are_the_contract() -> None:
    codes = {
        HeadPruneError: 3,
        UsageError: 2,
        ModelError: 3,
        RefusedError: 3,
        ValidationFailedError: 1,
        ProviderError: 4,
    }
    assert {error: error.exit_code for error in codes} == codes


# The input


def test_missing_file(refused: Refused, tmp_path: Path) -> None:
    missing = tmp_path / "missing.onnx"
    assert refused(2, "inspect", missing) == f"{missing} does not exist"
    assert (
        refused(2, "prune", missing, "-o", tmp_path / "o.onnx", "--heads", "0:1")
        == f"{missing} does not exist"
    )
    assert refused(2, "validate", missing, missing) == f"{missing} does not exist"


def test_folder_as_model(refused: Refused, command: Command, toy: Path, tmp_path: Path) -> None:
    (empty := tmp_path / "empty").mkdir()
    assert refused(2, "inspect", empty) == f"there is no .onnx file in {empty}"
    for weights in ("model.safetensors", "model-00001-of-00002.safetensors", "pytorch_model.bin"):
        (torch := tmp_path / weights.partition(".")[0]).mkdir(exist_ok=True)
        (torch / weights).touch()
        export = f"which is exported first: optimum-cli export onnx --model {torch} FOLDER"
        for words in (["inspect"], ["prune", "--ratio", "0.5"], ["batch", "--ratio", "0.5"], ["fuse"]):
            said = refused(2, words[0], torch, *words[1:])
            assert f"it holds a model of PyTorch ({weights})" in said and said.endswith(export)
    (model := tmp_path / "folder" / "model.onnx").parent.mkdir()
    shutil.copyfile(toy, model)
    wrong = f"{model.parent} is a folder, and one model is needed here, like {model}"
    data, to = ("--data", "random"), ("--to", "int8-dynamic")
    single = {"fuse": (), "quantize": to, "recover": (toy, *data), "sweep": ("0:50%:25%", *data)}
    for name, rest in {**single, "combine": (toy, *to, *data)}.items():
        orders = [(model.parent, *rest), *([(toy, model.parent, *rest[1:])] if toy in rest else [])]
        for words in orders:
            result = command(name, *words)
            assert result.exit_code == 2 and result.stderr.endswith(f"error: {wrong}\n")
    assert "a folder; see" in refused(2, "batch", toy, "--heads", "0:1")


@contextmanager
def without_privileges() -> Iterator[None]:
    """A block that root, who may read and write everything, runs as nobody."""
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)


def test_unreadable_file(command: Command, toy: Path) -> None:
    # Not in `tmp_path`, whose parents nobody may enter.
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = Path(shutil.copy(toy, folder / "m.onnx"))
        path.chmod(0)
        folder.chmod(0o755)
        with without_privileges():
            result = command("inspect", path)
    sentence = f"error: {path} cannot be read: Permission denied\n"
    assert (result.exit_code, result.stdout, result.stderr) == (3, "", sentence)


@pytest.mark.parametrize("content", [b"", b"this is no model\n", b"\x00" * 100, b"PK\x03\x04 a zip archive"])
def test_not_onnx(refused: Refused, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    assert refused(3, "inspect", path).startswith(f"{path} is not an ONNX model")
    assert "not an ONNX model" in refused(3, "prune", path, "-o", tmp_path / "o.onnx", "--heads", "0:1")


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.999])
def test_truncated(refused: Refused, toy: Path, part: float) -> None:
    data = toy.read_bytes()
    toy.write_bytes(data[: int(len(data) * part)])
    assert "truncated" in refused(3, "inspect", toy)


def external(folder: Path) -> Path:
    folder.mkdir()
    path = folder / "model.onnx"
    model = toys.attention(extra_weight=5000)
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=100)
    return path


def test_external_data_missing(refused: Refused, tmp_path: Path) -> None:
    path = external(tmp_path / "in")
    (path.parent / "weights.bin").unlink()
    for arguments in (["inspect", path], ["prune", path, "-o", tmp_path / "o.onnx", "--heads", "0:1"]):
        sentence = refused(3, *arguments)
        assert "keeps weights in weights.bin, and there is no such file beside it" in sentence


def test_external_data_truncated(refused: Refused, tmp_path: Path) -> None:
    path = external(tmp_path / "in")
    weights = path.parent / "weights.bin"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert str(path) in refused(3, "prune", path, "-o", tmp_path / "o.onnx", "--heads", "0:1")


def test_weights_that_were_not_loaded(tmp_path: Path) -> None:
    path = external(tmp_path / "in")
    with pytest.raises(ModelError, match="weights of toy are not in memory"):
        inspect(onnx.load(path, load_external_data=False))


def test_model_that_fails_the_checker_already(refused: Refused, tmp_path: Path) -> None:
    model = toys.attention()
    for node in model.graph.node:
        if node.op_type == "Softmax":
            node.attribute.append(helper.make_attribute("no_such_attribute", 1))
    path = tmp_path / "broken.onnx"
    onnx.save(model, path)
    sentence = refused(3, "prune", path, "-o", tmp_path / "o.onnx", "--heads", "0:1")
    assert sentence.startswith(f"{path} is not a valid ONNX model: ")
    assert "no_such_attribute" in sentence
    refused(3, "prune", path, "-o", tmp_path / "o.onnx", "--heads", "0:1", "--no-validate")


def test_a_value_that_nothing_defines(refused: Refused, tmp_path: Path) -> None:
    model = toys.attention()
    model.graph.node[3].input[0] = "nowhere"
    path = tmp_path / "broken.onnx"
    onnx.save(model, path)
    assert "nowhere" in refused(3, "inspect", path)


def test_what_only_the_checker_refuses_is_pruned(command: Command, tmp_path: Path) -> None:
    """ONNX Runtime's optimizer writes LayerNormalization into models of any opset, and runs it."""
    model = toys.attention()
    model.opset_import[0].version = 14
    toy = GraphBuilder()
    toy.node("LayerNormalization", ["y", toy.weight("scale", toys.HIDDEN)], "normal")
    model.graph.node.extend(toy.nodes)
    model.graph.initializer.extend(toy.initializers)
    model.graph.output[0].name = "normal"
    with pytest.raises(onnx.checker.ValidationError):
        onnx.checker.check_model(model)
    path, out = tmp_path / "fused.onnx", tmp_path / "o.onnx"
    onnx.save(model, path)
    result = command("prune", path, "-o", out, "--heads", "0:1")
    assert result.exit_code == 0
    assert "only ONNX Runtime judges" in result.stdout


# The request


def test_no_attention(refused: Refused, tmp_path: Path) -> None:
    path = tmp_path / "plain.onnx"
    onnx.save(toys.no_attention(), path)
    sentence = refused(3, "prune", path, "-o", tmp_path / "o.onnx", "--heads", "0:1")
    assert "no attention site" in sentence


@pytest.mark.parametrize(
    ("heads", "exit_code", "message"),
    [
        ("7:1", 2, "there is no site '7'; this model has attn.0 (attn)"),
        ("decoder:1", 2, "there is no site 'decoder'"),
        ("0:9", 2, "attn.0 (attn) has no head 9: its heads are 0-3"),
        ("0", 2, "cannot read '0' in the head spec"),
        ("0:a", 2, "cannot read 'a' in '0:a'"),
        ("0:3-1", 2, "runs backwards"),
        ("", 2, "the head spec is empty"),
        ("{broken", 2, "is not JSON"),
        ("missing.json", 2, "head spec file missing.json does not exist"),
        ('{"0": "x"}', 2, "must be a list of numbers"),
        ('{"0": []}', 3, "nothing to remove"),
    ],
)
def test_head_specs(
    refused: Refused, toy: Path, tmp_path: Path, heads: str, exit_code: int, message: str
) -> None:
    assert message in refused(exit_code, "prune", toy, "-o", tmp_path / "o.onnx", "--heads", heads)
    assert message in refused(exit_code, "prune", toy, "--dry-run", "--heads", heads)


def test_a_site_that_keeps_all_it_has(command: Command, toy: Path, tmp_path: Path) -> None:
    result = command("prune", toy, "-o", tmp_path / "o.onnx", "--keep", "4", "--data", "random")
    assert result.exit_code == 3
    assert result.stderr.endswith("error: --keep 4 leaves nothing to remove: there are no more than 4\n")


def test_a_file_in_place_of_a_folder(refused: Refused, toy: Path) -> None:
    sentence = refused(2, "prune", toy, "-o", toy / "o.onnx", "--heads", "0:1")
    assert sentence == f"the folder {toy} is not a folder"


@pytest.mark.parametrize("option", ["--time", "--recover"])
def test_no_time_at_all(refused: Refused, toy: Path, tmp_path: Path, option: str) -> None:
    sentence = refused(
        2, "prune", toy, "-o", tmp_path / "o.onnx", "--ratio", "0.5", "--data", "random", option, "0s"
    )
    assert sentence.endswith("above 0") and ("call" in sentence) == (option == "--time")


def test_a_head_that_is_gone_already(refused: Refused, command: Command, toy: Path, tmp_path: Path) -> None:
    once = tmp_path / "once.onnx"
    assert command("prune", toy, "-o", once, "--heads", "0:1").exit_code == 0
    sentence = refused(2, "prune", once, "-o", tmp_path / "twice.onnx", "--heads", "0:1")
    assert sentence == "head 1 of attn.0 (attn) was removed before"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--ratio", "50"], "50 is not greater than 0 and less than 1; write 50% for percent"),
        (["--ratio", "150%"], "150% is not greater than 0 and less than 1; see"),
        (["--ratio", "1.5%%"], "'1.5%%' is not a share like 0.25 or 25%"),
        ([], "or how much with --ratio; see onnxheadprune prune --help"),
        (["--ratio", "0.5", "--keep", "x"], "'x' is not a valid whole number"),
        (["--fuse", "onnx"], "to fuse only, use onnxheadprune fuse MODEL --mode onnx; see"),
    ],
)
def test_amounts(refused: Refused, toy: Path, options: list[str], message: str) -> None:
    assert message in refused(2, "prune", toy, *options)


def test_validate_what_was_not_pruned(refused: Refused, command: Command, toy: Path, tmp_path: Path) -> None:
    assert "has no record of removed heads" in refused(2, "validate", toy, toy)
    pruned = tmp_path / "pruned.onnx"
    assert command("prune", toy, "--heads", "0:1", "--no-validate", "-o", pruned).exit_code == 0
    told = refused(2, "validate", pruned, toy)
    assert told.endswith(f"or give the original first: {pruned} has such a record")


@pytest.mark.slow
def test_wrong_data(refused: Refused, toy: Path, tmp_path: Path) -> None:
    data = tmp_path / "data.npz"
    np.savez(data, wrong=np.zeros(3, dtype=np.float32))
    labels = tmp_path / "labels.npz"
    np.savez(labels, wrong=np.zeros((3, 2)), labels=np.zeros(3))
    for given, message in {
        labels: f"{labels} lacks the input x (float32 [batch, sequence, 12]); it holds labels [3], wrong [3, 2]",
        data: f"{data} lacks the input x (float32 [batch, sequence, 12]); it holds wrong [3]",
        tmp_path / "missing.npz": f"the data {tmp_path / 'missing.npz'} does not exist",
    }.items():
        arguments = ("prune", toy, "-o", tmp_path / "o.onnx", "--heads", "0:1", "--data", given)
        assert refused(2, *arguments) == message


# The output


def test_output_equal_to_the_input(refused: Refused, toy: Path, tmp_path: Path) -> None:
    alias = tmp_path / "alias.onnx"
    alias.symlink_to(toy)
    for out in (toy, toy.parent / "." / toy.name):
        sentence = refused(2, "prune", toy, "-o", out, "--heads", "0:1")
        assert sentence == (
            f"the output {out} would replace MODEL {toy}, which this call reads; choose another path"
        )
    assert f"is a link to {toy}; name that file" in refused(2, "prune", toy, "-o", alias, "--heads", "0:1")


def test_output_over_the_weights_of_the_input(refused: Refused, tmp_path: Path) -> None:
    source = external(tmp_path / "in")
    weights = source.with_name("weights.bin")
    assert "would replace the weights of MODEL" in refused(
        2, "prune", source, "-o", weights, "--heads", "0:1"
    )


def test_folder_that_does_not_exist(refused: Refused, toy: Path, tmp_path: Path) -> None:
    out = tmp_path / "nowhere" / "o.onnx"
    assert refused(2, "prune", toy, "-o", out, "--heads", "0:1") == f"the folder {out.parent} does not exist"


def test_folder_as_output(refused: Refused, toy: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    assert "is a folder" in refused(2, "prune", toy, "-o", folder, "--heads", "0:1")


def test_folder_that_cannot_be_written(command: Command, toy: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copy(toy, folder / "m.onnx")
        folder.chmod(0o555)
        with without_privileges():
            result = command("prune", folder / "m.onnx", "-o", folder / "o.onnx", "--heads", "0:1")
        folder.chmod(0o755)
        assert [path.name for path in folder.iterdir()] == ["m.onnx"]
    sentence = f"error: {folder}/o.onnx cannot be written: its folder is not writable (Permission denied)\n"
    assert (result.exit_code, result.stderr) == (2, sentence)


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs Linux")
def test_folder_that_refuses_files(refused: Refused, toy: Path) -> None:
    assert "/proc/o.onnx cannot be written" in refused(
        2, "prune", toy, "-o", "/proc/o.onnx", "--heads", "0:1"
    )


@pytest.mark.slow
@pytest.mark.parametrize("option", ["never", "always"])
def test_full_disk(
    refused: Refused, toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    out = tmp_path / "o.onnx"
    out.write_text("an older model")
    monkeypatch.setattr(os, "fsync", full)
    sentence = refused(2, "prune", toy, "-o", out, "--heads", "0:1", "--force", "--external-data", option)
    assert sentence == f"{out} cannot be written: no space is left"
    assert out.read_text() == "an older model"


@pytest.mark.parametrize("kilobytes", [100, 200])
def test_lack_of_space_is_not_blamed_on_the_model(kilobytes: int, tmp_path: Path) -> None:
    """In a temporary folder with room for none, or one, of the files that the quantizer writes there."""
    onnx.save(toys.attention(hidden=512), tmp_path / "m.onnx")
    (tmp_path / "full").mkdir()
    mounted = f"mount -t tmpfs -o size={kilobytes}k tmpfs full"
    apart = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    if subprocess.run([*apart, mounted], cwd=tmp_path, capture_output=True, check=False).returncode:
        pytest.skip("this system mounts nothing for its users")
    command = (
        f"{mounted} && exec {sys.executable} -m onnxheadprune quantize m.onnx -o o.onnx --to int8-dynamic"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path / "full"), "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [*apart, command], cwd=tmp_path, capture_output=True, text=True, check=False, env=environment
    )
    assert result.returncode in (2, 3), result
    assert "no space is left" in result.stderr and f"{tmp_path}/full" in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("option", ["never", "always"])
def test_write_that_stops_half_way(tmp_path: Path, option: str) -> None:
    """A real half-written file: the system allows 10 kB per file, the model needs more."""
    source, folder = tmp_path / "big.onnx", tmp_path / "out"
    folder.mkdir()
    onnx.save(toys.attention(extra_weight=10_000), source)
    out = folder / "o.onnx"
    command = [sys.executable, "-m", "onnxheadprune", "prune", source, "-o", out, "--heads", "0:1"]
    result = subprocess.run(
        [*map(str, command), "--external-data", option, "--no-validate"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000)),
    )
    assert result.returncode == 2
    assert result.stderr == f"error: {out} cannot be written: File too large\n"
    assert list(folder.iterdir()) == []


@pytest.mark.slow
def test_a_temporary_folder_without_room_is_named(tmp_path: Path) -> None:
    """A real shortage: what is kept between blocks goes to a file, and the system allows 100 bytes in one."""
    model, data = tmp_path / "stack.onnx", tmp_path / "data.npz"
    onnx.save(toys_scores.stack(), model)
    np.savez(data, **toys_scores.ids(1)[0])
    code = (
        "import sys; from onnxheadprune.choosing.activations import chain; chain.IN_MEMORY = 0;"
        "from onnxheadprune.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, "score", model, "--data", data, "--provider", "cpu"]
    for room, exit_code in ((100, 3), (10_000_000, 0)):
        result = subprocess.run(
            [*map(str, command), "--method", "ablation"],
            capture_output=True,
            text=True,
            check=False,
            cwd=ROOT,
            preexec_fn=lambda room=room: resource.setrlimit(resource.RLIMIT_FSIZE, (room, room)),
        )
        assert result.returncode == exit_code, result.stderr
        assert ("no space is left in the temporary folder" in result.stderr) == (exit_code == 3)


def test_second_rename_that_fails_restores_the_older_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = toys.attention(extra_weight=5000)
    out = tmp_path / "o.onnx"
    prune(model, out, heads="0:1", external_data="always", provider="cpu")
    before = _listing(tmp_path)
    rename = Path.replace

    def fails(self: Path, target: Path) -> Path:
        if target == out:
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", fails)
    with pytest.raises(UsageError, match="Input/output error"):
        prune(model, out, heads="0:2", external_data="always", provider="cpu")
    assert _listing(tmp_path) == before


def test_too_large_for_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxheadprune.model.save.INLINE_LIMIT", 10_000)
    model = toys.attention(extra_weight=5000)
    with pytest.raises(UsageError, match='external_data="auto"'):
        prune(model, tmp_path / "o.onnx", heads="0:1", external_data="never", provider="cpu")
    assert not list(tmp_path.iterdir())
    prune(model, tmp_path / "o.onnx", heads="0:1", provider="cpu")
    assert [path.name[:7] for path in sorted(tmp_path.iterdir())] == ["o.onnx", "o.onnx."]


def test_data_that_the_model_does_not_run_on(refused: Refused, toy: Path, tmp_path: Path) -> None:
    model = onnx.load(toy)
    toys.set_initializer(model, "split_shape", np.array([0, 5, toys.HEADS, toys.HEAD_SIZE]))
    onnx.save(model, toy)
    data = tmp_path / "data.npz"
    np.savez(data, x=np.zeros((2, 3, toys.HIDDEN), dtype=np.float32))
    sentence = refused(2, "prune", toy, "-o", tmp_path / "o.onnx", "--heads", "0:1", "--data", data)
    assert sentence.startswith(f"{data} does not fit the model: the original model does not run: ")


def test_negative_seed(refused: Refused, toy: Path, tmp_path: Path) -> None:
    arguments = ("prune", toy, "-o", tmp_path / "o.onnx", "--heads", "0:1", "--seed", -1)
    assert "--seed" in refused(2, *arguments)
    with pytest.raises(UsageError, match="seed must be at least 0, not -1"):
        prune(toy, heads="0:1", seed=-1, provider="cpu")


@pytest.mark.slow
def test_out_of_memory(toy: Path) -> None:
    """A real shortage: text of 120 MB, which belongs to a model's structure, and room for 60 MB."""
    model = onnx.load(toy)
    model.doc_string = "x" * 120_000_000
    onnx.save(model, toy)
    result = bounded("inspect", toy, memory=60_000_000)
    sentence = "error: there is not enough memory for this\n"
    assert (result.exit_code, result.stdout, result.stderr) == (3, "", sentence)
    model.doc_string = ""
    onnx.save(model, toy)
    assert bounded("inspect", toy, memory=60_000_000).exit_code == 0


def test_unknown_kind_of_external_data(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="auto, always or never"):
        prune(toys.attention(), tmp_path / "o.onnx", heads="0:1", external_data="sometimes")  # type: ignore[arg-type]


def test_errors_name_inputs_that_hold_no_numbers(refused: Refused, toy: Path, tmp_path: Path) -> None:
    model = onnx.load(toy)
    model.graph.input.append(helper.make_tensor_value_info("texts", TensorProto.STRING, ["batch"]))
    onnx.save(model, toy)
    sentence = refused(2, "prune", toy, "-o", tmp_path / "o.onnx", "--heads", "0:1")
    assert "input 'texts' is no tensor of numbers" in sentence


def test_json_errors_are_valid_json(command: Command, tmp_path: Path) -> None:
    result = command("inspect", tmp_path / 'a"b\\c.onnx', "--json")
    assert json.loads(result.stdout)["exit_code"] == 2


def test_a_model_without_opset_or_nodes_is_a_model_all_the_same(
    toy: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    whole = onnx.load(toy)
    for field, sentence in (("opset_import", "has no opset_import"), ("node", "has no nodes")):
        model = onnx.ModelProto()
        model.CopyFrom(whole)
        model.ClearField("opset_import") if field == "opset_import" else model.graph.ClearField("node")
        onnx.save(model, tmp_path / f"{field}.onnx")
        found = refused(3, "inspect", tmp_path / f"{field}.onnx")
        assert sentence in found and "not an ONNX model" not in found


def test_a_name_for_weights_is_nothing_that_is_read(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Callable[..., str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    onnx.save(toys.attention(extra_weight=1000), toy)
    words = ("--heads", "0:1", "--external-data", "always", "--data-name", "notes.txt")
    found = refused(2, "prune", toy, "-o", "o.onnx", *words)
    assert "its data file notes.txt exists already, and is never replaced" in found
    assert (tmp_path / "notes.txt").read_text() == "mine" and not (tmp_path / "o.onnx").exists()
