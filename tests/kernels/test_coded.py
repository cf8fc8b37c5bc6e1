"""Matrices that are held as codes (KRN-018): products, places, bytes, and processors without the fast instructions."""

import importlib
import os
import subprocess
import sys
import weakref
from types import SimpleNamespace

import array_api_strict as strict
import numba
import numpy as np
import pytest
from llvmlite.binding import get_host_cpu_features

from seft_ref.errors import KernelError
from seft_ref.kernels import cpu, reference
from seft_ref.kernels.cpu import decode, decode_spread, transposed
from seft_ref.kernels.cpu import packed as layout
from seft_ref.kernels.cpu.token import TOKEN_ROWS
from seft_ref.quantise.grid import Quantised, nearest, parse_grid, weights_at, weights_of
from seft_ref.topology.csr import flat, from_flat
from tests.kernels.sets import NAMED

SETS = {name: NAMED[name] for name in ("reference", "cpu", "transposed")}
CASES = [
    ((1, 1), 1.0, "int4"),
    ((5, 7), 0.4, "int8:asym"),
    ((64, 64), 0.3, "int4:g64"),
    ((65, 64), 0.9, "int4:g16:asym"),
    ((130, 192), 0.3, "int8:g64"),
    ((70, 200), 0.6, "int4:asym"),
    ((200, 128), 0.1, "int8:g32:asym"),
    ((33, 96), 0.5, "int4:g48"),
    ((40, 480), 0.3, "int8:g80"),
    ((1100, 64), 0.02, "int4:g32"),
    # two scales in a row of a panel that stores more than half of it
    ((70, 192), 0.9, "int4:g32:asym"),
    ((70, 192), 0.6, "int8:g32:asym"),
    ((3, 257), 1.0, "int8"),
    ((33, 0), 0.0, "int4"),
    ((0, 64), 0.0, "int8:g64"),
    ((700, 192), 0.3, "int8:g64"),
]
IDS = [f"{a}x{b}-{grid}" for (a, b), _, grid in CASES]


def drawn(shape, share, grid, seed=0):
    rng = np.random.default_rng(seed)
    topology = from_flat(shape, np.flatnonzero(rng.random(shape[0] * shape[1]) < share))
    return nearest(rng.standard_normal(shape).astype(np.float32), topology, parse_grid(grid))


def widened(matrix):
    return weights_of(matrix, np.dtype(np.float32))


