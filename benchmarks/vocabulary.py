"""Quality, size and time of a smaller vocabulary: all-MiniLM-L6-v2 with 16,000 of 30,522 tokens; large tables.

    python benchmarks/vocabulary.py MODEL TOKENIZER [--size 16000] [-o results.json]
    python benchmarks/vocabulary.py --rows 250000
    python benchmarks/vocabulary.py --rows 1500000  # 2.3 GB, beside the model
    python benchmarks/vocabulary.py --logits

MODEL and tokenizer.json come from sample_models/export_minilm.py. Half of the sentences of accuracy.py choose the
tokens; 1,500 of the others are tokenized by the old and by the new tokenizer, and judged by the share of tokens that
are the same and by the cosine of the mean-pooled embeddings.
"""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from accuracy import HELD_OUT, corpus
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer

import onnxheadprune as ohp

Array = npt.NDArray[Any]
WIDTH, HEADS = 384, 12


def embeddings(folder: Path, sentences: list[str]) -> tuple[list[list[str]], Array]:
    """The tokens of each sentence, and its mean-pooled embedding."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(128)
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    names = [item.name for item in session.get_inputs()]
    tokens, found = [], []
    for item in tokenizer.encode_batch(sentences):
        arrays = {
            "input_ids": [item.ids],
            "attention_mask": [[1] * len(item.ids)],
            "token_type_ids": [[0] * len(item.ids)],
        }
        (states, *_) = session.run(None, {name: np.array(arrays[name]) for name in names})
        tokens.append(item.tokens)
        found.append(states[0].mean(axis=0))
    return tokens, np.stack(found)


def minilm(model: Path, tokenizer: Path, size: int) -> dict[str, Any]:
    """The figures of one vocabulary."""
    sentences = corpus()
    half = len(sentences) // 2
    judged = sentences[half : half + HELD_OUT]
    with tempfile.TemporaryDirectory() as place:
        before, after, text = Path(place, "before"), Path(place, "after"), Path(place, "half.txt")
        before.mkdir()
        shutil.copy(model, before / "model.onnx")
        shutil.copy(tokenizer, before / "tokenizer.json")
        (before / "config.json").write_text(json.dumps({"vocab_size": 30522, "pad_token_id": 0}), "utf-8")
        text.write_text("\n".join(sentences[:half]), "utf-8")
        command = [
            "prune",
            before,
            "-o",
            after,
            "--vocab-size",
            size,
            "--data",
            text,
            "--no-validate",
            "--json",
        ]
        used = _processor_seconds()
        run = subprocess.run(
            [sys.executable, "-m", "onnxheadprune", *map(str, command)],
            capture_output=True,
            text=True,
            check=True,
        )
        seconds = _processor_seconds() - used
        document = json.loads(run.stdout)
        old, new = embeddings(before, judged), embeddings(after, judged)
        same = sum(len(set(left) & set(right)) for left, right in zip(old[0], new[0], strict=True))
        cosines = [
            float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)) for a, b in zip(old[1], new[1], strict=True)
        ]
        sizes = [(folder / "model.onnx").stat().st_size for folder in (before, after)]
        return {
            "sentences": len(judged),
            "size": size,
            "unchanged": same / sum(len(set(item)) for item in old[0]),
            "whole": sum(left == right for left, right in zip(old[0], new[0], strict=True)) / len(judged),
            "cosine": float(np.mean(cosines)),
            "worst_cosine": min(cosines),
            "megabytes": [size / 1e6 for size in sizes],
            "chosen_on": document["spelling"],
            "seconds": seconds,
        }


def _processor_seconds() -> float:
    """Seconds that the programs that have ended took."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def large(rows: int) -> dict[str, Any]:
    """Seconds and memory of a table of many rows, in a process of its own."""
    with tempfile.TemporaryDirectory() as place:
        model, out, keep = (Path(place, name) for name in ("model.onnx", "out.onnx", "keep.txt"))
        if rows * WIDTH * 4 < onnx.checker.MAXIMUM_PROTOBUF:
            onnx.save(_wide(rows), model)
        else:
            _save_beside(rows, model)
        keep.write_text(f"0-{rows // 4 - 1}\n", "utf-8")
        idle = _measured(["--version"])
        done = _measured(["prune", str(model), "-o", str(out), "--vocab", str(keep), "--provider", "cpu"])
        sizes = [
            sum(path.stat().st_size for path in Path(place).glob(f"{name}.*")) for name in ("model", "out")
        ]
        return {
            "rows": rows,
            "megabytes": [size / 1e6 for size in sizes],
            "seconds": done[0],
            "memory": done[1] / sizes[0],
            "memory_beyond_start": (done[1] - idle[1]) / sizes[0],
        }


def _save_beside(rows: int, model: Path) -> None:
    """A model whose table is too large for one file."""
    made, block = _wide(1), np.random.default_rng(1).standard_normal((2**14, WIDTH), dtype=np.float32)
    (table,) = (tensor for tensor in made.graph.initializer if tensor.name == "table")
    table.CopyFrom(TensorProto(name="table", data_type=TensorProto.FLOAT, dims=(rows, WIDTH)))
    table.data_location = TensorProto.EXTERNAL
    table.external_data.add(key="location", value=f"{model.name}.data")
    with Path(f"{model}.data").open("wb") as stream:
        for start in range(0, rows, len(block)):
            # Rows are told apart by their first number.
            block[:, 0] = np.arange(start, start + len(block)) / rows
            stream.write(block[: rows - start].tobytes())
    onnx.save(made, model)


