"""Matrices of GGUF files that stay codes: Q8_0 and Q4_0, whose blocks are 32 columns with one F16 scale (QNT-010.4).

    Q8_0   scale, 32 codes of 8 bits                              int8:g32
    Q4_0   scale, 16 bytes: codes 0 to 15 and 16 to 31, plus 8    int4:g32:asym

A negative scale of Q4_0 becomes positive: with the codes -c - 1 and the zero point -1 the weights stay the same.
"""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from formats import validate
from formats.dialects.coded import ATTRIBUTE, SCALE, ZERO
from formats.dialects.int_codes import Quantised
from formats.dialects.int_folder import grid_of_matrix, part_of, refuse_taken
from formats.errors import FormatError
from formats.lazy import Lazy
from formats.records import Array, Checkpoint, Tensor
from formats.strict_json import JSON

_BLOCK = 32
_GRIDS = {"Q4_0": "int4:g32:asym", "Q8_0": "int8:g32"}


def open_gguf_codes(path: str | os.PathLike[str], limit: int | None = None) -> Checkpoint:
    """Return the tensors of a GGUF file, with its matrices of one quantised type as codes of this format (QNT-010.4).

    That type is Q4_0 if a matrix has it, else Q8_0. Tensors of other quantised types become F32.

    Args:
        path: the file; it must not be changed while it is open.
        limit: bytes that expanded tensors may take together; None sets no limit.

    Raises:
        FormatError: QNT-010 if no matrix has one of the types; FMT-155 for a malformed file.
        ExpansionTooLarge: FMT-098.
    """
    # the blocks can be read without the package gguf
    from formats.dialects.gguf_file import Tensors

    tensors = Tensors(Path(path))
    matrices = {name: tensors.type_of(name) for name in tensors.quantised() if len(tensors.shape_of(name)) == 2}
    of = next((kind for kind in _GRIDS if kind in matrices.values()), None)
    if of is None:
        raise FormatError(
            "QNT-010", f"{tensors.file_name} has no matrix of {' or '.join(_GRIDS)}, whose codes can be kept; expand it"
        )
    coded = [name for name, kind in matrices.items() if kind == of]
    expanded = [name for name in tensors.quantised() if name not in coded]
    validate.check_limit(tensors.expanded_bytes(expanded), limit, tensors.file_name)
    roles = (SCALE, ZERO) if _GRIDS[of].endswith(":asym") else (SCALE,)
    owner = {f"{name}.{role}": (name, role) for name in coded for role in roles}
    refuse_taken(owner, tensors)

    def make(name: str) -> Tensor:
        matrix, role = owner.get(name, (name, ""))
        if matrix not in coded:
            return tensors[name]
        matrix_codes = READERS[of](tensors.blocks(matrix))
        grid_of_matrix(matrix_codes, matrix)
        if not np.isfinite(matrix_codes.scales).all():
            raise FormatError("QNT-010", f"{matrix!r} has a scale that is NaN or infinite; expand the model")
        return part_of(matrix_codes, role, matrix)

    attributes: dict[str, JSON] = {"source": "gguf", ATTRIBUTE: {"grid": _GRIDS[of], "rounding": "unknown"}}
    remarks = [f"matrices of {of} that stay codes: {len(coded)}; a weight whose code stands for 0 counts as pruned"]
    if expanded:
        attributes["expanded"] = [*expanded]
        remarks.append(f"tensors of other quantised types that become F32: {len(expanded)}, the first {expanded[0]}")
    scales = {name: {role: f"{name}.{role}" for role in roles} for name in coded}
    names = [*tensors, *owner]
    return Checkpoint("model", Lazy(names, make), attributes, scales=scales, remarks=tuple(remarks))


def _q8_0(blocks: Array) -> Quantised:
    """Return the matrix that is stored in Q8_0 blocks, uint8 (out, groups, 34)."""
    rows, groups, _ = blocks.shape
    scales = blocks[:, :, :2].copy().view(np.float16)[:, :, 0]
    codes = blocks[:, :, 2:].copy().view(np.int8).reshape(rows, groups * _BLOCK)
    return _on_grid(codes, scales, None, 8)


def _q4_0(blocks: Array) -> Quantised:
    """Return the matrix that is stored in Q4_0 blocks, uint8 (out, groups, 18)."""
    rows, groups, _ = blocks.shape
    scales = blocks[:, :, :2].copy().view(np.float16)[:, :, 0]
    halves = blocks[:, :, 2:]
    codes = (np.concatenate([halves & 15, halves >> 4], axis=2).astype(np.int8) - 8).astype(np.int8)
    negative = scales < 0
    codes = np.where(negative[:, :, None], -codes - 1, codes).astype(np.int8).reshape(rows, groups * _BLOCK)
    return _on_grid(codes, np.abs(scales), np.where(negative, -1, 0).astype(np.int8), 4)


def _on_grid(codes: Array, scales: Array, zeros: Array | None, bits: int) -> Quantised:
    group = (np.arange(codes.shape[1]) // _BLOCK).astype(np.int32)
    point = np.int8(0) if zeros is None else zeros[:, group]
    mask = (codes != point) & (scales != 0)[:, group]
    return Quantised(codes, scales, zeros, group, mask, bits)


READERS: dict[str, Callable[[Array], Quantised]] = {"Q4_0": _q4_0, "Q8_0": _q8_0}
