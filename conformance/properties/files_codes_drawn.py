"""Folders of integer codes that are drawn: GPTQ, AWQ, compressed-tensors (FMT-172)."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from conformance.oracle.files import Tensor
from conformance.oracle.files_codes import Codes, named
from conformance.oracle.files_convert import WHOLE, stock
from conformance.properties import foreign
from conformance.properties.draws import Draw

__all__ = ["AWQ", "GPTQ", "V2", "drawn", "files_of", "library", "scheme", "shuffled"]

GPTQ: dict[str, Any] = {"quant_method": "gptq", "bits": 4, "group_size": 8, "desc_act": False, "sym": False}
V2 = GPTQ | {"checkpoint_format": "gptq_v2"}
AWQ: dict[str, Any] = {"quant_method": "awq", "bits": 4, "group_size": 8, "version": "gemm", "zero_point": True}
_RANGE = {"F16": (0x0C00, 0x3BFF), "BF16": (0x3000, 0x3F7F), "F32": (0x3000_0000, 0x3F7F_FFFF)}
"""Dtype -> bit patterns of the smallest and the largest scale that is drawn. With them no weight overflows."""


def files_of(description: dict[str, Any], parts: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the files of a Hugging Face folder with the matrix `q`, as an input of an operation."""
    config = json.dumps({"a": 1, "quantization_config": description}).encode()
    return foreign.files_of({WHOLE: stock(named("q", dict(parts))), "config.json": config})


def drawn(
    d: Draw, shape: tuple[int, int], bits: int, size: int = 0, dtype: str = "F16", *, zeros: int | None = None
) -> Codes:
    """Return a matrix of random codes, a third of them equal to the zero point of their group.

    size  columns of a group, 0 for one group a row
    zeros  the least signed zero point; None for a symmetric matrix
    """
    out, columns = shape
    half = 1 << (bits - 1)
    groups = [c // size if size else 0 for c in range(columns)]
    count = groups[-1] + 1
    scales = [[d.integer(*_RANGE[dtype]) for _ in range(count)] for _ in range(out)]
    zero = None if zeros is None else [[d.integer(zeros, half - 1) for _ in range(count)] for _ in range(out)]
    matrix = Codes(bits, [], dtype, scales, zero, groups)
    rows = [
        [d.integer(-half, half - 1) if d.integer(0, 2) else matrix.zero(r, groups[c]) for c in range(columns)]
        for r in range(out)
    ]
    # the smallest and the largest code come at least once
    rows[0][0], rows[-1][-1] = -half, half - 1
    return replace(matrix, codes=rows)


def shuffled(d: Draw, m: Codes) -> Codes:
    """Return a matrix whose groups have as many columns as before, in another order."""
    order = sorted(range(len(m.groups)), key=lambda _: d.integer(0, 2**40))
    return replace(m, groups=[m.groups[at] for at in order])


def scheme(bits: int, strategy: str, size: int | None = None, **more: Any) -> dict[str, Any]:
    """Return a group of `config_groups`."""
    weights = {"num_bits": bits, "type": "int", "strategy": strategy, "group_size": size, "symmetric": True}
    return {"targets": ["Linear"], "weights": weights | more}


def library(group: dict[str, Any], form: str) -> dict[str, Any]:
    """Return a description of compressed-tensors."""
    return {"quant_method": "compressed-tensors", "format": form, "config_groups": {"group_0": group}}
