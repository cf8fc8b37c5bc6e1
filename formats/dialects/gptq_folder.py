"""The layouts `gptq` and `gptq_v2` of GPTQModel, for a quantised model of this format (FMT-180)."""

from typing import Any

import numpy as np

from formats.dialects.coded import Coded
from formats.dialects.int_words import Grid, Layout, codes_everywhere, packed
from formats.records import Array

_CODES, _SCALES, _ZEROS, _GROUPS = "qweight", "scales", "qzeros", "g_idx"


def _parts(grid: Grid) -> tuple[str, ...]:
    return _CODES, _SCALES, _ZEROS, _GROUPS


def _part(matrix: Coded, part: str, grid: Grid) -> Array:
    columns = matrix.codes.shape[1]
    if part == _SCALES:
        return matrix.scales.T.copy()
    if part == _GROUPS:
        return (np.arange(columns) // (columns // matrix.scales.shape[1])).astype(np.int32)
    if part == _ZEROS:
        # Readers of the layout gptq add 1 to a stored zero point. They disagree where the sum does not fit its bits,
        # so only symmetric grids, in which it always fits, have this layout.
        return packed(matrix.zeros.T - np.int8(not grid.asymmetric), grid.bits)
    return packed(codes_everywhere(matrix), grid.bits).T.copy()


def _described(grid: Grid, matrices: list[str]) -> dict[str, Any]:
    return {
        "quant_method": "gptq",
        "bits": grid.bits,
        "group_size": grid.size or -1,
        "sym": not grid.asymmetric,
        "desc_act": False,
        "checkpoint_format": "gptq_v2" if grid.asymmetric else "gptq",
        "lm_head": "lm_head.weight" in matrices,
    }


GPTQ = Layout("FMT-180", _parts, _part, _described, np.dtype(np.float16), whole_words=True)
