#!/usr/bin/env python3
"""Show which random mutants of some source files the tests kill.

    python tools/mutants.py onnxheadprune/attention onnxheadprune/liveness --count 200 -- tests/attention tests/laws
    python tools/mutants.py onnxheadprune/attention --count 200 --matrix out/kills -- tests/attention tests/laws
    python tools/mutants.py --matrix out/kills --without tests/attention/test_gates.py tests/attention/test_one_head.py

A mutant is one small change in the body of a function: a comparison turned, an operand, a filter or a call dropped, a
condition that never holds, a number one off. All of them are compiled into the modules when these are imported (files
stay as they are), each behind a switch. First each test runs alone in a process of its own, which tells which mutants
it reaches. Then each mutant runs in a process of its own, through the tests that reach it, until one fails.

With `--matrix FILE` all test files that kill a mutant are sought and written down, one line a mutant, as they are
found; mutants that the file has already are not run again. `--without` reads it: which mutants do only these test files
kill? If there are any, the exit code is 1.

What follows `--` goes to pytest: folders, files, -m, -k. A mutant writes wherever it is led: commit before. What a
module computes when it is imported is not changed, and subprocesses that import the package anew run it as it is.
"""

from __future__ import annotations

import argparse
import ast
import builtins
import contextlib
import copy
import importlib.abc
import importlib.machinery
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import zip_longest
from multiprocessing.connection import Connection, wait
from operator import itemgetter
from pathlib import Path
from types import CodeType
from typing import Any

import pytest

