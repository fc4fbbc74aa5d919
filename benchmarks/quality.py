"""The quality of pruned models on held-out data, for any call of `prune` on five models.

    python benchmarks/quality.py digits "--ratio 0.5" "--ratio 0.5 --method taylor" "--ratio 0.5 --recover 10"
    python benchmarks/quality.py char_gpt "--ratio 0.3" "--ratio 0.3 --no-refit" "--heads layer.2:*"
    python benchmarks/quality.py minilm MODEL TOKENIZER "--ratio 0.5" "--ratio 0.25 then quantize --to int8-dynamic"
    python benchmarks/quality.py minilm MODEL TOKENIZER "--ratio 0.5 --time 5m" "onnxsim wanda 0.5" --sentences 16384
    python benchmarks/quality.py mixture.onnx "--ratio 0.5 --units experts --method reap"
    python benchmarks/quality.py grouped.onnx "--ratio 0.5"

A row is what follows `prune MODEL --data ...`; behind `then` stands a command for its result. Each is a process of its
own, from reading the data to the proof. What it learned from and what it is judged on are apart:

* digits, the ViT of sample_models/: accuracy in percent, and nats from the original's distribution, on 450 images
* char_gpt, also of there, and what characters.py trains (mixture.onnx, grouped.onnx): perplexity on windows of other
  text, and how much worse in percent, with the standard error of the difference
* minilm, of sample_models/export_minilm.py: docstrings of Python's standard library, shuffled with a seed, 512 to learn
  from (the next 512 with each `--draw`; more with `--sentences`, beyond the first ten thousand from installed packages)
  and 1,500 others: cosine to the original's mean-pooled embedding, overlap of the ten nearest neighbors, rank
  correlation of all similarities. Other sentences give other figures (`--also numpy` adds a package's), so the first
  line says which ones they are.

With `--before PYTHON` each row is made by the package of another environment, too. `onnxsim magnitude|wanda|finetune
SHARE` prunes MiniLM by onnxsim, on the model that ONNX Runtime's optimizer fused.
"""

from __future__ import annotations

import ast
import hashlib
import json
import math
import platform
import random
import re
import shlex
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
import onnxruntime
from cost import MEGABYTE, Cost, cost_of, machine
from tokenizers import Tokenizer

Array = npt.NDArray[Any]
Figures = dict[str, float]
SAMPLES = Path(__file__).parents[1] / "sample_models"
SEED, CALIBRATION, HELD_OUT = 0, 512, 1500
NOT_PROSE = re.compile(r">>>|\.\. |::|\|")
SENTENCE = re.compile(r"(?<=[.!?])\s+")


def sentences_of(path: Path) -> Iterator[str]:
    """Sentences of 6 to 50 words in the docstrings of a source file."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError, ValueError):
        return
    for node in ast.walk(tree):
        if not isinstance(node, (ast.Module, ast.FunctionDef, ast.ClassDef)):
            continue
        for paragraph in re.split(r"\n\s*\n", ast.get_docstring(node) or ""):
            words = " ".join(paragraph.split())
            for text in [] if NOT_PROSE.search(words) else SENTENCE.split(words):
                if 6 <= len(text.split()) <= 50 and text[0].isupper() and text[-1] in ".!?":
                    yield text


def corpus(packages: Sequence[str] = ()) -> list[str]:
    """Sentences of the standard library, and of installed packages, in an order that the seed decides."""
    library, site = (Path(sysconfig.get_paths()[name]) for name in ("stdlib", "purelib"))
    files = [(library, path) for path in library.rglob("*.py") if "site-packages" not in path.parts]
    files += [(site, path) for name in packages for path in (site / name).rglob("*.py")]
    own = [path for root, path in files if "test" not in str(path.relative_to(root))]
    ordered = sorted({item for path in own for item in sentences_of(path)})
    random.Random(SEED).shuffle(ordered)
    return ordered


def learned(count: int, draw: int, packages: Sequence[str]) -> list[str]:
    """Sentences to learn from: those of `corpus` without the judge's, then those of every other package.

    Raises:
        click.ClickException: if there are not so many.
    """
    first = corpus(packages)
    found, known = first[draw * CALIBRATION : -HELD_OUT], set(first)
    # A package is much like itself, so files are mixed; there are more than anybody needs.
    more = sorted(Path(sysconfig.get_paths()["purelib"]).rglob("*.py")) if count > len(found) else []
    random.Random(SEED).shuffle(more)
    for path in more:
        new = dict.fromkeys(item for item in sentences_of(path) if item not in known)
        known |= set(new)
        found += new
        if len(found) >= count:
            break
    if count > len(found):
        raise click.ClickException(f"the installed packages hold {len(found):,} sentences, not {count:,}")
    return found[:count]


def session_of(model: Path) -> onnxruntime.InferenceSession:
    """A session on the CPU, without ONNX Runtime's remarks."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def embeddings(model: Path, tokenizer: Path, sentences: Sequence[str]) -> Array:
    """Mean-pooled and normalized, [samples, width]."""
    reader = Tokenizer.from_file(str(tokenizer))
    reader.enable_truncation(128)
    reader.enable_padding()
    session = session_of(model)
    names = {item.name for item in session.get_inputs()}
    order = sorted(range(len(sentences)), key=lambda at: len(sentences[at]))
    found: dict[int, Array] = {}
    for first in range(0, len(order), 32):
        rows = order[first : first + 32]
        texts = reader.encode_batch([sentences[at] for at in rows])
        feed = {
            "input_ids": np.array([item.ids for item in texts]),
            "attention_mask": np.array([item.attention_mask for item in texts]),
            "token_type_ids": np.array([item.type_ids for item in texts]),
        }
        hidden: Any = session.run(None, {name: feed[name] for name in feed.keys() & names})[0]
        mask = feed["attention_mask"][..., None]
        pooled = (hidden * mask).sum(1) / mask.sum(1)
        found |= zip(rows, pooled / np.linalg.norm(pooled, axis=1, keepdims=True), strict=True)
    return np.stack([found[at] for at in range(len(sentences))])


