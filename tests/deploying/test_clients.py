"""What each client asks of a folder: which cuts it can express, and the fields that follow."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import onnx
import pytest

from onnxheadprune import RefusedError
from onnxheadprune.deploying import clients
from onnxheadprune.deploying.clients.contract import CachedSite, Deployment, FileFacts
from onnxheadprune.deploying.folders.configuration import checked, client_named, followed
from onnxheadprune.settings.registry import RUNTIMES
from onnxheadprune.settings.writing import RuntimeName
from tests.conftest import ROOT, Command
from tests.deploying import exports
from tests.graphs import toys

PAIRS = ((0, 1), (2, 3), (4, 5), (6, 7))
SINGLE = ((0,), (1,), (2,), (3,))
LOST = None
"""Of a layer whose cache is removed."""
COUNTING = ("optimum", "transformers.js", "genai")
"""Clients that count caches by a number of layers."""


def cut(
    config: dict[str, Any],
    *gone: tuple[int, ...] | None,
    groups: tuple[tuple[int, ...], ...] = SINGLE,
    genai: Any = None,
) -> Deployment:
    """Layers with four KV heads of size 8, of which some are removed."""
    sites = tuple(
        CachedSite(at, f"layer{at}", 4, 4 - len(dead or ()), 8, groups, dead is LOST)
        for at, dead in enumerate(gone)
    )
    return Deployment((FileFacts("model.onnx", has_cache=True),), config, sites, genai=genai or {})


def test_the_command_line_knows_all_clients() -> None:
    files = {
        path.stem for path in Path(clients.__file__).parent.glob("*.py") if "\nCLIENT = " in path.read_text()
    }
    assert files == {module.rpartition(".")[2] for module in RUNTIMES.values()}
    assert get_args(RuntimeName) == tuple(RUNTIMES)
    assert [client_named(name).name for name in RUNTIMES] == [*RUNTIMES]


def _genai(**decoder: Any) -> dict[str, Any]:
    """The configuration of onnxruntime-genai."""
    return {"model": {"decoder": {"num_key_value_heads": 4} | decoder}}


LLAMA = {"model_type": "llama", "num_attention_heads": 8, "num_key_value_heads": 4, "hidden_size": 64}
LAYERED = LLAMA | {"num_hidden_layers": 3}
BART = {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "d_model": 32}
STACKS = {"model_type": "t5", "num_layers": 6, "num_decoder_layers": 3}
NARROW, THIRD, SECOND = ((0,), (2,)), (LOST, (), ()), ((), LOST, ())
WINDOW, KEYS = {"window_size": 8, "layers": []}, "model/decoder/"
FEWER = {"num_hidden_layers": 2}
FOLLOWS: tuple[tuple[str, Deployment, dict[str, Any]], ...] = (
    # Heads of narrower caches.
    ("optimum", cut(LLAMA, *NARROW), {"num_key_value_heads": 3}),
    ("optimum", cut({"text_config": LLAMA}, *NARROW), {"text_config/num_key_value_heads": 3}),
    ("optimum", cut({"model_type": "gpt2", "n_head": 4, "n_embd": 32}, *NARROW), {"n_head": 3, "n_embd": 24}),
    ("optimum", cut({"model_type": "t5", "num_heads": 4, "d_model": 32, "d_kv": 8}, *NARROW),
     {"num_heads": 3, "d_model": 24}),
    ("optimum", cut({"model_type": "bart", **BART}, *NARROW),
     {"encoder_attention_heads": 3, "decoder_attention_heads": 3, "d_model": 24}),
    ("optimum", cut({"model_type": "falcon", "num_kv_heads": 4, "num_attention_heads": 8}, *NARROW),
     {"num_kv_heads": 3}),
    ("optimum", cut(LLAMA | {"model_type": "phi", "num_attention_heads": 4}, *NARROW),
     {"num_attention_heads": 3, "num_key_value_heads": 3, "hidden_size": 24}),
    ("optimum", cut({"model_type": "opt", "num_attention_heads": 4, "hidden_size": 32}, *NARROW),
     {"num_attention_heads": 3, "hidden_size": 24}),
    # One number for all layers, where they have windows or types.
    ("genai", cut({}, *NARROW, genai=_genai(sliding_window=WINDOW)), {KEYS + "num_key_value_heads": 3}),
    ("genai", cut({}, *NARROW, genai=_genai(layer_types=["full", "full"])), {KEYS + "num_key_value_heads": 3}),
    ("genai", cut({}, (0,), (), genai=_genai(sliding_window=WINDOW | {"layers": [0]})), {}),
    ("genai", cut({}, (0,), (), genai=_genai(other=WINDOW)), {}),
    # Layers whose caches are removed.
    *((client, cut(LAYERED, *SECOND), FEWER) for client in COUNTING[:2]),
    *((client, cut({"text_config": LAYERED}, LOST, LOST, ()), {"text_config/num_hidden_layers": 1})
      for client in COUNTING[:2]),
    *((client, cut({"n_layer": 3}, *SECOND), {"n_layer": 2}) for client in COUNTING[:2]),
    ("genai", cut(LAYERED, *SECOND, genai=_genai(num_hidden_layers=3)), {KEYS + "num_hidden_layers": 2}),
    ("optimum", cut(STACKS, (), (), LOST, LOST, (), ()), {"num_decoder_layers": 2}),
    # Fields with an entry for each layer.
    *(("optimum", cut(LAYERED | {name: value}, *SECOND), FEWER | {name: after}) for name, value, after in (
        ("layer_types", ["full", "sliding", "other"], ["full", "other"]),
        ("mlp_layer_types", ["dense", "sparse", "sparse"], ["dense", "sparse"]),
        ("attention_layers", ["global", "local", "global"], ["global", "global"]),
        ("no_rope_layers", [1, 1, 0], [1, 0]),
        ("per_layer_config", {"00": {"head_dim": 2}, "02": {"head_dim": 4}},
         {"0": {"head_dim": 2}, "1": {"head_dim": 4}}),
        ("per_layer_config", {"1": {"num_key_value_heads": 2}}, {}),
    )),
    ("optimum", cut(LAYERED | {"linear_attn_config": {"head_layers": ["a", "b", "c"]}}, *SECOND),
     FEWER | {"linear_attn_config/head_layers": ["a", "c"]}),
    # Fields that are none of layers, or hold for the first layers as before.
    *(("optimum", cut(LAYERED | more, *THIRD), FEWER) for more in (
        {"id2label": {"0": "no", "1": "yes"}, "hidden_size_per_layer_input": 8},
        {"vision_config": {"num_hidden_layers": 3, "sliding_windows": [1, 2, 3]}},
        {"max_window_layers": 2, "use_sliding_window": False},
        {"attn_layer_period": 1, "decoder_sparse_step": 1},
    )),
    ("optimum", cut(LAYERED | {"sliding_window_pattern": 2, "first_k_dense_replace": 1}, (), (), LOST), FEWER),
    # Caches as they were, and clients that read nothing of them.
    *((client, cut(LLAMA, (), ()), {}) for client in RUNTIMES),
    *((client, cut(LLAMA, LOST, ()), {}) for client in RUNTIMES if client not in (*COUNTING, "tei")),
    *((client, cut(LLAMA, (0,), (3,), (), groups=PAIRS), {}) for client in ("ort", "openvino")),
)  # fmt: skip
"""What must follow a cut, by client."""
UNCLEAR = (
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
)
REFUSED: tuple[tuple[str, Deployment, str], ...] = (
    ("optimum", cut(LLAMA, (0,), (3,), (), groups=PAIRS), "3 in 2 layers, 4 in 1 layer; `cache"),
    *(("tei", cut(LLAMA, *away), "was never run with fewer; `cache=keep`") for away in (NARROW, (LOST, ()))),
    ("genai", cut({}, (0,), (), genai=_genai(sliding_window=WINDOW)), '`cache=keep` leaves'),
    ("genai", cut({}, (0,), (), genai=_genai(layer_types=["full", "full"])), '`cache=keep` leaves'),
    ("optimum", cut({}, (0,)), '`cache=keep`'),
    ("optimum", cut({"model_type": "gpt2"}, (0,)), '`cache=keep`'),
    ("optimum", cut(STACKS, (), (), LOST, (), (), ()), "of which 1 would go"),
    *(("optimum", cut(LAYERED | fields, *THIRD), f"{next(iter(fields))}.* of config.json") for fields in UNCLEAR),
    # Gemma 4's configuration makes its last layer one of full attention whatever the list says.
    ("optimum", cut(LAYERED | {"layer_types": ["full", "sliding", "full"]}, (), (), LOST), "layer_types of config"),
    ("genai", cut({}, *SECOND, genai=_genai(num_hidden_layers=3, sliding_window={"layers": [0, 2]})),
     r"sliding_window\.layers of genai_config"),
    *((client, cut(config, *SECOND, genai={"model": {"decoder": config}}), 'leave `cache=renumber` out')
      for client in COUNTING for config in ({}, {"num_hidden_layers": 5}, {"num_hidden_layers": 0})),
)  # fmt: skip
"""Cuts that no field of a client's configuration expresses."""


