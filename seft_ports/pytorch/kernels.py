"""The products of chapter 3 with a dense matrix that has zeros where nothing is stored.

Sums of 16-bit operands are taken in float32: on the CPU by widening them first, on a GPU by its matrix product, which
must not add parts of a sum in 16 bits. Evidence is computed with all bits of float32, whatever TF32 is allowed.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from seft_ports.pytorch import on_triton
from seft_ports.pytorch.errors import SeftError

__all__ = ["check", "exact_products", "matmul", "matmul_transposed", "sample", "store", "tokens", "whole", "wide"]

_FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
_ROWS = 256

with warnings.catch_warnings():
    # the first CSR tensor of a process makes torch warn that they are in beta
    warnings.simplefilter("ignore")
    torch.sparse_csr_tensor(
        torch.zeros(2, dtype=torch.int64), torch.zeros(0, dtype=torch.int64), torch.zeros(0), (1, 1)
    )


def wide(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of sums: float64 for float64, float32 for any other."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def check(x: Tensor, dy: Tensor | None, shape: tuple[int, int], dtype: torch.dtype) -> None:
    """Raise SeftError (KRN-009, KRN-010) for operands that do not fit a matrix of (out, in)."""
    # KRN-010
    for operand in (x, dy):
        if operand is not None and (operand.dtype != dtype or dtype not in _FLOATS):
            raise SeftError("KRN-010", f"an operand is {operand.dtype}, the matrix {dtype}; expected one float dtype")
    # KRN-009
    if x.ndim != 2 or x.shape[1] != shape[1]:
        raise SeftError("KRN-009", f"x has the shape {tuple(x.shape)}, expected (n, {shape[1]})")
    if dy is not None and tuple(dy.shape) != (x.shape[0], shape[0]):
        raise SeftError("KRN-009", f"dy has the shape {tuple(dy.shape)}, expected {(x.shape[0], shape[0])}")


def _product(a: Tensor, b: Tensor) -> Tensor:
    if a.device.type == "cpu" and a.dtype in (torch.bfloat16, torch.float16):
        # PRT-011
        return (a.float() @ b.float()).to(a.dtype)
    if a.is_cuda and a.dtype in (torch.bfloat16, torch.float16):
        with _whole_sums():
            return a @ b
    return a @ b


@contextmanager
def _whole_sums() -> Iterator[None]:
    """Let products of 16-bit operands on a GPU add in float32 alone; by default parts are added in 16 bits."""
    of_cuda = torch.backends.cuda.matmul
    names = ("allow_bf16_reduced_precision_reduction", "allow_fp16_reduced_precision_reduction")
    before = {name: getattr(of_cuda, name) for name in names}
    try:
        for name in names:
            setattr(of_cuda, name, False)
        yield
    finally:
        for name, allowed in before.items():
            setattr(of_cuda, name, allowed)


@contextmanager
def exact_products(device: torch.device) -> Iterator[None]:
    """Compute products in the dtype of their operands: no autocast, and no TF32 in the place of float32."""
    of_cuda = torch.backends.cuda.matmul
    before = of_cuda.allow_tf32
    with torch.autocast(device.type, enabled=False):
        try:
            if before:
                of_cuda.allow_tf32 = False
            yield
        finally:
            if before:
                of_cuda.allow_tf32 = True


def matmul(x: Tensor, weight: Tensor) -> Tensor:
    """Return x Wᵀ, (n, out)."""
    # KRN-001
    return _product(x, weight.T)


def matmul_transposed(dy: Tensor, weight: Tensor) -> Tensor:
    """Return dy W, (n, in)."""
    # KRN-002
    return _product(dy, weight)


def whole(dy: Tensor, x: Tensor) -> Tensor:
    """Return the whole gradient dyᵀ x, (out, in), in the dtype of its sums."""
    # GRD-001
    kind = wide(x.dtype)
    with exact_products(x.device):  # a backward inside autocast would round the products
        return dy.to(kind).T @ x.to(kind)


def tokens(dy: Tensor, x: Tensor) -> Tensor:
    """Return Σ dy² x² over the rows, (out, in), in the dtype of its sums."""
    # GRD-008
    kind = wide(x.dtype)
    dy, x = dy.to(kind), x.to(kind)
    return whole(dy * dy, x * x)


def sample(dy: Tensor, x: Tensor, positions: Tensor) -> Tensor:
    """Return the entries of dyᵀ x at flat positions, in the dtype of its sums, without the whole product."""
    # KRN-003, GRD-002
    kind, out, width = wide(x.dtype), dy.shape[1], x.shape[1]
    if not x.shape[0] or not positions.numel():
        return torch.zeros(positions.shape, dtype=kind, device=x.device)
    if on_triton.is_ready(x):
        return on_triton.sample(dy, x, positions, kind)
    with exact_products(x.device):
        return _sample(dy.to(kind), x.to(kind), positions, out, width)


def _sample(dy: Tensor, x: Tensor, positions: Tensor, out: int, width: int) -> Tensor:
    """Do the work of `sample` by torch's sampled product where it has one."""
    if x.is_cuda or torch.backends.mkl.is_available():
        starts = torch.arange(out + 1, device=x.device) * width
        pattern = torch.sparse_csr_tensor(
            torch.searchsorted(positions, starts),
            positions % width,
            torch.zeros(positions.shape, dtype=x.dtype, device=x.device),
            (out, width),
        )
        return torch.sparse.sampled_addmm(pattern, dy.T, x, beta=0.0).values()
    return _sample_by_rows(dy, x, positions)


def _sample_by_rows(dy: Tensor, x: Tensor, positions: Tensor) -> Tensor:
    """Do the work of `sample` where torch has no sampled product: form dyᵀ x one row block at a time."""
    width, values = x.shape[1], torch.empty(positions.shape, dtype=x.dtype, device=x.device)
    for first in range(0, dy.shape[1], _ROWS):
        block = dy[:, first : first + _ROWS].T @ x
        ends = torch.tensor([first * width, first * width + block.numel()], device=x.device)
        begin, end = torch.searchsorted(positions, ends).tolist()
        values[begin:end] = block.flatten()[positions[begin:end] - first * width]
    return values


def store(values: Tensor, slots: Tensor, new: Tensor) -> Tensor:
    """Return a copy of values with the new ones at these slots (KRN-012)."""
    # KRN-012
    if slots.ndim != 1 or slots.dtype != torch.int64 or slots.shape != new.shape:
        raise SeftError("KRN-012", f"{tuple(new.shape)} values for slots of shape {tuple(slots.shape)}")
    if slots.numel() and not 0 <= int(slots.min()) <= int(slots.max()) < values.numel():
        raise SeftError("KRN-012", f"a slot is not in 0 ... {values.numel() - 1}")
    return values.index_copy(0, slots, new)
