"""Gradients of products: matrix products, Einsum and convolutions."""

from __future__ import annotations

from dataclasses import dataclass

from onnxheadprune.edit.gradients import (
    Constant,
    Partials,
    Step,
    Term,
    UnknownShapeError,
    decomposition,
    gradient,
    summed,
)
from onnxheadprune.model.graph.dims import Dim
from onnxheadprune.model.graph.view import Node
from onnxheadprune.operators.matmul import einsum_terms


@gradient("MatMul")
def _matmul_gradient(step: Step) -> Partials:
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
    if ranks[1] == 1:
        b_shape, wide_b, grad = (*b_shape, 1), b.unsqueeze([1]), grad.unsqueeze([-1])
    if ranks[0] == 1:
        a_shape, wide_a, grad = (1, *a_shape), a.unsqueeze([0]), grad.unsqueeze([-2])
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
def _gemm_gradient(step: Step) -> Partials:
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


@decomposition("com.microsoft.FusedMatMul", "com.microsoft.TransposeMatMul")
def _fused_matmul_parts(step: Step) -> list[Term | None] | Constant:
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


@gradient("Einsum")
def _einsum_gradient(step: Step) -> Partials:
    """The letters of the operand as the output, and those of the output in place of the operand.

    A letter that only this operand has was summed over: the gradient is repeated along it.
    """
    terms = einsum_terms(step.node)
    if terms is None or any(len(set(term)) != len(term) for term in terms):
        constant = Constant("has an equation with diagonals or unknown ranks")
        return dict.fromkeys(range(len(step.node.inputs)), constant)
    *inputs, out = terms
    partials: dict[int, Term | Constant] = {}
    for index in sorted(step.wanted):
        others = [i for i in range(len(inputs)) if i != index]
        reach = set(out).union(*(inputs[i] for i in others))
        own = inputs[index]
        found = "".join(letter for letter in own if letter in reach)
        equation = ",".join([out, *(inputs[i] for i in others)]) + "->" + found
        term = step.grad.op("Einsum", *(step.input(i) for i in others), equation=equation)
        missing = [axis for axis, letter in enumerate(own) if letter not in reach]
        x, shape = step.input(index), step.shape(index)
        term = term.unsqueeze(missing).expand(x.shape()) if missing else term
        ones = [axis for axis, dim in enumerate(shape) if dim == 1]
        partials[index] = term.sum(ones) if ones else term
    return partials


@gradient("Conv")
def _convolution_gradient(step: Step) -> Partials:
    """Kernels: a convolution of the input with the gradient, batch and channels swapped. Input: the transposed one."""
    node, kernel = step.node, step.shape(1)
    sizes = [size for size in kernel if isinstance(size, int)]
    if len(sizes) < len(kernel):
        raise UnknownShapeError("the size of its kernel is not known")
    if node.attribute("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return dict.fromkeys((0, 1), Constant("pads by itself (auto_pad)"))
    partials: dict[int, Term | Constant] = {}
    window = _Window.of(node, len(sizes) - 2)
    if 0 in step.wanted:
        partials[0] = _input_gradient(step, window)
    if 1 in step.wanted:
        partials[1] = _kernel_gradient(step, window, sizes)
    if 2 in step.wanted:
        partials[2] = step.grad.sum([0, *range(2, len(sizes))], keep=False)
    return partials


@dataclass(frozen=True)
class _Window:
    """The strides, pads and dilations of a convolution."""

    strides: list[int]
    dilations: list[int]
    pads: list[int]
    groups: int

    @classmethod
    def of(cls, node: Node, rank: int) -> _Window:
        return cls(
            node.attribute("strides", [1] * rank),
            node.attribute("dilations", [1] * rank),
            node.attribute("pads", [0] * (2 * rank)),
            node.attribute("group", 1),
        )


def _input_gradient(step: Step, window: _Window) -> Term:
    """The transposed convolution, cut at the start; at the end the input reaches farther than windows, or less far."""
    x, rank = step.input(0), len(window.strides)
    back = step.grad.op(
        "ConvTranspose",
        step.input(1),
        strides=window.strides,
        dilations=window.dilations,
        pads=window.pads[:rank] + [0] * rank,
        group=window.groups,
    )
    missing = x.shape() - back.shape()
    return back.op("Pad", step.writer.joined([missing * 0, missing]))


def _kernel_gradient(step: Step, window: _Window, kernel: list[int]) -> Term:
    """Input channels become the batch, the batch becomes channels; strides and dilations change places."""
    x, grad, rank, groups = step.input(0), step.grad, len(kernel), window.groups
    behind = list(range(2, rank))
    if groups > 1:
        apart = step.writer.joined(
            [x.dim(0), *map(step.writer.integers, ([groups], [kernel[1]])), *map(x.dim, behind)]
        )
        order = [2, 1, 0, *(axis + 1 for axis in behind)]
        merged = step.writer.joined([step.writer.integers([kernel[1], -1]), *map(x.dim, behind)])
        turned = x.reshape(apart).transpose(order).reshape(merged)
    else:
        turned = x.transpose([1, 0, *behind])
    found = turned.op(
        "Conv",
        grad.transpose([1, 0, *behind]),
        strides=window.dilations,
        dilations=window.strides,
        pads=window.pads,
        group=groups,
    )
    integers = step.writer.integers
    # Windows that did not fit any more leave a rest at the end.
    cut = found.op("Slice", integers([0] * len(behind)), integers(kernel[2:]), integers(behind))
    return cut.transpose([1, 0, *behind])
