"""Folders of integer codes that are drawn: GPTQ, AWQ, compressed-tensors (FMT-172)."""

import json
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from conformance.oracle.files import Tensor
from conformance.oracle.files_codes import Codes
from conformance.oracle.files_convert import WHOLE, dense, stock

GPTQ: dict[str, Any] = {"quant_method": "gptq", "bits": 4, "group_size": 8, "desc_act": False, "sym": False}
V2 = GPTQ | {"checkpoint_format": "gptq_v2"}
AWQ: dict[str, Any] = {"quant_method": "awq", "bits": 4, "group_size": 8, "version": "gemm", "zero_point": True}
NORM = dense("F16", (5,), [0x8000, 0, 0x3C00, 0x7E01, 1])
_RANGE = {"F16": (0x0C00, 0x3BFF), "BF16": (0x3000, 0x3F7F), "F32": (0x3000_0000, 0x3F7F_FFFF)}
"""Dtype -> bit patterns of the smallest and the largest scale that is drawn. With them no weight overflows."""


class Drawn(Protocol):
    """A source of random integers: the generator of cases here, an example of hypothesis in a property."""

    def integer(self, low: int, high: int, /) -> int:
        """Return an integer from low to high, both included."""


@dataclass
class Folder:
    """A Hugging Face folder with matrices of codes.

    Attributes:
        description: value of `quantization_config`; None for none.
        matrices: name of a module -> codes.
        parts: name of a tensor -> tensor, the parts of all matrices.
        source: value of the attribute `source`.
        others: tensors that belong to no matrix.
        dropped: tensors that the conversion leaves out.
        config: keys of `config.json` beside the description.
        beside: further files.
    """

    description: dict[str, Any] | None
    matrices: dict[str, Codes]
    parts: dict[str, Tensor]
    source: str
    others: dict[str, Tensor] = field(default_factory=dict)
    dropped: dict[str, Tensor] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=lambda: {"a": 1})
    beside: dict[str, bytes] = field(default_factory=dict)

    def tree(self) -> dict[str, bytes]:
        """Return the files of the folder, name -> bytes."""
        described = {} if self.description is None else {"quantization_config": self.description}
        weights = stock(self.parts | self.others | self.dropped)
        return {WHOLE: weights, "config.json": json.dumps(self.config | described).encode()} | self.beside


def drawn(
    n: Drawn, shape: tuple[int, int], bits: int, size: int = 0, dtype: str = "F16", *, zeros: int | None = None
) -> Codes:
    """Return a matrix of random codes, a third of them equal to the zero point of their group.

    size  columns of a group, 0 for one group a row
    zeros  the least signed zero point; None for a symmetric matrix
    """
    out, columns = shape
    half = 1 << (bits - 1)
    groups = [c // size if size else 0 for c in range(columns)]
    count = groups[-1] + 1
    scales = [[n.integer(*_RANGE[dtype]) for _ in range(count)] for _ in range(out)]
    zero = None if zeros is None else [[n.integer(zeros, half - 1) for _ in range(count)] for _ in range(out)]
    matrix = Codes(bits, [], dtype, scales, zero, groups)
    rows = [
        [n.integer(-half, half - 1) if n.integer(0, 2) else matrix.zero(r, groups[c]) for c in range(columns)]
        for r in range(out)
    ]
    # the smallest and the largest code come at least once
    rows[0][0], rows[-1][-1] = -half, half - 1
    return replace(matrix, codes=rows)


def shuffled(n: Drawn, m: Codes) -> Codes:
    """Return a matrix whose groups have as many columns as before, in another order."""
    order = sorted(range(len(m.groups)), key=lambda _: n.integer(0, 2**40))
    return replace(m, groups=[m.groups[at] for at in order])


def scheme(bits: int, strategy: str, size: int | None = None, **more: Any) -> dict[str, Any]:
    """Return a group of `config_groups`."""
    weights = {"num_bits": bits, "type": "int", "strategy": strategy, "group_size": size, "symmetric": True}
    return {"targets": ["Linear"], "weights": weights | more}


def library(*groups: dict[str, Any], form: str = "pack-quantized", **more: Any) -> dict[str, Any]:
    """Return a description of compressed-tensors."""
    config_groups = {f"group_{i}": group for i, group in enumerate(groups)}
    return {"quant_method": "compressed-tensors", "format": form, "config_groups": config_groups} | more
