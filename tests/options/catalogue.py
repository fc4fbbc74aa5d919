"""What is tried: modes of each command, and for each option values that show whether it does anything."""

from __future__ import annotations

from dataclasses import dataclass

Words = tuple[str, ...]
Mode = dict[str, Words]
"""Options by parameter name, as they are typed. `{model}` stands for the name of the model that is used."""


@dataclass(frozen=True)
class Trial:
    """How to see an option at work.

    Attributes:
        values: ways to type it; one of them must change the outcome.
        along: what is typed with and without it.
        model: the model on which it shows.
        instead: an option of the mode whose place it takes.
    """

    values: tuple[Words, ...]
    along: Words = ()
    model: str = "fixed"
    instead: str = ""

    def within(self, option: str, mode: Mode) -> Mode:
        """The mode in which the option is tried."""
        if self.instead not in mode:
            return mode
        return {name: typed for name, typed in mode.items() if name != self.instead} | {
            option: (*self.values[0], *self.along)
        }


def shown(*words: str, along: Words = (), model: str = "fixed", instead: str = "") -> Trial:
    """One way to type it."""
    return Trial((words,), along, model, instead)


JSON: Mode = {"as_json": ("--json",)}
DATA: Mode = {"data": ("--data", "{model}.npz")}
OUT: Mode = {"model": ("{model}.onnx",), "output": ("-o", "out.onnx")}
FOLDER: Mode = {"folder": ("folder-{model}",), "output": ("-o", "outdir")}
EXPORT: Mode = {"model": ("export-{model}",), "output": ("-o", "outdir")}
HEADS: Mode = {"heads": ("--heads", "0:1")}
RATIO: Mode = {"ratio": ("--ratio", "0.5")}
DRY: Mode = {"model": ("{model}.onnx",), "dry_run": ("--dry-run",)}
QUICK: Mode = {"batch": ("--batch", "2"), "repeats": ("--repeats", "7")}
PAIR: Mode = {"model": ("{model}.onnx",), "pruned": ("{model}-less.onnx",)}

MODES: dict[str, dict[str, Mode]] = {
    "prune": {
        "heads": OUT | HEADS,
        "heads refitted": OUT | HEADS | DATA | {"refit": ("--refit",)},
        "heads in place": {
            "model": ("{model}.onnx",),
            "in_place": ("--in-place",),
            "backup": ("--backup", "kept.onnx"),
        }
        | HEADS,
        "heads unproven": OUT | HEADS | {"validate": ("--no-validate",)},
        "heads ahead": DRY | HEADS,
        "fused": OUT | {"fuse": ("--fuse", "contrib")},
        "fused ahead": DRY | {"fuse": ("--fuse", "contrib")},
        "folder": EXPORT | HEADS,
        "folder ahead": {"model": ("export-{model}",), "dry_run": ("--dry-run",)} | HEADS,
        "folder on data": EXPORT | RATIO | DATA,
        "ratio": OUT | RATIO,
        "ratio on data": OUT | RATIO | DATA,
        "heads recovered": OUT | HEADS | DATA | {"recover": ("--recover", "1")},
        "ratio ahead": DRY | RATIO | DATA,
    },
    "sweep": {
        "data": {
            "model": ("{model}.onnx",),
            "ratios": ("0.5:0.5:1",),
            "output": ("-o", "curve.json"),
        }
        | DATA,
    },
    "recover": {"plain": PAIR | {"output": ("-o", "out.onnx"), "budget": ("--budget", "1")} | DATA},
    "batch": {
        "heads": FOLDER | HEADS,
        "heads unproven": FOLDER | HEADS | {"validate": ("--no-validate",)},
        "ratio": FOLDER | RATIO,
        "ratio on data": FOLDER | RATIO | DATA,
        "fuse": FOLDER | {"fuse": ("--fuse", "contrib")},
    },
    "score": {
        "weights": {"model": ("{model}.onnx",)},
        "weights by name": {"model": ("{model}.onnx",), "method": ("--method", "weight")},
        "data": {"model": ("{model}.onnx",)} | DATA,
        "ablation": {"model": ("{model}.onnx",), "method": ("--method", "ablation")} | DATA,
    },
    "validate": {
        "plain": PAIR,
        "data": PAIR | DATA,
        "speed": PAIR | QUICK | {"min_speedup": ("--min-speedup", "0.0001")},
    },
    "bench": {
        "pair": PAIR | QUICK | {"memory": ("--no-memory",)},
    },
    "inspect": {"plain": {"model": ("{model}.onnx",)}},
    "doctor": {"plain": {}},
    "quantize": {
        "dynamic": OUT | {"to": ("--to", "int8-dynamic")},
        "on data": OUT | {"to": ("--to", "int8-qdq")} | DATA,
        "in blocks": OUT | {"to": ("--to", "int4")},
    },
    "report": {"plain": {"results": ("curve.json",), "output": ("-o", "page.html")}},
    "run": {"plain": {"job": ("job-{model}.yaml",)}},
}

