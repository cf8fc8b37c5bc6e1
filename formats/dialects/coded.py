"""Models of this format whose matrices are codes on a grid (chapter 19): their parts, and the weights they stand for.

    w            I8, sparse     codes on the support         weight = (code - zero point) * scale
    w.scale      F32, dense     (out, groups)
    w.zero_point I8, dense      (out, groups), where the grid has zero points
    w.update     F32 or F64     weights that differ from those of the codes, and override them

`int_folder` reads the folders of other libraries.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from formats.container import dtype_name
from formats.errors import FormatError
from formats.lazy import Lazy, like
from formats.records import (
    Array,
    Checkpoint,
    Dense,
    DType,
    Mask,
    Sparse,
    Tensor,
    bits,
    flat,
    from_flat,
    from_support,
    with_values,
)
from formats.strict_json import JSON

ATTRIBUTE = "quantised"
SCALE, ZERO, UPDATE = "scale", "zero_point", "update"
"""Roles of the tensors that belong to codes (FMT-016)."""
_F32 = np.dtype(np.float32)
_ROUNDINGS = ("nearest", "gptq", "unknown")
_GRID = re.compile(r"int([48])(?::g([1-9][0-9]{0,9}))?(:asym)?")
_MOST_COLUMNS = 2**31 - 1


@dataclass(frozen=True, slots=True, eq=False)
class Coded:
    """A matrix (out, in) of codes, whose parts fit each other and the grid (QNT-009.3)."""

    codes: Sparse
    """int8"""
    scales: NDArray[np.float32]
    """(out, groups), above 0; weights of all codes are within float32"""
    zeros: NDArray[np.int8]
    """(out, groups); 0 on a grid without zero points"""
    update: Sparse | None
    """F32 or F64: weights that override those of the codes (QNT-006)"""


def is_coded(checkpoint: Checkpoint) -> bool:
    """Return whether matrices of a checkpoint are codes."""
    return bool(checkpoint.scales) and ATTRIBUTE in checkpoint.attributes


def grid_of(attributes: Mapping[str, JSON]) -> str:
    """Return the grid of a quantised checkpoint (QNT-009.2).

    Raises:
        FormatError: QNT-009 if the attribute is missing or no object of grid and rounding, QNT-001 for the grid.
    """
    record = attributes.get(ATTRIBUTE)
    if not isinstance(record, dict) or set(record) != {"grid", "rounding"} or record["rounding"] not in _ROUNDINGS:
        raise FormatError(
            "QNT-009",
            f"the attribute {ATTRIBUTE!r} of the checkpoint is {str(record)[:80]}, expected an object of "
            "grid and rounding; take a model that seft prune --quantize has made",
        )
    grid = str(record["grid"])
    match = _GRID.fullmatch(grid)
    if not match or int(match[2] or 0) > _MOST_COLUMNS:
        raise FormatError("QNT-001", f"grid {grid[:40]!r} of the checkpoint is unknown; quantise the model again")
    return grid


def without_grid(attributes: Mapping[str, JSON]) -> dict[str, JSON]:
    """Return attributes without the description of the grid."""
    return {name: value for name, value in attributes.items() if name != ATTRIBUTE}


def read_coded(checkpoint: Checkpoint, name: str) -> Coded:
    """Return the parts of a quantised matrix.

    Raises:
        FormatError: QNT-009 for parts that do not fit each other or the grid, QNT-001 for the grid.
    """
    match = _GRID.fullmatch(grid_of(checkpoint.attributes))
    assert match is not None, "grid_of has matched it"
    bits, size, zero_points = int(match[1]), int(match[2] or 0), bool(match[3])
    roles, codes = checkpoint.scales[name], checkpoint.tensors[name]
    expected = {SCALE, ZERO} if zero_points else {SCALE}
    if set(roles) - {UPDATE} != expected:
        raise FormatError("QNT-009", f"{name!r} has the parts {sorted(roles)}, its grid has {sorted(expected)}")
    if isinstance(codes, Mask) or codes.dtype != np.int8 or len(codes.shape) != 2:
        raise FormatError("QNT-009", f"{name!r} has scales and is no matrix of I8; quantise the model again")
    rows, columns = codes.shape
    if size and columns % size:
        raise FormatError("QNT-009", f"{name!r} has rows of {columns} columns, no whole number of groups of {size}")
    groups = (rows, columns // (size or max(columns, 1)))
    scales = _part(checkpoint, name, roles[SCALE], groups, "F32")
    if not (scales > 0).all():
        raise FormatError("QNT-009", f"{name!r} has a scale that is no number above 0; quantise it again")
    refuse_large_scales("QNT-009", name, scales, bits, zero_points=zero_points)
    zeros = _part(checkpoint, name, roles[ZERO], groups, "I8") if zero_points else np.zeros(groups, np.int8)
    least, most = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    for numbers in (codes.values, zeros):
        lowest, highest = (int(np.min(numbers)), int(np.max(numbers))) if numbers.size else (least, most)
        if not least <= lowest <= highest <= most:
            raise FormatError(
                "QNT-009", f"{name!r} has numbers from {lowest} to {highest}, {bits} bits have {least} to {most}"
            )
    return Coded(_sparse(codes), scales, zeros, _update(checkpoint, name, roles.get(UPDATE)))


def _part(checkpoint: Checkpoint, name: str, part: str, shape: tuple[int, int], dtype: str) -> Array:
    tensor = checkpoint.tensors[part]
    if not isinstance(tensor, Dense) or dtype_name(tensor.dtype) != dtype or tensor.shape != shape:
        raise FormatError("QNT-009", f"{part!r} beside {name!r} must be dense, {dtype} and of shape {list(shape)}")
    return tensor.values


def refuse_large_scales(clause: str, name: str, scales: Array, bits: int, *, zero_points: bool) -> None:
    """Refuse scales by which a code may stand for a weight beyond float32 (QNT-003.5).

    Raises:
        FormatError: clause.
    """
    farthest = (1 << bits) - 1 if zero_points else 1 << (bits - 1)
    if scales.size and float(scales.max()) * farthest > float(np.finfo(np.float32).max):
        raise FormatError(clause, f"{name!r} has a scale whose weights are beyond float32; quantise the model again")


def stands_beside(checkpoint: Checkpoint, name: str) -> bool:
    """Return whether weights stand beside the codes of a matrix; an empty update has no effect (QNT-009.7)."""
    part = checkpoint.scales[name].get(UPDATE)
    return part is not None and not _is_empty(checkpoint.tensors[part])


def _is_empty(tensor: Tensor) -> bool:
    return isinstance(tensor, Sparse) and tensor.values.size == 0


def _update(checkpoint: Checkpoint, name: str, part: str | None) -> Sparse | None:
    if part is None:
        return None
    tensor, shape = checkpoint.tensors[part], checkpoint.tensors[name].shape
    if isinstance(tensor, Mask) or tensor.shape != shape or dtype_name(tensor.dtype) not in ("F32", "F64"):
        raise FormatError("QNT-009", f"{part!r} beside {name!r} must hold F32 or F64 in its shape, {list(shape)}")
    return None if _is_empty(tensor) else _sparse(tensor)


def _sparse(tensor: Dense | Sparse) -> Sparse:
    """Return a tensor as a `Sparse`; one that stores every position may come as a `Dense` (FMT-005)."""
    if isinstance(tensor, Sparse):
        return tensor
    return with_values(from_support(np.ones(tensor.shape, dtype=np.bool_)), tensor.values.reshape(-1))


def compute_dtype(dtypes: Iterable[str]) -> DType:
    """Return the default dtype for expanding codes, given the dtypes of all tensors of the model (QNT-008.2)."""
    return np.dtype(np.float64 if "F64" in dtypes else np.float32)


def groups_of(matrix: Coded) -> NDArray[np.int64]:
    """Return for each code the number of its group, counted row by row, (nnz,)."""
    columns, groups = matrix.codes.shape[1], matrix.scales.shape[1]
    positions = flat(matrix.codes)
    return positions // max(columns, 1) * groups + positions % max(columns, 1) // max(columns // max(groups, 1), 1)


def weights_of(matrix: Coded, dtype: DType = _F32) -> Sparse:
    """Return the weights of a matrix, each rounded once to dtype, float32 or float64 (QNT-002, QNT-006.3)."""
    codes = matrix.codes
    positions, group = flat(codes), groups_of(matrix)
    steps = codes.values.astype(np.float64) - matrix.zeros.reshape(-1)[group]
    # exact in F64, because a difference of 9 bits times a scale of 24 bits has at most 33 bits
    values = (steps * matrix.scales.reshape(-1)[group]).astype(dtype)
    if matrix.update is None:
        return with_values(codes, values)
    beside = flat(matrix.update)
    every = np.union1d(positions, beside)
    both = np.zeros(every.size, dtype=dtype)
    both[np.searchsorted(every, positions)] = values
    both[np.searchsorted(every, beside)] = matrix.update.values.astype(dtype)
    return with_values(from_flat(codes.shape, every), both)


def beside(base: Checkpoint, trained: Checkpoint) -> Checkpoint:
    """Return a trained model as the codes of its base, with all weights that differ from them as updates (QNT-006).

    Args:
        base: a quantised model.
        trained: the same tensors as weights, as `expanded` returns them, after training; supports may differ.

    Raises:
        FormatError: QNT-009 for a base that is not quantised, or a trained model that lacks a matrix of the base or has
            it in another shape; QNT-006 for a weight that is not finite; otherwise as `read_coded`.
    """
    grid_of(base.attributes)
    tensors, scales = dict(trained.tensors), {}
    for name, roles in base.scales.items():
        new = tensors.get(name)
        if new is None or isinstance(new, Mask) or new.shape != like(base.tensors, name).shape:
            raise FormatError("QNT-009", f"{name!r} of the base is no matrix of the trained model in its shape")
        matrix = replace(read_coded(base, name), update=None)
        code_parts = {role: part for role, part in roles.items() if role != UPDATE}
        tensors |= {part: base.tensors[part] for part in code_parts.values()}
        tensors[name], tensors[f"{name}.{UPDATE}"] = _beside(matrix, _sparse(new))
        scales[name] = {**code_parts, UPDATE: f"{name}.{UPDATE}"}
    attributes = {**trained.attributes, ATTRIBUTE: base.attributes[ATTRIBUTE]}
    return replace(trained, tensors=tensors, attributes=attributes, scales=scales)


def _beside(matrix: Coded, new: Sparse) -> tuple[Sparse, Sparse]:
    """Return the codes whose positions stay, and the weights of a trained matrix that its codes do not stand for."""
    if dtype_name(new.dtype) not in ("F32", "F64"):
        raise FormatError("QNT-009", f"weights beside codes are F32 or F64, not {dtype_name(new.dtype)}; train in F32")
    if not np.isfinite(new.values).all():
        raise FormatError("QNT-006", "a weight of the trained model is NaN or infinite; train anew")
    coded, stored = flat(matrix.codes), flat(new)
    stays = np.isin(coded, stored, assume_unique=True)
    codes = with_values(from_flat(new.shape, coded[stays]), matrix.codes.values[stays])
    same = np.zeros(stored.size, dtype=np.bool_)
    same[np.searchsorted(stored, coded[stays])] = True
    same[same] = bits(weights_of(matrix, new.dtype).values[stays]) == bits(new.values[same])
    return codes, with_values(from_flat(new.shape, stored[~same]), new.values[~same])


def expanded(checkpoint: Checkpoint) -> Checkpoint:
    """Return a quantised model with its codes expanded to weights; each matrix is made on access (QNT-009.5).

    Raises:
        FormatError: QNT-009 or QNT-001; on access as `read_coded`.
    """
    grid, coded = grid_of(checkpoint.attributes), checkpoint.scales
    without_effect = {roles.get(UPDATE) for name, roles in coded.items() if not stands_beside(checkpoint, name)}
    outlines = (like(checkpoint.tensors, name) for name in checkpoint.tensors if name not in without_effect)
    dtype = compute_dtype({dtype_name(one.dtype) for one in outlines if not isinstance(one, Mask)})
    parts = {part for roles in coded.values() for part in roles.values()}

    def make(name: str) -> Tensor:
        return weights_of(read_coded(checkpoint, name), dtype) if name in coded else checkpoint.tensors[name]

    def outline(name: str) -> Tensor:
        if name not in coded:
            return like(checkpoint.tensors, name)
        return Dense(np.broadcast_to(np.zeros((), dtype), like(checkpoint.tensors, name).shape))

    return replace(
        checkpoint,
        tensors=Lazy(sorted(set(checkpoint.tensors) - parts), make, outline),
        attributes=without_grid(checkpoint.attributes),
        scales={},
        remarks=(*checkpoint.remarks, f"{len(coded)} matrices of codes on {grid} become {dtype_name(dtype)}"),
    )