def alike(pruned: Array, original: Array) -> Figures:
    """Mean cosine, overlap of the ten nearest neighbors, rank correlation of similarities."""
    upper = np.triu_indices(len(original), 1)
    products = [vectors @ vectors.T for vectors in (pruned, original)]
    ranks = [np.argsort(np.argsort(matrix[upper], kind="stable"), kind="stable") for matrix in products]
    for matrix in products:
        np.fill_diagonal(matrix, -np.inf)
    nearest = [np.argpartition(-matrix, 10, axis=1)[:, :10] for matrix in products]
    overlap = [len(set(left) & set(right)) / 10 for left, right in zip(*nearest, strict=True)]
    return {
        "cosine": float((pruned * original).sum(1).mean()),
        "overlap": float(np.mean(overlap)),
        "rank": float(np.corrcoef(*ranks)[0, 1]),
    }


@dataclass(frozen=True)
class Judge:
    """A model, what its cuts learn from, and what they are judged by.

    Attributes:
        model: the original.
        data: options of a call that learns.
        figures: of a model, on other data.
        about: the data, where they are not part of the repository.
        tokenizer: of a model that reads text.
    """

    model: Path
    data: tuple[str, ...]
    figures: Callable[[Path], Figures]
    about: str = ""
    tokenizer: Path | None = None


def digits() -> Judge:
    """The digits ViT."""
    model = SAMPLES / "digits_vit.onnx"
    with np.load(SAMPLES / "digits_test.npz") as test:
        images, labels = test["images"], test["labels"]

    def logits(path: Path) -> Array:
        found: Any = session_of(path).run(None, {"images": images})[0]
        return np.asarray(found, np.float64)

    original = _log_softmax(logits(model))

    def figures(path: Path) -> Figures:
        found = _log_softmax(logits(path))
        apart = (np.exp(original) * (original - found)).sum(-1).mean()
        return {"accuracy": 100 * float((found.argmax(1) == labels).mean()), "nats": float(apart)}

    return Judge(model, ("--data", str(SAMPLES / "digits_calibration.npz")), figures)


def characters(model: Path, calibration: Path, test: Path) -> Judge:
    """A decoder on characters."""
    with np.load(test) as held:
        ids, labels = held["input_ids"], held["labels"]

    def losses(path: Path) -> Array:
        session, found = session_of(path), []
        for first in range(0, len(ids), 64):
            (logits,) = session.run(["logits"], {"input_ids": ids[first : first + 64]})
            likely = _log_softmax(np.asarray(logits, np.float64))
            picked = np.take_along_axis(likely, labels[first : first + 64, :, None], axis=-1)
            found.append(-picked[..., 0].mean(axis=-1))
        return np.concatenate(found)

    before = losses(model)

    def figures(path: Path) -> Figures:
        after = losses(path)
        # Windows are the same before and after, so their differences tell more than the two means.
        rise, error = (after - before).mean(), (after - before).std(ddof=1) / math.sqrt(len(before))
        return {
            "perplexity": math.exp(after.mean()),
            "worse": 100 * math.expm1(rise),
            "error": 100 * math.exp(rise) * error,
        }

    return Judge(model, ("--data", str(calibration)), figures)


def sentences(
    model: Path, tokenizer: Path, folder: Path, count: int, draw: int = 0, packages: Sequence[str] = ()
) -> Judge:
    """all-MiniLM-L6-v2."""
    held, text = corpus(packages)[-HELD_OUT:], folder / "sentences.txt"
    digest = hashlib.sha256("\n".join(corpus(packages)).encode()).hexdigest()[:8]
    text.write_text("\n".join(learned(count, draw, packages)) + "\n", encoding="utf-8")
    original = embeddings(model, tokenizer, held)
    return Judge(
        model,
        ("--data", str(text), "--tokenizer", str(tokenizer)),
        lambda path: alike(embeddings(path, tokenizer, held), original),
        f"{count:,} sentences of Python {platform.python_version()} ({digest})",
        tokenizer,
    )