TEXT = ("--data", "lines.txt", "--tokenizer", "tokenizer.json")
ROWS = ("--data", "rows.jsonl", "--tokenizer", "tokenizer.json")
PICTURES = ("--data", "pictures")
SIZED = (*PICTURES, "--image-size", "16x8")
CALIBRATING = {
    "data": Trial((("--data", "{model}.npz"), ("--data", "missing.npz"))),
    "data_format": shown("--data-format", "text", along=ROWS, model="toy", instead="data"),
    "text_field": shown("--text-field", "question", along=ROWS, model="toy", instead="data"),
    "target_field": shown("--target-field", "question", along=ROWS, model="toy", instead="data"),
    "max_samples": shown("--max-samples", "2", along=TEXT, model="toy", instead="data"),
    "tokenizer": shown(*TEXT, model="toy", instead="data"),
    "max_length": shown("--max-length", "2", along=TEXT, model="toy", instead="data"),
    "image_size": shown("--image-size", "16x8", along=PICTURES, model="vision", instead="data"),
    "image_mean": shown("--image-mean", "0.1", along=SIZED, model="vision", instead="data"),
    "image_std": shown("--image-std", "0.1", along=SIZED, model="vision", instead="data"),
    "provider": shown("--provider", "nowhere"),
    "custom_ops": shown("--custom-ops", "{model}.onnx"),
}
LINKS = {"follow_links": shown("--follow-links", model="linked")}
MEASURING = {
    "batch": shown("--batch", "1", model="toy"),
    "seq": shown("--seq", "3", model="toy"),
    "past": shown("--past", "3", model="cache"),
    "dims": shown("--dim", "sequence=5", model="toy"),
    "repeats": shown("--repeats", "6"),
    "time_budget": shown("--time-budget", "0.05", instead="repeats"),
    "threads": shown("--threads", "1"),
}
RESPECTING = {
    "scores": shown("--scores", "scores.csv"),
    "method": Trial((("--method", "ablation"), ("--method", "taylor"), ("--method", "weight"))),
    "uniform": shown("--uniform", along=("--scores", "scores.csv")),
    "multiple_of": Trial(tuple(("--multiple-of", f"heads={number}") for number in "234")),
    "min_heads": Trial(tuple(("--min-heads", number) for number in "0234")),
    "units": Trial((("--units", "all"), ("--units", "neurons"))),
    "protect": Trial((("--protect", "0"), ("--protect", "1"))),
    "refit": Trial((("--refit",), ("--no-refit",))),
    "recover": shown("--recover", "1", along=("--data", "{model}.npz")),
    "drift": Trial((("--drift", "cosine"), ("--drift", "kl"))),
}
CUTTING = RESPECTING | {
    "heads": shown("--heads", "0:2"),
    "neurons": shown("--neurons", "0:1"),
    "experts": shown("--experts", "0:1"),
    "layers": shown("--layers", "attn.0"),
    "exit": shown("--exit", "1", model="leaving"),
    "vocab": shown("--vocab", "keep.txt", model="toy"),
    "vocab_size": shown("--vocab-size", "14", along=("--data", "{model}.npz"), model="toy"),
    "token_logits": shown("--token-logits", "none", along=("--vocab", "keep.txt"), model="toy"),
    "token_ids": shown("--token-ids", "nothing", along=("--vocab", "keep.txt"), model="toy"),
    "ratio": shown("--ratio", "0.5"),
    "keep": shown("--keep", "2", instead="ratio"),
    "target_size": shown("--target-size", "0.9", instead="ratio"),
    "target_speedup": shown("--target-speedup", "50", instead="ratio"),
    "max_drift": shown("--max-drift", "20", instead="ratio"),
    "cache": shown("--cache", "keep", model="cache"),
    "allow_io_change": shown("--allow-io-change", model="told"),
    "fuse": shown("--fuse", "contrib"),
}
STORING = {"external_data": shown("--external-data", "always", model="heavy")}
"""Storage options, in each command that writes a model."""
WRITING = CALIBRATING | {
    "output": shown("-o", "other.onnx"),
    "seed": Trial((("--seed", "7"),)),
    "validate": shown("--no-validate"),
    "accept_inconclusive": shown("--accept-inconclusive", model="silent"),
    "as_json": shown("--json"),
    **STORING,
}
RESUME = {"resume": shown("--resume", along=("--recover", "1", "--data", "{model}.npz"))}
AT_ONE_MODEL = {
    "model": shown("{model}.onnx"),
    "dry_run": shown("--dry-run"),
    "report": shown("--report", "page.html"),
    "in_place": shown("--in-place", "--backup", "kept.onnx"),
    "backup": shown("--in-place", "--backup", "kept.onnx"),
}
ROUNDING = {
    "to": shown("--to", "int8-dynamic"),
    "per_channel": shown("--per-tensor"),
    "reduce_range": Trial((("--reduce-range",), ("--full-range",))),
    "block_size": shown("--block-size", "16"),
    "exclude": shown("--exclude", "nowhere"),
}
TRIALS: dict[str, dict[str, Trial]] = {
    "prune": CALIBRATING
    | CUTTING
    | RESUME
    | WRITING
    | AT_ONE_MODEL
    | {
        "heatmap": shown("--heatmap", "heat.svg"),
        "time": shown("--time", "4s", along=("--data", "{model}.npz")),
        "runtime": shown("--runtime", "genai"),
        "exclude": shown("--exclude", "nowhere"),
        "data_name": shown("--data-name", "named", along=("--external-data", "always"), model="heavy"),
    }
    | LINKS,
    "recover": CALIBRATING
    | WRITING
    | {
        "model": shown("{model}.onnx"),
        "pruned": shown("{model}-less.onnx"),
        "budget": shown("--budget", "2"),
        "time": shown("--time", "4s", instead="budget"),
        "resume": shown("--resume"),
        "drift": RESPECTING["drift"],
        "report": AT_ONE_MODEL["report"],
    },
    "quantize": CALIBRATING
    | ROUNDING
    | {
        "model": shown("{model}.onnx"),
        "output": WRITING["output"],
        "drift": RESPECTING["drift"],
        "seed": shown(
            "--seed",
            "7",
            along=(
                "--data",
                "random",
            ),
        ),
        **STORING,
        "as_json": shown("--json"),
    },
    "batch": CUTTING
    | WRITING
    | {
        "time": shown("--time", "1s", along=("--data", "{model}.npz")),
        "folder": shown("folder-{model}"),
        "output": shown("-o", "other"),
        "jobs": shown("--jobs", "2"),
        "dask": shown("--dask", "nowhere"),
    },
    "sweep": CALIBRATING
    | RESPECTING
    | {
        "recover": shown("--recover", "1"),
        "time": shown("--time", "1s"),
        "model": shown("{model}.onnx"),
        "ratios": shown("0:0.5:0.5"),
        "output": shown("-o", "curve.svg"),
        "x": shown("--x", "parameters"),
        "seed": shown(
            "--seed",
            "7",
            along=(
                "--data",
                "random",
            ),
            instead="data",
        ),
        "jobs": shown("--jobs", "2"),
        "dask": shown("--dask", "nowhere"),
        "as_json": shown("--json"),
    },
    "score": CALIBRATING
    | LINKS
    | {
        "model": shown("{model}.onnx"),
        "method": shown("--method", "taylor"),
        "units": shown("--units", "heads,neurons"),
        "output": shown("-o", "scores.json"),
        "heatmap": shown("--heatmap", "heat.svg"),
        "seed": shown(
            "--seed",
            "7",
            along=(
                "--data",
                "random",
            ),
        ),
        "drift": shown("--drift", "mine_for_options:worst"),
        "as_json": shown("--json"),
    },
    "validate": CALIBRATING
    | MEASURING
    | LINKS
    | {
        "model": shown("{model}.onnx"),
        "pruned": shown("{model}-less.onnx"),
        "heads": shown("--heads", "0:2"),
        "seed": shown("--seed", "7"),
        "metric": shown("--metric", "mine_for_options:mean"),
        "max_drift": shown("--max-drift", "0"),
        "drift": Trial((("--drift", "cosine"), ("--drift", "kl"))),
        "strict": shown("--strict"),
        "min_speedup": shown("--min-speedup", "50", along=("--repeats", "7", "--batch", "2")),
        "as_json": shown("--json"),
    },
    "bench": MEASURING
    | LINKS
    | {
        "model": shown("{model}.onnx"),
        "pruned": shown("{model}-less.onnx"),
        "provider": shown("--provider", "nowhere"),
        "custom_ops": shown("--custom-ops", "{model}.onnx"),
        "cuda_graph": shown("--cuda-graph"),
        "memory": shown("--no-memory"),
        "seed": shown("--seed", "7"),
        "min_speedup": shown("--min-speedup", "50"),
        "csv_path": shown("--csv", "table.csv"),
        "markdown": shown("--export-markdown", "table.md"),
        "plot": shown("--plot", "picture.svg"),
        "as_json": shown("--json"),
    },
    "inspect": {"model": shown("{model}.onnx"), "as_json": shown("--json")} | LINKS,
    "doctor": {"wanted": shown("--provider", "nowhere"), "as_json": shown("--json")},
    "run": {
        "job": shown("job-{model}.yaml"),
        "settings": shown("--set", "prune.heads=0:2"),
        "junit": shown("--junit", "gates.xml"),
        "schema": shown("--schema", instead="job"),
        "as_json": shown("--json"),
    },
    "report": {
        "results": shown("curve.json"),
        "output": shown("-o", "page.html"),
        "as_json": shown("--json"),
    },
}
"""One entry per parameter of each command; a parameter without one fails the suite."""

INVISIBLE = {("sweep", "jobs"), ("batch", "jobs")}
"""What changes the way only."""
SAME = {("batch", "ratio on data")}
"""Modes that ask for the same as those of other commands; `test_batch_asks_what_prune_asks` sees it."""
OTHERWISE: dict[tuple[str, str], Words] = {
    ("score", "method"): ("--method", "taylor"),
    ("sweep", "ratios"): ("0.25:0.25:1",),
    ("validate", "repeats"): ("--repeats", "9"),
    ("bench", "repeats"): ("--repeats", "9"),
    ("validate", "time_budget"): ("--time-budget", "0.02"),
    ("bench", "time_budget"): ("--time-budget", "0.02"),
    ("bench", "memory"): (),
    ("bench", "batch"): ("--batch", "3"),
    ("validate", "batch"): ("--batch", "3"),
}
"""What stands in the place of an option that a mode needs to be quick."""