def same_bits(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


@pytest.mark.parametrize("n", [0, 1, 2, 15, 16, 17, 33, 128, 129, 400])
@pytest.mark.parametrize(("shape", "share", "grid"), CASES, ids=IDS)
def test_KRN_018_products_are_those_of_the_float32_weights(shape, share, grid, n, monkeypatch):
    monkeypatch.setattr(layout, "PANELS_BELOW", 2.0)
    matrix = drawn(shape, share, grid)
    wide, packed = cpu.pack(matrix.topology, widened(matrix)), cpu.compact(matrix.topology, matrix)
    rng = np.random.default_rng(n)
    x, dy = (rng.standard_normal((n, k)).astype(np.float32) for k in shape[::-1])
    assert same_bits(cpu.matmul_transposed(dy, packed), cpu.matmul_transposed(dy, wide))
    if n == 1:
        # one token sums in another order
        dense = np.zeros(matrix.topology.numel)
        dense[flat(matrix.topology)] = widened(matrix)
        dense = dense.reshape(shape)
        bound = (8 + 2 * np.sqrt(np.diff(matrix.topology.indptr))) * 2.0**-24 * (np.abs(x) @ np.abs(dense.T))
        assert np.all(np.abs(cpu.matmul(x, packed) - x @ dense.T) <= bound)
    else:
        assert same_bits(cpu.matmul(x, packed), cpu.matmul(x, wide))


@pytest.mark.parametrize("kernels", SETS)
@pytest.mark.parametrize(("shape", "share", "grid"), CASES, ids=IDS)
def test_KRN_018_what_is_packed_comes_back(kernels, shape, share, grid):
    kernels, matrix = SETS[kernels], drawn(shape, share, grid)
    packed = kernels.compact(matrix.topology, matrix)
    topology, held = kernels.unpack(packed)
    assert same_bits(held.codes, matrix.codes)
    assert same_bits(topology.indptr, matrix.topology.indptr)
    assert same_bits(topology.indices, matrix.topology.indices)
    assert np.array_equal(held.scales, matrix.scales)
    assert np.array_equal(held.zeros, matrix.zeros)
    assert (packed.shape, packed.dtype, packed.opens) == (shape, np.float32, True)
    assert same_bits(packed.held_in.holding(topology, widened(matrix)).codes, matrix.codes)


@pytest.mark.parametrize("piece", [1, 7, 100])
@pytest.mark.parametrize(("shape", "share", "grid"), CASES, ids=IDS)
def test_QNT_002_weights_are_computed_a_few_rows_at_a_time(shape, share, grid, piece, monkeypatch):
    matrix, float32 = drawn(shape, share, grid), np.dtype(np.float32)
    whole = weights_at(matrix.codes, *matrix.parts_at(matrix.topology), float32)
    monkeypatch.setattr(importlib.import_module("seft_ref.quantise.grid"), "_PIECE", piece)
    assert same_bits(weights_of(matrix, float32), whole)


@pytest.mark.parametrize("kernels", SETS)
@pytest.mark.parametrize(("shape", "share", "grid"), CASES, ids=IDS)
def test_KRN_018_codes_that_are_stored_are_those_of_a_matrix_packed_anew(kernels, shape, share, grid):
    kernels, matrix, rng = SETS[kernels], drawn(shape, share, grid), np.random.default_rng(3)
    most = 1 << (matrix.bits - 1)
    slots = rng.permutation(matrix.topology.nnz)[: matrix.topology.nnz // 2]
    codes = matrix.codes.copy()
    codes[slots] = rng.integers(-most, most, slots.size)
    packed = kernels.compact(matrix.topology, matrix)
    stored = kernels.store(packed, kernels.locate(packed, matrix.topology, slots), codes[slots])
    topology, found = kernels.unpack(stored)
    assert same_bits(flat(topology), flat(matrix.topology))
    assert same_bits(found.codes, codes)
    anew = kernels.compact(matrix.topology, matrix.at(matrix.topology, codes))
    x = rng.standard_normal((3, shape[1])).astype(np.float32)
    assert same_bits(kernels.matmul(x, stored), kernels.matmul(x, anew))


@pytest.mark.parametrize("kernels", ["cpu", "transposed"])
def test_KRN_018_what_is_packed_keeps_none_of_the_codes_it_was_packed_from(kernels):
    matrix = drawn((64, 64), 0.3, "int4:g64")
    gone = weakref.ref(matrix.codes)
    packed = SETS[kernels].compact(matrix.topology, matrix)
    del matrix
    assert gone() is None
    assert packed.nbytes


@pytest.mark.parametrize("grid", ["int8", "int4", "int8:asym", "int4:asym"])
def test_KRN_018_QNT_002_every_code_with_every_zero_point(grid):
    grid = parse_grid(grid)
    every = np.arange(grid.lowest, grid.highest + 1)
    zeros = np.zeros(1, np.int64) if grid.symmetric else every
    topology = from_flat((zeros.size, every.size), np.arange(zeros.size * every.size))
    scales = np.random.default_rng(0).random((zeros.size, 1), dtype=np.float32) + np.float32(0.1)
    scales[0] = np.float32(2.0**-149)
    codes = np.tile(every, zeros.size).astype(np.int8)
    matrix = Quantised(grid, topology, codes, scales, zeros[:, None].astype(np.int8))
    exact = ((every[None, :] - zeros[:, None]) * scales.astype(np.float64)).astype(np.float32)
    packed = cpu.compact(topology, matrix)
    for n in (1, every.size):
        unit = np.eye(every.size, dtype=np.float32)
        found = np.concatenate([cpu.matmul(unit[i : i + n], packed) for i in range(0, every.size, n)])
        np.testing.assert_array_equal(found, exact.T)
        unit = np.eye(zeros.size, dtype=np.float32)
        found = np.concatenate([cpu.matmul_transposed(unit[i : i + n], packed) for i in range(0, zeros.size, n)])
        np.testing.assert_array_equal(found, exact)


@pytest.mark.parametrize("kernels", SETS)
@pytest.mark.parametrize(("shape", "share", "grid"), CASES[:10], ids=IDS[:10])
def test_KRN_016_018_clear_writes_the_zero_point(kernels, shape, share, grid):
    kernels, matrix = SETS[kernels], drawn(shape, share, grid)
    packed = kernels.compact(matrix.topology, matrix)
    slots = np.arange(0, matrix.topology.nnz, 3)
    cleared = kernels.clear(packed, kernels.locate(packed, matrix.topology, slots))
    _, zeros = matrix.parts_at(matrix.topology)
    expected = matrix.codes.copy()
    expected[slots] = zeros[slots]
    assert same_bits(kernels.unpack(cleared)[1].codes, expected)
    assert same_bits(kernels.unpack(packed)[1].codes, matrix.codes)


def test_KRN_018_one_token_and_more_rows_than_sums_are_kept_of():
    matrix = drawn((2 * TOKEN_ROWS + 77, 70), 0.3, "int4")
    codes = matrix.at(matrix.topology, matrix.codes)
    codes = Quantised(codes.grid, codes.topology, codes.codes, np.ones_like(codes.scales), codes.zeros)
    x = np.random.default_rng(1).integers(-4, 5, (1, 70)).astype(np.float32)
    wide = cpu.pack(codes.topology, widened(codes))
    np.testing.assert_array_equal(
        cpu.matmul(x, cpu.compact(codes.topology, codes)), cpu.matmul(np.repeat(x, 2, 0), wide)[:1]
    )


@pytest.mark.parametrize(("grid", "most"), [("int8:g64", 2.3), ("int4:g64", 1.8)])
def test_KRN_018_bytes_of_a_stored_weight_at_70_percent(grid, most):
    matrix = drawn((512, 512), 0.3, grid)
    packed = cpu.compact(matrix.topology, matrix)
    n_bytes = matrix.topology.nnz if grid.startswith("int8") else sum(
        -(-np.count_nonzero((matrix.topology.indices[a:b] // 64) == p) // 2)
        for a, b in zip(matrix.topology.indptr[:-1], matrix.topology.indptr[1:], strict=True)
        for p in range(8)
    )  # fmt: skip
    # the codes, for each row of 8 panels 8 bytes of a mask, 4 of a scale and 1 of an order, and where 8 blocks begin
    assert packed.nbytes == n_bytes + 64 + (8 + 4 + 1) * 512 * 8 + 8 * (8 * 8 + 1)
    assert packed.nbytes / matrix.topology.nnz < most
    assert transposed.compact(matrix.topology, matrix).nbytes == packed.nbytes


@pytest.mark.parametrize(("grid", "most"), [("int8:g64", 1.42), ("int4:g64", 0.92)])
def test_KRN_018_two_of_four_take_fewer_bytes_a_stored_weight(grid, most):
    rng = np.random.default_rng(5)
    two = rng.permuted(np.tile(np.arange(4), (512 * 128, 1)), axis=1)[:, :2]
    topology = from_flat((512, 512), np.sort((np.arange(512 * 128)[:, None] * 4 + two).reshape(-1)))
    matrix = nearest(rng.standard_normal((512, 512)).astype(np.float32), topology, parse_grid(grid))
    # half of the positions are stored, so that masks and scales are shared by more of them than at 70 %
    assert cpu.compact(topology, matrix).nbytes / topology.nnz < most


@pytest.mark.parametrize("grid", ["int4:g32:asym", "int8"])
@pytest.mark.parametrize("kernels", ["cpu", "transposed"])
def test_KRN_015_018_the_memory_of_a_spent_matrix_is_used_again(kernels, grid):
    kernels, matrix = SETS[kernels], drawn((130, 192), 0.4, grid)
    old = kernels.compact(matrix.topology, matrix)
    before = getattr(old, "rows", old)
    kept = np.flatnonzero(np.random.default_rng(5).random(matrix.topology.nnz) < 0.8)
    fewer = from_flat((130, 192), flat(matrix.topology)[kept])
    less = matrix.at(fewer, matrix.codes[kept])
    new = kernels.compact(fewer, less, old)
    after = getattr(new, "rows", new)
    assert np.shares_memory(after.codes, before.codes)
    assert np.shares_memory(after.masks, before.masks)
    fresh = kernels.compact(fewer, less)
    x = np.random.default_rng(6).standard_normal((17, 192)).astype(np.float32)
    assert same_bits(kernels.matmul(x, new), kernels.matmul(x, fresh))
    assert same_bits(kernels.unpack(new)[1].codes, less.codes)
    # what does not fit gets memory of its own
    whole = kernels.compact(matrix.topology, matrix, new)
    assert same_bits(kernels.unpack(whole)[1].codes, matrix.codes)
    other = drawn((130, 192), 0.4, "int4:g64")
    with pytest.raises(KernelError, match="KRN-010"):
        kernels.compact(other.topology, other, whole)
    small = drawn((64, 192), 0.4, grid)
    with pytest.raises(KernelError, match="KRN-009"):
        kernels.compact(small.topology, small, whole)


@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="this machine runs one thread")
@pytest.mark.parametrize("n", [1, 5, 130, 400])
def test_KRN_008_018_one_and_two_threads(n):
    matrix = drawn((190, 192), 0.3, "int4:g64:asym")
    packed = cpu.compact(matrix.topology, matrix)
    rng = np.random.default_rng(n)
    x, dy = (rng.standard_normal((n, k)).astype(np.float32) for k in (192, 190))
    before, seen = numba.get_num_threads(), []
    try:
        for n_threads in (1, 2):
            numba.set_num_threads(n_threads)
            seen.append((cpu.matmul(x, packed).tobytes(), cpu.matmul_transposed(dy, packed).tobytes()))
    finally:
        numba.set_num_threads(before)
    assert seen[0] == seen[1]


@pytest.mark.parametrize("kernels", SETS)
def test_KRN_018_what_cannot_be_held_is_refused(kernels):
    kernels, matrix = SETS[kernels], drawn((8, 32), 0.5, "int4:g8")
    if kernels is not reference:
        with pytest.raises(KernelError, match=r"KRN-018.*groups of 8 columns"):
            kernels.compact(matrix.topology, matrix)
    matrix = drawn((8, 32), 0.5, "int4:g16")
    with pytest.raises(KernelError, match="KRN-009"):
        kernels.compact(matrix.topology, matrix.at(matrix.topology, matrix.codes[:-1]))
    taller = from_flat((16, 32), flat(matrix.topology))
    with pytest.raises(KernelError, match=r"KRN-009.*scales"):
        kernels.compact(taller, matrix)
    packed = kernels.compact(matrix.topology, matrix)
    absent = np.setdiff1d(np.arange(8 * 32), flat(matrix.topology))[:1]
    for where in (absent, np.array([-1]), np.array([8 * 32])) if kernels is not reference else ():
        with pytest.raises(KernelError, match="KRN-012"):
            kernels.clear(packed, where)
    with pytest.raises(KernelError, match="KRN-010"):
        kernels.matmul(np.zeros((2, 32)), packed)
    first = kernels.locate(packed, matrix.topology, np.zeros(1, dtype=np.int64))
    for new, clause in (
        (np.zeros(1, dtype=np.float32), "KRN-018.*float32.*int8"),
        (np.array([8], dtype=np.int8), "KRN-018.*8 to 8; 4 bits hold -8 to 7"),
        (np.array([-9], dtype=np.int8), "KRN-018.*-9"),
        (np.zeros(2, dtype=np.int8), "KRN-009"),
    ):
        with pytest.raises(KernelError, match=clause):
            kernels.store(packed, first, new)
    beyond = (absent, np.array([8 * 32])) if kernels is not reference else (np.array([matrix.topology.nnz]),)
    for where in beyond:
        with pytest.raises(KernelError, match="KRN-012"):
            kernels.store(packed, np.concatenate([first, where]), matrix.codes[:1].repeat(2) ^ 1)
    for where, new in ((first, strict.asarray(matrix.codes[:1])), (strict.asarray(first), matrix.codes[:1])):
        with pytest.raises(KernelError, match=r"KRN-010.*one library"):
            kernels.store(packed, where, new)
    assert same_bits(kernels.unpack(packed)[1].codes, matrix.codes)  # KRN-013


@pytest.mark.skipif("gpu" not in NAMED, reason="no compiler for the GPU's kernels")
def test_KRN_018_a_set_without_codes_refuses_them():
    matrix = drawn((8, 32), 0.5, "int4:g16")
    with pytest.raises(KernelError, match=r"KRN-018.*expanded"):
        NAMED["gpu"].compact(matrix.topology, matrix)


_ELSEWHERE = """
from numba.core.registry import cpu_target
from seft_ref.kernels.cpu import decode, turned
from tests.kernels.test_coded import *
from tests.kernels.test_token import in_this_thread
in_this_thread()
assert decode.kind_of_row(cpu_target.target_context).__name__ == "Row"
layout.PANELS_BELOW = 2.0
# what is done with decoded rows is the same for all kinds of codes, and compiling takes all the time here: each kind is
# decoded by one of the three loops of several tokens
GATHERED, SCATTERED, TURNED = ("int4:g16:asym", "int4:asym", "int8:g64"), ("int4:g64", "int4:g48"), ("int8:g32:asym",)
for (shape, share, grid) in CASES[2:8]:
    matrix = drawn(shape, share, grid)
    wide, packed = cpu.pack(matrix.topology, widened(matrix)), cpu.compact(matrix.topology, matrix)
    dense = np.zeros(shape)
    dense.reshape(-1)[flat(matrix.topology)] = widened(matrix)
    for n in (1, 3, 130, 640):
        rng = np.random.default_rng(n)
        x, dy = (rng.standard_normal((n, k)).astype(np.float32) for k in shape[::-1])
        if n == 1 or grid in GATHERED:
            found = cpu.matmul(x, packed)
            np.testing.assert_allclose(found, x @ dense.T, rtol=1e-4, atol=1e-4)
            assert n == 1 or same_bits(found, cpu.matmul(x, wide))
        assert n < 640 or grid not in TURNED or turned.pays(n // 128, matrix.topology.nnz, shape)
        if n == 1:
            # rounded once for each weight, as with weights of floats
            fused = np.zeros(shape[1], dtype=np.float32)
            for row, factor in zip(dense, dy[0].astype(np.float64)):
                fused = (row * factor + fused).astype(np.float32)
            assert same_bits(cpu.matmul_transposed(dy, packed)[0], fused)
            fused = np.zeros(shape[0], dtype=np.float32)
            for column, factor in zip(dense.T, x[0].astype(np.float64)):
                fused = (column * factor + fused).astype(np.float32)
            assert same_bits(found[0], fused)
        if n == 1 or (grid in SCATTERED and n < 640) or (grid in TURNED and n == 640):
            found = cpu.matmul_transposed(dy, packed)
            np.testing.assert_allclose(found, dy @ dense, rtol=1e-4, atol=1e-4)
            assert n == 1 or same_bits(found, cpu.matmul_transposed(dy, wide))
print("the same")
"""


def on_processor(*command, **of):
    """Run Python with loops compiled for a processor: its name for LLVM, and the features that are looked at."""
    environment = os.environ | {f"NUMBA_CPU_{key.upper()}": value for key, value in of.items()} | {"NUMBA_OPT": "1"}
    done = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == "the same\n", done.stderr


def needs(*features):
    """Skip a test if this processor lacks features."""
    if lacking := sorted(set(features) - {f"+{name}" for name, has in get_host_cpu_features().items() if has}):
        pytest.skip(f"this processor lacks {', '.join(lacking)}")


def test_KRN_018_a_processor_that_cannot_spread_bytes_finds_the_same(tmp_path, monkeypatch):
    needs("+sse4.2")
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    on_processor("-c", _ELSEWHERE, name="nehalem", features="+sse4.2")


@pytest.mark.parametrize(
    ("kind", "features", "processor"),
    [
        ("Spread", decode_spread.FEATURES, {}),
        ("Deposit", {"+avx2", "+bmi2", "+fma"}, {"name": "x86-64-v3", "features": "+avx2,+bmi2,+fma"}),
        ("Row", {"+sse4.2"}, {"name": "nehalem", "features": "+sse4.2"}),
    ],
    ids=["Spread", "Deposit", "Row"],
)
def test_KRN_018_QNT_002_every_row_is_decoded_by_the_loops_of_each_processor(kind, features, processor):
    needs(*features)
    on_processor("-m", "tests.kernels.decoded_rows", kind, **processor)


@pytest.mark.parametrize(
    ("processor", "features", "kind"),
    [
        ("znver5", "+avx2,+bmi2,+avx512f,+avx512bw,+avx512vl,+avx512vbmi,+avx512vbmi2", "Spread"),
        ("skylake-avx512", "+avx2,+bmi2,+avx512f,+avx512bw,+avx512vl", "Deposit"),
        ("znver3", "+avx2,+bmi2", "Deposit"),
        ("znver2", "+avx2,+bmi2", "Row"),  # its `pdep` takes longer than the loop
        ("nehalem", "+sse4.2", "Row"),
    ],
)
def test_KRN_018_each_processor_gets_its_loops(processor, features, kind):
    code = SimpleNamespace(magic_tuple=lambda: ("x86_64", processor, features))
    assert decode.kind_of_row(SimpleNamespace(codegen=lambda: code)).__name__ == kind