def _log_softmax(logits: Array) -> Array:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def by_onnxsim(judge: Judge, way: str, share: float, out: Path) -> Cost:
    """Heads pruned by onnxsim, from the operator that ONNX Runtime's transformer optimizer fuses."""
    import onnx
    import onnxsim
    from onnxruntime.transformers import optimizer

    assert judge.tokenizer is not None
    fused = optimizer.optimize_model(
        str(judge.model), "bert", num_heads=12, hidden_size=384, opt_level=0
    ).model
    reader = Tokenizer.from_file(str(judge.tokenizer))
    reader.enable_truncation(128)
    texts = [reader.encode(line) for line in Path(judge.data[1]).read_text(encoding="utf-8").splitlines()]
    feeds = [
        {
            "input_ids": np.array([item.ids]),
            "attention_mask": np.array([item.attention_mask]),
            "token_type_ids": np.array([item.type_ids]),
        }
        for item in texts
    ]
    began, cpu = time.perf_counter(), time.process_time()
    if way == "magnitude":
        made = onnxsim.apply_attention_head_pruning(fused, share)
    else:
        made = onnxsim.apply_attention_head_wanda_pruning(fused, feeds, sparsity=share)
    if way == "finetune":
        made = onnxsim.apply_pruning_finetune(fused, made, feeds)
    onnx.save(made, out)
    return Cost(time.process_time() - cpu, time.perf_counter() - began, 0, 0, 0)


def made(judge: Judge, row: str, out: Path, python: str) -> Cost:
    """Make the model of a row.

    Raises:
        click.ClickException: if a command fails.
    """
    if row.startswith("onnxsim"):
        _, way, share = row.split()
        return by_onnxsim(judge, way, float(share), out)
    total, source = Cost(0, 0, 0, 0, 0), judge.model
    for number, step in enumerate(f"prune {row}".split(" then ")):
        command, *options = shlex.split(step)
        target = out.with_name(f"step{number}-{out.name}")
        call = [python, "-m", "onnxheadprune", command, str(source), "-o", str(target), *options, *judge.data]
        found = cost_of([*call, "--provider", "cpu", "--json"])
        if found.code:
            raise click.ClickException(f"exit {found.code}: {shlex.join(call)}\n{found.output}")
        total = replace(
            found, cpu=total.cpu + found.cpu, wall=total.wall + found.wall, peak=max(total.peak, found.peak)
        )
        source = target
    source.rename(out)
    return total


@click.command(help=__doc__, context_settings={"ignore_unknown_options": True})
@click.argument("model")
@click.argument("rows", nargs=-1, required=True)
@click.option("--sentences", "counts", type=int, multiple=True, default=(CALIBRATION,), help="Of MiniLM.")
@click.option("--draw", default=0, show_default=True, help="Which 512 of them.")
@click.option("--also", "packages", multiple=True, metavar="PACKAGE", help="Its docstrings count, too.")
@click.option("--before", metavar="PYTHON", help="The interpreter of another environment.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Also as JSON.")
def main(
    model: str,
    rows: tuple[str, ...],
    counts: tuple[int, ...],
    draw: int,
    packages: tuple[str, ...],
    before: str | None,
    output: Path | None,
) -> None:
    """Print a Markdown table."""
    found: list[dict[str, Any]] = []
    interpreters = {"": sys.executable} | ({"before: ": before} if before is not None else {})
    for count in counts if model == "minilm" else (0,):
        with tempfile.TemporaryDirectory() as place:
            if model == "digits":
                judge = digits()
            elif model == "minilm":
                files, rows_left = rows[:2], rows[2:]
                judge = sentences(Path(files[0]), Path(files[1]), Path(place), count, draw, packages)
            else:
                stem = SAMPLES / "char_gpt" if model == "char_gpt" else Path(model).with_suffix("")
                judge = characters(
                    stem.with_suffix(".onnx"),
                    stem.with_name(f"{stem.name}_calibration.npz"),
                    stem.with_name(f"{stem.name}_test.npz"),
                )
            names = list(judge.figures(judge.model))
            click.echo(
                f"{machine()}; {judge.about}\n\n| row | {' | '.join(names)} | file MB | CPU s | wall s |"
            )
            click.echo("|---|" + "---|" * (len(names) + 3))
            for row in rows_left if model == "minilm" else rows:
                for label, python in interpreters.items():
                    out = Path(place, "out.onnx")
                    cost = made(judge, row, out, python)
                    figures = judge.figures(out)
                    size = out.stat().st_size / MEGABYTE
                    cells = " | ".join(f"{value:.4f}" for value in figures.values())
                    click.echo(
                        f"| {label}`{row}` | {cells} | {size:.2f} | {cost.cpu:.1f} | {cost.wall:.1f} |"
                    )
                    found.append({"row": label + row, "sentences": count, **figures, "cpu_seconds": cost.cpu})
    if output is not None:
        output.write_text(json.dumps({"on": machine(), "rows": found}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
