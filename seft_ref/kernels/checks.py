"""Argument checks of all kernel sets: shapes (KRN-009), dtypes and devices (KRN-010), places (KRN-012).

Every function raises KernelError with the id of the clause, or returns nothing (KRN-013).
"""

import ml_dtypes
import numpy as np

from seft_ref.arrays.library import Array, array_namespace, device
from seft_ref.errors import KernelError
from seft_ref.kernels.held import Coded, Held, Stored
from seft_ref.topology.csr import Topology


def check_float(name: str, a: Array) -> None:
    """Refuse an array that is neither float32 nor float64 (KRN-010)."""
    xp = array_namespace(a)
    if a.dtype not in (xp.float32, xp.float64):
        raise KernelError("KRN-010", f"{name} is {a.dtype}, kernels multiply float32 and float64")


def check_alike(name: str, a: Array, other_name: str, other: Array) -> None:
    """Refuse two arrays of different dtype or on different devices (KRN-010)."""
    if a.dtype != other.dtype:
        raise KernelError("KRN-010", f"{name} is {a.dtype} but {other_name} is {other.dtype}")
    if device(a) != device(other):
        raise KernelError("KRN-010", f"{name} is on {device(a)} but {other_name} on {device(other)}")


def check_values(topology: Topology, values: Array) -> None:
    """Refuse values that are not one float for each slot of a topology (KRN-009, KRN-010)."""
    check_float("values", values)
    if tuple(values.shape) != (topology.nnz,):
        raise KernelError(
            "KRN-009",
            f"values have shape {tuple(values.shape)}, a topology of {topology.nnz} slots needs ({topology.nnz},)",
        )


