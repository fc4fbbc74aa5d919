"""What cuts cost a real encoder: all-MiniLM-L6-v2, with and without compensation, and beside onnxsim.

    python benchmarks/accuracy.py MODEL TOKENIZER [--more] [--recover 20] [--rivals/--no-rivals] [-o results.json]
    python benchmarks/accuracy.py MODEL TOKENIZER --ratio 0.5 --sentences 16384 --time 5m
    python benchmarks/accuracy.py MODEL TOKENIZER --only-refitted --no-rivals --recover 10 --draw 1 --before CHECKOUT

MODEL and tokenizer.json come from sample_models/export_minilm.py. The sentences are docstrings of Python's standard
library, shuffled with a seed: 512 to calibrate on (the first, or those of another `--draw`), 1,500 others to judge by
the mean cosine to the original's mean-pooled embedding, the overlap of the ten nearest neighbours, and the rank
correlation of all pairwise similarities. Other sentences give other figures (`--also numpy --also scipy --also sklearn`
has a cosine of .971 in place of .974 at half of the heads), so the first line says which ones they are. With
`--time` each row is one call with a time of its own, on so many sentences (`--sentences`, more than once for several);
those beyond the first ten thousand are from installed packages, and none of them is one of the judge's. With
`--before` each row is also made by the package in another checkout. quality_picture.py draws what docs/benchmarks.md
has of it.
"""

from __future__ import annotations

import ast
import hashlib
import itertools
import json
import os
import platform
import random
import re
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
import onnxruntime

import onnxheadprune as ohp
from onnxheadprune.data.text import text_feeds
from onnxheadprune.operators import view_of
from onnxheadprune.runtime.feeds.inputs import Input, graph_inputs
from onnxheadprune.training.budget import parse_budget

SEED, CALIBRATION, HELD_OUT = 0, 512, 1500
NOT_PROSE = re.compile(r">>>|\.\. |::|\|")
SENTENCE = re.compile(r"(?<=[.!?])\s+")
Feeds = Sequence[dict[str, Any]]


def docstrings(path: Path) -> Iterator[str]:
    """Every docstring of a source file."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.FunctionDef, ast.ClassDef)):
            yield ast.get_docstring(node) or ""


def corpus(packages: Sequence[str] = ()) -> list[str]:
    """Sentences of 6 to 50 words, in an order that the seed decides.

    Args:
        packages: installed ones whose docstrings count beside those of the standard library.
    """
    library, site = (Path(sysconfig.get_paths()[name]) for name in ("stdlib", "purelib"))
    files = [(library, path) for path in library.rglob("*.py") if "site-packages" not in path.parts]
    files += [(site, path) for name in packages for path in (site / name).rglob("*.py")]
    own = [path for root, path in files if "test" not in str(path.relative_to(root))]
    ordered = sorted({item for path in own for item in sentences_of(path)})
    random.Random(SEED).shuffle(ordered)
    return ordered


def larger_corpus(count: int) -> list[str]:
    """So many sentences to learn from: those of `corpus` without the judge's, then those of every other package.

    Raises:
        click.ClickException: if there are not so many.
    """
    first = corpus()
    found, judged = first[:-HELD_OUT], set(first)
    site = Path(sysconfig.get_paths()["purelib"])
    # A package is much like itself, so files are mixed; there are more than anybody needs.
    files = sorted(site.rglob("*.py")) if count > len(found) else []
    random.Random(SEED).shuffle(files)
    for path in files:
        new = dict.fromkeys(item for item in sentences_of(path) if item not in judged)
        judged |= set(new)
        found += new
        if len(found) >= count:
            break
    if count > len(found):
        raise click.ClickException(f"the installed packages hold {len(found):,} sentences, not {count:,}")
    return found[:count]


def said_of(sentences: Sequence[str]) -> str:
    """The sentences of a table in words: other sentences give other figures."""
    digest = hashlib.sha256("\n".join(sentences).encode()).hexdigest()[:8]
    return f"{len(sentences):,} sentences of Python {platform.python_version()} ({digest})"


def sentences_of(path: Path) -> Iterator[str]:
    """The sentences of the docstrings of a source file."""
    for text in docstrings(path):
        for paragraph in re.split(r"\n\s*\n", text):
            words = " ".join(paragraph.split())
            if not NOT_PROSE.search(words):
                yield from (item for item in SENTENCE.split(words) if _is_sentence(item))


def sentence_feeds(sentences: Sequence[str], tokenizer: Path, inputs: Sequence[Input]) -> ohp.Calibration:
    """Sentences as feeds of a model.

    Args:
        sentences: one text each.
        tokenizer: tokenizer.json.
        inputs: of the model.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "text.txt")
        path.write_text("\n".join(sentences), encoding="utf-8")
        return text_feeds(path, tokenizer, inputs)


def _is_sentence(text: str) -> bool:
    return 6 <= len(text.split()) <= 50 and text[0].isupper() and text[-1] in ".!?"


