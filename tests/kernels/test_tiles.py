"""The set that multiplies in bfloat16: sums of rounded operands in float64, and what stays in float32 (KRN-019).

Most tests need a processor with AMX; what other processors are told is tested on all of them.
"""

import ml_dtypes
import numba
import numpy as np
import pytest

from seft_ref.errors import KernelError
from seft_ref.kernels import KernelSet, cpu
from seft_ref.kernels.cpu import tile_loops, tiles
from seft_ref.quantise.grid import nearest, parse_grid, weights_of
from seft_ref.topology.csr import from_flat
from tests.kernels.refused import assert_refused

needs_amx = pytest.mark.skipif(tiles.without_tiles() is not None, reason=str(tiles.without_tiles()))

# around the edges of tiles (16 and 32), panels (64), groups of tokens and chunks of rows
SIZES = [
    (1, 1, 16),
    (16, 16, 16),
    (33, 70, 17),
    (64, 64, 31),
    (65, 129, 33),
    (130, 2049, 40),
    (2100, 31, 257),
    (100, 4200, 16),
    (7, 5, 600),
]


def rounded(a):
    return a.astype(ml_dtypes.bfloat16).astype(np.float64)


def drawn(n_out, n_in, share, seed, dtype="float32"):
    rng = np.random.default_rng(seed)
    at = np.flatnonzero(rng.random(n_out * n_in) < share)
    values = rng.standard_normal(at.size).astype(dtype)
    weight = np.zeros(n_out * n_in, dtype)
    weight[at] = values
    return from_flat((n_out, n_in), at), values, weight.reshape(n_out, n_in)


def operands(n, n_in, n_out, seed, dtype="float32"):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, n_in)).astype(dtype), rng.standard_normal((n, n_out)).astype(dtype)


def assert_close(result, a, b):
    """The sum of products of rounded numbers, with the error that float32 sums of so many terms may have."""
    assert result.dtype == np.float32
    bound = (8 + 2 * np.sqrt(a.shape[1])) * 2.0**-24 * (np.abs(a) @ np.abs(b))
    assert (np.abs(result - a @ b) <= bound + 1e-37).all()


@needs_amx
@pytest.mark.parametrize("share", [0.02, 0.3, 0.5, "dense"])
@pytest.mark.parametrize(("n_out", "n_in", "n"), SIZES)
def test_KRN_019_products_are_those_of_rounded_operands(monkeypatch, n_out, n_in, n, share):
    monkeypatch.setattr(tiles, "ROWS_FROM", 0)
    monkeypatch.setattr(tiles, "COLUMNS_FROM", 0)
    topology, values, weight = drawn(n_out, n_in, 1.0 if share == "dense" else share, seed=n_out + n)
    packed = tiles.pack_dense(weight) if share == "dense" else tiles.pack(topology, values)
    x, dy = operands(n, n_in, n_out, seed=n)
    assert_close(tiles.matmul(x, packed), rounded(x), rounded(weight).T)
    assert_close(tiles.matmul_transposed(dy, packed), rounded(dy), rounded(weight))


@needs_amx
def test_KRN_019_numbers_between_two_of_bfloat16_go_to_the_nearest_and_ties_to_the_even_one():
    # 1 + k/512: the spacing of bfloat16 above 1 is 2/256 = 4/512
    x = np.ones((16, 9), np.float32) + np.arange(9, dtype=np.float32) / 512
    packed = tiles.pack_dense(np.eye(9, dtype=np.float32))
    expected = 1 + np.array([0, 0, 0, 4, 4, 4, 8, 8, 8]) / 512
    assert tiles.matmul(x, packed)[0].tolist() == expected.tolist()
    assert tiles.matmul_transposed(x, packed)[15].tolist() == expected.tolist()
    of_weights = tiles.pack(from_flat((2, 20), np.arange(9)), x[0].copy())
    assert tiles.matmul(np.eye(16, 20, dtype=np.float32), of_weights)[:9, 0].tolist() == expected.tolist()


