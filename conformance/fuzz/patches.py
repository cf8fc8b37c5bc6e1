"""Sparse patches of vLLM, which are objects in memory: inputs, mutations and a plain definition (FMT-169)."""

import struct
from dataclasses import dataclass
from math import isnan, prod
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import torch

from conformance.fuzz import base_models
from conformance.fuzz.base_models import Plain
from conformance.fuzz.foreign import Case
from conformance.fuzz.mutate import CANNOT
from conformance.fuzz.strings import INTEGERS, a_string
from conformance.oracle.foreign import need
from formats import delta
from formats.dialects.vllm_patch import WeightPatch, delta_from_patches
from formats.records import Checkpoint, to_dense

TORCH = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
    "C64": torch.complex64,
    "F8_E4M3": torch.float8_e4m3fn,
}
FLOATS = {"F16": "<e", "BF16": "<f", "F32": "<f", "F64": "<d"}
"""Dtypes of sparse patches, with the code of `struct`; a BF16 is the upper half of an F32."""
FORMS = ("vllm", "sparse", "ours", "no shape", "no values", "no name", "no indices", "list", "sparse tensor", "meta")
WIDE = {"I32": 32, "I64": 64}
"""Dtypes of indices, with their bits."""


@dataclass
class Patch:
    """A patch as plain values; the reader gets an object that `_object` makes of it."""

    name: Any
    shape: Any
    dtype: str | None
    """None if the patch states none"""
    of_values: str
    values: bytes
    value_shape: list[int]
    indices: list[int] | None
    of_indices: str = "I64"
    index_shape: list[int] | None = None
    """the shape of indices, if it is not one dimension"""
    form: str = "vllm"
    """attributes of the object: vllm has shape and dtype, sparse has full_shape and no dtype, ours is `WeightPatch`;
    the other forms are broken"""


@dataclass
class Draft:
    """A base, and patches that change it."""

    base: dict[str, Plain]
    patches: list[Patch]


class Patches:
    """The reader of patches, as `foreign.Reader`."""

    def grow(self, chance: Random) -> Draft:
        """Return a base and valid patches that change it."""
        names = chance.sample(base_models.NAMES, chance.choice((1, 2, 3)))
        sparse = chance.random() < 0.8
        kinds = sorted(FLOATS if sparse else TORCH)
        base = {
            name: base_models.random_tensor(chance, chance.choice(kinds), chance.choice(base_models.SHAPES))
            for name in names
        }
        patches = [_patch(chance, name, base[name], sparse=sparse) for name in names if chance.random() < 0.8]
        # the last patch changes every value that it names, because a delta without changes is refused
        patches.append(_patch(chance, names[0], base[names[0]], sparse=sparse, sure=True))
        return Draft(base, patches)

    def case(self, chance: Random, draft: Draft, *, valid: bool) -> Case:
        """Return base and patches as a case; unless `valid`, they are mutated."""
        for _ in range(0 if valid else chance.choice((1, 1, 2, 3))):
            try:
                if chance.random() < 0.12:
                    base_models.disturbed(chance, draft.base)
                else:
                    _spoil(chance, draft)
            except CANNOT:
                continue
        size = base_models.sizes(draft.base) + sum(len(p.values) + 8 * len(p.indices or ()) for p in draft.patches)
        return Case({}, draft, size, valid)

    def read(self, case: Case, place: Path) -> Any:
        """Return the bytes of each tensor after the delta that the reader makes of the patches."""
        del place
        base = Checkpoint("model", base_models.records(case.memory.base))
        made = delta.apply(base, [delta_from_patches(base, [_object(patch) for patch in case.memory.patches])])
        return {name: to_dense(made.tensors[name]).tobytes() for name in made.tensors}

    def define(self, case: Case) -> Any:
        """Return the same as `read`, from the text of FMT-169 alone."""
        base: dict[str, Plain] = case.memory.base
        now = {name: one.cells() for name, one in base.items()}
        need(len({patch.indices is None for patch in case.memory.patches}) == 1, "patches of one kind")
        for patch in case.memory.patches:
            _apply(patch, base[patch.name], now[patch.name])
        after = {name: b"".join(cells) for name, cells in now.items()}
        need(any(after[name] != one.data for name, one in base.items()), "FMT-131: a change")
        return after


