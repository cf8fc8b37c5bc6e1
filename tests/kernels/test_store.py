"""Numbers stored into compact matrices: what their 16 bits represent, and nothing else (KRN-015)."""

import ml_dtypes
import numpy as np
import pytest

from seft_ref.errors import KernelError
from seft_ref.topology.csr import from_flat
from tests.kernels.sets import SETS
from tests.kernels.test_kernels import dense


@pytest.mark.parametrize("kernel_set", SETS)
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16], ids=lambda dtype: np.dtype(dtype).name)
def test_KRN_015_a_compact_matrix_stores_what_its_16_bits_represent(kernel_set, dtype):
    rng = np.random.default_rng(4)
    topology = from_flat((70, 90), np.flatnonzero(rng.random(70 * 90) < 0.3))
    values = rng.integers(-9, 10, topology.nnz).astype(dtype)
    slots = rng.permutation(topology.nnz)[:200]
    new = np.concatenate([[0.0, -0.0, 2.0**-14], rng.integers(-9, 10, 197)]).astype(np.float32)
    packed = kernel_set.compact(topology, values.copy())
    packed = kernel_set.store(packed, kernel_set.locate(packed, topology, slots), new)
    values[slots] = new.astype(dtype)
    _, found = kernel_set.unpack(packed)
    assert found.dtype == dtype
    assert found.tobytes() == values.tobytes()
    x = rng.integers(-4, 5, (3, 90)).astype(np.float32)
    np.testing.assert_array_equal(kernel_set.matmul(x, packed), x @ dense(topology, values.astype(np.float32)).T)
    dy = rng.integers(-4, 5, (3, 70)).astype(np.float32)
    expected = dy @ dense(topology, values.astype(np.float32))
    np.testing.assert_array_equal(kernel_set.matmul_transposed(dy, packed), expected)
    bits = np.uint16 if dtype == ml_dtypes.bfloat16 else np.int16
    for wrong, clause in (
        (new.astype(np.float64), "KRN-010.*float64.*float32"),
        (new.astype(dtype), "KRN-010.*float32"),
        (new.astype(dtype).view(bits), "KRN-010.*int16.*float32"),
        (new[1:], "KRN-009"),
    ):
        with pytest.raises(KernelError, match=clause):
            kernel_set.store(packed, kernel_set.locate(packed, topology, slots), wrong)
