"""Computes the operations that turn one version of a tensor into another, and applies them (FMT-133 to FMT-136)."""

from collections.abc import Mapping
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from formats.container import dtype_name
from formats.delta_rules import ADD, REMOVE, REPLACE, WHOLE
from formats.errors import FormatError
from formats.records import Array, Dense, Mask, Sparse, Tensor, bits, flat, from_flat, rows_of, with_values
from formats.validate import MAX_SPARSE_DIM

SUMMED = ("F16", "BF16", "F32", "F64")
"""Dtypes of a base and of amounts that `add` accepts (FMT-133)."""
BLOCK = 1 << 20
"""Number of values that are compared at a time, so that they stay in the cache."""


def between(base: Tensor | None, target: Tensor, op: str, name: str) -> dict[str, Tensor]:
    """Return operation -> tensor: the operations of a delta that turn base into target.

    Args:
        base: the tensor before; None if it is new.
        target: the tensor after.
        op: ``"replace"`` or ``"add"``. A new tensor, a mask, a tensor of another dtype or shape than before, and one
            whose shape no sparse tensor can have become ``whole``. With ``"replace"``, so does a tensor in which at
            least as many positions change as it stores.
        name: the tensor's name in messages.

    Raises:
        FormatError: FMT-135 if op is add and sums do not reach the target bit for bit.
    """
    if base is None or isinstance(base, Mask) or isinstance(target, Mask):
        return {WHOLE: target}
    if base.dtype != target.dtype or base.shape != target.shape:
        return {WHOLE: target}
    # FMT-008: the changes of such a tensor have no form, because no sparse tensor has its shape
    if not target.shape or max(rows_of(target.shape), target.shape[-1]) > MAX_SPARSE_DIM:
        return {WHOLE: target}
    old, new = base.values.reshape(-1), target.values.reshape(-1)
    if _same_support(base, target):
        slots = _unequal(old, new)
        changed, new_values, gone = _support_at(target, slots), new[slots], np.empty(0, dtype=np.int64)
    else:
        before, after = positions(base), positions(target)
        at, new_values = _differing(before, old, after, new)
        changed, gone = from_flat(target.shape, at), before[~_among(before, after)]
    if op == ADD:
        return {ADD: _difference(base, changed, new_values, gone, name)}
    if changed.nnz + gone.size >= max(target.nnz, 1):
        return {WHOLE: target}
    operations: dict[str, Tensor] = {}
    if changed.nnz:
        operations[REPLACE] = with_values(changed, new_values)
    if gone.size:
        operations[REMOVE] = from_flat(target.shape, gone)
    return operations


def _same_support(a: Dense | Sparse, b: Dense | Sparse) -> bool:
    """Return whether two tensors of one shape are both dense, or both sparse with equal supports."""
    if isinstance(a, Dense) or isinstance(b, Dense):
        return isinstance(a, Dense) and isinstance(b, Dense)
    if a.indptr is b.indptr and a.indices is b.indices:
        return True
    return np.array_equal(a.indptr, b.indptr) and np.array_equal(a.indices, b.indices)


def _unequal(old: Array, new: Array) -> NDArray[np.int64]:
    """Return the ascending indices at which the bits of two arrays of one size differ; it compares block by block.

    np.flatnonzero(bits(old) != bits(new))
    """
    positions = [np.empty(0, dtype=np.int64)]
    for i in range(0, old.size, BLOCK):
        # the values of an array that was cut out of another one have gaps, over which no word lies
        a, b = (np.ascontiguousarray(values[i : i + BLOCK]) for values in (old, new))
        positions.append(_unequal_block(bits(a), bits(b)) + i)
    return np.concatenate(positions)


