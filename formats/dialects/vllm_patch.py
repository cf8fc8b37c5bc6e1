"""Sparse checkpoint patches of vLLM: objects in memory, one per changed tensor, for a running server (FMT-169).

    vLLM 0.33    CheckpointWeightPatch(name, shape, dtype, values, indices)    for load_checkpoint_weight_patches
                 SparseWeightPatch(name, indices, values, full_shape)          for send_weights
    here         WeightPatch, which has the attributes of both; vllm is not imported

vLLM has no file format for patches. A step is shipped as a delta, and this module makes patches of it where vLLM runs.
"""

from collections.abc import Iterable, Mapping
from math import prod
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from formats import delta, validate
from formats.container import dtype_name
from formats.dialects.changes import base_tensor, check_in_base, replacement, sorted_support
from formats.dialects.torch_tensors import NUMPY, TORCH, from_torch, to_torch
from formats.errors import CannotHold, FormatError
from formats.records import (
    LIMIT,
    Array,
    Checkpoint,
    Dense,
    DType,
    Mask,
    Sparse,
    Tensor,
    bits,
    flat,
    to_dense,
)

PATCHED = frozenset({"F16", "BF16", "F32", "F64"})
"""Dtypes of sparse patches: they have a NaN, with which vLLM marks unchanged values, and torch can scatter them."""

_PATCHED = ", ".join(sorted(PATCHED))

MAX_ELEMENTS = 2**31 - 1
"""Most elements of a tensor with I32 indices, because vLLM compares indices with that count in their own dtype."""


class WeightPatch(NamedTuple):
    """A changed tensor. The fields and their order are vLLM's, so that ``CheckpointWeightPatch(*patch)`` is one too."""

    name: str
    """Its name in the checkpoint."""
    shape: tuple[int, ...]
    """The shape of the whole tensor."""
    dtype: torch.dtype
    """The dtype of the whole tensor and of values."""
    values: torch.Tensor
    """(nnz,): the new values; without indices the whole tensor, flat."""
    indices: torch.Tensor | None = None
    """(nnz,) int32 or int64: flat positions in the whole tensor, row-major. None if the patch replaces all of it."""

    @property
    def full_shape(self) -> tuple[int, ...]:
        """The shape, under the name that `SparseWeightPatch` has for it."""
        return self.shape


class Patch(Protocol):
    """The attributes that every patch has; beside them it has ``shape`` and ``dtype``, or ``full_shape``."""

    @property
    def name(self) -> str:
        """Its name in the checkpoint."""

    @property
    def values(self) -> torch.Tensor:
        """The new values, as in `WeightPatch`."""

    @property
    def indices(self) -> torch.Tensor | None:
        """The flat positions or None, as in `WeightPatch`."""


def delta_to_patches(
    base: Checkpoint,
    change: Checkpoint,
    *,
    index_dtype: torch.dtype = torch.int32,
    device: str | torch.device = "cpu",
) -> list[WeightPatch]:
    """Return a delta as patches for a server of its base, one for each tensor whose values change.

    It returns a list, because everything is checked before a server sees the first patch. Sparse tensors are expanded,
    so a position that leaves the support becomes +0.0. Attributes and companions of the delta are left out.

    Args:
        base: the model that is served.
        change: a delta from base.
        index_dtype: ``torch.int32``; or ``torch.int64`` for tensors of 2^31 elements or more, which only
            load_checkpoint_weight_patches takes.
        device: where the tensors go; NCCL sends from the device of its communicator.

    Raises:
        CannotHold: FMT-154 if a tensor comes, goes, is a mask, changes its dtype or shape, or changes without being
            F16, BF16, F32 or F64; for ties and scales that change, a new value that is NaN, and 2^31 elements or more
            with int32.
        FormatError: FMT-084 for another index_dtype; FMT-131, FMT-137 and FMT-138 as `formats.delta.apply`.
    """
    if index_dtype not in (torch.int32, torch.int64):
        raise FormatError("FMT-084", f"index_dtype is {index_dtype}, expected torch.int32 or torch.int64")
    target = delta.apply(base, [change])
    # FMT-169.7
    if sorted(base.tensors) != sorted(target.tensors):
        other = min({*base.tensors} ^ {*target.tensors})
        raise CannotHold("FMT-154", f"{other!r} comes or goes, and a patch changes the values of a tensor")
    if (base.tied, dict(base.scales)) != (target.tied, dict(target.scales)):
        raise CannotHold("FMT-154", "the delta changes what is tied or scaled, and a patch changes values")
    described = change.delta
    assert described is not None, "delta.apply refuses anything else"
    patches = []
    for name in sorted(described.tensors):
        positions, values = _new_values(base.tensors[name], target.tensors[name], name)
        if not positions.size:
            continue
        shape = target.tensors[name].shape
        _check_writable(values, shape, index_dtype, name)
        indices = torch.from_numpy(positions).to(device=device, dtype=index_dtype)
        patches.append(
            WeightPatch(name, shape, TORCH[values.dtype], to_torch(values, name=name).to(device=device), indices)
        )
    return patches


