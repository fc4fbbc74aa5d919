"""Folders whose attention goes with its caches: what each client's configuration must say then."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import onnx
import pytest

from onnxheadprune import RefusedError
from onnxheadprune.deploying.clients.all import client_named
from onnxheadprune.deploying.clients.contract import CachedSite, Deployment, FileFacts
from onnxheadprune.deploying.clients.layers import described
from onnxheadprune.settings.registry import RUNTIMES
from tests.conftest import Command
from tests.deploying import exports
from tests.graph_builder import GraphBuilder
from tests.graphs import toys

LLAMA = {"model_type": "llama", "num_hidden_layers": 3, "num_key_value_heads": 4}
T5 = {"model_type": "t5", "num_layers": 6, "num_decoder_layers": 3}
COUNTING = ("optimum", "transformers.js", "tei", "genai")
WHOLE = "1:" + ",".join(map(str, range(toys.DECODER["heads"])))


def lost(config: dict[str, Any], *leaves: bool, genai: Any = None) -> Deployment:
    """A folder whose caches go where it says so."""
    sites = tuple(CachedSite(at, f"site{at}", 4, 4, 8, leaves=goes) for at, goes in enumerate(leaves))
    return Deployment((FileFacts("model.onnx", has_cache=True),), config, sites, genai=genai or {})


def followed(client: str, folder: Deployment) -> dict[str, Any]:
    return {"/".join(change.field): change.after for change in client_named(client).changes(folder)}


@pytest.mark.parametrize("client", ["optimum", "transformers.js", "tei"])
def test_the_number_of_layers_follows(client: str) -> None:
    assert followed(client, lost(LLAMA, False, True, False)) == {"num_hidden_layers": 2}
    assert followed(client, lost({"text_config": LLAMA}, True, True, False)) == {
        "text_config/num_hidden_layers": 1
    }
    assert followed(client, lost({"n_layer": 3}, False, True, False)) == {"n_layer": 2}


def test_of_two_stacks_it_is_the_decoders_with_two_caches_a_layer() -> None:
    assert followed("optimum", lost(T5, False, False, True, True, False, False)) == {"num_decoder_layers": 2}
    with pytest.raises(RefusedError, match="of which 1 would go"):
        client_named("optimum").changes(lost(T5, False, False, True, False, False, False))


@pytest.mark.parametrize(
    ("fields", "after"),
    [
        ({"layer_types": ["full", "sliding", "other"]}, ["full", "other"]),
        ({"mlp_layer_types": ["dense", "sparse", "sparse"]}, ["dense", "sparse"]),
        ({"attention_layers": ["global", "local", "global"]}, ["global", "global"]),
        ({"no_rope_layers": [1, 1, 0]}, [1, 0]),
        ({"linear_attn_config": {"head_layers": ["a", "b", "c"]}}, ["a", "c"]),
        (
            {"per_layer_config": {"00": {"head_dim": 2}, "02": {"head_dim": 4}}},
            {"0": {"head_dim": 2}, "1": {"head_dim": 4}},
        ),
        ({"per_layer_config": {"1": {"num_key_value_heads": 2}}}, {}),
    ],
)
def test_fields_with_an_entry_for_each_layer_lose_those_of_removed_ones(
    fields: dict[str, Any], after: object
) -> None:
    found = followed("optimum", lost(LLAMA | fields, False, True, False))
    assert found.pop("num_hidden_layers") == 2
    assert [*found.values()] == [after]


@pytest.mark.parametrize(
    "fields",
    [
        {"attention_types": [[["global"], 3]]},
        {"full_attn_idxs": [0, 2]},
        {"linear_attn_config": {"kda_layers": [1, 2]}},
        {"moe_layers": [0, 1, 2]},
        {"activation_sparsity_pattern": [0.9, 0.9, 0.0]},
        {"pruned_heads": {"1": [0]}},
        {"sliding_window_pattern": 2},
        {"attn_layer_period": 2},
        {"first_k_dense_replace": 1},
        {"num_kv_shared_layers": 1, "layer_types": ["full", "full", "sliding"]},
        {"max_window_layers": 2, "use_sliding_window": True},
    ],
)
def test_fields_that_go_by_layers_in_another_way_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(RefusedError, match=f"{next(iter(fields))}.* of config.json"):
        client_named("optimum").changes(lost(LLAMA | fields, True, False, False))


def test_a_last_layer_of_another_kind_is_refused() -> None:
    """Gemma 4's configuration makes its last layer one of full attention whatever the list says."""
    kinds = LLAMA | {"layer_types": ["full", "sliding", "full"]}
    with pytest.raises(RefusedError, match="layer_types of config"):
        client_named("optimum").changes(lost(kinds, False, False, True))


