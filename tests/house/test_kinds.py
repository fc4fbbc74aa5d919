"""A kind of unit is one file, and nobody outside of `attention/sites` asks which kind it is."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from onnxheadprune.attention.sites.site import Site
from onnxheadprune.settings import units
from tests.sources import FILES, PACKAGE, tree

HOMES = (
    PACKAGE / "attention" / "sites",
    PACKAGE / "settings" / "units.py",
)
"""Files that may name kinds."""
NAMES = ("unit", "units", "block", "title", "key", "first", "field")
RECORDS = [name for name, item in vars(units).items() if isinstance(item, units.UnitKind)]
SPOKEN = {
    "attention/specs.py": "an example of --layers in a sentence",
    "cli/guides.py": "examples of options, and the options that most calls need",
    "cli/commands.py": "--neurons, and what the command says of itself",
    "api/typed.py": "the types of the keywords neurons and experts",
    "edit/plan.py": "the field that every plan has in JSON",
    "liveness/layouts.py": "what inputs of one operator that holds experts mean",
    "liveness/emptied.py": "a sentence about experts in one operator",
    "operators/mixture.py": "the operator that holds experts",
    "choosing/select.py": "why experts are counted in bytes",
    "choosing/scoring/reap.py": "scores that experts alone have",
    "settings/cutting.py": "the declarations of --neurons and --multiple-of",
}
"""Files that name a kind beside heads, since users do: options, keys of a job, fields."""
WORDS = re.compile(r"neuron|ffn\.|sublayer|expert|moe\.", re.IGNORECASE)
"""The names of the kinds that there are; others may be called by a word that has more meanings."""


def _asked(tree: ast.Module, classes: Sequence[str], words: re.Pattern[str]) -> Iterator[str]:
    """Where a file asks which kind a site is, by its class or by its name, and where it names one."""
    told = {id(node.body[0].value) for node in ast.walk(tree) if _has_docstring(node)}  # type: ignore[attr-defined]
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name(id="isinstance" | "issubclass"), args=[_, kind]):
                if any(_named(item) in classes for item in ast.walk(kind)):
                    yield f"line {node.lineno}: {ast.unparse(node)}"
            case ast.Compare(
                left=left, ops=[ast.Is() | ast.IsNot() | ast.Eq() | ast.NotEq()], comparators=[right]
            ):
                sides = (left, right)
                if any(_named(side) in classes or _is_of_kind(side) for side in sides):
                    yield f"line {node.lineno}: {ast.unparse(node)}"
            case ast.Constant(value=str() as text) if id(node) not in told:
                if words.search(text):
                    yield f"names it, line {node.lineno}: {text[:60]}"
            case (
                ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name) | ast.FunctionDef(name=name)
            ):
                if words.search(name):
                    yield f"names it, line {node.lineno}: {name}"


def _has_docstring(node: ast.AST) -> bool:
    body = getattr(node, "body", None)
    return bool(
        isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and body
        and isinstance(body[0], ast.Expr)
        and isinstance(body[0].value, ast.Constant)
    )


def _named(node: ast.AST) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def _is_of_kind(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and node.attr in NAMES and _named(node.value) == "KIND"


def _files() -> Iterator[tuple[str, Path]]:
    for path in FILES:
        if not any(map(path.is_relative_to, HOMES)):
            yield path.relative_to(PACKAGE).as_posix(), path


def _with_subclasses(classes: Iterable[type]) -> list[type]:
    return [one for base in classes for one in (base, *_with_subclasses(base.__subclasses__()))]


def test_nobody_asks_which_kind_it_is() -> None:
    for kind in units.KINDS[1:]:
        importlib.import_module(kind.finder)
    classes = [*RECORDS, *(kind.__name__ for kind in _with_subclasses(Site.__subclasses__()))]
    found = {name: list(_asked(tree(path), classes, WORDS)) for name, path in _files()}
    asks = {name: [one for one in places if not one.startswith("names")] for name, places in found.items()}
    assert {name: places for name, places in asks.items() if places} == {}
    names = {name: places for name, places in found.items() if places}
    assert names.keys() == SPOKEN.keys(), {name: names[name] for name in names.keys() - SPOKEN.keys()}
