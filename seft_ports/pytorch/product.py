"""The product of a matrix that has sparse updates, and its gradients at their positions."""

import math
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from seft_ports.pytorch import kernels
from seft_ports.pytorch.update import SparseUpdate

__all__ = ["Matrix", "Product"]


class Matrix(Protocol):
    """What `Product` multiplies by."""

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of the weight: (out, in)."""
        ...

    @property
    def updates(self) -> tuple[SparseUpdate, ...]:
        """The updates that the effective weight contains."""
        ...

    def written(self, values: tuple[Tensor, ...]) -> AbstractContextManager[Tensor]:
        """Return a context in which the effective weight stands in memory, (out, in).

        values  φ of each update
        """
        ...


class Product(torch.autograd.Function):
    """y = x Wᵀ, whose gradient by the values of an update is dyᵀ x at its positions.

    The effective weight is written for the time of a product, and again in the backward, so that the graph holds no
    matrix.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, matrix: Matrix, dtype: torch.dtype, *values: Tensor) -> Tensor:
        """Return y, (..., out), in `dtype`.

        x       (..., in)
        values  φ of each update of the matrix
        """
        out, width = matrix.shape
        rows = x.reshape(math.prod(x.shape[:-1]), width).to(dtype)
        # values are saved too, because torch then refuses a backward after they were changed
        ctx.save_for_backward(rows, *values)
        ctx.matrix, ctx.updates, ctx.shape, ctx.kind = matrix, matrix.updates, x.shape, x.dtype
        kernels.check(rows, None, matrix.shape, dtype)
        with matrix.written(values) as weight:
            return kernels.matmul(rows, weight.to(dtype)).reshape(*x.shape[:-1], out)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients by x and by the values of each update (KRN-002, KRN-003)."""
        x, *values = ctx.saved_tensors
        dx = None
        # y = x Wᵀ
        dy = dy.reshape(len(x), ctx.matrix.shape[0]).to(x.dtype)
        if ctx.needs_input_grad[0]:
            # written again, because FSDP gathered the weight anew, without what the forward wrote into it
            with ctx.matrix.written(tuple(values)) as weight:
                dx = kernels.matmul_transposed(dy, weight.to(x.dtype)).reshape(ctx.shape).to(ctx.kind)
        gradients: list[Tensor | None] = []
        for update, phi, wanted in zip(ctx.updates, values, ctx.needs_input_grad[3:], strict=True):
            gradient = None
            if wanted:
                gradient = torch.zeros_like(phi)
                gradient[: update.slots] = kernels.sample(dy, x, update.positions[: update.slots]).to(phi.dtype)
            if update.watched:
                # GRD-001: the sum is over all micro-batches, before clipping
                update.see(dy, x)
            gradients.append(gradient)
        return dx, None, None, *gradients