@pytest.mark.parametrize(
    ("fields", "leaves"),
    [
        ({"id2label": {"0": "no", "1": "yes"}, "hidden_size_per_layer_input": 8}, (True, False, False)),
        ({"vision_config": {"num_hidden_layers": 3, "sliding_windows": [1, 2, 3]}}, (True, False, False)),
        ({"max_window_layers": 2, "use_sliding_window": False}, (True, False, False)),
        ({"attn_layer_period": 1, "decoder_sparse_step": 1}, (True, False, False)),
        # The first layers are of the same kinds as before.
        ({"sliding_window_pattern": 2, "first_k_dense_replace": 1}, (False, False, True)),
    ],
)
def test_other_fields_stay(fields: dict[str, Any], leaves: tuple[bool, ...]) -> None:
    assert followed("optimum", lost(LLAMA | fields, *leaves)) == {"num_hidden_layers": 2}


def test_genai_counts_in_a_file_of_its_own() -> None:
    genai = {"model": {"decoder": {"num_hidden_layers": 3}}}
    folder = lost(LLAMA, False, True, False, genai=genai)
    (change,) = client_named("genai").changes(folder)
    assert str(change) == "genai_config.json: model.decoder.num_hidden_layers 3 -> 2"
    genai["model"]["decoder"]["sliding_window"] = {"layers": [0, 2]}  # type: ignore[assignment]
    with pytest.raises(RefusedError, match=r"sliding_window\.layers of genai_config"):
        client_named("genai").changes(lost(LLAMA, False, True, False, genai=genai))


@pytest.mark.parametrize("client", COUNTING)
@pytest.mark.parametrize("config", [{}, {"num_hidden_layers": 5}, {"num_hidden_layers": 0}])
def test_a_number_that_is_not_that_of_the_caches_is_refused(client: str, config: dict[str, Any]) -> None:
    genai = {"model": {"decoder": config}}
    with pytest.raises(RefusedError, match='leave cache="renumber" out'):
        client_named(client).changes(lost(config, False, True, False, genai=genai))


def test_nothing_follows_where_none_goes_or_nobody_counts() -> None:
    for name in RUNTIMES:
        client = client_named(name)
        assert client.changes(lost(LLAMA, False, False)) == ()
        if name not in COUNTING:
            assert client.changes(lost(LLAMA, True, False)) == ()


def test_layer_by_layer_it_is_refused() -> None:
    with pytest.raises(RefusedError, match="are renumbered"):
        described(lost(LLAMA, False, True))


def decoders(folder: Path, **more: Any) -> Path:
    """A folder of two decoders, for the first tokens and for those after them."""
    folder.mkdir()
    model = toys.decoder(3, cache=True)
    onnx.save(model, folder / "decoder_with_past_model.onnx")
    onnx.save(toys.without_past(model), folder / "decoder_model.onnx")
    exports.side_files(folder, {"model_type": "llama", "num_hidden_layers": 3, **more})
    return folder


@pytest.mark.slow
def test_all_files_of_a_folder_are_renumbered_and_the_field_follows(command: Command, tmp_path: Path) -> None:
    folder, out = decoders(tmp_path / "in"), tmp_path / "out"
    asked = ("prune", folder, "-o", out, "--heads", WHOLE, "--cache", "renumber", "--json")
    outcome = command(*asked, "--runtime", "optimum")
    assert outcome.exit_code == 0, outcome.stderr
    assert json.loads((out / "config.json").read_text())["num_hidden_layers"] == 2
    for name in ("decoder_model.onnx", "decoder_with_past_model.onnx"):
        told = [info.name for info in onnx.load(out / name).graph.output]
        assert told == ["logits", *(f"present.{at}.{what}" for at in range(2) for what in ("key", "value"))]
    assert [change["field"] for change in outcome.document["config_changes"]] == ["/num_hidden_layers"]


