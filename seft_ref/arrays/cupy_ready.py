"""What CuPy needs before anything is computed with it: subnormal numbers and all bits of float32 are kept, and first
results show it.

CuPy appends -ftz=true, behind the options it was given, to everything that it compiles at run time: elementwise
functions, reductions and RawModule alike. float32 numbers below 2^-126 are then zero to every kernel, where scores
are to be rounded once (NUM-006), entries to be compared exactly (KRN-014) and numbers of bfloat16 to be multiplied as
what they stand for (KRN-015). There is no setting for it (CuPy's issue 9576), so that the function through which all of
its kernels are compiled is wrapped here. The names of its cache on disk are made of the options, so that kernels which
other programs left there flushed are not found. What CuPy brings compiled (sorting by Thrust, reductions by CUB) was
built without the option; cuBLAS makes promises of its own, and none about subnormals.

CuPy is an argument, so that this file imports nothing: tests hand over something of the same shape.
"""

from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

__all__ = ["INSTALL", "UnfitCupy", "keep_subnormals", "try_out"]

FLUSH = "-ftz=true"
COMPILES = "_compile_module_with_cache"
"""Name in cupy.cuda.compiler of what compiles every kernel; private, so that another CuPy may have another."""
INSTALL = 'pip install "cupy-cuda12x[ctk]>=14", or for CUDA 13 "cupy-cuda13x[ctk]>=14"'
"""What brings CuPy together with the compiler, the headers and the libraries that it loads."""
_KEEPS = '13.6 and 14.2 do well: pip install "cupy-cuda12x[ctk]==14.2.*", or for CUDA 13 "cupy-cuda13x[ctk]==14.2.*"'
"""Versions of CuPy whose compiling was read and tried."""
_WIDE = 256


class UnfitCupy(ImportError):
    """A CuPy that cannot be computed with; the message says what to do."""


class _Options(tuple[str, ...]):
    """Options of a compiler to which the one that flushes cannot be added."""

    __slots__ = ()

    def __add__(self, more: Iterable[Any]) -> "_Options":
        return _Options((*self, *(option for option in more if option != FLUSH)))


class _Keeping:
    """CuPy's own function, handed options that stay without the one that flushes."""

    def __init__(self, compiles: Callable[..., Any]) -> None:
        self._compiles = compiles

    def __call__(self, source: str, options: Iterable[str] = (), *more: Any, **named: Any) -> Any:
        return self._compiles(source, _Options(options), *more, **named)


def keep_subnormals(cupy: ModuleType) -> None:
    """Let a CuPy that was imported compile kernels that keep subnormal numbers, from now on in this process.

    Raises:
        UnfitCupy: it compiles in a way that is not known here, or has compiled kernels already, which it keeps.
    """
    compiler = getattr(cupy.cuda, "compiler", None)
    compiles = getattr(compiler, COMPILES, None)
    if compiles is None:
        raise UnfitCupy(f"CuPy {cupy.__version__} compiles in a way that is not known here; {_KEEPS}")
    if isinstance(compiles, _Keeping):
        return
    # options of what was compiled are keys here
    if FLUSH in str(getattr(compiler, "_empty_file_preprocess_cache", "")):
        raise UnfitCupy(
            "CuPy has compiled kernels in this process that flush subnormal numbers, and keeps them; "
            "import seft_ref.kernels.gpu before anything is computed with CuPy"
        )
    setattr(compiler, COMPILES, _Keeping(compiles))


def try_out(cupy: ModuleType) -> None:
    """Compute two results on the current device: what is missing shows here, and not in the midst of a run.

    Raises:
        UnfitCupy: it compiles or multiplies nothing, flushes subnormal numbers all the same, or multiplies float32 with
            fewer bits than it has (KRN-006).
    """
    try:
        least = cupy.zeros(2, dtype=cupy.int32)
        least += 1  # the bits of 2^-149
        least = least.view(cupy.float32)
        twice = int((least + least).view(cupy.int32)[1])
        # large enough that a library may choose TF32, whose 11 bits do not tell this number from 1
        wide = cupy.ones((_WIDE, _WIDE), dtype=cupy.float32)
        product = float(((wide * (1 + 2.0**-12)) @ wide)[1, 1])
    except Exception as error:  # what is missing, library, header or driver, has errors of many classes
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise UnfitCupy(f"CuPy finds a device but computes nothing ({first}); {INSTALL}") from error
    if twice != 2:
        raise UnfitCupy(f"CuPy {cupy.__version__} flushes subnormal numbers all the same; {_KEEPS}")
    if product != _WIDE * (1 + 2.0**-12):
        raise UnfitCupy(
            "CuPy multiplies float32 with fewer bits than it has; unset CUPY_TF32, CUPY_COMPUTE_TYPE and "
            "NVIDIA_TF32_OVERRIDE"
        )