def delta_from_patches(base: Checkpoint, patches: Iterable[Patch]) -> Checkpoint:
    """Return patches of a base as a delta, which holds copies, so the tensors of the patches may be reused.

    Patches of one name apply in their order. A position is stored if its bits change.

    Args:
        base: the model before.
        patches: `WeightPatch`, or vLLM's CheckpointWeightPatch or SparseWeightPatch; tensors on any device.

    Raises:
        FormatError: FMT-169 for what is malformed or does not fit the base; FMT-131 if nothing changes.
        CannotHold: FMT-154 for a tensor that is not a plain one with values.
    """
    by_name: dict[str, list[Patch]] = {}
    kinds: set[bool] = set()
    for patch in patches:
        lacking = [attribute for attribute in ("name", "values", "indices") if not hasattr(patch, attribute)]
        if lacking:
            raise _error(f"a {type(patch).__name__} without {' and '.join(lacking)} is no patch")
        if not isinstance(patch.name, str):
            raise _error(f"a patch has the name {patch.name!r:.80}, expected text")
        by_name.setdefault(patch.name, []).append(patch)
        kinds.add(patch.indices is None)
    if len(kinds) > 1:
        raise _error("some patches have indices and some have none, and vLLM takes the two kinds in calls of their own")
    check_in_base(by_name, base.tensors, "FMT-169")
    changes = {name: _changed(base.tensors, name, by_name[name]) for name in sorted(by_name)}
    return delta.from_changes(base, "replace", changes, {"adapter": "vllm-patch"})


# writing -----------------------------------------------------------------------------------------


def _new_values(before: Tensor, after: Tensor, name: str) -> tuple[NDArray[np.int64], Array]:
    """Return the flat positions whose bits change in the expanded tensor, and the values that they get."""
    if isinstance(before, Mask) or isinstance(after, Mask):
        raise CannotHold("FMT-154", f"{name!r} is a mask, which a patch cannot hold")
    if (before.dtype, before.shape) != (after.dtype, after.shape):
        raise CannotHold("FMT-154", f"{name!r} changes its dtype or shape, and a patch changes values only")
    old, new = (to_dense(tensor, limit=LIMIT).reshape(-1) for tensor in (before, after))
    positions = np.flatnonzero(bits(old) != bits(new))
    return positions, new[positions]


def _check_writable(values: Array, shape: tuple[int, ...], index_dtype: torch.dtype, name: str) -> None:
    dtype = dtype_name(values.dtype)
    if dtype not in PATCHED:
        raise CannotHold("FMT-154", f"{name!r} is {dtype} and changes, sparse patches hold {_PATCHED}")
    nans = _count_nan(values)
    if nans:
        raise CannotHold("FMT-154", f"{name!r} gets NaN at {nans} positions, and vLLM lets NaN mark what stays")
    if index_dtype == torch.int32 and prod(shape) > MAX_ELEMENTS:
        raise CannotHold(
            "FMT-154",
            f"{name!r} has {prod(shape)} elements, int32 indices are for at most {MAX_ELEMENTS}; "
            f"ask for torch.int64, which load_checkpoint_weight_patches takes",
        )


