"""The kernel set for NumPy arrays, compiled by numba: the functions of `plain`.

    plain        the set, with one copy of each matrix
    transposed   the set with a second, transposed copy of every sparse matrix; `transpose` makes its topology
    tiles        the set that multiplies in bfloat16; `tile_loops` has its loops
    packed       the layouts of a matrix of floats
    coded        the layout of a matrix of codes, and its products
    coded_rows   the loops that pack and unpack a matrix of codes
    coded_loops  the loops of products with a matrix of codes
    panels       the loops over column panels
    turned       the loop of dx = dy W for many tokens and a matrix of floats
    columns      the innermost loops of dx = dy W for many tokens and a matrix of codes
    exceeding    the loop that compares entries with a number
    vectors      the innermost loops as LLVM vectors, which `emitter` writes
    token        the loops of a product with one token
    decode       the innermost loops that turn codes into weights: any processor's in `decode_row`, those for AVX512 in
                 `decode_spread`, those for AVX2 in `decode_deposit`
    scratch      memory that calls reuse
    compiled     the decorators by which numba compiles the loops

`seft_ref.kernels` says what a set has to do, and `reference` defines it. Start with `plain.py`.
"""

from seft_ref.kernels.cpu.plain import (
    LAYERS,
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
    "LAYERS",
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
