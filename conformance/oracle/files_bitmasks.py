"""Folders of compressed-tensors with sparse tensors behind bitmasks, bit by bit (FMT-150, FMT-158, FMT-179).

`parts` packs a tensor, `read` unpacks the tensors of a folder. `fit` and `filled` say what FMT-179.2 and FMT-179.3 do.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from conformance.oracle.files import BITS, Tensor
from conformance.oracle.files_convert import packed, words
from conformance.oracle.foreign import (
    DESCRIPTIONS,
    LIBRARY,
    Tree,
    by,
    need,
    numbers,
    parsed,
    read_folder,
    without_sparsity,
)

CONFIG = "config.json"
BITMASK, TWO_OF_FOUR = "sparse-bitmask", "sparse-24-bitmask"
ROLES = {
    BITMASK: {"shape", "bitmask", "compressed", "row_offsets"},
    TWO_OF_FOUR: {"shape", "bitmask", "compressed"},
    "dense": set[str](),
    "dense-sparsity": set[str](),
}
"""Sparsity format -> the parts of a packed tensor (FMT-150, FMT-150.2)."""

BESIDE = (None, "dense", "int-quantized", "float-quantized", "naive-quantized")
"""Formats of a quantisation that may stand beside packed tensors (FMT-150.9)."""

MOST = 2**31 - 1


@dataclass(frozen=True)
class Folder:
    """What a folder consists of: its tensors, `config.json` without descriptions of sparsity, and the files read."""

    tensors: dict[str, Tensor]
    config: Any
    read: list[str]


def read(tree: Tree) -> Folder:
    """Return what a folder of compressed-tensors consists of.

    Raises:
        RefusedError: FMT-150, or as `foreign.read_folder`.
    """
    tensors, files = read_folder(tree)
    stated: set[str] = set()
    with by("FMT-150"):
        config = parsed(tree[CONFIG], constants=True)
        need(isinstance(config, dict), "an object")
        left = without_sparsity(config, stated)
        (form,) = stated
        need(form in ROLES, "a known format")
        need(not ROLES[form] or all(one in BESIDE for one in _quantised(config)), "codes of one number a weight")
        return Folder(unpacked(tensors, form), left, files)


def _quantised(value: Any) -> list[Any]:
    """Return the formats that the quantisations of compressed-tensors in a configuration state, at any depth."""
    if not isinstance(value, dict):
        return []
    forms: list[Any] = []
    for key, inner in value.items():
        if key in DESCRIPTIONS and isinstance(inner, dict) and inner.get("quant_method") in LIBRARY:
            groups = inner.get("config_groups")
            every = [inner, *(groups.values() if isinstance(groups, dict) else ())]
            forms += [one.get("format") for one in every if isinstance(one, dict)]
        forms += _quantised(inner)
    return forms


def unpacked(tensors: Mapping[str, Tensor], form: str) -> dict[str, Tensor]:
    """Return the tensors of a folder with the parts of each packed tensor joined (FMT-150.2 to FMT-150.8)."""
    modules: dict[str, dict[str, Tensor]] = {}
    for name, t in tensors.items():
        prefix, dot, role = name.rpartition(".")
        if dot and role in ROLES[BITMASK]:
            modules.setdefault(prefix, {})[role] = t
    own_names = any(prefix.endswith(".weight") for prefix in modules)
    made = {name: t for name, t in tensors.items() if name.rpartition(".")[2] not in ROLES[BITMASK] or "." not in name}
    for prefix, parts in modules.items():
        need({*parts} == ROLES[form], "all parts that the format has, and no others")
        name = prefix if own_names else f"{prefix}.weight"
        need(name not in made, "a tensor that is stored once")
        made[name] = joined(parts, form)
    return made


def joined(parts: Mapping[str, Tensor], form: str) -> Tensor:
    """Return the sparse tensor that the parts of a packed tensor are."""
    stated, bitmask, values = parts["shape"], parts["bitmask"], parts["compressed"]
    shape = tuple(numbers(stated, "I64"))
    need(stated.shape == ((2, 1) if form == TWO_OF_FOUR else (len(shape),)) and 1 <= len(shape) <= 8, "a stated shape")
    need(all(d >= 0 for d in shape) and prod(d or 1 for d in shape) < 2**53, "a shape (FMT-007)")
    rows, columns = prod(shape[:-1]), shape[-1]
    need(1 <= columns <= MOST and rows <= MOST, "rows and columns")
    width = -(-columns // 8)
    need((bitmask.dtype, bitmask.shape) == ("U8", (*shape[:-1], width)), "a bitmask of the stated shape")
    flags = [[bitmask.bits[r * width + c // 8] >> c % 8 & 1 for c in range(8 * width)] for r in range(rows)]
    need(not any(any(row[columns:]) for row in flags), "no bit after the last column")
    support = tuple((r, c) for r, row in enumerate(flags) for c, flag in enumerate(row) if flag)
    need(prod(values.shape) == len(support), "a value for each bit")
    if form == TWO_OF_FOUR:
        every = [flag for row in flags for flag in row[:columns]]
        need(len(every) % 4 == 0 == columns % 2 and values.shape == (rows, columns // 2), "half of the positions")
        need(all(sum(every[i : i + 4]) == 2 for i in range(0, len(every), 4)), "two of every four")
    else:
        need(len(values.shape) == 1, "one dimension of values")
    return Tensor(values.dtype, shape, values.bits, support)


# packing -----------------------------------------------------------------------------------------


def fit(t: Tensor) -> bool:
    """Return whether a sparse tensor fits 2:4 (FMT-179.2)."""
    if len(t.shape) != 2 or t.shape[1] % 4 or not prod(t.shape):
        return False
    groups = [(r, c // 4) for r, c in t.support or ()]
    return all(groups.count(group) <= 2 for group in {*groups})


def filled(t: Tensor) -> Tensor:
    """Return a tensor with two stored weights in each group of four, zeros where it has fewer (FMT-179.3)."""
    stored = dict(zip(t.support or (), words(t), strict=True))
    for r in range(t.shape[0]):
        for first in range(0, t.shape[1], 4):
            group = [(r, first + i) for i in range(4)]
            free = [at for at in group if at not in stored]
            stored |= dict.fromkeys(free[: len(free) - 2], 0)
    at = sorted(stored)
    return Tensor(t.dtype, t.shape, packed(t.dtype, [stored[one] for one in at]), tuple(at))


def parts(t: Tensor, form: str) -> dict[str, Tensor]:
    """Return the parts of a packed tensor by role, `row_offsets` too, all zeros, because no reader reads it."""
    rows, columns = prod(t.shape[:-1]), t.shape[-1]
    width = -(-columns // 8)
    mask = bytearray(rows * width)
    for r, c in t.support or ():
        mask[r * width + c // 8] |= 1 << c % 8
    made = {
        "shape": Tensor("I64", (len(t.shape),), struct.pack(f"<{len(t.shape)}q", *t.shape)),
        "bitmask": Tensor("U8", (*t.shape[:-1], width), bytes(mask)),
        "compressed": Tensor(t.dtype, (len(t.bits) * 8 // BITS[t.dtype],), t.bits),
    }
    if form == TWO_OF_FOUR:
        shaped = Tensor(t.dtype, (rows, columns // 2), t.bits)
        return made | {"shape": Tensor("I64", (2, 1), made["shape"].bits), "compressed": shaped}
    return made | {"row_offsets": Tensor("I64", t.shape[:-1], bytes(8 * rows))}
