"""What each client asks of a folder: which cuts it can express, and the fields that follow."""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import pytest

from onnxheadprune import RefusedError
from onnxheadprune.choosing.allocate import Limits
from onnxheadprune.choosing.scoring.moves import merged, path_by_worth, ways_of
from onnxheadprune.deploying import clients
from onnxheadprune.deploying.clients.all import client_named
from onnxheadprune.deploying.clients.contract import CachedSite, Deployment, FileFacts
from onnxheadprune.deploying.clients.layers import described
from onnxheadprune.settings.registry import RUNTIMES
from onnxheadprune.settings.writing import RuntimeName
from tests.choosing.searched import removed
from tests.conftest import ROOT, Command
from tests.deploying import exports
from tests.graphs import fused, pairs, toys

PAIRS = ((0, 1), (2, 3), (4, 5), (6, 7))
SINGLE = ((0,), (1,), (2,), (3,))


def layers(*gone: tuple[int, ...], groups: tuple[tuple[int, ...], ...] = SINGLE) -> tuple[CachedSite, ...]:
    """Layers with four KV heads of size 8, of which some go."""
    return tuple(
        CachedSite(index, f"layer{index}", 4, 4 - len(dead), 8, groups, dead)
        for index, dead in enumerate(gone)
    )


def cut(config: dict[str, Any], *gone: tuple[int, ...], **more: Any) -> Deployment:
    return Deployment((FileFacts("model.onnx", has_cache=True),), config, layers(*gone, **more))


def followed(name: str, deployment: Deployment) -> dict[str, Any]:
    return {"/".join(change.field): change.after for change in client_named(name).changes(deployment)}


def test_the_command_line_knows_all_clients() -> None:
    files = {
        path.stem for path in Path(clients.__file__).parent.glob("*.py") if "\nCLIENT = " in path.read_text()
    }
    assert files == {module.rpartition(".")[2] for module in RUNTIMES.values()}
    assert get_args(RuntimeName) == tuple(RUNTIMES)
    assert [client_named(name).name for name in RUNTIMES] == [*RUNTIMES]


LLAMA = {"model_type": "llama", "num_attention_heads": 8, "num_key_value_heads": 4, "hidden_size": 64}


@pytest.mark.parametrize(
    ("config", "after"),
    [
        (LLAMA, {"num_key_value_heads": 3}),
        ({"model_type": "gemma3", "text_config": LLAMA}, {"text_config/num_key_value_heads": 3}),
        ({"model_type": "gpt2", "n_head": 4, "n_embd": 32}, {"n_head": 3, "n_embd": 24}),
        ({"model_type": "t5", "num_heads": 4, "d_model": 32, "d_kv": 8}, {"num_heads": 3, "d_model": 24}),
        (
            {"model_type": "bart", "encoder_attention_heads": 4, "decoder_attention_heads": 4, "d_model": 32},
            {"encoder_attention_heads": 3, "decoder_attention_heads": 3, "d_model": 24},
        ),
        ({"model_type": "falcon", "num_kv_heads": 4, "num_attention_heads": 8}, {"num_kv_heads": 3}),
        (
            {"model_type": "phi", "num_attention_heads": 4, "num_key_value_heads": 4, "hidden_size": 32},
            {"num_attention_heads": 3, "num_key_value_heads": 3, "hidden_size": 24},
        ),
        (
            {"model_type": "opt", "num_attention_heads": 4, "hidden_size": 32},
            {"num_attention_heads": 3, "hidden_size": 24},
        ),
    ],
)
def test_the_fields_that_optimum_computes_caches_from(config: dict[str, Any], after: dict[str, Any]) -> None:
    assert followed("optimum", cut(config, (0,), (2,))) == after


@pytest.mark.parametrize(
    ("config", "after"),
    [
        ({"hidden_size": 32, "num_key_value_heads": 4}, {"num_key_value_heads": 3, "hidden_size": 24}),
        ({"n_embd": 32, "n_head": 4, "n_layer": 4}, {"n_head": 3, "n_embd": 24}),
        ({"hidden_size": 32, "num_hidden_layers": 4}, {"num_key_value_heads": 3, "hidden_size": 24}),
    ],
)
def test_the_fields_that_tei_computes_caches_from(config: dict[str, Any], after: dict[str, Any]) -> None:
    assert followed("tei", cut(config, (0,), (2,))) == after


