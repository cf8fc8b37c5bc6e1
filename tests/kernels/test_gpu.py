"""gpu.cu on a CPU: what the other sets do not have, and what only a GPU's memory would forgive."""

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from conformance.engine import on_cpu as stand_in
from seft_ref.errors import KernelError
from seft_ref.kernels import reference
from seft_ref.kernels.gpu.launch import KERNELS
from seft_ref.kernels.gpu.on_device import FEW, TILE_ROWS, OnDevice
from seft_ref.topology.csr import Topology, flat, from_flat
from seft_ref.topology.nm import NMTopology, grouped
from tests.kernels import cupy_on_cpu
from tests.kernels.test_kernels import assert_within_gauge, dense, make_case, make_mask

pytestmark = pytest.mark.skipif(bool(stand_in.without_gpp()), reason=stand_in.without_gpp())

PATTERNS = [(2, 4), (1, 4), (4, 8), (1, 1), (3, 3), (7, 62)]


@pytest.fixture(scope="module")
def gpu():
    return stand_in.on_cpu()


def in_pattern(rng, n_out, n_groups, pattern, share):
    """A topology of which every group stores n columns, or some groups fewer."""
    n, m = pattern
    ranks = np.argsort(rng.random((n_out, n_groups, m)), axis=2)
    mask = (ranks < n) & (rng.random((n_out, n_groups, m)) < share)
    return from_flat((n_out, n_groups * m), np.flatnonzero(mask))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("share", [1.0, 0.8])