@needs_amx
def test_KRN_019_2_integers_up_to_256_are_exact():
    rng = np.random.default_rng(5)
    topology, values, weight = drawn(150, 190, 0.3, 5)
    weight = np.where(weight != 0, rng.integers(-256, 257, weight.shape), 0)
    values = weight.reshape(-1)[np.flatnonzero(drawn(150, 190, 0.3, 5)[2])].astype(np.float32)
    x, dy = (rng.integers(-256, 257, (40, k)) for k in (190, 150))
    packed = tiles.pack(topology, values)
    assert (tiles.matmul(x.astype(np.float32), packed) == x @ weight.T).all()
    assert (tiles.matmul_transposed(dy.astype(np.float32), packed) == dy @ weight).all()


@needs_amx
def test_KRN_008_threads_change_no_bit():
    topology, values, _ = drawn(300, 500, 0.3, 1)
    packed = tiles.pack(topology, values)
    x, dy = operands(300, 500, 300, 2)
    answers = []
    before = numba.get_num_threads()
    try:
        for threads in (1, min(2, before)):
            numba.set_num_threads(threads)
            answers.append((tiles.matmul(x, packed), tiles.matmul_transposed(dy, packed)))
    finally:
        numba.set_num_threads(before)
    for first, second in zip(*answers, strict=True):
        assert first.tobytes() == second.tobytes()


@needs_amx
def test_KRN_005_empty_sums_are_zero_and_empty_shapes_are_legal(monkeypatch):
    monkeypatch.setattr(tiles, "ROWS_FROM", 0)
    monkeypatch.setattr(tiles, "COLUMNS_FROM", 0)
    for n_out, n_in in ((0, 5), (5, 0), (40, 70)):
        packed = tiles.pack(from_flat((n_out, n_in), np.zeros(0, np.int64)), np.zeros(0, np.float32))
        x, dy = operands(20, n_in, n_out, 0)
        assert (tiles.matmul(x, packed) == np.zeros((20, n_out))).all()
        assert (tiles.matmul_transposed(dy, packed) == np.zeros((20, n_in))).all()


@needs_amx
def test_KRN_004_2_a_nan_stays_one():
    x = np.ones((16, 4), np.float32)
    x[3, 1] = np.uint32(0x7FFFFFFF).view(np.float32)
    y = tiles.matmul(x, tiles.pack_dense(np.ones((4, 4), np.float32)))
    assert np.isnan(y[3]).all()
    assert (np.delete(y, 3, axis=0) == 4).all()


@needs_amx
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_KRN_015_a_compact_matrix(dtype):
    topology, values, _ = drawn(70, 130, 0.3, 3)
    halves = values.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    packed = tiles.compact(topology, halves)
    weight = np.zeros(70 * 130)
    weight[np.flatnonzero(drawn(70, 130, 0.3, 3)[2])] = halves.astype(np.float64)
    weight = weight.reshape(70, 130)
    x, dy = operands(40, 130, 70, 4)
    # a matrix of float16 is multiplied in float32, because bfloat16 would drop three of its bits
    as_used = rounded if dtype == "bfloat16" else np.float64
    assert_close(tiles.matmul(x, packed), as_used(x), weight.T)
    assert_close(tiles.matmul_transposed(dy, packed), as_used(dy), weight)


CODED = [(*size, form) for size in SIZES for form in ("int8", "int4:asym")] + [
    (130, 2112, 40, "int8:g64"),
    (2100, 64, 257, "int4:g64"),
    (70, 160, 17, "int8:g16:asym"),
    (70, 160, 17, "int4:g16"),
    (100, 4224, 16, "int4:g32:asym"),
    (7, 384, 600, "int4:g128"),
]


@needs_amx
@pytest.mark.parametrize("share", [0.02, 0.3, 1.0])
@pytest.mark.parametrize(("n_out", "n_in", "n", "form"), CODED)
def test_KRN_018_codes_give_the_bits_of_their_float32_weights(monkeypatch, n_out, n_in, n, form, share):
    monkeypatch.setattr(tiles, "ROWS_FROM", 0)
    monkeypatch.setattr(tiles, "COLUMNS_FROM", 0)
    topology, _, weight = drawn(n_out, n_in, share, seed=n_out + n)
    codes = nearest(weight, topology, parse_grid(form))
    wide, packed = tiles.pack(topology, weights_of(codes, np.dtype(np.float32))), tiles.compact(topology, codes)
    x, dy = operands(n, n_in, n_out, seed=n)
    assert tiles.matmul(x, packed).tobytes() == tiles.matmul(x, wide).tobytes()
    assert tiles.matmul_transposed(dy, packed).tobytes() == tiles.matmul_transposed(dy, wide).tobytes()
    # and not those of products in float32
    assert n_in * n_out < 100 or tiles.matmul(x, packed).tobytes() != cpu.matmul(x, packed).tobytes()