@pytest.mark.slow
def test_without_a_client_there_is_a_warning(command: Command, tmp_path: Path) -> None:
    folder = decoders(tmp_path / "in")
    outcome = command("prune", folder, "--dry-run", "--heads", WHOLE, "--cache", "renumber", "--json")
    assert any("number of layers need --runtime" in text for text in outcome.document["warnings"])
    kept = command("prune", folder, "--dry-run", "--heads", WHOLE, "--json")
    assert not any("caches go" in text for text in kept.document["warnings"])


@pytest.mark.slow
def test_of_a_folder_too_it_is_said_where_there_is_nothing_to_renumber(
    command: Command, tmp_path: Path
) -> None:
    folder = decoders(tmp_path / "in")
    for heads, idle in (("1:0", True), (WHOLE, False)):
        outcome = command("prune", folder, "--dry-run", "--heads", heads, "--cache", "renumber")
        assert outcome.exit_code == 0, outcome.stderr
        told = " ".join(outcome.stdout.split())
        assert told.count("--cache renumber has no effect: no whole attention is removed") == idle


def test_names_that_triton_reads_are_named_where_they_are_dropped(command: Command, tmp_path: Path) -> None:
    folder = decoders(tmp_path / "in")
    (folder / "config.pbtxt").write_text('input [ { name: "past_key_values.2.key" dims: [ -1 ] } ]')
    outcome = command("prune", folder, "--dry-run", "--heads", WHOLE, "--cache", "renumber")
    assert outcome.exit_code == 0, outcome.stderr
    assert "config.pbtxt declares past_key_values.2.key" in " ".join(outcome.stdout.split())


def with_encoder(folder: Path) -> Path:
    """A decoder, and an encoder that outputs values by the names of all its caches, as Whisper's does."""
    folder.mkdir()
    decoder = toys.decoder(3, cache=True)
    onnx.save(decoder, folder / "decoder.onnx")
    toy, dims = GraphBuilder(), ["n", "h", "p", "d"]
    names = [f"present.{at}.{what}" for at in range(3) for what in ("key", "value")]
    for name in names:
        toy.node("Identity", ["x"], name)
    model = toy.model([toy.info("x", dims)], [toy.info(name, dims) for name in names])
    onnx.save(model, folder / "encoder.onnx")
    return folder


def test_caches_that_another_file_outputs_keep_their_layer(command: Command, tmp_path: Path) -> None:
    """Who renumbers those of a decoder would feed it what an encoder computes for another layer."""
    folder = with_encoder(tmp_path / "in")
    words = ("prune", folder, "-o", tmp_path / "out", "--cache", "renumber", "--heads")
    refused = command(*words, WHOLE)
    told = " ".join(refused.stderr.split())
    assert refused.exit_code == 3 and not (tmp_path / "out").exists(), told
    assert "past_key_values.2.key of decoder.onnx and present.1.key of encoder.onnx are different" in told
    last = command(*words, WHOLE.replace("1:", "2:"))
    assert last.exit_code == 0, last.stderr


def test_the_proof_of_a_folder_joins_files_by_the_names_of_their_values(
    command: Command, tmp_path: Path
) -> None:
    folder, out = with_encoder(tmp_path / "in"), tmp_path / "out"
    out.mkdir()
    shutil.copy(folder / "encoder.onnx", out)
    pruned = command(
        "prune", folder / "decoder.onnx", "-o", out / "decoder.onnx", "--cache", "renumber", "--heads", WHOLE
    )
    assert pruned.exit_code == 0, pruned.stderr
    refused = command("validate", folder, out)
    assert refused.exit_code == 3 and "are different values" in " ".join(refused.stderr.split())