FORK = multiprocessing.get_context("fork")
SWITCH = "__mutant__"
"""The builtin function that each mutant asks, with its number, whether it is switched on."""
SLOWER, PATIENCE = 10, 20
"""A mutant with which a test takes so many times as long, and seconds more, is killed."""
MEMORY = 32 << 30
"""Bytes that a process may map: a mutant must not take all of the machine."""
OPERATORS: dict[type[ast.AST], tuple[type[Any], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
    ast.Add: (ast.Sub,),
    ast.Sub: (ast.Add,),
    ast.Mult: (ast.FloorDiv,),
    ast.FloorDiv: (ast.Mult,),
    ast.BitAnd: (ast.BitOr,),
    ast.BitOr: (ast.BitAnd,),
}
FUNCTIONS = {"any": "all", "all": "any", "min": "max", "max": "min"}


# Mutants of a file


class Schemata(ast.NodeTransformer):
    """Counts the mutants of a syntax tree, from a number on, and puts the chosen ones into it."""

    def __init__(self, first: int, chosen: Callable[[int], bool]) -> None:
        self.number = first
        self.chosen = chosen
        self.changes: dict[int, str] = {}
        """The chosen mutants: place and change."""
        self.instead: dict[ast.AST, bool | None] = {}
        """Conditions that never hold, filters and calls that are dropped."""
        self.called = False
        """Whether what is visited runs when a function is called, not when the module is imported."""

    def visit(self, node: ast.AST) -> Any:
        """Leave messages, patterns, annotations and defaults alone."""
        match node:
            case ast.Raise() | ast.JoinedStr() | ast.pattern() | ast.arguments():
                return node
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda():
                outside, self.called = self.called, True
                body: Any = node.body
                node.body = (
                    [self.visit(part) for part in body] if isinstance(body, list) else self.visit(body)
                )
                self.called = outside
                return node
            case ast.AnnAssign():
                node.value = node.value and self.visit(node.value)
                return node
            case ast.If(test=condition) | ast.IfExp(test=condition):
                self.instead[condition] = False
            case ast.comprehension(ifs=filters):
                for condition in filters:
                    self.instead[condition] = True
            case ast.Expr(value=ast.Call() as call):
                self.instead[call] = None
        if not self.called or not isinstance(node, ast.expr):
            return self.generic_visit(node)
        mutants = {}
        forced = [ast.Constant(self.instead[node])] if node in self.instead else []
        for mutant in (*variants(node), *forced):
            if self.chosen(self.number):
                mutants[self.number] = copy.deepcopy(mutant)
                change = f"{shortened(ast.unparse(node))} -> {shortened(ast.unparse(mutant))}"
                self.changes[self.number] = f"{node.lineno}:{node.col_offset + 1}: {change}"
            self.number += 1
        made: Any = self.generic_visit(node)
        for number, mutant in mutants.items():
            asked = ast.Call(ast.Name(SWITCH, ast.Load()), [ast.Constant(number)], [])
            made = ast.copy_location(ast.IfExp(asked, mutant, made), node)
        return made


def variants(node: ast.expr) -> Iterator[ast.expr]:
    """Yield what mutants have in place of an expression."""
    match node:
        case ast.Compare(left, [operator], right):
            for other in OPERATORS[type(operator)]:
                yield ast.Compare(left, [other()], right)
        case ast.BinOp(left, operator, right) if type(operator) in OPERATORS and not (
            texts(left) or texts(right)
        ):
            yield ast.BinOp(left, OPERATORS[type(operator)][0](), right)
        case ast.BoolOp(operator, operands):
            for dropped in range(len(operands)):
                rest = operands[:dropped] + operands[dropped + 1 :]
                yield ast.BoolOp(operator, rest) if rest[1:] else rest[0]
        case ast.UnaryOp(ast.Not(), operand):
            yield operand
        case ast.Call(ast.Name(name), operands, keywords) if name in FUNCTIONS:
            yield ast.Call(ast.Name(FUNCTIONS[name], ast.Load()), operands, keywords)
        case ast.Constant(bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(int(value)):
            yield ast.Constant(value + 1)
            if value > 0:
                yield ast.Constant(value - 1)


def texts(node: ast.expr) -> bool:
    """Whether an operand is no number: any other operator would raise."""
    return isinstance(node, (ast.JoinedStr, ast.List, ast.ListComp, ast.Tuple)) or (
        isinstance(node, ast.Constant) and isinstance(node.value, (str, bytes))
    )


def shortened(text: str) -> str:
    """The beginning of a text, on one line."""
    return text if len(text) <= 60 else f"{text[:57]}..."


class Finder(importlib.abc.MetaPathFinder):
    """Imports the chosen files with their mutants."""

    def __init__(self, files: Sequence[Path], count: int, seed: int) -> None:
        trees = {str(file.resolve()): ast.parse(file.read_bytes()) for file in files}
        number = 0
        for tree in trees.values():
            counting = Schemata(number, lambda number: False)
            counting.visit(tree)
            number = counting.number
        self.total = number
        chosen = set(random.Random(seed).sample(range(number), min(count, number)))
        self.names: dict[int, str] = {}
        self.trees: dict[str, ast.Module] = {}
        number = 0
        for path, tree in trees.items():
            placing = Schemata(number, chosen.__contains__)
            self.trees[path] = ast.fix_missing_locations(placing.visit(tree))
            number = placing.number
            self.names |= {n: f"{os.path.relpath(path)}:{change}" for n, change in placing.changes.items()}

    def find_spec(self, name: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        """Take the place of the ordinary search for the chosen files."""
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is None or spec.origin not in self.trees:
            return None
        spec.loader = Loader(name, spec.origin, self.trees[spec.origin])
        return spec


class Loader(importlib.machinery.SourceFileLoader):
    """Loads a tree in place of the file, without a cache of byte code."""

    def __init__(self, name: str, path: str, tree: ast.Module) -> None:
        super().__init__(name, path)
        self.tree = tree

    def get_code(self, fullname: str) -> CodeType:
        """Compile the tree."""
        code: CodeType = compile(self.tree, self.path, "exec", dont_inherit=True)
        return code


# Processes


@dataclass
class Job:
    """The work of a process of its own, and its reports."""

    key: Any
    run: Callable[[], Iterator[tuple[float, Any]]]
    """Yields messages, each with the seconds that the next one may take; the last one is None."""
    seconds: float
    """For all of it."""
    messages: list[Any] = field(default_factory=list)
    stopped: bool = False
    """Whether the seconds for all of it were over."""


def in_processes(jobs: Iterator[Job], at_once: int, work: Path) -> Iterator[Job]:
    """Run jobs, some at once, each in a process and a folder of its own; yield them as they end."""
    running: dict[Connection, tuple[Job, Any, Path, list[float]]] = {}
    while True:
        while len(running) < at_once and (job := next(jobs, None)) is not None:
            reader, writer = FORK.Pipe(duplex=False)
            folder = Path(tempfile.mkdtemp(dir=work))
            process = FORK.Process(target=_child, args=(job.run, writer, folder))
            process.start()
            writer.close()
            now = time.monotonic()
            running[reader] = job, process, folder, [now + PATIENCE, now + job.seconds]
        if not running:
            return
        ready = wait(list(running), timeout=0.5)
        for reader, (job, process, folder, times) in list(running.items()):
            ended = False
            if reader in ready:
                try:
                    seconds, message = reader.recv()
                    times[0] = time.monotonic() + seconds
                    job.messages.append(message)
                except (EOFError, OSError):
                    ended = True
            job.stopped = not ended and time.monotonic() > times[1]
            if ended or time.monotonic() > min(times):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.join()
                reader.close()
                shutil.rmtree(folder, ignore_errors=True)
                del running[reader]
                yield job


def _child(run: Callable[[], Iterator[tuple[float, Any]]], writer: Connection, folder: Path) -> None:
    """Send what a job yields; its output, temporary files and examples of Hypothesis go nowhere."""
    os.setsid()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    null = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(null, stream)
    os.environ |= {"PYTEST_DEBUG_TEMPROOT": str(folder), "HYPOTHESIS_STORAGE_DIRECTORY": str(folder)}
    for message in run():
        writer.send(message)
    os._exit(0)


# Tests


@dataclass(frozen=True)
class Reach:
    """A test that passes, and the mutants that it reaches."""

    item: pytest.Item
    seconds: float
    mutants: frozenset[int]

    @property
    def file(self) -> str:
        """The path of its file, as pytest has it."""
        return self.item.nodeid.partition("::")[0]


class Plugin:
    """Runs mutants where pytest would run the tests that it has collected."""

    def __init__(self, mutants: Finder, options: argparse.Namespace, work: Path) -> None:
        self.mutants, self.options, self.work = mutants, options, work
        self.failed = False
        self.lines: list[dict[str, Any]] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note that a test, or what it needs, failed."""
        self.failed |= report.failed

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Find what tests reach, then run each mutant through the tests that reach it."""
        import_all({Path(os.path.relpath(path)).parts[0] for path in self.mutants.trees})
        known = {line["mutant"]: line for line in read(self.options.matrix)}
        names = self.mutants.names
        self.lines = [known[name] for name in names.values() if name in known]
        reaches = sorted(self.reaches(session.items), key=lambda reach: reach.seconds)
        jobs = (self.job(number, reaches) for number, name in names.items() if name not in known)
        for done, job in enumerate(in_processes(jobs, self.options.jobs, self.work), 1):
            self.note(job)
            show(done, len(names) - len(known), "mutants")
        print_summary(self.lines)
        return True

    def fails(self, item: pytest.Item, after: pytest.Item | None) -> bool:
        """Run a test."""
        self.failed = False
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=after)
        return self.failed

    def reaches(self, items: Sequence[pytest.Item]) -> Iterator[Reach]:
        """Yield the tests that pass without a mutant."""

        def run(item: pytest.Item) -> Iterator[tuple[float, Any]]:
            reached: set[int] = set()
            switch(reached.add)
            yield self.options.limit, None
            start = time.monotonic()
            failed = self.fails(item, None)
            yield 0.0, None if failed else (time.monotonic() - start, frozenset(reached))

        jobs = (Job(item, partial(run, item), self.options.limit) for item in items)
        for done, job in enumerate(in_processes(jobs, self.options.jobs, self.work), 1):
            if job.messages[1:] and job.messages[1]:
                yield Reach(job.key, *job.messages[1])
            else:
                print(f"fails without a mutant, left out: {job.key.nodeid}")
            show(done, len(items), "tests")

    def job(self, number: int, reaches: Sequence[Reach]) -> Job:
        """A mutant with the tests that reach it: the shortest of each file first, then the next of each."""
        turns: Counter[str] = Counter()
        ordered = []
        for reach in reaches:
            if number in reach.mutants and turns[reach.file] < self.options.most:
                ordered.append((turns[reach.file], reach))
                turns[reach.file] += 1
        tests = [reach for _, reach in sorted(ordered, key=itemgetter(0))]

        def run() -> Iterator[tuple[float, Any]]:
            switch(number.__eq__)
            killers: set[str] = set()
            for test, after in zip_longest(tests, tests[1:]):
                if test.file not in killers:
                    yield SLOWER * test.seconds + PATIENCE, (test.file, "")
                    if self.fails(test.item, after.item if after else None):
                        killers.add(test.file)
                        yield PATIENCE, (test.file, test.item.nodeid)
                        if not self.options.matrix:
                            break
            yield PATIENCE, None

        return Job((number, tests), run, self.options.limit)

    def note(self, job: Job) -> None:
        """Keep what became of a mutant."""
        number, tests = job.key
        killed = dict(message for message in job.messages if message and message[1])
        if not job.stopped and job.messages[-1] is not None:
            killed[job.messages[-1][0]] = "ended the process, or never came to an end"
        self.lines.append(
            {
                "mutant": self.mutants.names[number],
                "tests": len(tests),
                "stopped": job.stopped,
                "reached": sorted({test.file for test in tests}),
                "killed": killed,
            }
        )
        if self.options.matrix:
            with self.options.matrix.open("a", encoding="utf-8") as file:
                print(json.dumps(self.lines[-1]), file=file)


def import_all(folders: set[str]) -> None:
    """Import packages whole, so that no process has to on its own."""
    for file in sorted(file for folder in folders for file in Path(folder).rglob("*.py")):
        if file.stem != "__main__":
            with contextlib.suppress(ImportError):
                importlib.import_module(".".join(file.with_suffix("").parts).removesuffix(".__init__"))


def switch(asked: Callable[[int], Any]) -> None:
    """Let mutants ask this function whether they are switched on."""
    setattr(builtins, SWITCH, asked)


# What is printed


def show(done: int, total: int, things: str) -> None:
    """Print a line of progress now and then."""
    if done == total or done % 50 == 0:
        print(f"{done} of {total} {things} run", flush=True)


def read(matrix: Path | None) -> list[dict[str, Any]]:
    """The lines of a matrix, none if there is none yet."""
    if matrix is None or not matrix.exists():
        return []
    return [json.loads(line) for line in matrix.read_text(encoding="utf-8").splitlines()]


def print_summary(lines: Sequence[dict[str, Any]]) -> None:
    """Print the mutants that are not killed, the numbers of each folder, and what single test files kill alone."""
    groups: dict[str, list[str]] = {"surviving": [], "unreached": []}
    rooms: dict[str, Counter[str]] = {}
    alone: Counter[str] = Counter()
    for line in lines:
        end = "killed" if line["killed"] else "surviving" if line["tests"] else "unreached"
        for room in (str(Path(line["mutant"].partition(":")[0]).parent), "all"):
            rooms.setdefault("/".join(room.split("/")[:2]), Counter())[end] += 1
        if end == "killed" and len(line["killed"]) == 1:
            alone.update([*line["killed"]])
        if end in groups:
            through = f" ({line['tests']} tests{', not all run' * line['stopped']})" * bool(line["tests"])
            groups[end].append(f"  {line['mutant']}{through}")
    for end, mutants in groups.items():
        print(f"{end}:", *sorted(mutants), sep="\n")
    print(f"{'':32}killed surviving unreached")
    for room, counted in sorted(rooms.items(), key=lambda room: (room[0] == "all", room[0])):
        share = f"{counted['killed'] / counted.total():.0%}"
        print(f"{room:32}{counted['killed']:6}{counted['surviving']:10}{counted['unreached']:10}  {share:>4}")
    if any(len(line["killed"]) > 1 for line in lines):
        print("test files that are the only ones to kill a mutant:")
        print(*(f"  {file}: {count}" for file, count in alone.most_common()), sep="\n")


def print_lost(lines: Sequence[dict[str, Any]], files: set[str]) -> bool:
    """Print the mutants that only these test files kill."""
    lost = [line for line in lines if line["killed"] and set(line["killed"]) <= files]
    for line in lost:
        print(f"{line['mutant']}: only {', '.join(line['killed'].values())}")
    print(
        f"without these {len(files)} files {len(lost)} of {sum(bool(line['killed']) for line in lines)} survive"
    )
    return bool(lost)


def main() -> int:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sources", nargs="*", type=Path, help="files and folders of the package")
    parser.add_argument("--count", type=int, default=100, help="number of mutants")
    parser.add_argument("--seed", type=int, default=0, help="for the choice of mutants")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes at once")
    parser.add_argument(
        "--most", type=int, default=sys.maxsize, help="tests of a file that a mutant runs through"
    )
    parser.add_argument("--limit", type=float, default=300.0, help="seconds for a mutant")
    parser.add_argument("--matrix", type=Path, help="file of the test files that kill each mutant")
    parser.add_argument("--without", nargs="+", default=[], help="test files to do without")
    words = sys.argv[1:]
    own = words.index("--") if "--" in words else len(words)
    options = parser.parse_args(words[:own])
    if options.without:
        return print_lost(read(options.matrix), {os.path.relpath(file) for file in options.without})
    files = [
        file
        for source in options.sources
        for file in ([source] if source.is_file() else sorted(source.rglob("*.py")))
    ]
    finder = Finder(files, options.count, options.seed)
    print(f"{len(finder.names)} of {finder.total} mutants of {len(files)} files", flush=True)
    sys.path.insert(0, str(Path.cwd()))
    sys.meta_path.insert(0, finder)
    switch((-1).__eq__)
    with tempfile.TemporaryDirectory() as work:
        quiet = ["-q", "--capture=no", "-pno:xdist", "-pno:cacheprovider"]
        return pytest.main([*quiet, *words[own + 1 :]], plugins=[Plugin(finder, options, Path(work))])


if __name__ == "__main__":
    sys.exit(main())