def _unequal_block(old: Array, new: Array) -> NDArray[np.int64]:
    """Return the indices at which two blocks of unsigned integers differ.

    First it compares words of 8 bytes, because most steps change few values, and fewer words have to be searched.
    """
    from formats import loops

    each = 8 // old.itemsize
    whole = old.size - old.size % each
    words = np.empty(whole // each, dtype=np.int64)
    words = words[: loops.unequal(old[:whole].view(np.uint64), new[:whole].view(np.uint64), words)]
    among = (words[:, None] * each + np.arange(each)).reshape(-1)
    among = np.concatenate([among, np.arange(whole, old.size)])
    return among[old[among] != new[among]]


def _support_at(tensor: Dense | Sparse, slots: NDArray[np.int64]) -> Mask:
    """Return the support of some slots of a tensor, ascending indices of its values."""
    if isinstance(tensor, Dense):
        return from_flat(tensor.shape, slots)
    # as many slots precede a row as are less than its first one
    return Mask(tensor.shape, np.searchsorted(slots, tensor.indptr).astype(np.int64), tensor.indices[slots])


def _differing(
    before: NDArray[np.int64], old: Array, after: NDArray[np.int64], new: Array
) -> tuple[NDArray[np.int64], Array]:
    """Return the positions of the new version that the old one lacks or whose bits differ, and the new values there."""
    in_both = _among(after, before)
    differs = ~in_both
    slots = np.searchsorted(before, after[in_both])
    differs[in_both] = bits(new[in_both]) != bits(old[slots])
    return after[differs], new[differs]


def _difference(base: Dense | Sparse, changed: Mask, new: Array, gone: NDArray[np.int64], name: str) -> Sparse:
    """Return the amounts to add to base where it changes to reach new: F32 if base has 16 bits, otherwise F64.

    Raises:
        FormatError: FMT-135 if base cannot be added to, or a sum does not reach its new value bit for bit.
    """
    dtype = dtype_name(base.dtype)
    if dtype not in SUMMED:
        raise FormatError("FMT-135", f"{name!r} is {dtype}, to which nothing can be added; use replace")
    if gone.size:
        raise FormatError("FMT-135", f"{name!r} loses {gone.size} positions, which no sum can express; use replace")
    wide = np.float32 if base.dtype.itemsize == 2 else np.float64
    with np.errstate(invalid="ignore", over="ignore"):
        amounts = (new.astype(np.float64) - values_at(base, flat(changed)).astype(np.float64)).astype(wide)
    change = with_values(changed, amounts)
    try:
        reached = bits(_sums(base, change, name)) == bits(new)
    except FormatError:
        reached = np.zeros(1, dtype=np.bool_)
    if not reached.all():
        raise FormatError(
            "FMT-135", f"{name!r} has a position that no sum takes to its target bit for bit; use replace"
        )
    return change


# applying ----------------------------------------------------------------------------------------


def apply(base: Tensor | None, operations: Mapping[str, Tensor], name: str) -> Tensor:
    """Return base after operations, which must be a set that FMT-132 allows.

    Raises:
        FormatError: FMT-133 if an operation does not fit the tensor; FMT-135 if a sum is not finite.
    """
    if WHOLE in operations:
        return operations[WHOLE]
    if base is None or isinstance(base, Mask):
        raise FormatError(
            "FMT-133", f"{name!r} is {'not there' if base is None else 'a mask'} and can only be given as a whole"
        )
    for operation, change in operations.items():
        _check_fits(base, operation, change, name)
    removed, changed = operations.get(REMOVE), operations.get(REPLACE) or operations.get(ADD)
    values = None
    if changed is not None:
        assert not isinstance(changed, Mask)
        # FMT-005: a change of every position may come as a dense tensor
        values = _sums(base, changed, name) if ADD in operations else changed.values.reshape(-1)
    return _merged(base, removed, changed, values, name)


def _check_fits(base: Dense | Sparse, operation: str, change: Tensor, name: str) -> None:
    if change.shape != base.shape:
        raise FormatError(
            "FMT-133", f"{operation} of {name!r} has shape {list(change.shape)}, the base {list(base.shape)}"
        )
    if isinstance(change, Mask) != (operation == REMOVE):
        raise FormatError("FMT-133", f"{operation} of {name!r} is a {type(change).__name__.lower()}")
    if operation == REPLACE and not isinstance(change, Mask) and change.dtype != base.dtype:
        raise FormatError("FMT-133", f"replace of {name!r} is {change.dtype}, the base {base.dtype}")
    if operation == ADD and not isinstance(change, Mask):
        dtypes = (dtype_name(change.dtype), dtype_name(base.dtype))
        if not set(dtypes) <= set(SUMMED):
            raise FormatError(
                "FMT-133", f"add of {name!r} is {dtypes[0]} and the base {dtypes[1]}, expected {', '.join(SUMMED)}"
            )


def _merged(
    base: Dense | Sparse, removed: Tensor | None, changed: Tensor | None, new: Array | None, name: str
) -> Dense | Sparse:
    """Return base without the removed positions and with new values at the changed ones (FMT-134)."""
    changes = positions(changed) if changed is not None else np.empty(0, dtype=np.int64)
    if isinstance(base, Dense) and removed is None:
        values = base.values.reshape(-1).copy()
        if new is not None:
            values[changes] = new
        return Dense(values.reshape(base.shape))
    if isinstance(base, Sparse) and removed is None:
        slots, present = _slots(base, changes)
        if present.all():
            values = base.values.copy()
            if new is not None:
                values[slots] = new
            return replace(base, values=values)
    at, values = positions(base), base.values.reshape(-1)
    if removed is not None:
        gone = positions(removed)
        if not _among(gone, at).all() or _among(gone, changes).any():
            raise FormatError(
                "FMT-133", f"{name!r} is to lose a position that it does not have, or that is replaced as well"
            )
        stays = ~_among(at, gone)
        at, values = at[stays], values[stays]
    else:
        values = values.copy()
    if new is not None:
        present = _among(changes, at)
        values[np.searchsorted(at, changes[present])] = new[present]
        places = np.searchsorted(at, changes[~present])
        at, values = np.insert(at, places, changes[~present]), np.insert(bits(values), places, bits(new[~present]))
        values = values.view(base.dtype)
    return with_values(from_flat(base.shape, at), values)


def _sums(base: Dense | Sparse, change: Dense | Sparse, name: str) -> Array:
    """Return value plus amount at the positions of a change, in the dtype of base, rounded as FMT-135 says."""
    return sums_of(values_at(base, positions(change)), change.values.reshape(-1), base.dtype, name)


def sums_of(old: Array, amounts: Array, dtype: np.dtype[Any], name: str) -> Array:
    """Return values plus amounts in a dtype, (n,), rounded as FMT-135 says.

    Raises:
        FormatError: FMT-135 for a sum that is not finite.
    """
    # NumPy warns when it casts a signalling NaN; the check below refuses its sum, as that of any NaN
    with np.errstate(over="ignore", invalid="ignore"):
        sums: Array = old.astype(np.float64) + amounts.astype(np.float64)
        if dtype != np.float64:
            # cast to F32 first, because libraries round a cast from binary64 to 16 bits differently
            sums = sums.astype(np.float32)
        sums = sums.astype(dtype)
    if not np.isfinite(sums).all():
        raise FormatError("FMT-135", f"{name!r} has a sum that {dtype} cannot hold")
    return sums


def values_at(tensor: Dense | Sparse, at: NDArray[np.int64]) -> Array:
    """Return the values of a tensor at flat positions; 0 at positions that it does not store."""
    if isinstance(tensor, Dense):
        dense: Array = tensor.values.reshape(-1)[at]
        return dense
    values = np.zeros(at.size, dtype=tensor.dtype)
    slots, stored = _slots(tensor, at)
    values[stored] = tensor.values[slots[stored]]
    return values


def _slots(tensor: Sparse, at: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return for each flat position of `at`, ascending, how many stored positions precede it, and if it is stored."""
    from formats import loops

    before, stored = np.empty(at.size, dtype=np.int64), np.empty(at.size, dtype=np.bool_)
    loops.slots_of(tensor.indptr, tensor.indices, tensor.shape[-1], at, before, stored)
    return before, stored


def positions(tensor: Tensor) -> NDArray[np.int64]:
    """Return the flat positions of a support, (nnz,) int64, strictly increasing."""
    return np.arange(prod(tensor.shape), dtype=np.int64) if isinstance(tensor, Dense) else flat(tensor)


def _among(some: NDArray[np.int64], all_of: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return for each of some positions whether it is in all_of, (some.size,); both are strictly increasing."""
    if not all_of.size:
        return np.zeros(some.size, dtype=np.bool_)
    nearest = all_of[np.minimum(np.searchsorted(all_of, some), all_of.size - 1)]
    return nearest == some