@needs_amx
def test_KRN_016_a_split_matrix_and_a_changed_one():
    topology, values, weight = drawn(70, 130, 0.3, 3)
    x, dy = operands(40, 130, 70, 4)
    live = tiles.pack(topology, values)
    both = tiles.split(tiles.compact(topology, values.astype(ml_dtypes.bfloat16)), live)
    for result, a, b in (
        (tiles.matmul(x, both), rounded(x), 2 * rounded(weight).T),
        (tiles.matmul_transposed(dy, both), rounded(dy), 2 * rounded(weight)),
    ):
        assert_close(result, a, b)
    slots = np.array([0, 5, topology.nnz - 1])
    changed = tiles.store(live, tiles.locate(live, topology, slots), np.float32([9, -8, 7]))
    weight.reshape(-1)[np.flatnonzero(weight)[slots]] = [9, -8, 7]
    assert_close(tiles.matmul(x, changed), rounded(x), rounded(weight).T)


def test_KRN_019_3_what_stays_in_float32_and_float64():
    topology, values, _ = drawn(60, 90, 0.3, 1)
    x, dy = operands(tiles.FROM - 1, 90, 60, 2)
    packed = tiles.pack(topology, values)
    assert tiles.matmul(x, packed).tobytes() == cpu.matmul(x, packed).tobytes()
    assert tiles.matmul_transposed(dy, packed).tobytes() == cpu.matmul_transposed(dy, packed).tobytes()
    x, dy = operands(40, 90, 60, 2)
    assert tiles.sample(dy, x, topology).tobytes() == cpu.sample(dy, x, topology).tobytes()
    few, its, _ = drawn(60, 90, 0.05, 1)
    assert tiles.matmul(x, tiles.pack(few, its)).tobytes() == cpu.matmul(x, cpu.pack(few, its)).tobytes()
    wide = tiles.pack(topology, values.astype(np.float64))
    x, dy = (a.astype(np.float64) for a in (x, dy))
    assert tiles.matmul(x, wide).tobytes() == cpu.matmul(x, wide).tobytes()
    assert tiles.matmul_transposed(dy, wide).tobytes() == cpu.matmul_transposed(dy, wide).tobytes()


def test_KRN_019_4_a_processor_without_amx_is_refused(monkeypatch):
    monkeypatch.setattr(tiles, "without_tiles", lambda: "this processor has no AMX")
    topology, values, _ = drawn(60, 90, 0.3, 1)
    x, dy = operands(40, 90, 60, 2)
    packed = tiles.pack(topology, values)
    for call in (lambda: tiles.matmul(x, packed), lambda: tiles.matmul_transposed(dy, packed)):
        with pytest.raises(KernelError, match=r"KRN-019: this processor has no AMX; kernels\.cpu multiplies"):
            call()


def test_it_is_a_kernel_set_and_refuses_what_does_not_fit():
    assert isinstance(tiles, KernelSet)
    topology, values, _ = drawn(60, 90, 0.3, 1)
    packed = tiles.pack(topology, values)
    x, dy = operands(20, 90, 60, 2)
    assert_refused("KRN-009", lambda: tiles.matmul(dy, packed))
    assert_refused("KRN-009", lambda: tiles.matmul_transposed(x, packed))
    assert_refused("KRN-010", lambda: tiles.matmul(x.astype(np.float64), packed))


def test_the_scratch_of_a_worker_holds_whole_tiles():
    assert tile_loops.GROUP % 32 == tile_loops.DEPTH % 64 == 0
    assert tile_loops.A_SIZE * 2 == 2**20
