"""The layout `pack-quantized` of compressed-tensors, for a quantised model of this format (FMT-178)."""

from typing import Any

import numpy as np

from formats.dialects.coded import Coded
from formats.dialects.int_words import Grid, Layout, codes_everywhere, packed
from formats.records import Array

_CODES, _SCALE, _ZERO, _SHAPE = "weight_packed", "weight_scale", "weight_zero_point", "weight_shape"


def _parts(grid: Grid) -> tuple[str, ...]:
    return (_CODES, _SCALE, _SHAPE, _ZERO) if grid.asymmetric else (_CODES, _SCALE, _SHAPE)


def _part(matrix: Coded, part: str, grid: Grid) -> Array:
    if part == _SCALE:
        return matrix.scales
    if part == _SHAPE:
        return np.array(matrix.codes.shape, dtype=np.int64)
    if part == _ZERO:
        return packed(matrix.zeros.T, grid.bits).T.copy()
    return packed(codes_everywhere(matrix), grid.bits)


def _described(grid: Grid, matrices: list[str]) -> dict[str, Any]:
    weights: dict[str, Any] = {
        "num_bits": grid.bits,
        "type": "int",
        "symmetric": not grid.asymmetric,
        "strategy": "group" if grid.size else "channel",
        "group_size": grid.size,
        "dynamic": False,
    }
    described: dict[str, Any] = {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "ignore": [] if "lm_head.weight" in matrices else ["lm_head"],
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
    }
    # FMT-178.6: since compressed-tensors 0.18 the module that transformers prepares for codes has the shape of zero
    # points that are not packed, so transformers must decode the weights while it loads them
    return described | ({"dequantize": True} if grid.asymmetric else {})


PACK_QUANTIZED = Layout("FMT-178", _parts, _part, _described, np.dtype(np.float32))