def test_nothing_follows_where_no_cache_gets_narrower() -> None:
    for client in map(client_named, RUNTIMES):
        assert client.changes(cut(LLAMA, (), ())) == ()


@pytest.mark.parametrize("client", ["optimum", "tei"])
def test_uneven_caches_are_refused_with_the_nearest_even_set(client: str) -> None:
    uneven = cut(LLAMA, (0,), (3,), (), groups=PAIRS)
    with pytest.raises(RefusedError) as refused:
        client_named(client).changes(uneven)
    nearest = 'heads="attn.0:0,1 attn.1:6,7 attn.2:0,1"; cache="keep" leaves'
    assert nearest in str(refused.value)
    assert client_named("ort").changes(uneven) == client_named("openvino").changes(uneven) == ()


def windowed(field: str, *gone: tuple[int, ...], listed: tuple[int, ...] = ()) -> Deployment:
    """A folder of onnxruntime-genai that allocates all caches by one number of heads, unless windows are listed."""
    window = {"window_size": 8, "layers": [*listed]}
    decoder = {"num_key_value_heads": 4, "num_hidden_layers": len(gone), field: window}
    return replace(cut({}, *gone, groups=PAIRS), genai={"model": {"decoder": decoder}})


@pytest.mark.parametrize("field", ["sliding_window", "layer_types"])
def test_genai_allocates_caches_by_one_number_where_layers_have_windows_or_types(field: str) -> None:
    genai = client_named("genai")
    (change,) = genai.changes(windowed(field, (0,), (3,)))
    assert str(change) == "genai_config.json: model.decoder.num_key_value_heads 4 -> 3"
    with pytest.raises(RefusedError, match='cache="keep" leaves'):
        genai.changes(windowed(field, (0,), ()))
    assert genai.changes(windowed(field, (), ())) == ()
    assert genai.even_caches(windowed(field, (), ())) and not genai.even_caches(windowed("other", ()))
    assert genai.changes(windowed("other", (0,), ())) == ()


def test_genai_reads_each_cache_from_the_model_where_layers_with_windows_are_listed() -> None:
    """Gemma 2 and GPT-OSS: tests/clients runs them."""
    mixed = windowed("sliding_window", (0,), (), listed=(0,))
    genai = client_named("genai")
    assert genai.changes(mixed) == () and not genai.even_caches(mixed)


T5 = {"model_type": "t5", "is_encoder_decoder": True, "num_heads": 4, "d_model": 32, "d_kv": 16}
COMPUTED: tuple[tuple[str, dict[str, Any], tuple[int, int] | None], ...] = (
    ("optimum", LLAMA, (4, 8)),
    ("optimum", LLAMA | {"num_key_value_heads": 2}, (2, 8)),
    ("optimum", LLAMA | {"model_type": "gemma", "hidden_size": 9, "head_dim": 8}, (4, 8)),
    ("optimum", LLAMA | {"model_type": "phi3"}, (8, 8)),
    ("optimum", LLAMA | {"model_type": "falcon"}, None),
    ("optimum", {"model_type": "gpt2", "n_head": 8, "n_embd": 64}, (8, 8)),
    ("optimum", T5, (4, 8)),
    (
        "optimum",
        {
            "model_type": "bart",
            "encoder_attention_heads": 2,
            "decoder_attention_heads": 4,
            "d_model": 32,
        },
        (2, 16),
    ),
    (
        "optimum",
        {"model_type": "vision-encoder-decoder", "is_encoder_decoder": True, "decoder": LLAMA},
        (8, 8),
    ),
    ("tei", LLAMA, (4, 16)),
    ("tei", {"n_embd": 32, "n_head": 4, "n_layer": 2}, (4, 8)),
    ("tei", {"hidden_size": 32, "num_hidden_layers": 2}, (2, 16)),
    ("genai", {}, None),
    ("transformers.js", LLAMA, None),
)