def embeddings(model: onnx.ModelProto, feeds: Feeds) -> np.ndarray[Any, Any]:
    """Mean-pooled, normalized, [samples, width]."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    found = []
    for feed in feeds:
        hidden: Any = session.run(None, {item.name: feed[item.name] for item in session.get_inputs()})[0]
        mask = feed["attention_mask"][..., None]
        pooled = (hidden * mask).sum(1) / mask.sum(1)
        found.append(pooled / np.linalg.norm(pooled, axis=1, keepdims=True))
    return np.concatenate(found)


def quality(pruned: np.ndarray[Any, Any], original: np.ndarray[Any, Any]) -> tuple[float, float, float]:
    """Mean cosine, overlap of the ten nearest neighbours, rank correlation of similarities."""
    upper = np.triu_indices(len(original), 1)
    alike = [vectors @ vectors.T for vectors in (pruned, original)]
    ranks = [np.argsort(np.argsort(matrix[upper], kind="stable"), kind="stable") for matrix in alike]
    for matrix in alike:
        np.fill_diagonal(matrix, -np.inf)
    nearest = [np.argpartition(-matrix, 10, axis=1)[:, :10] for matrix in alike]
    overlap = [len(set(left) & set(right)) / 10 for left, right in zip(*nearest, strict=True)]
    cosine = float((pruned * original).sum(1).mean())
    return cosine, float(np.mean(overlap)), float(np.corrcoef(*ranks)[0, 1])


class Judge:
    """The held-out sentences, and what the original makes of them."""

    def __init__(self, model: onnx.ModelProto, feeds: Feeds) -> None:
        self.feeds = feeds
        self.original = embeddings(model, feeds)
        self.rows: list[dict[str, Any]] = []

    def judge(self, way: str, ratio: float, model: onnx.ModelProto, since: tuple[float, float]) -> None:
        """Adds a row and prints it; `since` is the clock and the processor's time at the start of the work."""
        seconds, cpu = time.perf_counter() - since[0], time.process_time() - since[1]
        cosine, overlap, rank = quality(embeddings(model, self.feeds), self.original)
        self.rows.append(
            {
                "way": way,
                "ratio": ratio,
                "cosine": cosine,
                "overlap": overlap,
                "rank": rank,
                "seconds": seconds,
                "cpu_seconds": cpu,
            }
        )
        click.echo(f"| {way} | {ratio:.0%} | {_figures(self.rows[-1])} |")


def _figures(row: dict[str, Any]) -> str:
    quality_of = f"{row['cosine']:.4f} / {row['overlap']:.4f} / {row['rank']:.4f}"
    return f"{quality_of} | {row['seconds']:.0f} s ({row['cpu_seconds']:.0f} CPU-s)"


def clocks() -> tuple[float, float]:
    """The time, and the processor time of this process."""
    return time.perf_counter(), time.process_time()


def ours(
    judge: Judge,
    path: Path,
    feeds: Feeds,
    ratio: float,
    way: str,
    *,
    refit: bool = True,
    recover: str | None = None,
) -> None:
    """One call of `prune`: choosing, refitting, training, surgery, validation and writing."""
    since = clocks()
    with tempfile.TemporaryDirectory() as folder:
        result = ohp.prune(
            path,
            Path(folder, "pruned.onnx"),
            ratio=ratio,
            data=feeds,
            provider="cpu",
            refit=refit,
            recover=recover,
        )
        judge.judge(way, ratio, result.model, since)


def timed(
    judge: Judge, path: Path, text: tuple[Path, int], target: dict[str, Any], budget: str, share: float
) -> None:
    """One call of `prune` with a time of its own, from reading the text to writing the model.

    Args:
        judge: gets the row.
        path: the model.
        text: the tokenizer, and how many sentences are learned from.
        target: what is removed.
        budget: time of the call.
        share: of what is removed, for the row.
    """
    tokenizer, count = text
    sentences, inputs = larger_corpus(count), graph_inputs(view_of(onnx.load(path)))
    since = clocks()
    with tempfile.TemporaryDirectory() as folder:
        feeds = sentence_feeds(sentences, tokenizer, inputs)
        output = Path(folder, "pruned.onnx")
        result = ohp.prune(path, output, **target, data=feeds, provider="cpu", time=budget)
        judge.judge(f"{count:,} sentences, --time {budget}", share, result.model, since)
        assert result.chosen is not None and result.chosen.recovery is not None
        trained = result.chosen.recovery
        judge.rows[-1] |= {"sentences": count, "steps": trained.steps, "would_help": trained.would_help}


def rivals(judge: Judge, path: Path, feeds: Feeds, ratio: float, finetune: bool) -> None:
    """Onnxsim on the same model, fused as it needs it by ONNX Runtime's own transformer optimizer."""
    import onnxsim
    from onnxruntime.transformers import optimizer

    fused = optimizer.optimize_model(str(path), "bert", num_heads=12, hidden_size=384, opt_level=0).model
    for way, function in (
        ("onnxsim magnitude", lambda: onnxsim.apply_attention_head_pruning(fused, ratio)),
        (
            "onnxsim wanda",
            lambda: onnxsim.apply_attention_head_wanda_pruning(fused, list(feeds), sparsity=ratio),
        ),
        (
            "onnxsim wanda + finetune",
            lambda: onnxsim.apply_pruning_finetune(
                fused,
                onnxsim.apply_attention_head_wanda_pruning(fused, list(feeds), sparsity=ratio),
                list(feeds),
            ),
        ),
    ):
        if "finetune" in way and not finetune:
            continue
        since = clocks()
        judge.judge(way, ratio, function(), since)


