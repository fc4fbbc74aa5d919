"""What pruning a model larger than memory costs: time against `cp`, and memory, beside other ways of writing it.

    python benchmarks/streaming.py [--layers 12] [--folder DIR] [--repeat 3] [--no-others] [--keep]

12 layers make 2.6 GB, 42 make 7.9 GB (leave the others out there: they need several times that in memory). The
model is made by `benchmarks/decoder.py`. Every way is a process of its own; its time is the best of `--repeat`
runs in turn, its memory what the system counted at its peak. A quarter of the key/value groups goes.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import click

HERE = Path(__file__).parent
HEADS = "*:0-7"
SAVE = "import onnx, sys; m = onnx.load(sys.argv[1]); onnx.save(m, sys.argv[2], save_as_external_data=True)"
SURGEON = (
    "import onnx, onnx_graphsurgeon as gs, sys; g = gs.import_onnx(onnx.load(sys.argv[1]));"
    " onnx.save(gs.export_onnx(g), sys.argv[2], save_as_external_data=True)"
)
SYNC = "import os, shutil, sys; shutil.copyfile(sys.argv[1], sys.argv[2]); os.fsync(os.open(sys.argv[2], os.O_RDONLY))"


def ways(model: Path, out: Path, *, others: bool, proof: bool) -> dict[str, list[str]]:
    """Commands that write a file of (nearly) the same size."""
    python, data, target = sys.executable, f"{model}.bin", str(out / "o.onnx")
    prune = [python, "-m", "onnxheadprune", "prune", str(model), "--heads", HEADS]
    found = {
        "cp": ["cp", data, str(out / "o.bin")],
        "copy and fsync": [python, "-c", SYNC, data, str(out / "o.bin")],
        "plan (--dry-run)": [*prune, "--dry-run"],
        "prune --no-validate": [*prune, "-o", target, "--no-validate"],
    }
    if proof:
        found["prune"] = [*prune, "-o", target]
    if others:
        found["onnx.load + save"] = [python, "-c", SAVE, str(model), target]
        found["onnx-graphsurgeon"] = [python, "-c", SURGEON, str(model), target]
    return found


def measured(command: list[str]) -> tuple[float, float, int]:
    """Seconds, peak memory in MB as counted by the system, and exit status of a command."""
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    errors = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        click.echo(errors.decode()[-500:], err=True)
    return time.monotonic() - started, usage.ru_maxrss / 1024, process.returncode


@click.command(help=__doc__)
@click.option("--layers", default=12)
@click.option(
    "--folder", type=click.Path(path_type=Path), help="Where to work; a new one in the current folder."
)
@click.option("--repeat", default=3)
@click.option("--others/--no-others", default=True, help="Also onnx.load + save and onnx-graphsurgeon.")
@click.option("--proof/--no-proof", default=True, help="Also prune with validation.")
@click.option("--keep", is_flag=True, help="Leave the model there.")
def main(layers: int, folder: Path | None, repeat: int, others: bool, proof: bool, keep: bool) -> None:
    """Makes the model, then lets every way take its turn."""
    work = Path(tempfile.mkdtemp(prefix="streaming-", dir=Path.cwd())) if folder is None else folder
    work.mkdir(exist_ok=True)
    model, out = work / f"decoder{layers}.onnx", work / "out"
    try:
        if not model.exists():
            maker = [sys.executable, str(HERE / "decoder.py"), str(model), "--layers", str(layers)]
            subprocess.run(maker, check=True)
        results: dict[str, list[tuple[float, float]]] = {}
        for _ in range(repeat):
            for name, command in ways(model, out, others=others, proof=proof).items():
                shutil.rmtree(out, ignore_errors=True)
                out.mkdir()
                # What an earlier way left to be written must not slow this one.
                os.sync()
                seconds, memory, code = measured(command)
                click.echo(
                    f"{name:22} {seconds:7.2f} s {memory:9.0f} MB" + (f"  failed ({code})" if code else ""),
                    err=True,
                )
                if not code:
                    results.setdefault(name, []).append((seconds, memory))
        best = {name: min(seconds for seconds, _ in runs) for name, runs in results.items()}
        rows = {
            name: {
                "seconds": round(best[name], 2),
                "times_cp": round(best[name] / best["cp"], 2),
                "peak_mb": round(max(memory for _, memory in results[name])),
            }
            for name in results
        }
        size = Path(f"{model}.bin").stat().st_size
        where = {"date": date.today().isoformat(), "machine": platform.machine(), "cores": os.cpu_count()}
        click.echo(json.dumps({"bytes": size, "repeat": repeat, **where, "ways": rows}, indent=2))
    finally:
        shutil.rmtree(out, ignore_errors=True)
        if not keep:
            shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