@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@pytest.mark.parametrize("n", [0, 1, 3, FEW, FEW + 1, 128, 300])
def test_KRN_001_002_012_products_of_a_pattern_are_exact(gpu, n, pattern, share, dtype):
    rng = np.random.default_rng(n + pattern[1])
    topology = grouped(in_pattern(rng, 21, 5, pattern, share), pattern)
    values = rng.integers(-4, 5, topology.nnz).astype(dtype)
    x, dy = (rng.integers(-4, 5, (n, k)).astype(dtype) for k in topology.shape[::-1])
    packed = gpu.pack(topology, values)
    assert packed.grouped is not None
    weight = dense(topology, values)
    np.testing.assert_array_equal(gpu.matmul(x, packed), x @ weight.T, strict=True)
    np.testing.assert_array_equal(gpu.matmul_transposed(dy, packed), dy @ weight, strict=True)
    np.testing.assert_array_equal(gpu.sample(dy, x, topology), reference.sample(dy, x, topology), strict=True)
    slots = rng.permutation(topology.nnz)[: topology.nnz // 2]
    new = rng.integers(5, 9, slots.shape).astype(dtype)
    stored = gpu.store(packed, gpu.locate(packed, topology, slots), new)
    values[slots] = new
    np.testing.assert_array_equal(gpu.matmul(x, stored), x @ dense(topology, values).T, strict=True)


def test_KRN_011_a_pattern_takes_five_bytes_an_entry_and_a_thin_one_goes_by_rows(gpu):
    rng = np.random.default_rng(0)
    full = grouped(in_pattern(rng, 40, 8, (2, 4), 1.0), (2, 4))
    assert gpu.pack(full, np.ones(full.nnz, dtype=np.float32)).nbytes == 5 * full.nnz
    thin = grouped(in_pattern(rng, 40, 8, (2, 4), 0.2), (2, 4))
    assert gpu.pack(thin, np.ones(thin.nnz, dtype=np.float32)).grouped is None
    # a pattern is found, too, and one position too many breaks it
    plain = from_flat(full.shape, flat(full))
    assert gpu.pack(plain, np.ones(full.nnz, dtype=np.float32)).grouped is not None
    moved = np.setdiff1d(np.union1d(flat(full), [0, 1, 2]), [7])
    broken = from_flat(full.shape, moved)
    assert gpu.pack(broken, np.ones(broken.nnz, dtype=np.float32)).grouped is None


@pytest.mark.parametrize(("dtype", "share"), [("float32", 0.25), ("float64", 0.4)])
def test_KRN_011_no_matrix_takes_more_than_a_dense_one(gpu, dtype, share):
    for n in (int(share * 10_000) - 1, int(share * 10_000)):
        topology = from_flat((100, 100), np.arange(n))
        packed = gpu.pack(topology, np.ones(n, dtype=dtype))
        assert (packed.topology is None) == (n == int(share * 10_000))
        assert packed.nbytes - 16 * 101 <= 10_000 * packed.dtype.itemsize


class Elsewhere(np.ndarray):
    """An array of a second GPU."""


def elsewhere(a):
    return a.view(Elsewhere)


class FirstOfTwo:
    """A machine whose current device is the first of two."""

    def __init__(self, machine):
        self._machine = machine

    def __getattr__(self, name):
        return getattr(self._machine, name)

    def owns(self, a):
        return not isinstance(a, Elsewhere) and self._machine.owns(a)


def test_KRN_010_what_lies_on_another_device_is_refused(gpu):
    kernels = OnDevice(FirstOfTwo(gpu.matmul.__self__.machine))
    topology = from_flat((4, 6), np.arange(0, 24, 5))
    in_groups = grouped(from_flat((4, 8), np.arange(0, 32, 4)), (2, 4))
    values, x, dy = (np.ones(size, dtype=np.float32) for size in ((topology.nnz,), (3, 6), (3, 4)))
    there = Topology(topology.shape, topology.indptr, elsewhere(topology.indices))
    pointers_there = Topology(topology.shape, elsewhere(topology.indptr), topology.indices)
    groups_there = NMTopology(in_groups.shape, in_groups.pattern, elsewhere(in_groups.masks), in_groups.nnz)
    packed = kernels.pack(topology, values)
    moved = replace(packed, values=elsewhere(packed.values))
    half = kernels.compact(topology, values.astype(np.float16))
    slots = np.arange(2)
    calls = {
        "packed is": lambda: kernels.matmul(x, moved),
        "packed": lambda: kernels.matmul_transposed(dy, moved),
        "live": lambda: kernels.matmul(x, kernels.split(half, moved)),
        "frozen": lambda: kernels.matmul(x, kernels.split(replace(half, values=elsewhere(half.values)), packed)),
        "indices": lambda: kernels.sample(dy, x, there),
        "indptr": lambda: kernels.sample(dy, x, pointers_there),
        "masks": lambda: kernels.sample(dy, np.ones((3, 8), dtype=np.float32), groups_there),
        "masks at pack": lambda: kernels.pack(groups_there, np.ones(in_groups.nnz, dtype=np.float32)),
        "indices at pack": lambda: kernels.pack(there, values),
        "indices at compact": lambda: kernels.compact(pointers_there, values.astype(np.float16)),
        "where at store": lambda: kernels.store(packed, elsewhere(slots), np.ones(2, dtype=np.float32)),
        "values at store": lambda: kernels.store(packed, slots, elsewhere(np.ones(2, dtype=np.float32))),
        "where at clear": lambda: kernels.clear(half, elsewhere(slots)),
        "slots": lambda: kernels.locate(packed, topology, elsewhere(slots)),
    }
    told = {}
    for name, call in calls.items():
        try:
            told[name] = str(call())
        except KernelError as error:
            told[name] = str(error)
    assert not [t for t in told.values() if not re.match(r"KRN-010: \w+ is a Elsewhere on .* current device$", t)], told
    # and what lies here is taken
    kernels.matmul(x, kernels.split(half, kernels.store(packed, slots, np.ones(2, dtype=np.float32))))
    kernels.sample(dy, np.ones((3, 8), dtype=np.float32), in_groups)


@pytest.mark.parametrize("n", [1, FEW + 1])
def test_KRN_006_a_row_of_many_equal_terms(gpu, n):
    # Equal terms make every rounding of a running sum go the same way.
    topology = from_flat((1, 400_000), np.arange(0, 400_000, 5))
    values, x = np.full(topology.nnz, 0.1, dtype=np.float32), np.full((n, 400_000), 0.7, dtype=np.float32)
    term = np.longdouble(np.float32(0.1)) * np.longdouble(np.float32(0.7))
    error = np.abs(gpu.matmul(x, gpu.pack(topology, values)) / (topology.nnz * term) - 1)
    assert error.max() <= 20 * 2.0**-24


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n", [2, 40])
def test_KRN_006_a_pattern_with_padding(gpu, n, dtype):
    rng = np.random.default_rng(1)
    topology = grouped(in_pattern(rng, 5, 5000, (2, 4), 0.7), (2, 4))
    values = rng.standard_normal(topology.nnz).astype(dtype)
    x, dy = (rng.standard_normal((n, k)).astype(dtype) for k in topology.shape[::-1])
    packed = gpu.pack(topology, values)
    assert packed.grouped is not None
    weight = dense(topology, values)
    assert_within_gauge(gpu.matmul(x, packed), x, weight.T, np.diff(topology.indptr)[None, :])
    n_in_column = np.bincount(topology.indices, minlength=topology.shape[1])
    assert_within_gauge(gpu.matmul_transposed(dy, packed), dy, weight, n_in_column[None, :])


@pytest.mark.parametrize("half", [ml_dtypes.bfloat16, np.float16])
def test_KRN_015_every_number_of_16_bits_is_widened_exactly(gpu, half):
    bits = np.arange(1 << 16, dtype=np.uint16).reshape(256, 256)
    values = bits.view(half)
    finite = np.isfinite(values.astype(np.float32))
    topology = from_flat((256, 256), np.flatnonzero(finite))
    packed = gpu.compact(topology, values[finite])
    wide = np.where(finite, values.astype(np.float32), np.float32(0))
    # one factor 1 and zeros leave one entry of a row: no sum rounds, and no two numbers meet
    np.testing.assert_array_equal(gpu.matmul(np.eye(256, dtype=np.float32)[:3], packed), wide.T[:3])
    np.testing.assert_array_equal(gpu.matmul(np.eye(256, dtype=np.float32), packed), wide.T)
    np.testing.assert_array_equal(gpu.matmul_transposed(np.eye(256, dtype=np.float32), packed), wide)


def test_KRN_002_015_a_compact_matrix_of_more_rows_than_are_opened_at_once(gpu):
    rng = np.random.default_rng(2)
    mask = make_mask(rng, 2 * TILE_ROWS + 3, 9, 0.3, "random")
    topology = from_flat(mask.shape, np.flatnonzero(mask))
    values, dy = rng.integers(-4, 5, topology.nnz).astype(np.float16), rng.integers(-4, 5, (5, mask.shape[0]))
    dy = dy.astype(np.float32)
    packed = gpu.compact(topology, values)
    assert packed.nbytes == 6 * topology.nnz + 8 * (mask.shape[0] + 1)
    np.testing.assert_array_equal(gpu.matmul_transposed(dy, packed), dy @ dense(topology, values.astype(np.float32)))


@pytest.mark.parametrize("share", [0.05, 0.19, 0.21, 0.9])
def test_KRN_003_sampled_by_slots_and_by_tiles(gpu, share):
    rng = np.random.default_rng(3)
    topology, _, x, dy = make_case(rng, rng.random((TILE_ROWS + 5, 30)) < share, 33, "float32", integers=True)
    np.testing.assert_array_equal(gpu.sample(dy, x, topology), (dy.T @ x).reshape(-1)[flat(topology)], strict=True)


def test_KRN_008_012_nothing_that_was_given_is_changed_and_bits_repeat(gpu):
    rng = np.random.default_rng(4)
    topology, values, x, dy = make_case(rng, rng.random((40, 50)) < 0.15, 20, "float32")
    arrays = (values, x, dy, topology.indptr, topology.indices)
    before = [a.tobytes() for a in arrays]
    packed = gpu.pack(topology, values)
    first = [gpu.matmul(x, packed), gpu.matmul_transposed(dy, packed), gpu.sample(dy, x, topology)]
    again = [gpu.matmul(x, packed), gpu.matmul_transposed(dy, packed), gpu.sample(dy, x, topology)]
    assert [a.tobytes() for a in first] == [a.tobytes() for a in again]
    gpu.store(packed, np.arange(3), np.zeros(3, dtype=np.float32))
    assert [a.tobytes() for a in arrays] == before


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n", [3, 150])
def test_KRN_008_no_bit_depends_on_the_order_of_threads(gpu, n, dtype):
    # a thread that reads what another has yet to write, or writes what another has written, is seen in one order
    backwards = OnDevice(stand_in.OnCpu(stand_in.compiled_by_gpp(), backwards=True))
    rng = np.random.default_rng(n)
    topology, values, x, dy = make_case(rng, make_mask(rng, 60, 44, 0.15, "random"), n, dtype)
    pattern = grouped(in_pattern(rng, 60, 11, (2, 4), 0.9), (2, 4))
    results = []
    for kernels in (gpu, backwards):
        matrices = [kernels.pack(topology, values), kernels.pack(pattern, np.ones(pattern.nnz, dtype=dtype))]
        if dtype == "float32":
            matrices.append(kernels.compact(topology, values.astype(np.float16)))
        found = [f(a, m) for m in matrices for f, a in ((kernels.matmul, x), (kernels.matmul_transposed, dy))]
        found += [kernels.sample(dy, x, topology)]
        found += [kernels.exceeding(np.resize(values, 3000), least) for least in (-1.0, 0.3, 1.0)]
        results.append([a.tobytes() for a in found])
    assert results[0] == results[1]


def test_KRN_009_010_what_kernels_cannot_walk_is_refused(gpu):
    from array_api_strict import ones

    from tests.kernels.refused import assert_refused

    packed = gpu.pack(from_flat((2, 3), np.array([0, 2])), np.ones(2))
    assert_refused("KRN-009", gpu.matmul, np.ones((3, 4)).T, packed)
    assert_refused("KRN-009", gpu.pack_dense, np.ones((3, 4)).T)
    assert_refused("KRN-010", gpu.matmul, ones((4, 3)), packed)


def test_KRN_012_64_bit_pointers_and_columns_of_other_width(gpu):
    # what a file or another library may hand over: the same numbers in other integers
    topology = from_flat((2, 3), np.array([0, 2, 4]))
    other = Topology((2, 3), topology.indptr.astype(np.int32), topology.indices.astype(np.int64))
    x = np.arange(6, dtype=np.float64).reshape(2, 3)
    values = np.array([2.0, 3.0, 4.0])
    np.testing.assert_array_equal(gpu.matmul(x, gpu.pack(other, values)), gpu.matmul(x, gpu.pack(topology, values)))
    np.testing.assert_array_equal(gpu.sample(x[:, :2].copy(), x, other), gpu.sample(x[:, :2].copy(), x, topology))


_BY_CUPY = """
import inspect
import numpy as np
from seft_ref import kernels
from seft_ref.kernels import gpu, reference
from tests.kernels import cupy_on_cpu
from tests.kernels.test_kernels import make_case
for name in kernels.NAMES:
    assert [(p.name, p.default) for p in inspect.signature(getattr(gpu, name)).parameters.values()] == [
        (p.name, p.default) for p in inspect.signature(getattr(reference, name)).parameters.values()
    ], name
assert sorted(gpu.__all__) == sorted(["LAYERS", *kernels.NAMES])
rng = np.random.default_rng(0)
for n in (3, 40):
    topology, values, x, dy = make_case(rng, rng.random((20, 30)) < 0.15, n, "float32", integers=True)
    ours, definition = gpu.pack(topology, values), reference.pack(topology, values)
    assert (gpu.matmul(x, ours) == reference.matmul(x, definition)).all()
    assert (gpu.matmul_transposed(dy, ours) == reference.matmul_transposed(dy, definition)).all()
    assert (gpu.sample(dy, x, topology) == reference.sample(dy, x, topology)).all()
    assert (gpu.exceeding(values, 1.0) == reference.exceeding(values, 1.0)).all()
"""


def test_KRN_001_002_003_014_the_set_for_cupy_launches_what_the_table_says(tmp_path):
    # as CuPy calls it: a module of that name, whose kernels run on a CPU
    cupy_on_cpu.install(tmp_path)
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{Path(stand_in.__file__).parents[2]}"}
    done = subprocess.run(
        [sys.executable, "-c", _BY_CUPY], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


# Every kernel, on arrays that end where a line of memory ends or not, watched by the address and undefined behaviour
# sanitizers: a read or write outside an array ends the process.
_WATCHED = """
import sys
from pathlib import Path
import numpy as np
from conformance.engine.on_cpu import OnCpu
from seft_ref.kernels.gpu import on_device
from seft_ref.topology.nm import NMTopology, grouped
from tests.kernels.test_gpu import in_pattern
from tests.kernels import cupy_on_cpu
from tests.kernels.test_kernels import make_case, make_mask
class Counting(OnCpu):
    used = set()
    def run(self, name, grid, *arguments):
        self.used.add(name)
        super().run(name, grid, *arguments)
gpu = on_device.OnDevice(Counting(Path(sys.argv[1])))
rng = np.random.default_rng(0)
for dtype in ("float32", "float64"):
    for n_out, n_in, n in ((1, 1, 1), (9, 130, 3), (33, 65, 17), (70, 31, 129)):
        for share in (0.1, 0.4):
            topology, values, x, dy = make_case(rng, make_mask(rng, n_out, n_in, share, "random"), n, dtype)
            packed = gpu.pack(topology, values)
            gpu.matmul(x, packed), gpu.matmul_transposed(dy, packed), gpu.sample(dy, x, topology)
            if dtype == "float32":
                import ml_dtypes
                for half in (ml_dtypes.bfloat16, np.float16):
                    packed = gpu.compact(topology, values.astype(half))
                    gpu.matmul(x, packed), gpu.matmul_transposed(dy, packed)
        pattern = grouped(in_pattern(rng, n_out, 7, (2, 4), 0.9), (2, 4))
        packed = gpu.pack(pattern, np.ones(pattern.nnz, dtype=dtype))
        gpu.matmul(np.ones((n, 28), dtype=dtype), packed), gpu.matmul_transposed(dy, packed)
    for n in (1, 1023, 1024, 1025, 3000):
        gpu.exceeding(rng.standard_normal(n).astype(dtype), 0.5)
        gpu.exceeding(np.ones(n, dtype=dtype), 0.5)
print(*sorted(Counting.used))
"""


def _asan():
    found = subprocess.run(["g++", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True).stdout
    return found.strip() if Path(found.strip()).is_absolute() else ""


def watched(library):
    environment = os.environ | {"LD_PRELOAD": _asan(), "ASAN_OPTIONS": "detect_leaks=0", "OPENBLAS_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", _WATCHED, str(library)], env=environment, capture_output=True, text=True, check=False
    )


SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g")


def test_every_kernel_stays_inside_its_arrays():
    if not _asan():
        pytest.skip("this g++ has no address sanitizer")
    done = watched(stand_in.compiled_by_gpp(SANITIZERS))
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == sorted(KERNELS)