def check_compact(topology: Topology, values: Stored, *, codes: bool = True) -> None:
    """Refuse values unless they are 16-bit floats in a NumPy array, or codes, one for each slot (KRN-009, KRN-010).

    codes  whether the kernel set takes codes (KRN-018)
    """
    if isinstance(values, Coded):
        if not codes:
            raise KernelError("KRN-018", "this kernel set holds no codes; use a model whose codes are expanded")
        if values.codes.shape != (topology.nnz,):
            raise KernelError(
                "KRN-009", f"codes have shape {tuple(values.codes.shape)}, the topology needs ({topology.nnz},)"
            )
        group_shape = (topology.shape[0], topology.shape[1] // values.columns)
        if tuple(values.scales.shape) != group_shape or tuple(values.zeros.shape) != group_shape:
            shapes = f"{tuple(values.scales.shape)} and {tuple(values.zeros.shape)}"
            raise KernelError("KRN-009", f"scales and zero points have shapes {shapes}, the matrix needs {group_shape}")
        check_codes("codes", values.codes, values)
        check_codes("zero points", values.zeros, values)
        if values.symmetric and bool(array_namespace(values.zeros).any(values.zeros != 0)):
            raise KernelError("KRN-018", "the grid is symmetric, and has zero points that are not 0")
        return
    if not isinstance(values, np.ndarray) or values.dtype not in (np.float16, ml_dtypes.bfloat16):
        kind = getattr(values, "dtype", type(values).__name__)
        raise KernelError("KRN-010", f"values are {kind}; a compact matrix holds bfloat16 or float16 NumPy arrays")
    if values.shape != (topology.nnz,):
        raise KernelError("KRN-009", f"values have shape {values.shape}, the topology needs ({topology.nnz},)")


def check_matrix(name: str, a: Array, n_columns: int | None = None) -> None:
    """Refuse an array that is not a float matrix, or does not have n_columns columns (KRN-009, KRN-010)."""
    check_float(name, a)
    if len(a.shape) != 2 or (n_columns is not None and a.shape[1] != n_columns):
        expected_shape = "(n, any)" if n_columns is None else f"(n, {n_columns})"
        raise KernelError("KRN-009", f"{name} has shape {tuple(a.shape)}, expected {expected_shape}")


def check_vector(name: str, a: Array) -> None:
    """Refuse an array that is not a float vector (KRN-009, KRN-010)."""
    check_float(name, a)
    if len(a.shape) != 1:
        raise KernelError("KRN-009", f"{name} has shape {tuple(a.shape)}, expected (n,)")


def check_factors(dy: Array, x: Array, topology: Topology) -> None:
    """Refuse the two factors of a gradient if they do not fit the topology or each other (KRN-009, KRN-010)."""
    check_matrix("dy", dy, topology.shape[0])
    check_matrix("x", x, topology.shape[1])
    check_alike("dy", dy, "x", x)
    if dy.shape[0] != x.shape[0]:
        raise KernelError("KRN-009", f"dy has {dy.shape[0]} tokens but x has {x.shape[0]}")


def check_places(name: str, places: Array, n: int) -> None:
    """Refuse places that are not a vector of int64 from 0 to n - 1 (KRN-012)."""
    xp = array_namespace(places)
    if places.dtype != xp.int64 or len(places.shape) != 1:
        raise KernelError(
            "KRN-012",
            f"{name} are {places.dtype} of shape {tuple(places.shape)}, expected int64 of shape (m,)",
        )
    if places.shape[0]:
        lowest, highest = int(xp.min(places)), int(xp.max(places))
        if lowest < 0 or highest >= n:
            raise KernelError("KRN-012", f"{name} run from {lowest} to {highest}, outside 0 to {n - 1}")


def check_new_values(places: Array, values: Array, stored: Array) -> None:
    """Refuse values that cannot replace those stored at `places` (KRN-009, KRN-010, KRN-012)."""
    check_places("where", places, stored.shape[0])
    check_alike("values", values, "the packed matrix", stored)
    if tuple(values.shape) != tuple(places.shape):
        raise KernelError("KRN-009", f"values have shape {tuple(values.shape)}, where has {tuple(places.shape)}")


def check_new_codes(places: Array, codes: Array, held_in: Coded, n: int, stored: Array) -> None:
    """Refuse codes that cannot replace those at `places` of a matrix (KRN-009, KRN-010, KRN-012, KRN-018.4).

    n       the number of places
    stored  an array of the matrix, whose library and device those of the other arrays must be
    """
    for name, a in (("where", places), ("values", codes)):
        if array_namespace(a) is not array_namespace(stored) or device(a) != device(stored):
            raise KernelError(
                "KRN-010", f"{name} is a {type(a).__name__}, the matrix a {type(stored).__name__}; give one library"
            )
    check_places("where", places, n)
    check_codes("values", codes, held_in)
    if tuple(codes.shape) != tuple(places.shape):
        raise KernelError("KRN-009", f"codes have shape {tuple(codes.shape)}, where has {tuple(places.shape)}")


def check_codes(name: str, codes: Array, held_in: Coded) -> None:
    """Refuse codes or zero points that are not int8, or beyond the bits of the grid (KRN-018.3, KRN-018.4)."""
    xp = array_namespace(codes)
    if codes.dtype != xp.int8:
        raise KernelError("KRN-018", f"{name} are {codes.dtype}; a matrix of codes takes codes, which are int8")
    most = 1 << (held_in.bits - 1)
    least, largest = (int(xp.min(codes)), int(xp.max(codes))) if 0 not in codes.shape else (0, 0)
    if least < -most or largest >= most:
        raise KernelError(
            "KRN-018", f"{name} run from {least} to {largest}; {held_in.bits} bits hold {-most} to {most - 1}"
        )


def check_stored(places: Array, values: Array, stored: Array, held_in: Held | None) -> None:
    """Refuse values for `store` that are not float32, if the matrix is compact, or of the dtype of its values.

    The clauses are KRN-009, KRN-010, KRN-012 and KRN-015.4.

    stored   the values of the matrix, as the set keeps them
    held_in  the 16-bit dtype of a compact matrix; None for any other
    """
    if held_in is not None:
        xp = array_namespace(stored)
        stored = xp.broadcast_to(xp.zeros((), dtype=xp.float32, device=device(stored)), stored.shape)
    check_new_values(places, values, stored)


def check_shape(packed_shape: tuple[int, int], topology: Topology) -> None:
    """Refuse a topology of another shape than the packed matrix (KRN-009)."""
    if tuple(topology.shape) != tuple(packed_shape):
        raise KernelError("KRN-009", f"the topology is {topology.shape}, the packed matrix {packed_shape}")
