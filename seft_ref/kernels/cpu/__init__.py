"""The kernel set for NumPy arrays, compiled by numba: the functions of `plain`.

    plain        the set, with one copy of a matrix; `transposed` has a second one of every sparse matrix
    packed       how a matrix is held; `transpose` turns its topology
    panels       the loops over column panels; `turned` and `exceeding` are two more
    vectors      their innermost loops as LLVM vectors; `token` is that of a product with one token
    compiled     the decorator of the loops

What a set has to do is said in `seft_ref.kernels`, and defined in `reference`. Start with `plain.py`.
"""

from seft_ref.kernels.cpu.plain import (
    clear,
    compact,
    exceeding,
    locate,
    matmul,
    matmul_transposed,
    pack,
    pack_dense,
    sample,
    split,
    store,
    unpack,
)

__all__ = [
    "clear",
    "compact",
    "exceeding",
    "locate",
    "matmul",
    "matmul_transposed",
    "pack",
    "pack_dense",
    "sample",
    "split",
    "store",
    "unpack",
]
