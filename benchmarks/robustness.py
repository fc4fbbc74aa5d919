"""Thousands of broken models, and thousands of writers that are killed.

    python benchmarks/robustness.py fuzz [--count 10000] [--jobs 1] [--seed 0]
    python benchmarks/robustness.py kill [--count 1000]

`fuzz`: no input may crash, hang for 10 seconds, raise what is no error of the package, leave a file after a
refusal, or be written wrongly (every pruned model is validated against its own original in ONNX Runtime).
`kill`: after SIGKILL at a random moment the target is the older model or the complete new one.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import click

sys.path.insert(0, str(Path(__file__).parents[1]))

HANG = 10


@click.group(help=__doc__)
def main() -> None: ...


@main.command()
@click.option("--count", default=10_000)
@click.option("--jobs", default=1)
@click.option("--seed", default=0)
@click.option("--first", default=0, help="Number of the first input, to repeat one.")
@click.option("--keep", type=click.Path(path_type=Path), help="Where inputs that fail are kept.")
def fuzz(count: int, jobs: int, seed: int, first: int, keep: Path | None) -> None:
    """Broken models, each in a process that may die."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        lanes = [
            _Lane(Path(name), seed, range(first + lane, first + count, jobs), lane) for lane in range(jobs)
        ]
        while any(lane.alive for lane in lanes):
            for lane in lanes:
                lane.watch()
            time.sleep(0.02)
        outcomes: Counter[str] = Counter()
        failures: list[tuple[int, str]] = []
        for lane in lanes:
            outcomes += lane.outcomes
            failures += lane.failures
    for number, what in sorted(item for lane in lanes for item in lane.caught):
        click.echo(f"input {number} was caught by the validation: {what}", err=True)
    for number, what in sorted(failures):
        click.echo(f"input {number}: {what}", err=True)
        if keep is not None:
            keep.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(ValueError):
                (keep / f"{seed}-{number}.onnx").write_bytes(_input(seed, number))
    document = {"inputs": count, "seconds": round(time.monotonic() - started), "outcomes": dict(outcomes)}
    click.echo(json.dumps(document | {"failures": len(failures)}))
    sys.exit(1 if failures else 0)


def _input(seed: int, number: int) -> bytes:
    from tests.fuzzing import mutated, seeds

    rng = random.Random(f"{seed}/{number}")
    return mutated(rng.choice(list(seeds().values())), rng)


class _Lane:
    """Forks a process that works through its inputs, and another one from the next input if it dies."""

    def __init__(self, folder: Path, seed: int, numbers: range, lane: int) -> None:
        self.folder, self.seed, self.numbers, self.lane = folder / str(lane), seed, numbers, lane
        self.folder.mkdir()
        self.log = self.folder / "log"
        self.log.touch()
        self.outcomes: Counter[str] = Counter()
        self.failures: list[tuple[int, str]] = []
        self.caught: list[tuple[int, str]] = []
        self.done = 0
        self.read = 0
        self.child = 0
        self.since = time.monotonic()
        self._start()

    @property
    def alive(self) -> bool:
        return self.child != 0

    def _start(self) -> None:
        self.child, self.since = 0, time.monotonic()
        if self.done < len(self.numbers):
            self.child = os.fork()
            if not self.child:
                try:
                    self._work(self.numbers[self.done :])
                    os._exit(0)
                finally:
                    os._exit(1)

    def watch(self) -> None:
        """Reads what the process tells, and notices its death or silence."""
        if not self.alive:
            return
        ended, status = os.waitpid(self.child, os.WNOHANG)
        with self.log.open() as stream:
            stream.seek(self.read)
            for line in stream:
                self.done, self.since = self.done + 1, time.monotonic()
                self._settle(line.rstrip("\n"))
            self.read = stream.tell()
        if ended:
            if status:
                self._give_up(f"crash (status {status})")
            else:
                self.child = 0
        elif time.monotonic() - self.since > HANG + 2:
            os.kill(self.child, signal.SIGKILL)
            os.waitpid(self.child, 0)
            self._give_up(f"hang for {HANG} seconds")

    def _give_up(self, what: str) -> None:
        if self.done < len(self.numbers):
            self.failures.append((self.numbers[self.done], what))
            self.outcomes["failure"] += 1
            self.done += 1
        self._start()

    def _settle(self, line: str) -> None:
        outcome, _, details = line.partition(" ")
        self.outcomes[outcome] += 1
        if outcome == "caught:":
            self.caught.append((self.numbers[self.done - 1], details))
        if outcome == "failure":
            self.failures.append((self.numbers[self.done - 1], details))

    def _work(self, numbers: range) -> None:
        from tests.fuzzing import tried

        warnings.simplefilter("ignore")
        sink = os.open(os.devnull, os.O_WRONLY)
        os.dup2(sink, 1)
        os.dup2(sink, 2)
        signal.signal(signal.SIGALRM, _alarm)
        path, out = self.folder / "m.onnx", self.folder / "out"
        with self.log.open("a", buffering=1) as log:
            for number in numbers:
                shutil.rmtree(out, ignore_errors=True)
                out.mkdir()
                path.write_bytes(_input(self.seed, number))
                signal.alarm(HANG)
                try:
                    outcome = tried(path, out / "o.onnx", run=True)
                    outcome = outcome if outcome.startswith("caught") else outcome.replace(" ", "-")
                except BaseException as error:
                    last = traceback.extract_tb(error.__traceback__)[-1]
                    text = f"{type(error).__name__}: {error} at {last.filename}:{last.lineno}"
                    outcome = "failure " + " ".join(text.split())
                signal.alarm(0)
                log.write(f"{outcome}\n")


def _alarm(*_: Any) -> None:
    raise TimeoutError(f"still at work after {HANG} seconds")


@main.command()
@click.option("--count", default=1000)
@click.option("--megabytes", default=8, help="Size of the model.")
def kill(count: int, megabytes: int) -> None:
    """Writers that are killed at random moments."""
    import numpy as np
    import onnx

    from onnxheadprune import prune
    from tests.crashes import complete, litter, pruned_and_killed_after
    from tests.graphs import toys

    rng = random.Random(0)
    tally: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as name:
        source, target = Path(name, "m.onnx"), Path(name, "out", "o.onnx")
        target.parent.mkdir()
        model = toys.attention(extra_weight=megabytes * 2**18)
        onnx.save(model, source)
        for external in ("always", "never"):
            settings: dict[str, Any] = {"validate": False, "external_data": external}
            prune(source, target, heads="0:2", **settings)
            new = complete(target)
            prune(source, target, heads="0:1", **settings)
            old = complete(target)
            started = time.monotonic()
            prune(source, target, heads="0:1", **settings)
            takes = time.monotonic() - started
            for _ in range(count // 2):
                wait = rng.uniform(0, 1.2 * takes)
                killed = pruned_and_killed_after(wait, source, target, "0:2", external_data=external)
                now = complete(target)
                state = "old" if now == old else "new" if now == new else "broken"
                tally[f"{external}: {'killed' if killed else 'finished'}, {state}"] += 1
                tally["litter after the kill"] += bool(litter(target.parent, target))
                prune(source, target, heads="0:1", **settings)
                tally["litter after the next run"] += bool(litter(target.parent, target))
                tally["broken"] += state == "broken" or complete(target) != old
    click.echo(json.dumps({"kills": count, "numpy": np.__version__, "outcomes": dict(sorted(tally.items()))}))
    sys.exit(1 if tally["broken"] or tally["litter after the next run"] else 0)


if __name__ == "__main__":
    main()