@pytest.mark.parametrize(("client", "config", "caches"), COMPUTED)
def test_caches_that_runtimes_compute_from_the_configuration(
    client: str, config: dict[str, Any], caches: tuple[int, int] | None
) -> None:
    folder = replace(cut(config, (), ()), files=(FileFacts("decoder_model_merged.onnx"),))
    assert client_named(client).caches(folder) == caches
    if "is_encoder_decoder" in config:
        # A decoder for the first tokens takes no caches.
        assert client_named(client).caches(cut(config, (), ())) is None


def test_genai_computes_caches_of_one_size_where_layers_have_windows() -> None:
    folder = windowed("sliding_window", (), ())
    folder.genai["model"]["decoder"]["head_size"] = 16
    caches = client_named("genai").caches
    assert caches(folder) == (4, 16)
    assert caches(replace(folder, sites=(*folder.sites, replace(folder.sites[0], head_size=4)))) is None


@pytest.mark.parametrize("client", ["optimum", "tei", "genai"])
def test_what_a_runtime_cannot_run_unpruned_is_refused_before_the_work(
    client: str, command: Command, tmp_path: Path
) -> None:
    """With caches that stay; those that are cut correct the numbers that the runtime reads."""
    folder = exports.deep_decoder(tmp_path / "in")
    config = {"model_type": "gpt2", "n_head": 3, "n_embd": 3 * toys.HEAD_SIZE, "n_layer": 2}
    (folder / "config.json").write_text(json.dumps(config | {"num_attention_heads": toys.HEADS}))
    decoder = {"sliding_window": {}, "num_key_value_heads": 3, "head_size": toys.HEAD_SIZE}
    (folder / "genai_config.json").write_text(json.dumps({"model": {"decoder": decoder}}))
    words = ("prune", folder, "-o", tmp_path / "out", "--heads", "*:1", "--runtime", client)
    refused = command(*words, "--cache", "keep")
    told = "cannot run this folder unpruned either: from the configuration it computes caches of"
    assert refused.exit_code == 3 and told in refused.stderr and not (tmp_path / "out").exists()
    if client == "optimum":
        mended = command(*words, "--dry-run")
        assert mended.exit_code == 0, mended.stderr