@pytest.mark.parametrize(("client", "folder", "after"), FOLLOWS)
def test_fields_that_follow(client: str, folder: Deployment, after: dict[str, Any]) -> None:
    changes = followed(client_named(client), folder)
    assert {"/".join(change.field): change.after for change in changes} == after
    file = "genai_config.json" if client == "genai" else "config.json"
    assert {change.file for change in changes} <= {file}


@pytest.mark.parametrize(("client", "folder", "told"), REFUSED)
def test_cuts_that_no_field_expresses(client: str, folder: Deployment, told: str) -> None:
    with pytest.raises(RefusedError, match=told if "*" in told or "\\" in told else re.escape(told)):
        followed(client_named(client), folder)


def test_genai_wants_even_caches_where_it_allocates_all_by_one_number() -> None:
    even = {"sliding_window": WINDOW, "layer_types": ["full", "full"], "other": WINDOW}
    for name, value in even.items():
        folder = cut({}, (), (), genai=_genai(**{name: value}))
        assert (client_named("genai").caches(folder) is not None) == (name != "other")


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
    ("tei", LLAMA, None),
    ("genai", {}, None),
    ("transformers.js", LLAMA, None),
)


def allocated(client: str, folder: Deployment) -> tuple[int, int] | None:
    fields = client_named(client).caches(folder)
    return None if fields is None else fields.allocated


