"""Writes a quantised model of this format as a folder of codes of another library (FMT-178, FMT-180).

    w, w.scale, w.zero_point   ->   the parts of the layout, and quantization_config in config.json

`pack_quantized` and `gptq_folder` have the layouts of the parts, and `int_folder` reads such folders.
"""

import json
import os
from dataclasses import replace
from functools import lru_cache

import numpy as np

from formats.dialects.coded import ATTRIBUTE, Coded, grid_of, groups_of, read_coded, stands_beside
from formats.dialects.gptq_folder import GPTQ
from formats.dialects.hf import checkpoint_to_hf
from formats.dialects.int_words import Grid, Layout, refuse_parts_of_words
from formats.dialects.pack_quantized import PACK_QUANTIZED
from formats.dialects.quantised import config_to_extend
from formats.errors import CannotHold, FormatError
from formats.lazy import Lazy, like
from formats.records import Checkpoint, Dense, DType, Tensor

CONFIG = "config.json"
LAYOUTS: dict[str, Layout] = {"compressed-tensors": PACK_QUANTIZED, "gptq": GPTQ}


def write_coded(
    out: str | os.PathLike[str], checkpoint: Checkpoint, to: str, *, shard_bytes: int, limit: int | None = None
) -> tuple[list[str], list[str]]:
    """Write a quantised model as a folder of one of LAYOUTS; return what that folder cannot hold, and remarks.

    Raises:
        CannotHold: the clause of the layout for a matrix with weights beside its codes (FMT-178.3, FMT-180.3).
        FormatError: FMT-178 or FMT-180, the clause of the layout, for a model without codes or without config.json, and
            for a matrix that the layout has no form for; QNT-009; as `checkpoint_to_hf`.
    """
    layout = LAYOUTS[to]
    clause = layout.clause
    if not checkpoint.scales:
        raise FormatError(
            clause,
            f"{to} takes a quantised model of this format; leave expand_quantised (--expand-quantised) out, make one "
            "of a folder of codes by keep_codes (--to sparse --keep-codes), or quantise the model "
            "(seft prune --quantize)",
        )
    if ATTRIBUTE not in checkpoint.attributes:
        raise FormatError(clause, f"the model has scales and no attribute {ATTRIBUTE!r}, so its grid is unknown")
    beside = sorted(name for name in checkpoint.scales if stands_beside(checkpoint, name))
    if beside:
        raise CannotHold(
            clause,
            f"{to} holds codes alone, and {beside[0]!r} has weights beside them; fine-tune with --merge "
            "grid-exact or grid, or quantise the expanded model",
        )
    wrong = sorted(name for name in checkpoint.scales if not name.endswith(".weight"))
    if wrong:
        raise FormatError(clause, f"{wrong[0]!r} is no weight of a module, whose name ends in .weight")
    if CONFIG not in checkpoint.files:
        raise FormatError(
            clause,
            f"the model has no {CONFIG}, which has to describe its codes; a single file has none: take the difference "
            "to a folder that has it (seft diff FOLDER FILE DELTA), and apply that to the folder",
        )
    grid = _grid(checkpoint)
    for name in checkpoint.scales:
        refuse_parts_of_words(layout, grid, like(checkpoint.tensors, name).shape, name)
    own = {part for roles in checkpoint.scales.values() for part in roles.values()}
    owner = {
        f"{name.removesuffix('.weight')}.{part}": (name, part)
        for name in checkpoint.scales
        for part in layout.parts(grid)
    }

    @lru_cache(maxsize=1)  # the parts of a matrix are often asked for in a row
    def coded(name: str) -> Coded:
        return read_coded(checkpoint, name)

    def make(name: str) -> Tensor:
        if name not in owner:
            return checkpoint.tensors[name]
        matrix, part = owner[name]
        return Dense(layout.part(coded(matrix), part, grid))

    names = [name for name in checkpoint.tensors if name not in own and name not in checkpoint.scales]
    taken = sorted(owner.keys() & set(names))
    if taken:
        raise FormatError(clause, f"{taken[0]!r} is a tensor of the model, and the name of a part; rename the tensor")
    config = config_to_extend(checkpoint.files[CONFIG], clause)
    config = {**config, "quantization_config": layout.described(grid, sorted(checkpoint.scales))}
    folder = replace(
        checkpoint,
        tensors=Lazy([*names, *owner], make),
        files={**checkpoint.files, CONFIG: (json.dumps(config, indent=2) + "\n").encode()},
        scales={},
    )
    checkpoint_to_hf(out, folder, shard_bytes=shard_bytes, limit=limit)
    zeros = rounded = scales = 0
    for name in checkpoint.scales:
        matrix = coded(name)
        zeros += _zeros(matrix)
        rounded += _rounded(matrix, layout.scales_held)
        scales += matrix.scales.size
    lost = [f"the support of {zeros} stored weights of 0"] if zeros else []
    remark = f"{rounded} of {scales} scales are not exact in F16; programs that hold scales in F16 round them"
    return lost, [remark] if rounded else []


def _grid(checkpoint: Checkpoint) -> Grid:
    kind, *options = grid_of(checkpoint.attributes).split(":")
    size = next((int(option[1:]) for option in options if option.startswith("g")), None)
    return Grid(int(kind.removeprefix("int")), size, "asym" in options)


def _rounded(matrix: Coded, dtype: DType) -> int:
    """Return how many scales a cast to the dtype changes."""
    with np.errstate(over="ignore"):
        return int(np.count_nonzero(matrix.scales.astype(dtype).astype(np.float32) != matrix.scales))


def _zeros(matrix: Coded) -> int:
    """Return how many stored weights are 0."""
    return int(np.count_nonzero(matrix.codes.values == matrix.zeros.reshape(-1)[groups_of(matrix)]))