READER = Patches()


def _patch(chance: Random, name: str, one: Plain, *, sparse: bool, sure: bool = False) -> Patch:
    cells, total = one.cells(), prod(one.shape)
    at = chance.sample(range(total), chance.randint(1, total)) if sparse else [*range(total)]
    new = []
    for i in at:
        cell = chance.choice((chance.randbytes(one.width), cells[i]))
        if sure:
            cell = bytes([cells[i][0] ^ 1, *cells[i][1:]])
        if one.dtype == "BOOL":
            cell = bytes([cell[0] & 1])
        if one.dtype in FLOATS and _is_nan(cell, one.dtype):
            # NaN is replaced by a subnormal or 0, with another first byte than the old value
            cell = bytes([cells[i][0] ^ 1]).ljust(one.width, b"\0")
        new.append(cell)
    of_indices = chance.choice(("I32", "I64"))
    form = chance.choice(("vllm", "sparse", "ours"))
    values = b"".join(new)
    return Patch(
        name, one.shape, one.dtype, one.dtype, values, [len(at)], at if sparse else None, of_indices, form=form
    )


def _is_nan(cell: bytes, dtype: str) -> bool:
    return isnan(struct.unpack(FLOATS[dtype], b"\0\0" + cell if dtype == "BF16" else cell)[0])


def _spoil(chance: Random, draft: Draft) -> None:
    patch, kind = chance.choice(draft.patches), chance.randrange(14)
    if kind < 7 and patch.indices is not None:
        _spoil_indices(chance, patch, patch.indices)
    elif kind < 12:
        _spoil_words(chance, patch, [*draft.base])
    else:
        _spoil_values(chance, patch)


def _spoil_words(chance: Random, patch: Patch, names: list[str]) -> None:
    """Change name, shape, dtypes or form of a patch."""
    kind = chance.randrange(5)
    if kind == 0:
        patch.name = chance.choice((a_string(chance, str(patch.name)), *names, 0, None, b"a", ("a",)))
    elif kind == 1:
        shape = [*patch.shape]
        wrong = (shape, shape[::-1], [*shape, 1], shape[:-1], [prod(shape)], None, "x", [str(n) for n in shape])
        patch.shape = chance.choice((*wrong, (*shape[:-1], 2.0), (2**40, 2**40), (-1,)))
    elif kind == 2:
        patch.dtype = chance.choice((None, *TORCH, "text", "complex128"))
    elif kind == 3:
        patch.of_values = chance.choice(sorted(TORCH))
    else:
        patch.form = chance.choice(FORMS)


