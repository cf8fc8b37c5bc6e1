"""Makes CuPy keep subnormal numbers, and checks that it does so and multiplies float32 with all its bits.

CuPy appends -ftz=true to the options of everything that it compiles at run time: elementwise functions, reductions and
RawModule alike. float32 numbers below 2^-126 are then zero to every kernel. That breaks NUM-006 (scores are rounded
once), KRN-014 (entries are compared exactly) and KRN-015 (bfloat16 numbers are multiplied at their exact value).

CuPy has no setting for this (its issue 9576), so the function through which it compiles all kernels is wrapped here.
CuPy's cache on disk names kernels after their options, so flushing kernels of other programs are not found there.
The kernels that CuPy ships compiled (sorting by Thrust, reductions by CUB) were built without the option. cuBLAS
promises nothing about subnormal numbers.

CuPy is an argument, so that this file imports nothing and tests can pass a stand-in.
"""

from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

__all__ = ["INSTALL", "UnfitCupy", "keep_subnormals", "try_out"]

FLUSH = "-ftz=true"
COMPILES = "_compile_module_with_cache"
"""Name in cupy.cuda.compiler of the function that compiles every kernel; private, so another CuPy may rename it."""
INSTALL = 'pip install "cupy-cuda12x[ctk]>=14", or for CUDA 13 "cupy-cuda13x[ctk]>=14"'
"""How to install CuPy together with the compiler, the headers and the libraries that it loads."""
_KEEPS = '13.6 and 14.2 do well: pip install "cupy-cuda12x[ctk]==14.2.*", or for CUDA 13 "cupy-cuda13x[ctk]==14.2.*"'
"""Advice that names the versions of CuPy whose compile function was read and tried."""
_WIDE = 256


class UnfitCupy(ImportError):
    """A CuPy that cannot be computed with; the message says what to do."""


class _Options(tuple[str, ...]):
    """Options of a compiler that drop FLUSH whenever it is appended."""

    __slots__ = ()

    def __add__(self, more: Iterable[Any]) -> "_Options":
        return _Options((*self, *(option for option in more if option != FLUSH)))


class _Keeping:
    """CuPy's compile function, called with options that never contain FLUSH."""

    def __init__(self, compiles: Callable[..., Any]) -> None:
        self._compiles = compiles

    def __call__(self, source: str, options: Iterable[str] = (), *more: Any, **named: Any) -> Any:
        return self._compiles(source, _Options(options), *more, **named)


def keep_subnormals(cupy: ModuleType) -> None:
    """Make an imported CuPy compile kernels that keep subnormal numbers, from now on in this process.

    Raises:
        UnfitCupy: CuPy has no compile function of the expected name, or already holds kernels that flush.
    """
    compiler = getattr(cupy.cuda, "compiler", None)
    compiles = getattr(compiler, COMPILES, None)
    if compiles is None:
        raise UnfitCupy(f"CuPy {cupy.__version__} compiles in a way that is not known here; {_KEEPS}")
    if isinstance(compiles, _Keeping):
        return
    # the keys of this cache hold the options with which kernels were compiled
    if FLUSH in str(getattr(compiler, "_empty_file_preprocess_cache", "")):
        raise UnfitCupy(
            "CuPy has compiled kernels in this process that flush subnormal numbers, and keeps them; "
            "import seft_ref.kernels.gpu before anything is computed with CuPy"
        )
    setattr(compiler, COMPILES, _Keeping(compiles))


def try_out(cupy: ModuleType) -> None:
    """Compute two small results on the current device, so that a broken CuPy fails now and not in the middle of a run.

    Raises:
        UnfitCupy: CuPy fails to compile or multiply, flushes subnormal numbers all the same, or multiplies float32
            with fewer bits than it has (KRN-006).
    """
    try:
        least = cupy.zeros(2, dtype=cupy.int32)
        least += 1  # as float32 these bits are 2^-149, the smallest subnormal number
        least = least.view(cupy.float32)
        twice = int((least + least).view(cupy.int32)[1])
        # the matrix is large enough that cuBLAS may choose TF32, whose 11 bits round 1 + 2^-12 to 1
        wide = cupy.ones((_WIDE, _WIDE), dtype=cupy.float32)
        product = float(((wide * (1 + 2.0**-12)) @ wide)[1, 1])
    except Exception as error:  # a missing library, header or driver raises errors of many classes
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise UnfitCupy(f"CuPy finds a device but computes nothing ({first}); {INSTALL}") from error
    if twice != 2:
        raise UnfitCupy(f"CuPy {cupy.__version__} flushes subnormal numbers all the same; {_KEEPS}")
    if product != _WIDE * (1 + 2.0**-12):
        raise UnfitCupy(
            "CuPy multiplies float32 with fewer bits than it has; unset CUPY_TF32, CUPY_COMPUTE_TYPE and "
            "NVIDIA_TF32_OVERRIDE"
        )