def _measured(command: list[str]) -> tuple[float, int]:
    """Processor seconds of a call, and the most memory that it took."""
    code = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL);"
        " used = resource.getrusage(resource.RUSAGE_CHILDREN);"
        " print(used.ru_utime + used.ru_stime, used.ru_maxrss)"
    )
    call = [sys.executable, "-c", code, sys.executable, "-m", "onnxheadprune", *command]
    seconds, kilobytes = subprocess.run(call, capture_output=True, text=True, check=True).stdout.split()
    return float(seconds), int(kilobytes) * 1024


def _wide(rows: int, blocks: int = 1, *, logits: bool = False) -> onnx.ModelProto:
    """Blocks of attention and feed-forward layers behind a wide table, which may also make logits."""
    random = np.random.default_rng(0)
    stored = {"table": (rows, WIDTH)}
    nodes, x = [helper.make_node("Gather", ["table", "input_ids"], ["x"])], "x"
    for block in range(blocks):
        shapes = {
            **dict.fromkeys("qkvo", (WIDTH, WIDTH)),
            "up": (WIDTH, 4 * WIDTH),
            "down": (4 * WIDTH, WIDTH),
        }
        stored |= {f"{block}.{name}": shape for name, shape in shapes.items()}
        nodes += _block(f"{block}.", x)
        x = f"{block}.y"
    tensors = [
        numpy_helper.from_array(random.standard_normal(shape, dtype=np.float32) / 20, name)
        for name, shape in stored.items()
    ]
    tensors.append(numpy_helper.from_array(np.array([0, 0, HEADS, WIDTH // HEADS]), "split"))
    tensors.append(numpy_helper.from_array(np.array([0, 0, WIDTH]), "whole"))
    if logits:
        nodes.append(helper.make_node("Transpose", ["table"], ["turned"], perm=(1, 0)))
        nodes.append(helper.make_node("MatMul", [x, "turned"], ["logits"]))
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "sequence"])
    shape = ["batch", "sequence", rows if logits else WIDTH]
    out = helper.make_tensor_value_info("logits" if logits else x, TensorProto.FLOAT, shape)
    graph = helper.make_graph(nodes, "wide", [ids], [out], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def _block(name: str, x: str) -> list[onnx.NodeProto]:
    nodes = []
    for part, order in (("q", (0, 2, 1, 3)), ("k", (0, 2, 3, 1)), ("v", (0, 2, 1, 3))):
        nodes += [
            helper.make_node("MatMul", [x, name + part], [f"{name}{part}_made"]),
            helper.make_node("Reshape", [f"{name}{part}_made", "split"], [f"{name}{part}_split"]),
            helper.make_node("Transpose", [f"{name}{part}_split"], [f"{name}{part}_heads"], perm=order),
        ]
    steps = [
        ("MatMul", ["q_heads", "k_heads"], "scores", {}),
        ("Softmax", ["scores"], "weights", {"axis": -1}),
        ("MatMul", ["weights", "v_heads"], "context", {}),
        ("Transpose", ["context"], "turned", {"perm": (0, 2, 1, 3)}),
    ]
    nodes += [
        helper.make_node(op, [name + item for item in read], [name + output], **attributes)
        for op, read, output, attributes in steps
    ]
    return [
        *nodes,
        helper.make_node("Reshape", [f"{name}turned", "whole"], [f"{name}joined"]),
        helper.make_node("MatMul", [f"{name}joined", f"{name}o"], [f"{name}out"]),
        helper.make_node("Add", [x, f"{name}out"], [f"{name}x"]),
        helper.make_node("MatMul", [f"{name}x", f"{name}up"], [f"{name}wide"]),
        helper.make_node("Relu", [f"{name}wide"], [f"{name}bent"]),
        helper.make_node("MatMul", [f"{name}bent", f"{name}down"], [f"{name}narrow"]),
        helper.make_node("Add", [f"{name}x", f"{name}narrow"], [f"{name}y"]),
    ]


def speed(rows: int = 50_000, kept: int = 16_000, blocks: int = 6, rounds: int = 40) -> dict[str, Any]:
    """Milliseconds of one token and of 64 by one thread, with logits of all tokens and of those that are kept."""
    model = _wide(rows, blocks, logits=True)
    cut = ohp.prune(model, vocab=range(kept), validate=False).model
    found: dict[str, Any] = {"rows": rows, "kept": kept, "blocks": blocks}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    sessions = [
        onnxruntime.InferenceSession(item.SerializeToString(), options, providers=["CPUExecutionProvider"])
        for item in (model, cut)
    ]
    for length in (1, 64):
        feed = {"input_ids": np.arange(length)[None]}
        spent: list[list[float]] = [[], []]
        for _ in range(rounds):
            for session, seconds in zip(sessions, spent, strict=True):
                start = time.process_time()
                session.run(None, feed)
                seconds.append(time.process_time() - start)
        found[f"milliseconds_{length}"] = [1000 * float(np.median(seconds)) for seconds in spent]
    return found


@click.command()
@click.argument("files", nargs=-1, type=click.Path(path_type=Path, exists=True), metavar="[MODEL TOKENIZER]")
@click.option("--size", default=16000)
@click.option("--rows", default=0, help="Measure a table of so many rows instead.")
@click.option("--logits", is_flag=True, help="Measure the speed of a decoder instead.")
@click.option("-o", "--output", type=click.Path(path_type=Path))
def main(files: tuple[Path, ...], size: int, rows: int, logits: bool, output: Path | None) -> None:
    """Print the figures as JSON."""
    found = speed() if logits else large(rows) if rows else minilm(*files, size)
    content = json.dumps(found | {"version": ohp.__version__}, indent=2)
    if output is not None:
        output.write_text(content, "utf-8")
    click.echo(content)


if __name__ == "__main__":
    main()