@pytest.mark.parametrize(
    "client", ["optimum", "sentence-transformers", "tei", "fastembed", "transformers.js"]
)
def test_files_that_a_runtime_misses_are_named(client: str, command: Command, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    onnx.save(toys.attention(), folder / "model.onnx")
    outcome = command("prune", folder, "--heads", "0:1", "--runtime", client, "--dry-run")
    assert outcome.exit_code == 0, outcome.stderr
    assert "reads config.json" in outcome.stdout + outcome.stderr
    assert "cannot load this folder unpruned either" in " ".join((outcome.stdout + outcome.stderr).split())


@pytest.mark.parametrize("kind", ["llama", "qwen3", "phi3", "olmo2", "gemma2"])
@pytest.mark.parametrize("options", [("--cache", "keep"), ()])
def test_a_folder_that_optimum_does_not_run_unpruned_is_refused_whatever_its_type(
    kind: str, options: tuple[str, ...], command: Command, tmp_path: Path
) -> None:
    """It reads the number of KV heads of some types, and takes the size of a head from the hidden size."""
    folder = tmp_path / "in"
    folder.mkdir()
    onnx.save(fused.decoder(repeated=True), folder / "model.onnx")
    sizes = {
        "num_attention_heads": fused.HEADS,
        "num_key_value_heads": fused.KV_HEADS,
        "num_hidden_layers": 1,
        "hidden_size": fused.HEADS * fused.HEAD_SIZE * (2 if kind in ("llama", "qwen3") else 1),
    }
    exports.side_files(folder, {"model_type": kind, **sizes})
    refused = command("prune", folder, "--dry-run", "--heads", "0:0,1", "--runtime", "optimum", *options)
    assert refused.exit_code == 3, refused.stdout
    assert "cannot run this folder unpruned either" in refused.stderr


def test_a_cache_that_another_network_outputs_keeps_its_width(command: Command, tmp_path: Path) -> None:
    """Whisper's encoder outputs the keys that the decoder's cross-attention takes."""
    folder = exports.encoder_decoder(tmp_path / "in")
    (folder / "decoder_model.onnx").unlink()
    encoder = onnx.load(folder / "encoder_model.onnx")
    part = onnx.parser.parse_graph(
        f"g (float[r, h] x) => (float[1, {toys.HEADS}, s, {toys.HEAD_SIZE}] present_key)"
        f" <int64[4] sizes = {{1, -1, {toys.HEADS}, {toys.HEAD_SIZE}}}>"
        f"{{ rows = Reshape ({encoder.graph.input[0].name}, sizes)"
        "  present_key = Transpose <perm = [0, 2, 1, 3]> (rows) }"
    )
    encoder.graph.node.extend(part.node)
    encoder.graph.initializer.extend(part.initializer)
    encoder.graph.output.extend(part.output)
    onnx.save(encoder, folder / "encoder_model.onnx")
    refused = command("prune", folder, "--heads", "0:1", "--dry-run")
    assert refused.exit_code == 3, refused.stdout
    assert "and present_key of encoder_model.onnx would stay as it is" in refused.stderr


DIMS = f"{toys.HEADS}, -1, {toys.HEAD_SIZE}"
PAST = "data_type: TYPE_FP32"
DECLARED = {
    "a list": f'input [ {{ name: "past_key" {PAST} dims: [ {DIMS} ] }}, {{ name: "x" dims: [ {DIMS} ] }} ]',
    "dims first": f"input [ {{ dims: [ {DIMS} ] {PAST}, name: 'past_key' }} ]",
    "one by one": 'input { name: "past_key" ' + " ".join(f"dims: {dim}" for dim in DIMS.split(",")) + " }",
    "a message between": f'input <name: "past_key"; reshape {{ shape: [ ] }} dims: [{DIMS}]>',
    "other fields": f"""# "past_key" dims {{
        instance_group [ {{ count: 1 gpus: [ 0 ] }} ] parameters {{ key: "a" value: {{ string_value: "}}" }} }}
        output [ {{ name: "past_key" label_filename: "" dims: [ {DIMS} ] }} ]""",
}
STAYS = {
    "a batch more": f'input [ {{ name: "past_key" dims: [ 1, {DIMS} ] }} ]',
    "any number": 'input [ { name: "past_key" dims: [ -1, -1, -1 ] } ]',
    "another name": f'input [ {{ name: "x" dims: [ {DIMS} ] }} ]  # "past_key" dims',
    "without dims": 'input [ { name: "past_key" } ]',
}


@pytest.mark.parametrize("form", [*DECLARED, *STAYS])
def test_dims_that_triton_reads_are_named_where_they_are_cut(
    form: str, command: Command, tmp_path: Path
) -> None:
    folder = exports.decoder(tmp_path / "in")
    words = ("prune", folder, "--heads", "0:1", "--dry-run")
    told = f"config.pbtxt declares dims of past_key, where {toys.HEADS} is {toys.HEADS - 1} now: Triton"
    (folder / "config.pbtxt").write_text("max_batch_size: 8\n" + (DECLARED | STAYS)[form])
    for options, named in (((), form in DECLARED), (("--cache", "keep"), False)):
        outcome = command(*words, *options)
        assert outcome.exit_code == 0, outcome.stderr
        assert (told in " ".join((outcome.stdout + outcome.stderr).split())) == named


@pytest.mark.parametrize("text", ["input [", "input { name: 'x'", "} input", "input [ { ] }", "[ 1 ]", "{ }"])
def test_a_file_in_another_format_is_copied_unread(text: str, command: Command, tmp_path: Path) -> None:
    folder = exports.decoder(tmp_path / "in")
    (folder / "config.pbtxt").write_text(text)
    outcome = command("prune", folder, "--heads", "0:1", "--dry-run")
    assert outcome.exit_code == 0, outcome.stderr
    assert "config.pbtxt is copied unread" in outcome.stdout + outcome.stderr


def test_other_forms_of_a_model_are_named_beside_it(command: Command, tmp_path: Path) -> None:
    folder = exports.encoder(tmp_path / "in")
    for name, named in (("onnx/model.ort", True), ("model.safetensors", True), ("2_Dense/model.ort", False)):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
        outcome = command("prune", folder, "--heads", "0:1", "--dry-run")
        assert (f"{name} holds the model before the cut" in outcome.stdout + outcome.stderr) == named
        path.unlink()


def deployed(folder: Path) -> Path:
    """A decoder of two layers with what each runtime reads, which allocates all caches alike."""
    exports.deep_decoder(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"hidden_size": toys.HEADS * toys.HEAD_SIZE}))
    decoder = {"filename": "model.onnx", "sliding_window": {"layers": []}, "num_hidden_layers": 2}
    (folder / "genai_config.json").write_text(
        json.dumps({"model": {"decoder": decoder | {"num_key_value_heads": toys.HEADS}}})
    )
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A decoder, and an encoder-decoder."""
    place = tmp_path_factory.mktemp("deployed")
    pair = pairs.folder(place / "pair", split=False)
    counted = {"decoder_attention_heads": toys.HEADS, "encoder_attention_heads": toys.HEADS, "d_model": 16}
    (pair / "config.json").write_text(json.dumps({"decoder_layers": 1, **counted}))
    return deployed(place / "decoder"), pair


ASKED = (
    ("0:1", True, (), ("optimum", "tei", "genai")),
    ("0:1,2,3 1:2", True, (), ("optimum", "genai")),
    # No set of heads would do: a layer loses all of them, and its cache stays as it is.
    ("0:0-3 1:1", False, (), ("optimum", "genai")),
    # The cache of a removed layer stays, and may lose heads.
    ("1:1", True, ("--layers", "0"), ("tei",)),
)
PAIRED = (
    ("0:1", True, ()),
    # What is asked of the encoder stays asked.
    ("0:1 2:1,2", True, ()),
    # One attention of a layer loses its cache, and the other does not.
    ("0:0-3 1:1", False, ("--cache", "renumber")),
)
NAMED = [(0, client, *rest) for *rest, clients in ASKED for client in clients]
NAMED += [(1, "optimum", *rest) for rest in PAIRED]


@pytest.mark.first_case
@pytest.mark.parametrize("asked", NAMED, ids=lambda asked: f"{asked[1]} {asked[2]}")
def test_a_set_of_heads_that_a_refusal_names_is_taken(
    asked: tuple[Any, ...], folders: tuple[Path, Path], command: Command
) -> None:
    number, client, heads, names_one, more = asked
    words = ("prune", folders[number], "--dry-run", "--runtime", client, *more, "--heads")
    refused = command(*words, heads)
    told = " ".join(refused.stderr.split())
    named = re.findall(r'--heads "([^"]+)"', told)
    assert refused.exit_code == 3 and bool(named) == names_one, told
    for nearest in named:
        outcome = command(*words, nearest)
        assert outcome.exit_code == 0, outcome.stderr
        assert " 2:1,2" not in heads or "attn.2:1,2" in nearest


def test_a_decoder_without_a_configuration_is_refused() -> None:
    for config in ({}, {"model_type": "gpt2"}):
        with pytest.raises(RefusedError, match='cache="keep"'):
            client_named("optimum").changes(cut(config, (0,)))


def test_sentence_transformers_finds_the_file_or_is_told_its_name() -> None:
    check = client_named("sentence-transformers").check
    assert check(Deployment((FileFacts("onnx/model.onnx"),))) == ()
    (sentence,) = check(Deployment((FileFacts("onnx/model_O3.onnx"),)))
    assert '"file_name": "onnx/model_O3.onnx"' in sentence


def test_folders_that_a_client_does_not_load() -> None:
    other, half = FileFacts("encoder.onnx"), FileFacts("model.onnx", is_float=False)
    for name, files in (("tei", (other,)), ("tei", (half,)), ("genai", (other,))):
        with pytest.raises(RefusedError):
            client_named(name).check(Deployment(files))
    assert client_named("genai").check(Deployment((other,), others=("genai_config.json",))) == ()


@pytest.mark.parametrize(
    ("config", "missing"),
    [
        ({"hidden_size": 32, "num_hidden_layers": 2}, None),
        ({"n_embd": 32, "n_layer": 2}, None),
        ({}, None),
        ({"dim": 32, "n_layers": 2, "n_heads": 4}, "hidden_size or n_embd"),
        ({"d_model": 32, "num_hidden_layers": 2}, "hidden_size or n_embd"),
        ({"hidden_size": 32, "n_layers": 2}, "num_hidden_layers or n_layer"),
        ({"hidden_size": "32", "num_hidden_layers": 2}, "hidden_size or n_embd"),
        ({"hidden_size": 32, "n_layer": 2, "num_hidden_layers": 2}, "num_hidden_layers or n_layer"),
    ],
)
def test_fields_that_tei_requires(config: dict[str, Any], missing: str | None) -> None:
    """It reads each as one field with an alias, and does not start without, or with both."""
    check = client_named("tei").check
    if missing is None:
        assert check(cut(config, ())) == ()
    else:
        with pytest.raises(RefusedError, match=f"requires {missing} in config.json"):
            check(cut(config, ()))


def test_tei_asks_for_float_inputs_and_outputs_whatever_the_weights(command: Command, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    exports.side_files(folder, {"model_type": "bert", "hidden_size": 32, "num_hidden_layers": 2})
    words = ("prune", folder, "--heads", "0:1", "--runtime", "tei", "--dry-run")
    for model, code in (
        (exports.quantized(toys.stack()), 0),
        (toys.stack(dtype=np.float16), 3),
    ):
        onnx.save(model, folder / "model.onnx")
        outcome = command(*words)
        assert outcome.exit_code == code, outcome.stderr


@pytest.mark.parametrize("client", ["genai", "transformers.js"])
def test_clients_that_read_the_heads_of_caches_from_the_inputs(client: str) -> None:
    symbolic = FileFacts("model.onnx", has_cache=True, symbolic=("past_key",))
    folder = Deployment((symbolic,), sites=layers((0,)), others=("genai_config.json",))
    with pytest.raises(RefusedError, match="past_key"):
        client_named(client).check(folder)


LAYERED = LLAMA | {"num_hidden_layers": 2}


@pytest.mark.parametrize(
    ("config", "gone", "after"),
    [
        (
            LAYERED,
            ((0,), (1, 2)),
            {"per_layer_config": {"0": {"num_key_value_heads": 3}, "1": {"num_key_value_heads": 2}}},
        ),
        (LAYERED, ((), (1, 2)), {"per_layer_config": {"1": {"num_key_value_heads": 2}}}),
        (LAYERED, ((0,), (2,)), {"num_key_value_heads": 3}),
        (LAYERED, ((), ()), {}),
        (
            LAYERED | {"per_layer_config": {"00": {"num_key_value_heads": 4, "skip": ["mlp"]}}},
            ((0, 1), ()),
            {"per_layer_config": {"0": {"skip": ["mlp"], "num_key_value_heads": 2}}},
        ),
        (
            LAYERED | {"per_layer_config": {"01": {"num_key_value_heads": 3}}},
            ((0,), (1,)),
            {"num_key_value_heads": 3, "per_layer_config": {}},
        ),
    ],
)
def test_the_kv_heads_of_every_layer(
    config: dict[str, Any], gone: tuple[tuple[int, ...], ...], after: dict[str, Any]
) -> None:
    changes = described(cut(config, *gone))
    assert {"/".join(change.field): change.after for change in changes} == after
    assert all(change.before == config.get(change.field[0]) for change in changes)


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"model_type": "gpt2", "n_head": 4, "n_layer": 2}, "no number of KV heads"),
        (LLAMA, "no number of layers"),
        (LLAMA | {"num_hidden_layers": 3}, "3 layers, and the models have caches in 2"),
        (LAYERED | {"per_layer_config": [1]}, "no mapping"),
        ({}, "no number of KV heads"),
    ],
)
def test_configurations_that_cannot_say_it_layer_by_layer(config: dict[str, Any], told: str) -> None:
    with pytest.raises(RefusedError, match=told):
        described(cut(config, (0,), ()))


@pytest.mark.parametrize(
    ("config", "after"),
    [
        ({}, {"transformers.js_config": {"use_external_data_format": True}}),
        (
            {"transformers.js_config": {"use_external_data_format": {"model.onnx": 3, "model_fp16.onnx": 2}}},
            {"transformers.js_config/use_external_data_format": {"model.onnx": 1, "model_fp16.onnx": 2}},
        ),
        ({"transformers.js_config": {"use_external_data_format": True}}, {}),
    ],
)
def test_transformers_js_is_told_of_weights_beside_the_model(
    config: dict[str, Any], after: dict[str, Any]
) -> None:
    folder = Deployment((FileFacts("onnx/model.onnx", data_files=1),), config)
    assert followed("transformers.js", folder) == after


@pytest.mark.slow
def test_a_folder_gets_the_fields(command: Command, tmp_path: Path) -> None:
    folder, out = exports.decoder(tmp_path / "in"), tmp_path / "out"
    outcome = command("prune", folder, "-o", out, "--heads", "0:1", "--runtime", "optimum", "--json")
    assert outcome.exit_code == 0, outcome.stderr
    wanted = {"n_head": toys.HEADS - 1, "n_embd": (toys.HEADS - 1) * toys.HEAD_SIZE}
    before = json.loads((folder / "config.json").read_text())
    assert json.loads((out / "config.json").read_text()) == before | wanted
    assert outcome.document["config_changes"] == [
        {"file": "config.json", "field": f"/{name}", "before": before[name], "after": after}
        for name, after in wanted.items()
    ]
    kept = tmp_path / "kept"
    outcome = command(
        "prune", folder, "-o", kept, "--heads", "0:1", "--runtime", "optimum", "--cache", "keep", "--json"
    )
    assert outcome.exit_code == 0, outcome.stderr
    assert (
        outcome.document["config_changes"] == []
        and (kept / "config.json").read_bytes() == (folder / "config.json").read_bytes()
    )


@pytest.mark.slow
def test_a_folder_gets_its_layers(command: Command, tmp_path: Path) -> None:
    folder, out = exports.deep_decoder(tmp_path / "in"), tmp_path / "out"
    words = ("prune", folder, "--heads", "0:1 1:0,2", "--per-layer-config")
    refused = command(*words, "-o", out, "--runtime", "optimum")
    assert refused.exit_code == 3 and '--heads "attn.0:0,1 attn.1:0,2"' in refused.stderr and not out.exists()
    outcome = command(*words, "-o", out, "--json")
    assert outcome.exit_code == 0, outcome.stderr
    before, after = (json.loads((place / "config.json").read_text()) for place in (folder, out))
    layers = {str(layer): {"num_key_value_heads": toys.HEADS - gone} for layer, gone in ((0, 1), (1, 2))}
    assert after == before | {"per_layer_config": layers}
    assert not [text for text in outcome.document["warnings"] if "--runtime" in text]
    (item,) = outcome.document["config_changes"]
    assert item["field"] == "/per_layer_config" and item["after"] == layers
    again = tmp_path / "again"
    # One head less of the layer that has more: now they are alike, and one number says so.
    outcome = command("prune", out, "-o", again, "--heads", "0:3", "--per-layer-config")
    assert outcome.exit_code == 0, outcome.stderr
    alike = {"num_key_value_heads": toys.HEADS - 2, "per_layer_config": {}}
    assert json.loads((again / "config.json").read_text()) == before | alike


def test_targets_take_whole_groups_where_a_client_counts_kv_heads() -> None:
    _, sites, _ = toys.parts(toys.stack(heads=8, kv_heads=4))
    paths = {
        site.index: merged(
            path_by_worth(site, [1.0, 9.0, 1.0, 9.0, 1.0, 9.0, 1.0, 9.0], ways=ways) for ways in ways_of(site)
        )
        for site in sites
    }
    for limits, whole in ((Limits(uniform=True), False), (Limits(uniform=True, whole_groups=True), True)):
        choice = removed(sites, paths, 8, limits)
        assert {len(gone) for gone in choice.values()} == {4}
        for site in sites:
            torn = [group for group in site.groups if 0 < len(choice[site.index] & set(group)) < len(group)]
            assert (not torn) == whole


def test_the_page_names_what_is_needed_beside_another_build_of_onnx_runtime() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = {re.split(r"[><=;\[ ]", item)[0] for item in project["dependencies"]}
    page = (ROOT / "docs" / "deploying.md").read_text(encoding="utf-8")
    (line,) = (line for line in page.splitlines() if line.startswith("pip install click"))
    assert set(line.split()[2:]) == {name for name in needed if not name.startswith("onnxruntime")}
