"""Kernel sets against their definition, against plain loops, and against each other (SPEC chapter KRN)."""

import inspect

import array_api_strict
import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seft_ref import kernels
from seft_ref.arrays import library as arrays
from seft_ref.kernels import cpu, reference
from seft_ref.kernels.cpu import plain
from seft_ref.topology.csr import Topology, flat, from_flat
from tests.kernels.refused import assert_refused
from tests.kernels.sets import COMPILED, SETS

TOKENS = [0, 1, 2, 3, 15, 16, 17, 127, 128, 129, 200]
UNIT = {"float32": 2.0**-24, "float64": 2.0**-53}

# ---- cases: a mask, values on it, both factors ---------------------------------------------------


def make_topology(mask):
    return from_flat(mask.shape, np.flatnonzero(mask))


def make_mask(rng, n_out, n_in, density, kind):
    mask = rng.random((n_out, n_in)) < density
    if kind == "empty":
        mask[:] = False
    elif kind == "full row":
        mask[:] = False
        mask[n_out // 2] = True
    elif kind == "empty rows":
        mask[::2] = False
    elif kind == "last column":
        mask[:] = False
        mask[:, -1] = True
    return mask


def make_case(rng, mask, n, dtype, *, integers=False):
    topology = make_topology(mask)

    def draw(shape):
        return (rng.integers(-4, 5, shape) if integers else rng.standard_normal(shape)).astype(dtype)

    return topology, draw((topology.nnz,)), draw((n, mask.shape[1])), draw((n, mask.shape[0]))


@st.composite
def cases(draw, *, integers=False):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n_out, n_in = (
        draw(st.integers(1, 300)),
        draw(st.sampled_from([1, 2, 15, 63, 64, 65, 127, 128, 129, 200, 256])),
    )
    density = draw(st.sampled_from([0.01, 0.1, 0.2, 0.3, 0.5, 0.6, 1.0]))
    kind = draw(st.sampled_from(["random", "random", "empty", "full row", "empty rows", "last column"]))
    dtype = draw(st.sampled_from(["float32", "float64"]))
    return make_case(
        rng,
        make_mask(rng, n_out, n_in, density, kind),
        draw(st.sampled_from(TOKENS)),
        dtype,
        integers=integers,
    )


def dense(topology, values):
    weight = np.zeros(topology.numel, dtype=values.dtype)
    weight[flat(topology)] = values
    return weight.reshape(topology.shape)


def assert_within_gauge(got, a, b, n_terms):
    """KRN-006: |got - a b| <= tau(K) u gauge, elementwise, judged in extended precision."""
    wide = np.longdouble
    bound = (8 + 2 * np.sqrt(n_terms)) * UNIT[str(got.dtype)] * (np.abs(a).astype(wide) @ np.abs(b).astype(wide))
    assert got.dtype == a.dtype
    assert np.all(np.abs(got - a.astype(wide) @ b.astype(wide)) <= bound)


# ---- the contract --------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel_set", SETS)
def test_every_set_has_the_functions_with_identical_signatures(kernel_set):
    for name in kernels.NAMES:
        parameters = list(inspect.signature(getattr(kernel_set, name)).parameters.values())
        expected = list(inspect.signature(getattr(reference, name)).parameters.values())
        assert [(p.name, p.kind, p.default) for p in parameters] == [(p.name, p.kind, p.default) for p in expected]
    assert sorted(["LAYERS", *kernels.NAMES]) == sorted(kernel_set.__all__)


@pytest.mark.parametrize("kernel_set", SETS)
def test_KRN_010_a_matrix_that_another_set_packed_is_refused(kernel_set):
    topology, values = from_flat((2, 3), np.array([0, 2])), np.ones(2, dtype=np.float32)
    x, dy, where = np.ones((1, 3), dtype=np.float32), np.ones((1, 2), dtype=np.float32), np.array([0])
    foreign, own = (k.pack(topology, values) for k in (cpu if kernel_set is reference else reference, kernel_set))
    for packed in (foreign, kernel_set.split(own, foreign)):
        assert_refused("KRN-010", kernel_set.matmul, x, packed)
        assert_refused("KRN-010", kernel_set.matmul_transposed, dy, packed)
        for name, *more in (("unpack",), ("clear", where), ("locate", topology, where), ("store", where, values[:1])):
            assert_refused("KRN-010", getattr(kernel_set, name), packed, *more)


@pytest.mark.parametrize("kernel_set", SETS)
def test_KRN_001_002_003_plain_loops(kernel_set):
    # [ 2 . 3 ]
    # [ . . . ]
    topology = from_flat((2, 3), np.array([0, 2]))
    values, x, dy = (
        np.array([2.0, 3.0]),
        np.array([[1.0, 10.0, 100.0], [4.0, 5.0, 6.0]]),
        np.array([[1.0, 7.0], [2.0, 8.0]]),
    )
    packed = kernel_set.pack(topology, values)
    weight = [[2.0, 0.0, 3.0], [0.0, 0.0, 0.0]]
    y = [[sum(x[t][i] * weight[o][i] for i in range(3)) for o in range(2)] for t in range(2)]
    dx = [[sum(dy[t][o] * weight[o][i] for o in range(2)) for i in range(3)] for t in range(2)]
    dvalues = [sum(dy[t][0] * x[t][i] for t in range(2)) for i in (0, 2)]
    assert kernel_set.matmul(x, packed).tolist() == y == [[302.0, 0.0], [26.0, 0.0]]
    assert kernel_set.matmul_transposed(dy, packed).tolist() == dx
    assert kernel_set.sample(dy, x, topology).tolist() == dvalues == [9.0, 112.0]
    assert (packed.shape, packed.dtype) == ((2, 3), np.float64)
    assert packed.nbytes >= 16


@pytest.mark.parametrize("kernel_set", COMPILED)
@settings(max_examples=60, deadline=None, derandomize=True)
@given(case=cases())
def test_KRN_006_within_the_gauge_of_the_definition(kernel_set, case):
    topology, values, x, dy = case
    weight, packed = dense(topology, values), kernel_set.pack(topology, values)
    n_in_row = np.diff(topology.indptr)
    n_in_column = np.bincount(topology.indices, minlength=topology.shape[1])
    assert_within_gauge(kernel_set.matmul(x, packed), x, weight.T, n_in_row[None, :])
    assert_within_gauge(kernel_set.matmul_transposed(dy, packed), dy, weight, n_in_column[None, :])
    everywhere = np.zeros(topology.numel, dtype=x.dtype)
    everywhere[flat(topology)] = kernel_set.sample(dy, x, topology)
    mask = dense(topology, np.ones_like(values)) != 0
    wide_bound = np.abs(dy.astype(np.longdouble)).T @ np.abs(x) * (8 + 2 * np.sqrt(len(x))) * UNIT[str(x.dtype)]
    error = np.abs(everywhere.reshape(topology.shape) - dy.astype(np.longdouble).T @ x)
    assert np.all(error[mask] <= wide_bound[mask])


@pytest.mark.parametrize("kernel_set", COMPILED)
@settings(max_examples=60, deadline=None, derandomize=True)
@given(case=cases(integers=True))
def test_KRN_007_integer_lattice_is_exact_and_equals_reference(kernel_set, case):
    topology, values, x, dy = case
    packed, packed_reference = kernel_set.pack(topology, values), reference.pack(topology, values)
    np.testing.assert_array_equal(kernel_set.matmul(x, packed), reference.matmul(x, packed_reference), strict=True)
    np.testing.assert_array_equal(
        kernel_set.matmul_transposed(dy, packed), reference.matmul_transposed(dy, packed_reference), strict=True
    )
    np.testing.assert_array_equal(kernel_set.sample(dy, x, topology), reference.sample(dy, x, topology), strict=True)


@pytest.mark.parametrize("kernel_set", COMPILED)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n", [*TOKENS, 511, 1000, 2047, 4096])
def test_KRN_007_every_count_of_tokens_is_exact(kernel_set, n, dtype):
    rng = np.random.default_rng(n)
    topology, values, x, dy = make_case(rng, make_mask(rng, 275, 150, 0.2, "empty rows"), n, dtype, integers=True)
    weight, packed = dense(topology, values), kernel_set.pack(topology, values)
    np.testing.assert_array_equal(kernel_set.matmul(x, packed), x @ weight.T, strict=True)
    np.testing.assert_array_equal(kernel_set.matmul_transposed(dy, packed), dy @ weight, strict=True)
    np.testing.assert_array_equal(
        kernel_set.sample(dy, x, topology), (dy.T @ x).reshape(-1)[flat(topology)], strict=True
    )


@pytest.mark.parametrize("kernel_set", COMPILED)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_KRN_006_constant_operands_round_the_same_way_every_time_and_still_stay_within_the_gauge(kernel_set, dtype):
    # Equal terms make every rounding of a long sum go the same way: the worst input of a running sum.
    mask = np.zeros((3, 4096), dtype=bool)
    mask[:, ::3] = True
    topology = make_topology(mask)
    values, x = np.full(topology.nnz, 0.1, dtype=dtype), np.full((20, 4096), 0.7, dtype=dtype)
    assert_within_gauge(kernel_set.matmul(x, kernel_set.pack(topology, values)), x, dense(topology, values).T, 1366)


@pytest.mark.parametrize("kernel_set", SETS)
@pytest.mark.parametrize("n", [1, 130])
def test_KRN_005_empty_rows_and_columns_give_exact_zeros(kernel_set, n):
    mask = np.zeros((70, 140), dtype=bool)
    mask[3, 100] = True
    topology, values, x, dy = make_case(np.random.default_rng(0), mask, n, "float32")
    packed = kernel_set.pack(topology, values)
    y, dx = kernel_set.matmul(x, packed), kernel_set.matmul_transposed(dy, packed)
    assert not np.delete(y, 3, axis=1).any()
    assert not np.delete(dx, 100, axis=1).any()
    assert y[:, 3].all()
    assert dx[:, 100].all()


@pytest.mark.parametrize("kernel_set", SETS)
def test_KRN_004_stored_zeros_are_sampled_and_replaced(kernel_set):
    topology, _, x, dy = make_case(np.random.default_rng(1), np.eye(5, 7, dtype=bool), 3, "float64", integers=True)
    packed = kernel_set.pack(topology, np.zeros(5))
    assert kernel_set.sample(dy, x, topology).tolist() == [(dy[:, i] * x[:, i]).sum() for i in range(5)]
    slots = np.array([4], dtype=np.int64)
    packed = kernel_set.store(packed, kernel_set.locate(packed, topology, slots), np.array([2.0]))
    assert kernel_set.matmul(x, packed)[:, 4].tolist() == (2 * x[:, 4]).tolist()


@pytest.mark.parametrize("kernel_set", SETS)
@settings(max_examples=40, deadline=None, derandomize=True)
@given(case=cases(integers=True), seed=st.integers(0, 2**32 - 1))
def test_KRN_012_store_at_located_slots_equals_packing_the_new_values(kernel_set, case, seed):
    topology, values, x, _ = case
    rng = np.random.default_rng(seed)
    slots = rng.permutation(topology.nnz)[: rng.integers(0, topology.nnz + 1)]
    new = rng.integers(-4, 5, slots.shape).astype(values.dtype)
    changed = values.copy()
    changed[slots] = new
    packed = kernel_set.pack(topology, values.copy())
    where = kernel_set.locate(packed, topology, slots)
    assert (where.dtype, where.shape) == (np.int64, slots.shape)
    stored = kernel_set.store(packed, where, new)
    np.testing.assert_array_equal(kernel_set.matmul(x, stored), x @ dense(topology, changed).T, strict=True)


@pytest.mark.parametrize("kernel_set", SETS)
def test_KRN_011_pack_dense_shares_memory_and_multiplies(kernel_set):
    rng = np.random.default_rng(2)
    weight, x, dy = (rng.integers(-4, 5, shape).astype(np.float32) for shape in ((5, 7), (3, 7), (3, 5)))
    packed = kernel_set.pack_dense(weight)
    assert np.shares_memory(packed.values, weight)
    assert packed.nbytes == weight.nbytes
    np.testing.assert_array_equal(kernel_set.matmul(x, packed), x @ weight.T)
    np.testing.assert_array_equal(kernel_set.matmul_transposed(dy, packed), dy @ weight)
    topology = from_flat((5, 7), np.array([3, 20, 34]))
    where = kernel_set.locate(packed, topology, np.array([1, 2]))
    np.testing.assert_array_equal(where, [20, 34])


def test_KRN_012_store_declines_the_donation_of_read_only_memory():
    weight = np.zeros((2, 3), dtype=np.float32)
    weight.flags.writeable = False
    packed = cpu.store(cpu.pack_dense(weight), np.array([4]), np.ones(1, dtype=np.float32))
    assert not weight.any()
    assert packed.values.tolist() == [0, 0, 0, 0, 1, 0]


# ---- KRN-008: threads ----------------------------------------------------------------------------


@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="this machine runs one thread")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n", [1, 20, 128, 129, 300, 1100])
def test_KRN_008_same_bits_on_one_and_two_threads(n, dtype):
    rng = np.random.default_rng(n)
    topology, values, x, dy = make_case(rng, make_mask(rng, 301, 190, 0.3, "random"), n, dtype)
    packed = cpu.pack(topology, values)
    before, results = numba.get_num_threads(), []
    try:
        for n_threads in (1, 2):
            numba.set_num_threads(n_threads)
            few = from_flat(topology.shape, flat(topology)[::37])
            sampled = (cpu.sample(dy, x, topology), cpu.sample(dy, x, few))
            results.append((cpu.matmul(x, packed), cpu.matmul_transposed(dy, packed), *sampled))
    finally:
        numba.set_num_threads(before)
    for one, two in zip(*results, strict=True):
        assert one.tobytes() == two.tobytes()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n", [1, 31, 64, 65, 200, 1100])
