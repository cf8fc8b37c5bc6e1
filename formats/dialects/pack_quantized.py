"""Writes a quantised model of this format as a compressed-tensors folder, `pack-quantized` (FMT-178).

    w, w.scale, w.zero_point   ->   w_packed, w_scale, w_zero_point, w_shape, and quantization_config in config.json

`int_folder` reads such folders.
"""

import json
import os
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from formats.dialects.coded import ATTRIBUTE, UPDATE, ZERO, Coded, grid_of, groups_of, read_coded
from formats.dialects.hf import checkpoint_to_hf
from formats.dialects.int_codes import words_of
from formats.errors import CannotHold, FormatError
from formats.lazy import Lazy
from formats.records import Array, Checkpoint, Dense, Tensor, flat
from formats.strict_json import foreign_object

CONFIG = "config.json"
_PARTS = ("packed", "scale", "shape", "zero_point")


def write_pack_quantized(
    out: str | os.PathLike[str], checkpoint: Checkpoint, *, shard_bytes: int, limit: int | None = None
) -> list[str]:
    """Write a quantised model as a compressed-tensors folder, and return what that folder cannot hold.

    Raises:
        CannotHold: FMT-154 for a matrix with weights beside its codes.
        FormatError: FMT-178 for a model without codes or without config.json; QNT-009; as `checkpoint_to_hf`.
    """
    if ATTRIBUTE not in checkpoint.attributes:
        raise FormatError("FMT-178", f"the model has scales and no attribute {ATTRIBUTE!r}, so its grid is unknown")
    beside = sorted(name for name, roles in checkpoint.scales.items() if UPDATE in roles)
    if beside:
        raise CannotHold(
            "FMT-154",
            f"compressed-tensors holds codes alone, and {beside[0]!r} has weights beside them; fine-tune with --merge "
            "grid, or quantise the expanded model",
        )
    wrong = sorted(name for name in checkpoint.scales if not name.endswith(".weight"))
    if wrong:
        raise FormatError("FMT-178", f"{wrong[0]!r} is no weight of a module, whose name ends in .weight")
    if CONFIG not in checkpoint.files:
        raise FormatError("FMT-178", f"the model has no {CONFIG}, which has to describe its codes")
    own = {part for roles in checkpoint.scales.values() for part in roles.values()}
    zero_points = grid_of(checkpoint.attributes).endswith(":asym")
    owner = {
        f"{name}_{part}": (name, part) for name in checkpoint.scales for part in _PARTS if part != ZERO or zero_points
    }

    def make(name: str) -> Tensor:
        if name not in owner:
            return checkpoint.tensors[name]
        matrix, part = owner[name]
        return Dense(_part(read_coded(checkpoint, matrix), part, _bits(checkpoint)))

    names = [name for name in checkpoint.tensors if name not in own and name not in checkpoint.scales]
    folder = replace(
        checkpoint,
        tensors=Lazy([*names, *owner], make),
        files={**checkpoint.files, CONFIG: _config(checkpoint)},
        scales={},
    )
    checkpoint_to_hf(out, folder, shard_bytes=shard_bytes, limit=limit)
    zeros = sum(_zeros(read_coded(checkpoint, name)) for name in checkpoint.scales)
    return [f"the support of {zeros} stored weights of 0"] if zeros else []


def _bits(checkpoint: Checkpoint) -> int:
    return int(grid_of(checkpoint.attributes)[3])


def _part(matrix: Coded, part: str, bits: int) -> Array:
    if part == "scale":
        return matrix.scales
    if part == "shape":
        return np.array(matrix.codes.shape, dtype=np.int64)
    if part == "zero_point":
        return packed(matrix.zeros.T, bits).T.copy()
    columns = matrix.codes.shape[1]
    # a pruned weight gets the zero point of its group as its code, because that code stands for 0
    codes = np.repeat(matrix.zeros, columns // max(matrix.zeros.shape[1], 1), axis=1)
    codes.reshape(-1)[flat(matrix.codes)] = matrix.codes.values
    return packed(codes, bits)


def packed(codes: NDArray[np.int8], bits: int) -> NDArray[np.int32]:
    """Return rows of signed codes as 32-bit words, lowest bits first; the inverse of `int_codes.unpacked` (FMT-173).

    Shapes  codes (rows, n), words (rows, `words_of(n, bits)`)
    """
    each, (rows, n) = 32 // bits, codes.shape
    padded = np.zeros((rows, words_of(n, bits, straddling=False) * each), dtype=np.uint32)
    padded[:, :n] = codes.astype(np.int32) + (1 << (bits - 1))
    shifts = np.arange(0, 32, bits, dtype=np.uint32)
    words = np.bitwise_or.reduce(padded.reshape(rows, -1, each) << shifts, axis=2)
    return words.view(np.int32)


def _zeros(matrix: Coded) -> int:
    """Return how many stored weights are 0."""
    return int(np.count_nonzero(matrix.codes.values == matrix.zeros.reshape(-1)[groups_of(matrix)]))


def _config(checkpoint: Checkpoint) -> bytes:
    """Return config.json with a description of the codes."""
    config = foreign_object(checkpoint.files[CONFIG])
    _, *options = grid_of(checkpoint.attributes).split(":")
    group = next((int(option[1:]) for option in options if option.startswith("g")), None)
    weights: dict[str, Any] = {
        "num_bits": _bits(checkpoint),
        "type": "int",
        "symmetric": "asym" not in options,
        "strategy": "group" if group else "channel",
        "group_size": group,
        "dynamic": False,
    }
    described = {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "ignore": [] if "lm_head.weight" in checkpoint.scales else ["lm_head"],
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
    }
    return (json.dumps({**config, "quantization_config": described}, indent=2) + "\n").encode()
