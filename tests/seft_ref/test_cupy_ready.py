"""CuPy's options without the one that flushes, whatever is asked of it, and one line where that cannot be had."""

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from seft_ref.arrays.cupy_ready import UnfitCupy, keep_subnormals, try_out
from seft_ref.arrays.library import without_cupy
from tests import backends
from tests.kernels.cupy_on_cpu import Compiler

END = ["-arch=sm_80", "--device-as-default-execution-space"]


def fake(compiler, **more):
    return SimpleNamespace(__version__="99.0", cuda=SimpleNamespace(compiler=compiler), **more)


def test_the_stand_in_flushes_as_cupy_does():
    compiler = Compiler()
    compiler._compile_module_with_cache("", ("-I/a",), arch="80")
    assert compiler.handed == [["-I/a", "-ftz=true", *END]]


@pytest.mark.parametrize("options", [(), ("--std=c++14",), ("-I/a", "-DX=1")])
def test_NUM_006_no_kernel_is_compiled_to_flush_subnormals(options):
    compiler = Compiler()
    keep_subnormals(fake(compiler))
    once = compiler._compile_module_with_cache
    keep_subnormals(fake(compiler))
    assert compiler._compile_module_with_cache is once
    compiler._compile_module_with_cache("", options, arch="80")
    compiler._compile_module_with_cache("", options, arch="80", jitify=True)
    assert compiler.handed == [[*options, *END], [*options, "-DCUPY_USE_JITIFY", *END]]
    # names in the cache on disk are made of these, and must not be those of flushed kernels
    assert "-ftz" not in str(compiler._empty_file_preprocess_cache)


def test_a_cupy_that_compiles_otherwise_is_refused():
    with pytest.raises(UnfitCupy, match=r"^CuPy 99.0 compiles in a way that is not known here; 13.6 and 14.2 do "):
        keep_subnormals(fake(SimpleNamespace()))


def test_kernels_that_flush_already_are_refused():
    compiler = Compiler()
    compiler._compile_module_with_cache("", arch="80")
    with pytest.raises(UnfitCupy, match=r"import seft_ref.kernels.gpu before anything is computed with CuPy"):
        keep_subnormals(fake(compiler))


class Flushing(np.ndarray):
    """Sums of float32 as kernels with -ftz=true give them."""

    def __add__(self, other):
        total = np.asarray(self) + np.asarray(other)
        return np.where(abs(total) < np.finfo(total.dtype).smallest_normal, total.dtype.type(0), total)


def zeros_of(kind):
    return lambda shape, dtype=float: np.zeros(shape, dtype).view(kind)


def test_a_first_sum_shows_that_subnormals_are_kept():
    try_out(np)
    with pytest.raises(UnfitCupy, match=r"^CuPy 99.0 flushes subnormal numbers all the same"):
        try_out(fake(None, zeros=zeros_of(Flushing), ones=np.ones, int32=np.int32, float32=np.float32))


class Coarse(np.ndarray):
    """A matrix whose factors lose all bits but those of TF32 before they are multiplied."""

    def __mul__(self, other):
        return (np.asarray(self) * np.float32(other)).view(Coarse)

    def __matmul__(self, other):
        short = (np.asarray(self).view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32)
        return short @ np.asarray(other)


def test_KRN_006_a_first_product_shows_that_no_bits_are_lost():
    def ones(shape, dtype):
        return np.ones(shape, dtype).view(Coarse)

    with pytest.raises(UnfitCupy, match=r"fewer bits than it has; unset CUPY_TF32, .* and NVIDIA_TF32_OVERRIDE$"):
        try_out(fake(None, zeros=np.zeros, ones=ones, int32=np.int32, float32=np.float32))


class Silent(np.ndarray):
    """An array whose kernels cannot be compiled."""

    def __iadd__(self, other):
        raise RuntimeError("Failed to find CUDA headers.\nand more")


def test_what_is_missing_shows_in_one_line_before_anything_is_computed(monkeypatch):
    cupy = ModuleType("cupy")
    vars(cupy).update(vars(fake(Compiler(), zeros=zeros_of(Silent), int32=np.int32, float32=np.float32)))
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    told = "CuPy finds a device but computes nothing (Failed to find CUDA headers.); "
    assert without_cupy() == told + 'pip install "cupy-cuda12x[ctk]>=14", or for CUDA 13 "cupy-cuda13x[ctk]>=14"'


def test_where_there_is_a_gpu_tests_put_arrays_on_it_and_keep_subnormals(monkeypatch):
    compiler, put = Compiler(), []
    device = SimpleNamespace(Device=str, runtime=SimpleNamespace(getDeviceCount=lambda: 1), compiler=compiler)
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(cuda=device, asarray=lambda x: x))
    xp = SimpleNamespace(asarray=lambda x, device: put.append((x.tolist(), device)))
    monkeypatch.setitem(sys.modules, "array_api_compat.cupy", xp)
    backend, state = backends._cupy()
    assert state == "found"
    backend.array(np.arange(2))
    assert put == [([0, 1], "0")]
    compiler._compile_module_with_cache("", arch="80")
    assert compiler.handed == [END]