@pytest.mark.parametrize("share", [0.001, 0.01, 0.1])
def test_KRN_008_sums_by_blocks_of_tokens_and_by_parts_of_slots_are_the_same_bits(n, share, dtype):
    rng = np.random.default_rng(n)
    topology, _, x, dy = make_case(rng, make_mask(rng, 301, 190, share, "random"), n, dtype)
    whole = plain._sample_lines(dy, x, topology)
    before = numba.get_num_threads()
    try:
        for n_threads in range(1, before + 1):
            numba.set_num_threads(n_threads)
            assert plain._sample_blocks(dy, x, topology).tobytes() == whole.tobytes()
            assert plain._sample_lines(dy, x, topology).tobytes() == whole.tobytes()
    finally:
        numba.set_num_threads(before)
    np.testing.assert_allclose(whole, (dy.astype(float).T @ x).reshape(-1)[flat(topology)], rtol=2e-4, atol=2e-3)


# ---- reference on other libraries ----------------------------------------------------------------


@pytest.mark.parametrize("device_name", ["CPU_DEVICE", "device1"])
def test_KRN_001_002_003_012_reference_stays_on_the_device_it_is_given(device_name):
    here = array_api_strict.Device(device_name)
    rng = np.random.default_rng(3)
    plain, values, x, dy = make_case(rng, make_mask(rng, 6, 9, 0.4, "random"), 4, "float64", integers=True)

    def move(a):
        return array_api_strict.asarray(a, device=here)

    topology = Topology(plain.shape, move(plain.indptr), move(plain.indices))
    packed = reference.pack(topology, move(values))
    slots = move(np.array([2, 0]))
    stored = reference.store(packed, reference.locate(packed, topology, slots), move(np.array([9.0, 8.0])))
    changed = values.copy()
    changed[[2, 0]] = [9.0, 8.0]
    results = {
        "y": (reference.matmul(move(x), packed), x @ dense(plain, values).T),
        "dx": (reference.matmul_transposed(move(dy), packed), dy @ dense(plain, values)),
        "dvalues": (reference.sample(move(dy), move(x), topology), (dy.T @ x).reshape(-1)[flat(plain)]),
        "y after store": (reference.matmul(move(x), stored), x @ dense(plain, changed).T),
        "dense": (
            reference.matmul(move(x), reference.pack_dense(move(dense(plain, values)))),
            x @ dense(plain, values).T,
        ),
    }
    for got, expected in results.values():
        assert got.device == here
        np.testing.assert_array_equal(arrays.to_numpy(got), expected)
    assert packed.nbytes == 16 * plain.nnz


