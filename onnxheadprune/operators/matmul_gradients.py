"""Gradients of matrix products: a product with the other operand, transposed."""

from __future__ import annotations

from onnxheadprune.edit.gradients import Constant, Partials, Step, decomposition, gradient, summed
from onnxheadprune.edit.terms import MICROSOFT, Term
from onnxheadprune.model.graph.dims import Dim


@gradient("MatMul")
def matmul_gradient(step: Step) -> Partials:
    """DA = dY Bᵀ, dB = Aᵀ dY, summed over broadcast batch axes.

    Where B is a matrix, all rows of A are one matrix too, and Gemm transposes without a copy.
    """
    a_shape, b_shape = step.shape(0), step.shape(1)
    a, b, grad = step.input(0), step.input(1), step.grad
    ranks = len(a_shape), len(b_shape)
    if ranks[0] >= 2 and ranks[1] == 2:
        rows, flat = _rows(grad, ranks[0], b_shape[1]), _rows(a, ranks[0], b_shape[0])
        if rows is not None and flat is not None:
            back = rows.op("Gemm", b, transB=1)
            return {0: _like(back, a, ranks[0]), 1: flat.op("Gemm", rows, transA=1)}
    # A vector is a matrix with one row, or one column.
    wide_a, wide_b = a, b
    if ranks[0] == 1:
        a_shape, wide_a, grad = (1, *a_shape), a.unsqueeze([0]), grad.unsqueeze([-2])
    if ranks[1] == 1:
        b_shape, wide_b, grad = (*b_shape, 1), b.unsqueeze([1]), grad.unsqueeze([-1])
    da, db = grad @ wide_b.swapped(len(b_shape)), wide_a.swapped(len(a_shape)) @ grad
    da = summed(da, wide_a, a_shape, [(*b_shape[:-2], *a_shape[-2:])])
    db = summed(db, wide_b, b_shape, [(*a_shape[:-2], *b_shape[-2:])])
    return {
        0: da.squeeze([0]) if ranks[0] == 1 else da,
        1: db.squeeze([1]) if ranks[1] == 1 else db,
    }


def _rows(term: Term, rank: int, width: Dim) -> Term | None:
    """A term of so many axes as a matrix; None where its last axis has no known width."""
    if rank == 2:
        return term
    return term.reshape([-1, width]) if isinstance(width, int) else None


def _like(term: Term, other: Term, rank: int) -> Term:
    return term if rank == 2 else term.reshape(other.shape())


@gradient("Gemm")
def gemm_gradient(step: Step) -> Partials:
    """Y = alpha A' B' + beta C, where the operands may be transposed."""
    alpha, beta = (float(step.node.attribute(name, 1.0)) for name in ("alpha", "beta"))
    a_turned, b_turned = (int(step.node.attribute(name, 0)) for name in ("transA", "transB"))
    a, b, grad = step.input(0), step.input(1), step.grad
    if a_turned:
        da = b.op("Gemm", grad, alpha=alpha, transA=b_turned, transB=1)
    else:
        da = grad.op("Gemm", b, alpha=alpha, transB=1 - b_turned)
    if b_turned:
        db = grad.op("Gemm", a, alpha=alpha, transA=1, transB=a_turned)
    else:
        db = a.op("Gemm", grad, alpha=alpha, transA=1 - a_turned)
    partials: dict[int, Term | Constant] = {0: da, 1: db}
    if 2 in step.wanted:
        share = summed(grad, step.input(2), step.node.shape(2), [step.node.out.shape])
        partials[2] = share if beta == 1.0 else share * beta
    return partials


@decomposition("FusedMatMul", "TransposeMatMul", domain=MICROSOFT)
def fused_matmul_parts(step: Step) -> list[Term | None] | Constant:
    """Transposed operands, a product, a factor."""
    a, b = step.input(0), step.input(1)
    if step.node.attribute("transBatchA", 0) or step.node.attribute("transBatchB", 0):
        return Constant("moves batch axes inside of the product")
    if step.node.attribute("transA", 0):
        a = a.swapped(len(step.shape(0)))
    if step.node.attribute("transB", 0):
        b = b.swapped(len(step.shape(1)))
    alpha = float(step.node.attribute("alpha", 1.0))
    return [a @ b if alpha == 1.0 else (a @ b) * alpha]
