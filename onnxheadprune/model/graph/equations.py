"""The equation of an Einsum, with every axis named by one letter."""

from __future__ import annotations

from onnxheadprune.model.graph.view import Node


def einsum_terms(node: Node) -> list[str] | None:
    """Letters per operand and, last, of the output; an ellipsis is spelled with capital letters."""
    equation = str(node.attribute("equation", "")).replace(" ", "")
    inputs, arrow, output = equation.partition("->")
    terms = inputs.split(",")
    shapes = [node.shape(index) for index in range(len(terms))]
    if len(terms) != len(node.inputs) or any(shape is None for shape in shapes):
        return None
    spare = [letter for letter in "ZYXWVUTSRQPONMLKJIHGFEDCBA" if letter not in equation]
    ranks = [
        len(shape or ()) - len(term.replace("...", "")) for term, shape in zip(terms, shapes, strict=True)
    ]
    width = max([rank for rank, term in zip(ranks, terms, strict=True) if "..." in term], default=0)
    dots = "".join(spare[:width][::-1])
    terms = [term.replace("...", dots[width - rank :]) for term, rank in zip(terms, ranks, strict=True)]
    if arrow:
        output = output.replace("...", dots)
    else:
        joined = "".join(terms)
        output = dots + "".join(sorted(c for c in set(joined) if joined.count(c) == 1 and c not in dots))
    return [*terms, output]