def test_KRN_010_reference_refuses_another_device():
    topology = from_flat((2, 2), array_api_strict.asarray([0]))
    packed = reference.pack(topology, array_api_strict.asarray([1.0]))
    x = array_api_strict.ones((1, 2), device=array_api_strict.Device("device1"))
    assert_refused("KRN-010", reference.matmul, x, packed)


# ---- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel_set", SETS)
def test_KRN_009_wrong_shapes_are_refused(kernel_set):
    topology = from_flat((2, 3), np.array([0, 2]))
    packed = kernel_set.pack(topology, np.ones(2))
    assert_refused("KRN-009", kernel_set.pack, topology, np.ones(3))
    assert_refused("KRN-009", kernel_set.pack_dense, np.ones(3))
    assert_refused("KRN-009", kernel_set.matmul, np.ones((4, 2)), packed)
    assert_refused("KRN-009", kernel_set.matmul, np.ones(3), packed)
    assert_refused("KRN-009", kernel_set.matmul_transposed, np.ones((4, 3)), packed)
    assert_refused("KRN-009", kernel_set.sample, np.ones((4, 2)), np.ones((5, 3)), topology)
    assert_refused("KRN-009", kernel_set.sample, np.ones((4, 3)), np.ones((4, 3)), topology)
    assert_refused("KRN-009", kernel_set.locate, packed, from_flat((3, 2), np.array([0])), np.array([0]))
    assert_refused("KRN-009", kernel_set.store, packed, np.array([0]), np.ones(2))


