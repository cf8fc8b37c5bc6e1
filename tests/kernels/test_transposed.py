"""The set that holds every sparse matrix twice: the transpose, both copies after a change, and what is refused."""

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from seft_ref.kernels import cpu
from seft_ref.kernels.cpu import transposed
from seft_ref.kernels.cpu.transpose import transpose
from seft_ref.topology.csr import flat, from_flat
from tests.kernels.refused import assert_refused


def drawn(shape, share, seed, dtype="float64"):
    rng = np.random.default_rng(seed)
    at = np.flatnonzero(rng.random(shape[0] * shape[1]) < share)
    return from_flat(shape, at), rng.integers(-9, 10, at.size).astype(dtype)


def same_topology(a, b):
    return (a.shape, flat(a).tolist()) == (b.shape, flat(b).tolist()) and a.indptr.tolist() == b.indptr.tolist()


def both(packed):
    """The dense matrix that each copy holds."""
    weights = []
    for part in (packed.rows, packed.columns):
        topology, values = cpu.unpack(part)
        weight = np.zeros(topology.numel, dtype=values.dtype)
        weight[flat(topology)] = values
        weights.append(weight.reshape(topology.shape))
    return weights[0], weights[1].T


def test_a_transpose_worked_by_hand():
    # [ a . b ]      [ a c ]
    # [ c d . ]      [ . d ]
    #                [ b . ]
    turned, to = transpose(from_flat((2, 3), np.array([0, 2, 3, 4])))
    assert (turned.shape, flat(turned).tolist(), to.tolist()) == ((3, 2), [0, 1, 3, 4], [0, 3, 1, 2])
    assert (turned.indptr.dtype, turned.indices.dtype, to.dtype) == (np.int64, np.int32, np.int64)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(st.integers(0, 40), st.integers(0, 140), st.sampled_from([0.0, 0.02, 0.3, 1.0]), st.integers(0, 99))
def test_a_transpose_is_that_of_scipy(n_out, n_in, share, seed):
    topology, values = drawn((n_out, n_in), share, seed)
    turned, to = transpose(topology)
    theirs = csr_array((values, topology.indices, topology.indptr), shape=topology.shape).T.tocsr()
    assert turned.indptr.tolist() == theirs.indptr.tolist()
    assert turned.indices.tolist() == theirs.indices.tolist()
    moved = np.empty_like(values)
    moved[to] = values
    assert moved.tolist() == theirs.data.tolist()
    back, again = transpose(turned)
    assert same_topology(back, topology)
    assert again[to].tolist() == list(range(topology.nnz))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(1, 40), st.integers(1, 140), st.sampled_from([0.02, 0.3, 0.5]), st.integers(0, 99), st.booleans())
def test_KRN_012_016_a_change_reaches_both_copies(n_out, n_in, share, seed, halves):
    topology, values = drawn((n_out, n_in), share, seed, "float16" if halves else "float32")
    packed = (transposed.compact if halves else transposed.pack)(topology, values)
    if packed.columns is None:
        return
    rng = np.random.default_rng(seed)
    slots = rng.permutation(topology.nnz)[: rng.integers(0, topology.nnz + 1)]
    where = transposed.locate(packed, topology, slots)
    expected = np.zeros(topology.numel, dtype=values.dtype)
    expected[flat(topology)] = values
    if halves:
        before = both(packed)[0].copy()
        packed, kept = transposed.clear(packed, where), packed
        assert all((w == before).all() for w in both(kept))
        expected[flat(topology)[slots]] = 0
    else:
        new = rng.integers(-9, 10, slots.size).astype(values.dtype)
        packed = transposed.store(packed, where, new)
        expected[flat(topology)[slots]] = new
    for weight in both(packed):
        np.testing.assert_array_equal(weight, expected.reshape(topology.shape))


def test_KRN_011_a_matrix_gives_both_memories_and_one_that_was_dense_none():
    topology, values = drawn((20, 130), 0.4, 0)
    old = transposed.pack(topology, values)
    fewer = from_flat((20, 130), flat(topology)[::2])
    new = transposed.pack(fewer, values[::2].copy(), old)
    assert np.shares_memory(new.rows.values, old.rows.values)
    assert np.shares_memory(new.columns.values, old.columns.values)
    assert all((w == both(transposed.pack(fewer, values[::2].copy()))[0]).all() for w in both(new))
    full, all_values = drawn((20, 130), 0.9, 1)
    dense = transposed.pack(full, all_values, new)
    assert dense.columns is None
    again = transposed.pack(topology, values, dense)
    assert again.columns is not None


def test_KRN_001_002_products_are_those_of_the_one_copy():
    topology, values = drawn((70, 200), 0.3, 2, "float32")
    one, two = cpu.pack(topology, values), transposed.pack(topology, values)
    rng = np.random.default_rng(3)
    for n in (0, 1, 5, 128, 300):
        x, dy = (rng.standard_normal((n, m), dtype=np.float32) for m in (200, 70))
        assert transposed.matmul(x, two).tobytes() == cpu.matmul(x, one).tobytes()
        # bit for bit the forward product with the transposed matrix
        turned, to = transpose(topology)
        moved = np.empty_like(values)
        moved[to] = values
        assert transposed.matmul_transposed(dy, two).tobytes() == cpu.matmul(dy, cpu.pack(turned, moved)).tobytes()
        np.testing.assert_allclose(
            transposed.matmul_transposed(dy, two), cpu.matmul_transposed(dy, one), rtol=1e-4, atol=1e-3
        )
    assert two.nbytes == two.rows.nbytes + two.columns.nbytes > 2 * values.nbytes


def test_KRN_013_a_place_that_only_the_copy_has_not_changes_nothing():
    topology, values = drawn((6, 70), 0.3, 4)
    packed = transposed.pack(topology, values)
    before = [w.copy() for w in both(packed)]
    where = transposed.locate(packed, topology, np.array([0, 1]))
    for wrong in (where + (topology.nnz << 32), where - (1 << 40), where | np.int64(topology.nnz)):
        assert_refused("KRN-012", transposed.store, packed, wrong, np.full(2, 5.0))
    for old, new in zip(before, both(packed), strict=True):
        np.testing.assert_array_equal(old, new)


def test_KRN_012_more_weights_than_a_place_can_name_are_refused(monkeypatch):
    topology, values = drawn((6, 70), 0.3, 5)
    monkeypatch.setattr(transposed, "MOST", topology.nnz)
    assert_refused("KRN-012", transposed.pack, topology, values)
    assert_refused("KRN-012", transposed.compact, topology, values.astype(np.float16))
    monkeypatch.setattr(transposed, "MOST", topology.nnz + 1)
    assert transposed.pack(topology, values).opens


@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="this machine runs one thread")
@pytest.mark.parametrize("n", [1, 20, 129, 300])
def test_KRN_008_same_bits_on_one_and_two_threads(n):
    topology, values = drawn((301, 190), 0.3, 6, "float32")
    dy = np.random.default_rng(n).standard_normal((n, 301), dtype=np.float32)
    packed, before, seen = transposed.pack(topology, values), numba.get_num_threads(), []
    try:
        for n_threads in (1, 2):
            numba.set_num_threads(n_threads)
            seen.append(transposed.matmul_transposed(dy, packed).tobytes())
    finally:
        numba.set_num_threads(before)
    assert seen[0] == seen[1]