@pytest.mark.parametrize(("client", "config", "caches"), COMPUTED)
def test_caches_that_runtimes_compute_from_the_configuration(
    client: str, config: dict[str, Any], caches: tuple[int, int] | None
) -> None:
    folder = replace(cut(config, (), ()), files=(FileFacts("decoder_model_merged.onnx"),))
    assert allocated(client, folder) == caches
    if "is_encoder_decoder" in config:
        # A decoder for the first tokens takes no caches.
        assert allocated(client, cut(config, (), ())) is None


def test_genai_computes_caches_of_one_size_where_layers_have_windows() -> None:
    folder = cut({}, (), (), genai=_genai(sliding_window=WINDOW, head_size=16))
    assert allocated("genai", folder) == (4, 16)
    other = replace(folder.sites[0], head_size=4)
    assert allocated("genai", replace(folder, sites=(*folder.sites, other))) is None


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


@pytest.mark.parametrize("named", ["past_key", "x"])
def test_what_triton_declares_is_named_where_it_is_cut(named: str, command: Command, tmp_path: Path) -> None:
    folder = exports.decoder(tmp_path / "in")
    (folder / "config.pbtxt").write_text(f"input [ {{ name: '{named}' dims: [ -1 ] }} ]")
    for kept in ((), ("--cache", "keep")):
        outcome = command("prune", folder, "--heads", "0:1", "--dry-run", *kept)
        assert outcome.exit_code == 0, outcome.stderr
        told = "config.pbtxt names past_key, which the cut changes" in " ".join(outcome.stdout.split())
        assert told == (named == "past_key" and not kept)


def test_sentence_transformers_finds_the_file_or_is_told_its_name() -> None:
    check = client_named("sentence-transformers").check
    assert check(Deployment((FileFacts("onnx/model.onnx"),))) == ()
    (sentence,) = check(Deployment((FileFacts("onnx/model_O3.onnx"),)))
    assert '"file_name": "onnx/model_O3.onnx"' in sentence


def test_folders_that_a_client_does_not_load() -> None:
    other, half = FileFacts("encoder.onnx"), FileFacts("model.onnx", is_float=False)
    for name, files in (("tei", (other,)), ("tei", (half,)), ("genai", (other,))):
        with pytest.raises(RefusedError):
            checked(client_named(name), Deployment(files))
    assert checked(client_named("genai"), Deployment((other,), others=("genai_config.json",))) == ()


@pytest.mark.parametrize("client", RUNTIMES)
def test_files_that_a_runtime_misses_are_named(client: str) -> None:
    found = client_named(client)
    notes = checked(found, Deployment((FileFacts("onnx/model.onnx"),), others=("genai_config.json",)))
    told = f"{found.title} reads {' and '.join(found.reads)}, and there is none: it cannot load this folder unpruned"
    assert bool(found.reads) == any(note.startswith(told) for note in notes)


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


@pytest.mark.parametrize("client", ["genai", "transformers.js"])
def test_clients_that_read_the_heads_of_caches_from_the_inputs(client: str) -> None:
    symbolic = FileFacts("model.onnx", has_cache=True, symbolic=("past_key",))
    folder = Deployment((symbolic,), sites=cut({}, (0,)).sites, others=("genai_config.json",))
    with pytest.raises(RefusedError, match="past_key"):
        checked(client_named(client), folder)


EXTERNAL = "use_external_data_format"


@pytest.mark.parametrize(
    ("config", "after"),
    [
        ({}, {"transformers.js_config": {EXTERNAL: True}}),
        (
            {"transformers.js_config": {EXTERNAL: {"model.onnx": 3, "model_fp16.onnx": 2}}},
            {f"transformers.js_config/{EXTERNAL}": {"model.onnx": 1, "model_fp16.onnx": 2}},
        ),
        ({"transformers.js_config": {EXTERNAL: True}}, {}),
    ],
)
def test_transformers_js_is_told_of_weights_beside_the_model(
    config: dict[str, Any], after: dict[str, Any]
) -> None:
    folder = Deployment((FileFacts("onnx/model.onnx", data_files=1),), config)
    test_fields_that_follow("transformers.js", folder, after)


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


def test_the_page_names_what_is_needed_beside_another_build_of_onnx_runtime() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = {re.split(r"[><=;\[ ]", item)[0] for item in project["dependencies"]}
    page = (ROOT / "docs" / "getting-started.md").read_text(encoding="utf-8")
    (line,) = (line for line in page.splitlines() if line.startswith("pip install click"))
    named = {re.split(r"[><=!;\[ ]", word)[0] for word in shlex.split(line)[2:]}
    assert named == {name for name in needed if not name.startswith("onnxruntime")}
