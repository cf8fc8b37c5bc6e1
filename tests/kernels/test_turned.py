"""dx of several blocks of tokens, for which tiles of the matrix are sorted by column."""

import numba
import numpy as np
import pytest

from seft_ref.kernels import cpu
from seft_ref.kernels.cpu import packed as layout
from tests.kernels.test_kernels import assert_within_gauge, dense, make_case, make_mask


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", ["random", "empty rows", "full row", "last column"])
@pytest.mark.parametrize("shape", [(1100, 70), (2100, 129), (64, 64), (1, 300), (1030, 1)])
@pytest.mark.parametrize("n", [192, 256, 384, 391, 1030])
def test_KRN_007_dx_of_several_blocks_of_tokens_is_exact(shape, n, kind, dtype):
    """Tiles are turned: bands of rows, the last tile of a band, and tokens beyond the last whole block."""
    rng = np.random.default_rng(n)
    topology, values, _, dy = make_case(rng, make_mask(rng, *shape, 0.3, kind), n, dtype, integers=True)
    packed = layout._in_panels(topology, values)
    found = cpu.matmul_transposed(dy, packed)
    np.testing.assert_array_equal(found, dy @ dense(topology, values), strict=True)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_KRN_008_a_block_of_tokens_has_the_same_bits_in_any_group_and_on_any_number_of_threads(dtype):
    rng = np.random.default_rng(0)
    topology, values, _, dy = make_case(rng, make_mask(rng, 1200, 200, 0.3, "random"), 1300, dtype)
    packed, width = cpu.pack(topology, values), 128 if dtype == "float32" else 64
    whole = cpu.matmul_transposed(dy, packed)
    before = numba.get_num_threads()
    try:
        for n_threads in range(1, before + 1):
            numba.set_num_threads(n_threads)
            for n in (2 * width, 3 * width, 5 * width, 9 * width):
                assert cpu.matmul_transposed(dy[:n], packed).tobytes() == whole[:n].tobytes()
    finally:
        numba.set_num_threads(before)
    # every lane of a block is among each seventh token; all of them in extended precision take seconds
    some, terms = slice(None, None, 7), np.bincount(topology.indices, minlength=200)
    assert_within_gauge(whole[some], dy[some], dense(topology, values), terms[None, :])
