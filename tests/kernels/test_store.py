"""Numbers stored into packed matrices and taken out again (KRN-015, KRN-017)."""

import ml_dtypes
import numpy as np
import pytest

from seft_ref.errors import KernelError
from seft_ref.topology.csr import flat, from_flat
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


@pytest.mark.parametrize("kernel_set", SETS)
@pytest.mark.parametrize("halves", [False, True])
def test_KRN_017_2_what_is_unpacked_is_in_new_memory(kernel_set, halves):
    topology, values = from_flat((2, 90), np.array([0, 2, 95])), np.array([2.0, 3.0, 4.0], dtype=np.float32)
    packed = kernel_set.compact(topology, values.astype(np.float16)) if halves else kernel_set.pack(topology, values)
    if not packed.opens:
        return
    found, own = kernel_set.unpack(packed)
    for array in (found.indptr, found.indices, own):
        array[:] = 0
    again, same = kernel_set.unpack(packed)
    assert np.array_equal(flat(again), [0, 2, 95])
    assert np.array_equal(same.astype(np.float32), values)
    assert np.array_equal(flat(topology), [0, 2, 95])