@pytest.mark.parametrize("kernel_set", SETS)
def test_KRN_010_wrong_dtypes_are_refused(kernel_set):
    topology = from_flat((2, 3), np.array([0, 2]))
    packed = kernel_set.pack(topology, np.ones(2))
    assert_refused("KRN-010", kernel_set.pack, topology, np.ones(2, dtype=np.float16))
    assert_refused("KRN-010", kernel_set.pack, topology, np.ones(2, dtype=np.int64))
    assert_refused("KRN-010", kernel_set.pack_dense, np.ones((2, 3), dtype=np.float16))
    assert_refused("KRN-010", kernel_set.matmul, np.ones((4, 3), dtype=np.float32), packed)
    assert_refused("KRN-010", kernel_set.matmul_transposed, np.ones((4, 2), dtype=np.float32), packed)
    assert_refused("KRN-010", kernel_set.sample, np.ones((4, 2), dtype=np.float32), np.ones((4, 3)), topology)
    assert_refused("KRN-010", kernel_set.store, packed, np.array([0]), np.ones(1, dtype=np.float32))


@pytest.mark.parametrize("kernel_set", SETS)
def test_KRN_012_places_out_of_range_are_refused(kernel_set):
    topology = from_flat((2, 3), np.array([0, 2]))
    packed = kernel_set.pack(topology, np.ones(2))
    assert_refused("KRN-012", kernel_set.locate, packed, topology, np.array([2]))
    assert_refused("KRN-012", kernel_set.locate, packed, topology, np.array([-1]))
    assert_refused("KRN-012", kernel_set.locate, packed, topology, np.array([0], dtype=np.int32))
    assert_refused("KRN-012", kernel_set.store, packed, np.array([packed.values.shape[0]]), np.ones(1))