def beside(rows: Sequence[dict[str, Any]], before: Path) -> None:
    """Print the rows of this table beside the same ones of another checkout's package, made by its own script.

    Args:
        rows: of the package that is imported here.
        before: the other checkout.
    """
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder, "rows.json")
        given = [item for item in sys.argv[1:] if not item.startswith("--before=")]
        if "--before" in given:
            at = given.index("--before")
            given[at : at + 2] = []
        there = {**os.environ, "PYTHONPATH": str(before)}
        subprocess.run(
            [sys.executable, before / "benchmarks" / Path(__file__).name, *given, "-o", found],
            env=there,
            check=True,
        )
        others = json.loads(found.read_text(encoding="utf-8"))
    click.echo("\n| way | heads removed | before | time | now | time |\n|---|---|---|---|---|---|")
    for one, other in zip(rows, others, strict=True):
        click.echo(f"| {one['way']} | {one['ratio']:.0%} | {_figures(other)} | {_figures(one)} |")


@click.command()
@click.argument("model", type=click.Path(path_type=Path, exists=True))
@click.argument("tokenizer", type=click.Path(path_type=Path, exists=True))
@click.option("--ratio", "ratios", type=float, multiple=True, default=(0.25, 0.5), show_default=True)
@click.option("--more", is_flag=True, help="Also with four times the calibration sentences.")
@click.option("--rivals/--no-rivals", "with_rivals", default=True, show_default=True)
@click.option(
    "--finetune/--no-finetune", default=True, show_default=True, help="onnxsim's, minutes per ratio."
)
@click.option("--recover", multiple=True, metavar="N|Ts", help="Also train what is left, for so long.")
@click.option("--time", "times", multiple=True, metavar="T", help="Only whole calls that take so long.")
@click.option(
    "--sentences", "counts", multiple=True, type=int, default=(CALIBRATION,), help="Of those calls."
)
@click.option("--also", "packages", multiple=True, metavar="PACKAGE", help="Its docstrings count, too.")
@click.option(
    "--draw", default=0, show_default=True, help="The sentences to calibrate on: the next 512 for each."
)
@click.option("--only-refitted", is_flag=True, help="Without the rows that are not refitted.")
@click.option(
    "--before", type=click.Path(path_type=Path, exists=True), help="Checkout of what to compare with."
)
@click.option("-o", "--output", type=click.Path(path_type=Path))
def main(
    model: Path,
    tokenizer: Path,
    ratios: tuple[float, ...],
    more: bool,
    with_rivals: bool,
    finetune: bool,
    recover: tuple[str, ...],
    times: tuple[str, ...],
    counts: tuple[int, ...],
    packages: tuple[str, ...],
    draw: int,
    only_refitted: bool,
    before: Path | None,
    output: Path | None,
) -> None:
    """Prints a Markdown table: cosine / overlap / rank correlation, and the seconds it took."""
    sentences = corpus(packages)
    proto = onnx.load(model)
    inputs = graph_inputs(view_of(proto))

    def feeds(chosen: Sequence[str]) -> Feeds:
        return sentence_feeds(chosen, tokenizer, inputs)

    calibration = feeds(sentences[draw * CALIBRATION : -HELD_OUT][:CALIBRATION])
    judge = Judge(proto, feeds(sentences[-HELD_OUT:]))
    click.echo(
        f"{date.today()}, {platform.processor() or platform.machine()}, onnxruntime {onnxruntime.__version__},"
        f" {said_of(sentences)}"
    )
    click.echo("\n| way | heads removed | cosine / overlap / rank | time |\n|---|---|---|---|")
    for ratio, count, budget in itertools.product(ratios, counts, times):
        timed(judge, model, (tokenizer, count), {"ratio": ratio}, budget, ratio)
    for ratio in () if times else ratios:
        if not only_refitted:
            ours(judge, model, calibration, ratio, "no refit", refit=False)
        ours(judge, model, calibration, ratio, "refit")
        for budget in recover:
            way = f"refit, trained for {parse_budget(budget)}"
            ours(judge, model, calibration, ratio, way, recover=budget)
        if more:
            larger = feeds(sentences[: 4 * CALIBRATION])
            ours(judge, model, larger, ratio, "refit, 2,048 sentences")
            for budget in recover:
                way = f"refit, 2,048 sentences, trained for {parse_budget(budget)}"
                ours(judge, model, larger, ratio, way, recover=budget)
        if with_rivals:
            rivals(judge, model, calibration, ratio, finetune)
    if output is not None:
        output.write_text(json.dumps(judge.rows, indent=1) + "\n", encoding="utf-8")
    if before is not None:
        beside(judge.rows, before)


if __name__ == "__main__":
    main()
