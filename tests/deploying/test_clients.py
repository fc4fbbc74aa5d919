"""What each client asks of a folder: which cuts it can express, and the fields that follow."""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

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
from tests import toys, toys_scores
from tests.conftest import ROOT, Command
from tests.deploying import exports

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
            {"model_type": "opt", "num_attention_heads": 4, "hidden_size": 32},
            {"num_attention_heads": 3, "hidden_size": 24},
        ),
    ],
)
def test_the_fields_that_optimum_computes_caches_from(config: dict[str, Any], after: dict[str, Any]) -> None:
    assert followed("optimum", cut(config, (0,), (2,))) == after


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


def windowed(field: str, *gone: tuple[int, ...]) -> Deployment:
    """A folder of onnxruntime-genai that allocates all caches by one number of heads."""
    decoder = {"num_key_value_heads": 4, "num_hidden_layers": len(gone), field: {"window_size": 8}}
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


@pytest.mark.parametrize(
    ("config", "runs"),
    [
        (LLAMA, True),
        (LLAMA | {"num_key_value_heads": 2}, False),
        (LLAMA | {"num_attention_heads": 4}, False),
        (LLAMA | {"model_type": "gemma", "hidden_size": 9, "head_dim": 8}, True),
        (LLAMA | {"model_type": "later", "num_key_value_heads": 2}, True),
        ({"model_type": "gpt2", "n_head": 4, "n_embd": 32}, True),
        ({"model_type": "gpt2", "n_head": 8, "n_embd": 64}, False),
    ],
)
def test_optimum_is_not_given_what_it_cannot_run_unpruned(config: dict[str, Any], runs: bool) -> None:
    """Its caches are computed from config.json; those of the models here have four heads of size 8."""
    deployment = cut(config, (), ())
    if runs:
        assert client_named("optimum").check(deployment) == ()
        return
    with pytest.raises(
        RefusedError, match=r"cannot run this folder unpruned either: from config\.json it computes"
    ):
        client_named("optimum").check(deployment)


def test_the_nearest_set_keeps_what_is_asked_of_sites_without_caches() -> None:
    uneven = replace(cut(LLAMA, (0,), (), groups=PAIRS), elsewhere=("attn.7:1,2",))
    with pytest.raises(RefusedError, match=r'heads="attn.0:0,1 attn.1:0,1 attn.7:1,2"; cache="keep"'):
        client_named("optimum").changes(uneven)


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
    other, rounded = FileFacts("encoder.onnx"), FileFacts("model.onnx", is_float=False)
    for name, files in (("tei", (other,)), ("tei", (rounded,)), ("genai", (other,))):
        with pytest.raises(RefusedError):
            client_named(name).check(Deployment(files))
    assert client_named("genai").check(Deployment((other,), others=("genai_config.json",))) == ()


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


@pytest.mark.long
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


@pytest.mark.long
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


def test_a_layered_configuration_is_that_of_a_folder(command: Command, tmp_path: Path) -> None:
    folder, out = exports.decoder(tmp_path / "in"), tmp_path / "out"
    outcome = command("prune", folder, "-o", out, "--heads", "0:1", "--per-layer-config")
    assert outcome.exit_code == 3 and "no number of KV heads" in outcome.stderr and not out.exists()
    model = folder / "decoder_with_past_model.onnx"
    outcome = command("prune", model, "-o", tmp_path / "one.onnx", "--heads", "0:1", "--per-layer-config")
    assert outcome.exit_code == 2 and "requires a folder" in outcome.stderr
    kept = ("--cache", "keep", "--per-layer-config")
    outcome = command("prune", folder, "-o", out, "--heads", "0:1", *kept)
    assert outcome.exit_code == 2 and "mutually exclusive" in outcome.stderr


def test_targets_take_whole_groups_where_a_client_counts_kv_heads() -> None:
    _, sites, _ = toys_scores.parts(toys_scores.stack(heads=8, kv_heads=4))
    paths = {
        site.index: merged(
            path_by_worth(site, [1.0, 9.0, 1.0, 9.0, 1.0, 9.0, 1.0, 9.0], ways=ways) for ways in ways_of(site)
        )
        for site in sites
    }
    for limits, whole in ((Limits(uniform=True), False), (Limits(uniform=True, whole_groups=True), True)):
        choice = toys_scores.removed(sites, paths, 8, limits)
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