def _spoil_values(chance: Random, patch: Patch) -> None:
    """Change number, shape or bits of the values."""
    width, kind = max(len(patch.values) // max(prod(patch.value_shape), 1), 1), chance.randrange(3)
    if kind == 0:
        patch.values += chance.randbytes(width)
        patch.value_shape = [prod(patch.value_shape) + 1]
    elif kind == 1:
        patch.value_shape = chance.choice(([], [1, *patch.value_shape], [*patch.value_shape, 1], [0], [1]))
    else:
        # the new value is a NaN, or has random bits
        at = chance.randrange(len(patch.values) // width) * width
        cell = chance.choice((b"\xff" * width, b"\x01".rjust(width, b"\x7f"), chance.randbytes(width)))
        patch.values = patch.values[:at] + cell + patch.values[at + width :]


def _spoil_indices(chance: Random, patch: Patch, indices: list[int]) -> None:
    """Change a position, or number, shape or dtype of the indices."""
    kind = chance.randrange(6)
    if kind < 2:
        at = chance.randrange(len(indices))
        near = chance.choice((indices[at - 1], indices[at] + 1, prod(patch.shape), prod(patch.shape) - 1, -1))
        indices[at] = chance.choice((near, near, *INTEGERS))
    elif kind == 2:
        patch.indices = chance.choice((indices[:-1], [*indices, 0], []))
    elif kind == 3:
        patch.of_indices = chance.choice(("I32", "I64", "I16", "F32", "BOOL"))
    elif kind == 4:
        patch.index_shape = chance.choice(([1, len(indices)], [len(indices), 1]))
    else:
        patch.indices = None


def _object(patch: Patch) -> Any:
    """Return the object that a program would pass to the reader for a patch."""
    values: Any = _tensor(patch.values, patch.of_values, patch.value_shape)
    indices: Any = None
    if patch.indices is not None:
        indices = _indices(patch)
    if patch.form == "list":
        values = values.tolist()
    elif patch.form == "sparse tensor":
        indices = torch.zeros(3).to_sparse()
    elif patch.form == "meta":
        values = values.to("meta")
    dtype: Any = TORCH.get(patch.dtype or "", patch.dtype)
    if patch.dtype == "complex128":
        dtype = torch.complex128
    fields = {"name": patch.name, "values": values, "indices": indices}
    if patch.form == "ours":
        return WeightPatch(patch.name, patch.shape, dtype, values, indices)
    if patch.form == "sparse":
        return SimpleNamespace(**fields, full_shape=patch.shape)
    whole = fields | {"shape": patch.shape} | ({} if patch.dtype is None else {"dtype": dtype})
    return SimpleNamespace(**{key: value for key, value in whole.items() if patch.form != f"no {key}"})


def _tensor(raw: bytes, dtype: str, shape: list[int]) -> torch.Tensor:
    width = TORCH[dtype].itemsize
    count = len(raw) // width
    if dtype == "BOOL":
        raw = bytes(byte & 1 for byte in raw)
    flat = torch.empty(0, dtype=TORCH[dtype])
    if count:
        flat = torch.frombuffer(bytearray(raw[: count * width]), dtype=TORCH[dtype])
    return flat.reshape(shape) if prod(shape) == count else flat


def _indices(patch: Patch) -> torch.Tensor:
    """Return the indices as a tensor; indices that its dtype cannot represent wrap, as they would in a program."""
    assert patch.indices is not None
    flat = torch.tensor([(i + 2**63) % 2**64 - 2**63 for i in patch.indices], dtype=torch.int64)
    return flat.to(TORCH[patch.of_indices]).reshape(_index_shape(patch))


def _index_shape(patch: Patch) -> list[int]:
    """Return the shape of the indices: the stated one if it fits their number."""
    count = len(patch.indices or ())
    return patch.index_shape if patch.index_shape and prod(patch.index_shape) == count else [count]


# the definition ----------------------------------------------------------------------------------


def _apply(patch: Patch, one: Plain, cells: list[bytes]) -> None:
    """Check a patch, and write its values into the cells of its tensor."""
    need(patch.form in ("vllm", "sparse", "ours"), "the attributes of a patch")
    need(isinstance(patch.shape, tuple | list) and tuple(patch.shape) == one.shape, "the shape of the base")
    need(all(type(n) is int for n in patch.shape), "a shape of integers")
    states_none = patch.form == "sparse" or (patch.dtype is None and patch.form == "vllm")
    stated = patch.of_values if states_none else patch.dtype
    need(stated == patch.of_values == one.dtype, "the dtype of the base")
    new = [patch.values[i : i + one.width] for i in range(0, len(patch.values), one.width)]
    if prod(patch.value_shape) == len(new):
        need(len(patch.value_shape) == 1, "one dimension of values")
    if one.dtype == "BOOL":
        new = [bytes([cell[0] & 1]) for cell in new]
    if patch.indices is None:
        need(len(new) == len(cells), "a value for each element")
        cells[:] = new
        return
    need(patch.of_indices in WIDE and len(_index_shape(patch)) == 1, "one dimension of I32 or I64")
    bits = WIDE[patch.of_indices]
    at = [(i + 2 ** (bits - 1)) % 2**bits - 2 ** (bits - 1) for i in patch.indices]
    need(len(at) == len(new) and len(set(at)) == len(at), "each position once, and a value for it")
    need(all(0 <= i < len(cells) for i in at), "positions inside the tensor")
    need(one.dtype in FLOATS and not any(_is_nan(cell, one.dtype) for cell in new), "floats that are no NaN")
    for i, cell in zip(at, new, strict=True):
        cells[i] = cell
