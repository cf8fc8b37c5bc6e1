"""Products with one token: many rows, short last panels, and processors that cannot look lanes up (KRN)."""

import ctypes
import os
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest

from seft_ref.kernels import cpu
from seft_ref.kernels.cpu import packed as layout
from seft_ref.kernels.cpu import panels, token
from seft_ref.kernels.cpu.token import TOKEN_ROWS, can_spread
from seft_ref.topology.csr import from_flat


def make(rng, n_out, n_in, share, dtype, *, integers):
    topology = from_flat((n_out, n_in), np.flatnonzero(rng.random(n_out * n_in) < share))

    def draw(n):
        return (rng.integers(-4, 5, n) if integers else rng.standard_normal(n)).astype(dtype)

    return topology, draw(topology.nnz), draw(n_in)[None, :]


def by_rows(topology, values, x):
    """Return each row's products, added up exactly."""
    wide = values.astype(np.longdouble) * x[0].astype(np.longdouble)[topology.indices]
    return np.array([wide[a:b].sum() for a, b in zip(topology.indptr[:-1], topology.indptr[1:], strict=True)])


@pytest.fixture(params=["by-index", "by-mask"])
def way(request, monkeypatch):
    """Both ways to find the columns of a row, whatever its length."""
    if request.param == "by-mask" and not can_spread():
        pytest.skip("this processor spreads no numbers by a mask")
    monkeypatch.setattr(token, "LONG", 0 if request.param == "by-mask" else panels.WIDTH + 1)
    return request.param


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float16"])
@pytest.mark.parametrize("n_in", [1, 15, 63, 64, 65, 130])
@pytest.mark.parametrize("share", [0.02, 0.25, 0.5])
def test_KRN_001_007_one_token_and_every_length_of_a_row(dtype, n_in, share):
    rng = np.random.default_rng(n_in)
    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    pack = cpu.pack if kind.itemsize > 2 else cpu.compact
    topology, values, x = make(rng, 400, n_in, share, kind, integers=True)
    x = x.astype(kind if kind.itemsize > 2 else np.float32)
    np.testing.assert_array_equal(cpu.matmul(x, pack(topology, values))[0], by_rows(topology, values, x))


def test_KRN_016_values_that_change_keep_the_masks(way):
    """A mask says which columns are stored, whatever stands there; memory that is packed anew has other masks."""
    rng = np.random.default_rng(5)
    topology, values, x = make(rng, 90, 150, 0.4, np.float32, integers=True)
    packed = cpu.pack(topology, values)
    bare = packed.nbytes
    np.testing.assert_array_equal(cpu.matmul(x, packed)[0], by_rows(topology, values, x))
    assert packed.nbytes - bare == (3 * 90 * 8 if way == "by-mask" else 0)
    places = cpu.locate(packed, topology, np.arange(topology.nnz))
    packed = cpu.store(packed, places, -values)
    np.testing.assert_array_equal(cpu.matmul(x, packed)[0], by_rows(topology, -values, x))
    np.testing.assert_array_equal(cpu.matmul(x, cpu.clear(packed, places))[0], np.zeros(90))
    fewer, others, _ = make(rng, 90, 150, 0.3, np.float32, integers=True)
    packed = cpu.pack(fewer, others, packed)
    np.testing.assert_array_equal(cpu.matmul(x, packed)[0], by_rows(fewer, others, x))


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_KRN_001_006_more_rows_than_sums_are_kept_of(dtype):
    topology, values, x = make(np.random.default_rng(0), 2 * TOKEN_ROWS + 77, 70, 0.3, dtype, integers=False)
    found = cpu.matmul(x, cpu.pack(topology, values))[0]
    gauge = by_rows(topology, np.abs(values), np.abs(x))
    terms = np.diff(topology.indptr)
    bound = (8 + 2 * np.sqrt(terms)) * (np.finfo(dtype).eps / 2) * gauge
    assert np.all(np.abs(found - by_rows(topology, values, x)) <= bound)


@pytest.mark.usefixtures("way")
def test_KRN_004_what_lies_behind_a_row_is_not_read():
    # the last row is shorter than a register, and behind it there is nothing of this matrix
    topology = from_flat((2, 64), np.array([0, 5, 64, 70, 127]))
    store = np.full(200, np.nan, dtype=np.float32)
    store[:5] = [1, 2, 3, 4, 5]
    packed = cpu.pack(topology, store[:5].copy())
    behind = layout.PackedPanels(packed.shape, store[:5], packed.index, packed.pointer)
    x = np.arange(64, dtype=np.float32)[None, :]
    assert cpu.matmul(x, behind)[0].tolist() == [10.0, 4 * 6 + 5 * 63]


def in_this_thread():
    """Have this process run tasks one after another, because numba compiles anew what starts threads, for each task."""

    def run(task, arguments, n_tasks, n_workers):
        kinds = tuple(a.dtype if isinstance(a, np.ndarray) else int for a in arguments)
        call = ctypes.CFUNCTYPE(None)(panels._address(task, (*kinds, int, int)))
        passed = [a.ctypes if isinstance(a, np.ndarray) else ctypes.c_int64(a) for a in arguments]
        for i in range(n_tasks):
            call(*passed, ctypes.c_int64(i), ctypes.c_int64(i % n_workers))

    panels.run = run


_ELSEWHERE = """
import numpy as np
from seft_ref.kernels import cpu
from seft_ref.kernels.cpu import token
from tests.kernels.test_token import by_rows, in_this_thread, make
in_this_thread()
assert not token.can_spread()
token.LONG = 0
for dtype in ("float32", "float64"):
    topology, values, x = make(np.random.default_rng(1), 301, 130, 0.3, dtype, integers=True)
    np.testing.assert_array_equal(cpu.matmul(x, cpu.pack(topology, values))[0], by_rows(topology, values, x))
print("the same")
"""


def test_KRN_001_a_processor_without_permutes_finds_the_same(tmp_path):
    environment = os.environ | {"NUMBA_CPU_FEATURES": "+sse2", "NUMBA_OPT": "1", "NUMBA_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", _ELSEWHERE], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout == "the same\n", done.stderr
