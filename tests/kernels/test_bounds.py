"""Nothing outside an array is touched: numba's own checks, and pages without access behind every array.

Loops in vectors are not checked by numba, so arrays end where a page without access begins. A child process runs
them, and a touch kills it. `make checked` runs this folder once more with NUMBA_BOUNDSCHECK=1.
"""

import ctypes
import itertools
import mmap
import subprocess
import sys
from dataclasses import replace

import numba
import numpy as np
import pytest

from seft_ref.kernels.cpu import coded, panels, plain, token, turned
from seft_ref.kernels.cpu import packed as layout
from seft_ref.kernels.cpu.scratch import scratch
from seft_ref.layers import attention, compiled
from seft_ref.quantise.grid import Grid, Quantised
from seft_ref.topology.csr import Topology, from_flat

SHAPES = [(1, 1), (3, 65), (17, 64), (5, 130), (70, 257), (301, 3), (1030, 5)]
TOKENS = [1, 2, 15, 16, 17, 129, 257, 385]


class Fence:
    """Arrays that end where a page without access begins."""

    def __init__(self):
        self.pages = []
        self.protect = ctypes.CDLL(None, use_errno=True).mprotect
        self.protect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]

    def empty(self, shape, dtype):
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        inside = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
        page = mmap.mmap(-1, inside + mmap.PAGESIZE)
        start = np.frombuffer(page, np.uint8).ctypes.data
        assert self.protect(start + inside, mmap.PAGESIZE, 0) == 0, ctypes.get_errno()
        self.pages.append(page)
        return np.frombuffer(page, np.uint8)[inside - size : inside].view(dtype).reshape(shape)

    def copy(self, array):
        there = self.empty(array.shape, array.dtype)
        there[...] = array
        return there


class Scratch:
    """In place of the kernels' own: as much as they asked for, and nothing behind."""

    def __init__(self, fence):
        self.fence = fence

    def take(self, shape, dtype):
        there = self.fence.empty(shape, dtype)
        there.view(np.uint8)[...] = 0xFF  # NaN of floats: nobody may count on zeros
        return there


def all_fenced(fence):
    """Put scratch, sorted tiles and opened rows of every later product behind fences."""
    scratch.take = Scratch(fence).take
    tiles, opened = turned.tiles, coded._opened
    turned.tiles = lambda *of: tuple(fence.copy(a) for a in tiles(*of))
    coded._opened = lambda *of: fence.copy(opened(*of))


def fenced(fence, made):
    return type(made)(made.shape, *(fence.copy(array) for array in (made.values, made.index, made.pointer)))


def fenced_codes(fence, made):
    scales, zeros = (fence.copy(a.T).T for a in (made.held_in.scales, made.held_in.zeros))
    codes, masks, order, starts = (fence.copy(a) for a in (made.codes, made.masks, made.order, made.starts))
    return replace(made, held_in=made.held_in.bare(scales, zeros), codes=codes, masks=masks, order=order, starts=starts)


def walk_codes():
    """Compare every product of codes with plain ones; the 64 bytes behind the codes belong to them."""
    fence = Fence()
    all_fenced(fence)
    rng = np.random.default_rng(0)
    for bits, shape, share in itertools.product((4, 8), SHAPES, (0.05, 0.3, 1.0)):
        stored = rng.random(shape) < share
        topology = from_flat(shape, np.flatnonzero(stored))
        codes, ones = rng.integers(-8, 8, topology.nnz).astype(np.int8), np.ones((shape[0], 1), np.float32)
        zeros = rng.integers(-8, 8, ones.shape).astype(np.int8)
        made = plain.compact(topology, Quantised(Grid(bits, symmetric=False), topology, codes, ones, zeros))
        dense = np.zeros(shape)
        dense[stored] = codes - zeros[np.nonzero(stored)[0], 0].astype(np.float64)
        packed = fenced_codes(fence, made)
        assert np.array_equal(plain.unpack(packed)[1].codes, codes)
        for n in TOKENS:
            x, dy = (fence.copy(rng.integers(-4, 5, (n, k)).astype(np.float32)) for k in shape[::-1])
            assert np.array_equal(plain.matmul(x, packed), x @ dense.T)
            assert np.array_equal(plain.matmul_transposed(dy, packed), dy @ dense)
        fence.pages.clear()


