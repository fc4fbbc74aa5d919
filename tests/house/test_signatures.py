"""Signatures have types all the way from a command to where the work is done."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.sources import PACKAGE, tree

TYPED = sorted(path for room in ("cli", "workflow") for path in (PACKAGE / room).glob("*.py"))
"""The path from a command to the work; `reporting` draws with a library that has no types."""
UNTYPED = {
    "cli.parameter_types.Output.convert": "overrides click's",
    "cli.parameter_types.Parsed.convert": "overrides click's",
    "cli.parameter_types.Number.convert": "overrides click's",
    "cli.deriving._complete": "values of parameters, as click has read them",
    "cli.deriving.DerivedCommand.__init__": "hands on what click's own takes",
    "cli.deriving._type": "the type of a click parameter, which converts to whatever a setting has",
    "cli.outcome._Steadfast.__getattr__": "stands for whatever the stream has",
}
"""Where `Any` says what is known, with the reason."""


def functions(path: Path) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """The functions and methods of a file by their full names below the package."""
    module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")

    def within(node: ast.AST, name: str) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ClassDef):
                yield from within(child, f"{name}.{child.name}")
            elif isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
                yield f"{name}.{child.name}", child
                yield from within(child, f"{name}.{child.name}")
            else:
                yield from within(child, name)

    return within(tree(path), module)


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[ast.arg]:
    """All of them, but for `self` and `cls`."""
    given = function.args
    single = [item for item in (given.vararg, given.kwarg) if item is not None]
    every = [*given.posonlyargs, *given.args, *given.kwonlyargs, *single]
    return [item for item in every if item.arg not in ("self", "cls")]


def says_any(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether a signature has an `Any`. JSON-ready data that `to_dict` gives is one."""
    hints = [item.annotation for item in parameters(function)]
    if function.name != "to_dict":
        hints.append(function.returns)
    return any(
        isinstance(node, ast.Name) and node.id == "Any"
        for hint in hints
        if hint is not None
        for node in ast.walk(hint)
    )


def test_commands_and_workflow_say_their_types() -> None:
    untyped = {name for path in TYPED for name, function in functions(path) if says_any(function)}
    assert untyped == set(UNTYPED)


def test_the_tests_can_fail() -> None:
    (node,) = ast.parse("def f(a, *b: Any, c: dict[str, Any], **d) -> None: ...").body
    assert isinstance(node, ast.FunctionDef)
    assert len(parameters(node)) == 4 and says_any(node)