def _count_nan(values: Array) -> int:
    # because NumPy warns of a signalling NaN of 16 bits
    with np.errstate(invalid="ignore"):
        return int(np.count_nonzero(np.isnan(values)))


# reading -----------------------------------------------------------------------------------------


def _error(message: str) -> FormatError:
    return FormatError("FMT-169", message)


def _changed(base: Mapping[str, Tensor], name: str, patches: Iterable[Patch]) -> Sparse | Dense:
    """Return the changes by the patches of one tensor: positions whose bits differ from the base, and new values."""
    before = base_tensor(base, name, "FMT-169", scalars=True)
    old = to_dense(before, limit=LIMIT).reshape(-1)
    new = old.copy()
    for patch in patches:
        _apply(new, patch, before.shape)
    return replacement(before, old, new)


def _apply(new: Array, patch: Patch, shape: tuple[int, ...]) -> None:
    """Write the values of a patch into an expanded tensor, after verifying that it fits.

    Shapes and dtypes: new (elements,) of the base's dtype, contiguous.
    """
    name = patch.name
    values = from_torch(patch.values, name=f"values of {name}")
    stated = _stated(patch)
    if stated != (shape, new.dtype) or values.dtype != new.dtype:
        raise _error(
            f"{name!r} is {values.dtype} in a patch that states shape {list(stated[0])} and {stated[1]}, the base has "
            f"{list(shape)} and {new.dtype}; make the patch in the dtype of the base, and give the base it was made for"
        )
    if values.ndim != 1:
        raise _error(f"values of {name!r} have shape {list(values.shape)}, expected one dimension")
    validate.check_bool(values, name)
    if patch.indices is None:
        if values.size != new.size:
            raise _error(f"{name!r} has {values.size} values for the whole tensor, expected {new.size}")
        new[:] = values
        return
    indices = from_torch(patch.indices, name=f"indices of {name}")
    if indices.ndim != 1 or indices.dtype not in (np.int32, np.int64):
        raise _error(
            f"indices of {name!r} are {indices.dtype} of shape {list(indices.shape)}, expected one dimension of int32 "
            f"or int64"
        )
    if indices.size != values.size:
        raise _error(f"{name!r} has {indices.size} indices for {values.size} values")
    dtype = dtype_name(values.dtype)
    if dtype not in PATCHED:
        raise _error(f"{name!r} is {dtype}, sparse patches hold {_PATCHED}")
    if _count_nan(values):
        raise _error(f"{name!r} has a new value that is NaN, which marks what stays in vLLM")
    support, permutation = sorted_support(indices.astype(np.int64), shape or (1,), name, "FMT-169")
    new[flat(support)] = values[permutation]


def _stated(patch: Patch) -> tuple[tuple[int, ...], DType]:
    """Return shape and NumPy dtype that a patch states for the whole tensor; SparseWeightPatch states no dtype."""
    shape = getattr(patch, "shape", getattr(patch, "full_shape", None))
    if not isinstance(shape, tuple | list) or not all(isinstance(n, int) for n in shape):
        raise _error(
            f"the patch of {patch.name!r} has no shape of the whole tensor; those of older vLLM name parameters of its "
            f"runtime, which no checkpoint has"
        )
    dtype = getattr(patch, "dtype", patch.values.dtype)
    if not isinstance(dtype, torch.dtype):
        raise _error(f"the patch of {patch.name!r} states the dtype {dtype!r:.80}, expected a torch.dtype")
    if dtype not in NUMPY:
        raise _error(f"the patch of {patch.name!r} states {dtype}, which no checkpoint here holds")
    return tuple(shape), NUMPY[dtype]