def walk():
    """Compare every product with plain ones, on arrays behind which there is nothing."""
    fence = Fence()
    all_fenced(fence)
    layout.PANELS_BELOW = plain.SAMPLE_BELOW = 2.0
    token.LONG = panels.WIDTH + 1  # no masks but where they are asked for
    rng = np.random.default_rng(0)
    for dtype, shape, share in itertools.product(("float32", "float64", "float16"), SHAPES, (0.05, 0.3, 1.0)):
        stored = rng.random(shape) < share
        found = from_flat(shape, np.flatnonzero(stored))
        topology = Topology(shape, fence.copy(found.indptr), fence.copy(found.indices))
        values = rng.integers(-4, 5, topology.nnz).astype(dtype)
        dense = np.zeros(shape)
        dense[stored] = values
        packed = fenced(fence, (plain.compact if dtype == "float16" else plain.pack)(topology, values))
        by_mask = fenced(fence, packed)
        pointers = packed.pointer.astype(np.int64) if shape[0] % 2 else packed.pointer
        by_mask = replace(by_mask, pointer=fence.copy(pointers))
        by_mask.masks.append(fence.empty(packed.pointer.size - 1, np.uint64))
        token.fill_masks(packed.index, packed.pointer, by_mask.masks[0])
        for n in TOKENS:
            x, dy = (fence.copy(rng.integers(-4, 5, (n, k)).astype(packed.dtype)) for k in shape[::-1])
            if n == 1:
                token.LONG = 0
                assert np.array_equal(plain.matmul(x, by_mask), x @ dense.T)
                token.LONG = panels.WIDTH + 1
            assert np.array_equal(plain.matmul(x, packed), x @ dense.T)
            assert np.array_equal(plain.matmul_transposed(dy, packed), dy @ dense)
            assert np.array_equal(plain.sample(dy, x, topology), (dy.T @ x)[stored])
            assert np.array_equal(plain.exceeding(x.reshape(-1), 2.0), np.flatnonzero(np.abs(x) > 2))
        fence.pages.clear()


def walk_attention():
    """Compare attention with the plain one, on inputs and scratch memory behind which there is nothing."""
    fence = Fence()
    all_fenced(fence)
    rng = np.random.default_rng(0)
    heads = ((1, 1), (4, 2))
    for dtype, (h, kv), t, earlier, d in itertools.product(
        ("float32", "float64"), heads, (16, 21, 66), (0, 3), (2, 40)
    ):
        s = t + earlier
        q, dy = (fence.copy(rng.standard_normal((2, h, t, d)).astype(dtype)) for _ in range(2))
        k, v = (fence.copy(rng.standard_normal((2, kv, s, d)).astype(dtype)) for _ in range(2))
        causal = np.tril(np.ones((1, t, s), dtype=bool), earlier)
        seen = fence.copy(causal if h == 1 else rng.random((2, t, s)) < 0.1)
        y, cache = compiled.attention_forward(q, k, v, seen)
        wanted, plain_cache = attention.attention_forward(q, k, v, seen)
        held = replace(cache, **{n: fence.copy(getattr(cache, n)) for n in ("q", "k", "v", "probabilities")})
        found = (y, *compiled.attention_backward(dy, held))
        for one, other in zip(found, (wanted, *attention.attention_backward(dy, plain_cache)), strict=True):
            assert np.allclose(one, other, rtol=1e-4, atol=1e-5)
        fence.pages.clear()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="pages are fenced by calls of Linux")
def test_KRN_001_018_nothing_behind_an_array_is_touched():
    done = child("walk_codes(); print('codes'); walk_attention(); print('attention'); walk()")
    assert done.stdout == "codes\nattention\nalive\n", (
        f"a loop touches what lies behind an array, or is wrong: {done.stderr}"
    )


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="pages are fenced by calls of Linux")
def test_a_fence_stops_whoever_steps_over_it():
    step = child("fence = Fence(); ctypes.string_at(fence.empty((3,), 'f4').ctypes.data + 12, 1)")
    assert step.returncode < 0


def child(work):
    code = f"from tests.kernels.test_bounds import *; {work}; print('alive')"
    return subprocess.run([sys.executable, "-u", "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.skipif(not numba.config.BOUNDSCHECK, reason="this run was not started with NUMBA_BOUNDSCHECK=1")
def test_the_loops_check_their_bounds():
    with pytest.raises(IndexError):
        panels.take_rows(np.array([0, 5]), np.zeros(1, np.int32), 0, 1, np.zeros((1, 1)), np.zeros(1))
