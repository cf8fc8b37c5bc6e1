"""The gradient at positions by Triton, without a pattern in CSR (KRN-003).

`kernels.sample` calls it for tensors on a GPU where Triton is installed, as it is with torch for CUDA; SEFT_TRITON=0
in the environment turns it off. With TRITON_INTERPRET=1 Triton interprets its kernels on the CPU. `is_ready` then holds
for tensors there, so that the kit can judge the kernel without a GPU.
"""
# mypy: allow-untyped-decorators, allow-untyped-defs, allow-incomplete-defs

import os
import warnings
from functools import cache
from types import ModuleType

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None

__all__ = ["is_ready", "sample"]

_POSITIONS, _TOKENS = 64, 64
"""Positions of a program, and tokens that it reads at once."""
_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
_OFF = os.environ.get("SEFT_TRITON") == "0"


def is_ready(x: Tensor) -> bool:
    """Return whether Triton is installed, not turned off, and works where a tensor is."""
    return isinstance(triton, ModuleType) and not _OFF and (_INTERPRETED or (x.is_cuda and _works(x.device)))


@cache
def _works(device: torch.device) -> bool:
    """Return whether Triton computes one product on a device; else warn once that torch's own is used.

    It needs compute capability 7.0, and a C compiler with Python's headers when it first compiles a kernel.
    """
    try:
        one = torch.ones(1, 1, device=device)
        works = bool(sample(one, one, torch.zeros(1, dtype=torch.int64, device=device), torch.float32)[0] == 1)
        reason = "its product of ones is not 1"
    except Exception as error:  # noqa: BLE001 - Triton and its compilers raise errors of many kinds
        works, reason = False, f"{type(error).__name__}: {error}"
    if not works:
        warnings.warn(f"Triton does not work on {device} ({reason}); torch's own product is used", stacklevel=3)
    return works


def sample(dy: Tensor, x: Tensor, positions: Tensor, kind: torch.dtype) -> Tensor:
    """Return the entries of dyᵀ x at flat positions, summed in `kind` over the tokens.

    Shapes  dy (n, out), x (n, in), positions (m,), the result (m,)
    Dtypes  dy and x any float, positions int64, `kind` float32 or float64
    """
    values = torch.empty(positions.shape, dtype=kind, device=x.device)
    # a row of each copy holds the tokens of a column, which a program reads together
    arrays = (dy.T.contiguous(), x.T.contiguous(), positions.contiguous(), values)
    with torch.cuda.device_of(x):  # Triton launches on the current device
        _sample[(triton.cdiv(positions.numel(), _POSITIONS),)](
            *arrays, *x.shape, positions.numel(), POSITIONS=_POSITIONS, TOKENS=_TOKENS
        )
    return values


if isinstance(triton, ModuleType):

    @triton.jit
    def _sample(dy, x, positions, values, n, width, m, POSITIONS: tl.constexpr, TOKENS: tl.constexpr):  # noqa: ANN001, ANN202
        # dy (out, n) and x (in, n), row by row
        which = tl.program_id(0) * POSITIONS + tl.arange(0, POSITIONS)
        at = tl.load(positions + which, mask=which < m, other=0)
        rows, columns = at // width * n, at % width * n
        total = tl.zeros((POSITIONS,), values.dtype.element_ty)
        for first in range(0, n, TOKENS):
            token = first + tl.arange(0, TOKENS)
            within = (which < m)[:, None] & (token < n)[None, :]
            left = tl.load(dy + rows[:, None] + token[None, :], mask=within, other=0.0)
            right = tl.load(x + columns[:, None] + token[None, :], mask=within, other=0.0)
            total += tl.sum(left.to(total.dtype) * right.to(total.dtype), axis=1)
        tl.store(values + which, total, mask=which < m)