@pytest.mark.parametrize("kernel_set", SETS)
def test_KRN_013_a_refusal_changes_nothing(kernel_set):
    topology = from_flat((2, 3), np.array([0, 2]))
    packed = kernel_set.pack(topology, np.ones(2))
    assert_refused("KRN-012", kernel_set.store, packed, np.array([0, 9]), np.full(2, 5.0))
    assert kernel_set.matmul(np.ones((1, 3)), packed).tolist() == [[2.0, 0.0]]


def test_KRN_009_010_cpu_refuses_strided_and_foreign_arrays():
    packed = cpu.pack(from_flat((2, 3), np.array([0, 2])), np.ones(2))
    assert_refused("KRN-009", cpu.matmul, np.ones((3, 4)).T, packed)
    assert_refused("KRN-009", cpu.pack_dense, np.ones((3, 4)).T)
    assert_refused("KRN-010", cpu.matmul, array_api_strict.ones((4, 3)), packed)


@pytest.mark.parametrize("kernel_set", SETS)
def test_KRN_009_matrices_without_rows_columns_or_tokens_are_matrices(kernel_set):
    for shape in ((0, 3), (2, 0), (2, 3)):
        topology = from_flat(shape, np.zeros(0, dtype=np.int64))
        packed = kernel_set.pack(topology, np.zeros(0))
        for n in (0, 2):
            x, dy = np.ones((n, shape[1])), np.ones((n, shape[0]))
            assert kernel_set.matmul(x, packed).tolist() == np.zeros((n, shape[0])).tolist()
            assert kernel_set.matmul_transposed(dy, packed).tolist() == np.zeros((n, shape[1])).tolist()
            assert kernel_set.sample(dy, x, topology).shape == (0,)
