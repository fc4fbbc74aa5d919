"""Fewer tokens against PyTorch: a model whose embeddings and map to logits are sliced, and the pruned export."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from tests.conftest import Command
from tests.vocabulary.graphs import session
from tests.vocabulary.tokenizers_made import byte_pairs, texts, unigram, word_piece

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.samples
SIZES = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 32}


def bert(rows: int) -> Any:
    return transformers.BertForMaskedLM(transformers.BertConfig(vocab_size=rows, **SIZES))


def llama(rows: int) -> Any:
    return transformers.LlamaForCausalLM(_llama(rows, tie_word_embeddings=False))


def tied_llama(rows: int) -> Any:
    return transformers.LlamaForCausalLM(_llama(rows, tie_word_embeddings=True))


def _llama(rows: int, **rest: Any) -> Any:
    return transformers.LlamaConfig(vocab_size=rows, num_key_value_heads=2, use_cache=False, **SIZES, **rest)


def gemma3n(rows: int) -> Any:
    """Two tables with a row per token: of the stream, and of what each layer adds."""
    config = transformers.Gemma3nTextConfig(
        vocab_size=rows,
        vocab_size_per_layer_input=rows,
        hidden_size_per_layer_input=8,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        intermediate_size=32,
        layer_types=["sliding_attention", "full_attention"],
        num_kv_shared_layers=0,
        activation_sparsity_pattern=[0.0, 0.0],
        laurel_rank=4,
        altup_num_inputs=2,
        pad_token_id=0,
        use_cache=False,
    )
    return transformers.Gemma3nForCausalLM(config)


def t5(rows: int) -> Any:
    """An encoder and a decoder, in two files that each hold the table."""
    config = transformers.T5Config(
        vocab_size=rows, d_model=24, d_kv=6, d_ff=32, num_layers=2, num_heads=4, use_cache=False
    )
    return transformers.T5ForConditionalGeneration(config)


def sliced(model: Any, kept: list[int], rows: int) -> Any:
    """The same model in PyTorch with a row and a column for each token that is kept."""
    made = copy.deepcopy(model)
    done: dict[int, Any] = {}
    for module in made.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter.shape[0] == rows:
                # Tied weights stay tied.
                smaller = done.setdefault(id(parameter), torch.nn.Parameter(parameter[kept].clone()))
                setattr(module, name, smaller)
        if isinstance(module, torch.nn.Embedding) and module.num_embeddings == rows:
            module.num_embeddings, module.padding_idx = len(kept), None
        if hasattr(module, "vocab_size"):
            module.vocab_size = len(kept)
        if hasattr(module, "vocab_size_per_layer_input"):
            module.vocab_size_per_layer_input = len(kept)
    return made


class Part(torch.nn.Module):
    """One output of a model, by the names of its inputs."""

    def __init__(self, model: Any, names: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self.names = model, names
        self.eval()

    def forward(self, *given: Any) -> Any:
        named = dict(zip(self.names, given, strict=True))
        if "encoder_hidden_states" in named:
            named["decoder_input_ids"] = named.pop("input_ids")
            states = (named.pop("encoder_hidden_states"),)
            return self.model(encoder_outputs=states, **named).logits
        found = self.model(**named, **({} if hasattr(self.model, "encoder") else {"return_dict": True}))
        return found.logits if hasattr(found, "logits") else found[0]


def parts_of(model: Any) -> dict[str, Part]:
    if not hasattr(model, "encoder") or not model.config.is_encoder_decoder:
        return {"model.onnx": Part(model, ("input_ids", "attention_mask"))}
    return {
        "encoder_model.onnx": Part(model.encoder, ("input_ids", "attention_mask")),
        "decoder_model.onnx": Part(model, ("input_ids", "encoder_hidden_states")),
    }


def exported(part: Part, path: Path) -> None:
    ids = torch.ones((2, 5), dtype=torch.int64)
    examples = {
        "input_ids": ids,
        "attention_mask": ids,
        "encoder_hidden_states": torch.randn(2, 5, 24),
    }
    torch.onnx.export(
        part,
        tuple(examples[name] for name in part.names),
        str(path),
        input_names=list(part.names),
        output_names=["out"],
        dynamic_axes={name: {0: "batch", 1: "seq"} for name in (*part.names, "out")},
        opset_version=17,
        dynamo=False,
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("make", "spelling"),
    [
        (bert, word_piece),
        (llama, byte_pairs),
        (tied_llama, byte_pairs),
        (gemma3n, byte_pairs),
        (t5, unigram),
    ],
)
def test_it_is_the_sliced_model(
    command: Command, tmp_path: Path, make: Callable[[int], Any], spelling: Callable[[], Tokenizer]
) -> None:
    tokenizer = spelling()
    rows = tokenizer.get_vocab_size() + 5
    torch.manual_seed(0)
    model = make(rows).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps({"vocab_size": rows}), "utf-8")
    parts = parts_of(model)
    for name, part in parts.items():
        exported(part, folder / name)
    chosen = random.Random(1).sample(range(tokenizer.get_vocab_size()), k=rows // 2)
    specials = [*range(5), *(tokenizer.get_vocab_size() - back for back in (1, 2))]
    (tmp_path / "keep.txt").write_text("\n".join(map(str, [*specials, *chosen])), "utf-8")
    shown = command("prune", folder, "-o", out, "--vocab", tmp_path / "keep.txt", "--provider", "cpu")
    assert shown.exit_code == 0, shown.stderr
    new = Tokenizer.from_file(str(out / "tokenizer.json"))
    kept = sorted(number for token, number in tokenizer.get_vocab().items() if token in new.get_vocab())
    smaller = parts_of(sliced(model, kept, rows))
    for name, part in smaller.items():
        running = session(out / name)
        for text in texts(12):
            ids = torch.tensor([new.encode(text).ids])
            feed = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
            feed["encoder_hidden_states"] = torch.randn(1, 5, 24)
            with torch.no_grad():
                wanted = part(*(feed[item] for item in part.names)).numpy()
            (got,) = running.run(None, {item: feed[item].numpy() for item in part.names})
            np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())


PIECES = (
    "[PAD] [UNK] [CLS] [SEP] [MASK] the Cat cat café cafe un ##able ##a ##b a b 中 国 . , ! 中国 ##s".split()
)
