"""The product of a matrix that has sparse updates, and its gradients at their positions.

A layer calls `product`. In a model that torch compiles it is one operation of the graph, which names its matrix by a
number. So the graph need not break there, and the compiled code stays valid when events change positions.
"""

import itertools
import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol
from weakref import WeakValueDictionary

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from seft_ports.pytorch import kernels
from seft_ports.pytorch.update import SparseUpdate

__all__ = ["Matrix", "number_of", "product"]


class Matrix(Protocol):
    """The matrix of a product: an effective weight that can be written into memory."""

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of the weight: (out, in)."""
        ...

    @property
    def number(self) -> int:
        """Its number among the matrices of this process (`number_of`)."""
        ...

    @property
    def updates(self) -> tuple[SparseUpdate, ...]:
        """The updates that the effective weight contains."""
        ...

    def written(self, values: Sequence[Tensor]) -> AbstractContextManager[Tensor]:
        """Return a context that yields the effective weight, (out, in), while it stands in memory.

        values  φ of each update
        """
        ...


def product(x: Tensor, matrix: Matrix, dtype: torch.dtype, values: Sequence[Tensor]) -> Tensor:
    """Return y = x Wᵀ, (..., out), in `dtype`; its gradient by the values of an update is dyᵀ x at its positions.

    The effective weight is written into memory for the product, and again in the backward pass, so that the graph keeps
    no matrix.

    x       (..., in)
    values  φ of each update of the matrix
    """
    if torch.compiler.is_compiling():
        y: Tensor = _in_graph(x, matrix.number, matrix.shape[0], dtype, values)
    else:
        y = _Product.apply(x, matrix, dtype, *values)
    # reshaped outside the Function, because torch lets nobody write into a view that a Function returned (Falcon does)
    return y.reshape(*x.shape[:-1], matrix.shape[0])


def _forward(x: Tensor, matrix: Matrix, dtype: torch.dtype, values: Sequence[Tensor]) -> Tensor:
    """Return y with one row for each row of x, (rows, out)."""
    _, width = matrix.shape
    rows = x.reshape(math.prod(x.shape[:-1]), width).to(dtype)
    kernels.check(rows, None, matrix.shape, dtype)
    with matrix.written(values) as weight:
        return kernels.matmul(rows, weight.to(dtype))


def _backward(
    dy: Tensor,
    x: Tensor,
    matrix: Matrix,
    dtype: torch.dtype,
    values: Sequence[Tensor],
    needs_input_grad: Sequence[bool],
) -> list[Tensor | None]:
    """Return the gradients by x and by the values of each update, where they are wanted (KRN-002, KRN-003)."""
    _, width = matrix.shape
    rows = x.reshape(math.prod(x.shape[:-1]), width).to(dtype)
    gradients: list[Tensor | None] = [None]
    # y = x Wᵀ
    dy = dy.to(dtype)
    if needs_input_grad[0]:
        # the weight is written again, because FSDP gathered it anew, without the values of the forward
        with matrix.written(values) as weight:
            gradients[0] = kernels.matmul_transposed(dy, weight.to(dtype)).reshape(x.shape).to(x.dtype)
    for update, phi, needs_grad in zip(matrix.updates, values, needs_input_grad[1:], strict=True):
        gradient = None
        if needs_grad:
            gradient = torch.zeros_like(phi)
            gradient[: update.slots] = kernels.sample(dy, rows, update.positions[: update.slots]).to(phi.dtype)
        if update.watched:
            # GRD-001: the sum is over all micro-batches, before clipping
            update.see(dy, rows)
        gradients.append(gradient)
    return gradients


def _is_watched(matrix: Matrix) -> bool:
    """Return whether a window may keep what a backward pass gives it."""
    return any(update.watched for update in matrix.updates)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, matrix: Matrix, dtype: torch.dtype, *values: Tensor) -> Tensor:
        # values are saved too, because torch then refuses a backward after they were changed
        ctx.save_for_backward(x, *values)
        ctx.matrix, ctx.dtype = matrix, dtype
        return _forward(x, matrix, dtype, values)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, *values = ctx.saved_tensors
        if x.grad_fn is None and _is_watched(ctx.matrix):
            # the caller's own tensor, which may have other data when a window ends
            x = x.clone()
        needs_input_grad = (ctx.needs_input_grad[0], *ctx.needs_input_grad[3:])
        dx, *gradients = _backward(dy, x, ctx.matrix, ctx.dtype, values, needs_input_grad)
        return dx, None, None, *gradients


# compiled ----------------------------------------------------------------------------------------

_MATRICES: WeakValueDictionary[int, Matrix] = WeakValueDictionary()
_NUMBERS = itertools.count()


def number_of(matrix: Matrix) -> int:
    """Return a new number for a matrix, by which a compiled graph finds it as long as it lives."""
    number = next(_NUMBERS)
    _MATRICES[number] = matrix
    return number


_UNSAFE = getattr(torch.Tag, "cudagraph_unsafe", None)
"""Keeps a product out of CUDA graphs, which would not repeat what a window sees; torch has the tag since 2.8."""
_TAGS: Any = {} if _UNSAFE is None else {"tags": (_UNSAFE,)}


def _refuse_capture(x: Tensor) -> None:
    """Refuse to be recorded into a CUDA graph, whose replays are kernels alone."""
    if x.is_cuda and torch.cuda.is_current_stream_capturing():
        raise NotImplementedError(
            "a CUDA graph would not repeat what events see of a pass; compile with mode='default' or "
            "'max-autotune-no-cudagraphs'"
        )


@torch.library.custom_op("seft::product", mutates_args=(), **_TAGS)
def _in_graph(x: Tensor, number: int, out: int, dtype: torch.dtype, values: Sequence[Tensor]) -> Tensor:
    _refuse_capture(x)
    return _forward(x, _MATRICES[number], dtype, values)


@torch.library.custom_op("seft::product_backward", mutates_args=(), **_TAGS)
def _gradients(dy: Tensor, x: Tensor, number: int, dtype: torch.dtype, values: Sequence[Tensor]) -> list[Tensor]:
    _refuse_capture(x)
    matrix = _MATRICES[number]
    if _is_watched(matrix):
        # compiled code uses its memory again
        x = x.clone()
    gradients = _backward(dy, x, matrix, dtype, values, [True] * (1 + len(values)))
    return [one for one in gradients if one is not None]


@_in_graph.register_fake
def _product_like(x: Tensor, number: int, out: int, dtype: torch.dtype, values: Sequence[Tensor]) -> Tensor:
    return x.new_empty(math.prod(x.shape[:-1]), out, dtype=dtype)


@_gradients.register_fake
def _gradients_like(dy: Tensor, x: Tensor, number: int, dtype: torch.dtype, values: Sequence[Tensor]) -> list[Tensor]:
    return [x.new_empty(x.shape), *(torch.empty_like(one) for one in values)]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, ctx.number, _, ctx.dtype, values = inputs
    ctx.save_for_backward(x, *values)


def _back(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
    x, *values = ctx.saved_tensors
    dx, *gradients = _gradients(dy, x, ctx.number, ctx.dtype, values)
    return dx, None, None, None, gradients


_in_graph.register_autograd(_back, setup_context=_keep)
