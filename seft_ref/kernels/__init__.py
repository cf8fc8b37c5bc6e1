"""Kernel sets: modules with the same twelve functions, passed as an argument by whoever chose one (KRN).

    packed = kernels.pack(topology, values)       # once per topology
    y = kernels.matmul(x, packed)                 # (n, in)  -> (n, out)    y = x Wᵀ
    dx = kernels.matmul_transposed(dy, packed)    # (n, out) -> (n, in)     dx = dy W
    dvalues = kernels.sample(dy, x, topology)     # (nnz,)   dyᵀ x at the stored positions, in slot order
    packed = kernels.store(packed, kernels.locate(packed, topology, slots), values)

`reference` is the definition and runs on any array library; `cpu` is compiled for NumPy arrays, and `cpu.transposed` is
`cpu` with a second copy of every sparse matrix; `gpu` is for CuPy's arrays, which must be installed before it is
imported. A set has:

    pack(topology, values, into) -> Packed        the layout of this set; values in slot order; a packed matrix `into`
                                                  donates its memory
    pack_dense(weight) -> Packed                  a matrix in which every position is stored; no copy
    locate(packed, topology, slots) -> where      CSR slots -> positions in the layout's own value order
    store(packed, where, values) -> Packed        values replaced at `where`; donates its argument
    matmul(x, packed) -> y
    matmul_transposed(dy, packed) -> dx
    sample(dy, x, topology) -> dvalues
    exceeding(values, least) -> indices           where |values| is above a number, or not finite

and, for models that are held in 16 bits,

    compact(topology, values, into) -> Packed     16-bit values, multiplied as the float32 numbers they stand for; a
                                                  compact matrix `into` that is no smaller donates its memory
    unpack(packed) -> (topology, values)          of a matrix that `opens`, as a compact one does, bit for bit
    clear(packed, where) -> packed                zeros at `where` of a compact matrix
    split(frozen, live) -> Split                  their sum; `locate` and `store` know the live part

W is (out, in); x and dy are two-dimensional, one token a row, contiguous. `Packed` is a frozen dataclass of
the set's own with `shape`, `dtype`, `held_in`, `opens` and `nbytes`; nothing else of it concerns a caller. Wrong
arrays raise KernelError.
"""

from typing import Any

NAMES = (
    *("pack", "pack_dense", "locate", "store", "matmul", "matmul_transposed", "sample", "exceeding"),
    *("compact", "unpack", "clear", "split"),
)
"""The functions of a kernel set."""

Kernels = Any
"""A kernel set: a module with these functions."""
Packed = Any
"""A matrix in the layout of a kernel set."""
