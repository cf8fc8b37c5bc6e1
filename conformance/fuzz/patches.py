"""Sparse patches of vLLM, which are objects in memory: inputs and a plain definition (FMT-169)."""

import struct
from dataclasses import dataclass
from math import isnan, prod
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import torch

from conformance.fuzz import base_models, foreign_spoil
from conformance.fuzz.base_models import Plain
from conformance.fuzz.foreign import Case
from conformance.fuzz.foreign_files import Folder, Piece, Stock
from conformance.oracle.files import BITS, Tensor
from conformance.oracle.foreign import need, numbers
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
FORMS = ("vllm", "sparse", "ours", "no indices", "list", "sparse tensor", "meta")
"""Attributes of the object: vllm has shape and dtype, sparse has full_shape and no dtype, ours is `WeightPatch`; the
other forms are broken."""
WORDS: dict[str, list[Any]] = {
    "name": [*base_models.NAMES, 0, None, ["a"]],
    "shape": [None, "x", ["2", "3"], [2.0, 3], [2**40, 2**40], [-1], [2, 3], [3, 2]],
    "dtype": [None, *TORCH, "text", "complex128"],
    "form": [*FORMS],
}


@dataclass
class Draft:
    """A base, and patches that change it: by number the words of each, and its values and indices."""

    base: dict[str, Plain]
    patches: Folder


@dataclass
class Patch:
    """A patch as plain values; the reader gets an object that `_object` makes of it."""

    words: dict[str, Any]
    values: Tensor | None
    indices: Tensor | None


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
        patches = Folder({}, {})
        # the last patch changes every value that it names, because a delta without changes is refused
        for i, name in enumerate((*(name for name in names if chance.random() < 0.8), names[0])):
            form = chance.choice(("vllm", "sparse", "ours"))
            one = base[name]
            patches.texts[f"{i}"] = {"name": name, "shape": [*one.shape], "dtype": one.dtype, "form": form}
            patches.files[f"{i}"] = Stock(_pieces(chance, one, sparse=sparse))
        return Draft(base, patches)

    def case(self, chance: Random, draft: Draft, *, valid: bool) -> Case:
        """Return base and patches as a case; unless `valid`, they are mutated."""
        if not valid and chance.random() < 0.12:
            base_models.disturbed(chance, draft.base)
        elif not valid:
            foreign_spoil.spoil(chance, draft.patches, foreign_spoil.exchanging(WORDS, draft.patches), general=_GENERAL)
        patches = []
        for number, words in draft.patches.texts.items():
            pieces = {one.name: _fitting(one) for one in draft.patches.files[number].pieces}
            own = words if isinstance(words, dict) else {}
            patches.append(Patch(own, pieces.get("values"), pieces.get("indices")))
        size = base_models.sizes(draft.base) + sum(len(piece.data) for piece in draft.patches.pieces())
        return Case({}, (draft.base, patches), size, valid)

    def read(self, case: Case, place: Path) -> Any:
        """Return the bytes of each tensor after the delta that the reader makes of the patches."""
        del place
        plain, patches = case.memory
        base = Checkpoint("model", base_models.records(plain))
        made = delta.apply(base, [delta_from_patches(base, [_object(patch) for patch in patches])])
        return {name: to_dense(made.tensors[name]).tobytes() for name in made.tensors}

    def define(self, case: Case) -> Any:
        """Return the same as `read`, from the text of FMT-169 alone."""
        base, patches = case.memory
        now = {name: one.cells() for name, one in base.items()}
        need(len({patch.indices is None for patch in patches}) == 1, "patches of one kind")
        for patch in patches:
            name = patch.words["name"]
            _apply(patch, base[name], now[name])
        after = {name: b"".join(cells) for name, cells in now.items()}
        need(any(after[name] != one.data for name, one in base.items()), "FMT-131: a change")
        return after


READER = Patches()
_GENERAL: foreign_spoil.Weighted = ((foreign_spoil.text, 10), (foreign_spoil.tensor, 10))


def _pieces(chance: Random, one: Plain, *, sparse: bool) -> list[Piece]:
    """Return values that all differ from those of a tensor and are no NaN, and their positions."""
    cells, total = one.cells(), prod(one.shape)
    at = chance.sample(range(total), chance.randint(1, total)) if sparse else [*range(total)]
    new = []
    for i in at:
        cell = bytes([cells[i][0] ^ 1, *chance.randbytes(one.width - 1)])
        if one.dtype in FLOATS and _is_nan(cell, one.dtype):
            cell = cell[:1].ljust(one.width, b"\0")
        new.append(cell)
    values = Piece("values", one.dtype, [len(at)], b"".join(new))
    of, code = chance.choice((("I32", "i"), ("I64", "q")))
    return [values, *([Piece("indices", of, [len(at)], struct.pack(f"<{len(at)}{code}", *at))] if sparse else [])]


def _is_nan(cell: bytes, dtype: str) -> bool:
    return isnan(struct.unpack(FLOATS[dtype], b"\0\0" + cell if dtype == "BF16" else cell)[0])


def _fitting(one: Piece) -> Tensor:
    """Return a piece as a tensor with a dtype of torch, and with a shape and flags that its bytes have."""
    dtype = one.dtype if one.dtype in TORCH else "U8"
    width = max(BITS[dtype] // 8, 1)
    data = one.data[: len(one.data) // width * width]
    data = bytes(byte & 1 for byte in data) if dtype == "BOOL" else data
    whole = isinstance(one.shape, list) and all(type(n) is int and n >= 0 for n in one.shape)
    fits = whole and prod(one.shape) * width == len(data) and len(one.shape) < 9 and max(one.shape, default=0) < 2**31
    return Tensor(dtype, tuple(one.shape) if fits else (len(data) // width,), data)


def _object(patch: Patch) -> Any:
    """Return the object that a program would pass to the reader for a patch."""
    words, form = patch.words, patch.words.get("form")
    fields: dict[str, Any] = {key: words[key] for key in ("name", "shape") if key in words}
    if isinstance(fields.get("shape"), list) and form != "ours":
        fields["shape"] = tuple(fields["shape"])
    stated = words.get("dtype")
    dtype: Any = {**TORCH, "complex128": torch.complex128}.get(stated, stated) if isinstance(stated, str) else stated
    if patch.values is not None:
        values = _tensor(patch.values)
        fields["values"] = values.tolist() if form == "list" else values.to("meta") if form == "meta" else values
    if form == "sparse tensor":
        fields["indices"] = torch.zeros(3).to_sparse()
    elif form != "no indices":
        fields["indices"] = None if patch.indices is None else _tensor(patch.indices)
    if form == "ours" and len(fields) == 4:
        return WeightPatch(dtype=dtype, **fields)
    if form == "sparse" and "shape" in fields:
        fields["full_shape"] = fields.pop("shape")
    elif stated is not None:
        fields["dtype"] = dtype
    return SimpleNamespace(**fields)


def _tensor(one: Tensor) -> torch.Tensor:
    flat = torch.empty(0, dtype=TORCH[one.dtype])
    if one.bits:
        flat = torch.frombuffer(bytearray(one.bits), dtype=TORCH[one.dtype])
    return flat.reshape(one.shape)


# the definition ----------------------------------------------------------------------------------


def _apply(patch: Patch, one: Plain, cells: list[bytes]) -> None:
    """Check a patch, and write its values into the cells of its tensor."""
    form, shape, dtype = patch.words.get("form"), patch.words["shape"], patch.words.get("dtype")
    assert patch.values is not None
    need(form not in FORMS[3:], "the attributes of a patch")
    need(isinstance(shape, list) and tuple(shape) == one.shape, "the shape of the base")
    need(all(type(n) is int for n in shape), "a shape of integers")
    states_none = form == "sparse" or (dtype is None and form != "ours")
    stated = patch.values.dtype if states_none else dtype
    need(stated == patch.values.dtype == one.dtype, "the dtype of the base")
    need(len(patch.values.shape) == 1, "one dimension of values")
    new = [patch.values.bits[i : i + one.width] for i in range(0, len(patch.values.bits), one.width)]
    if patch.indices is None:
        need(len(new) == len(cells), "a value for each element")
        cells[:] = new
        return
    need(len(patch.indices.shape) == 1, "one dimension of indices")
    at = numbers(patch.indices, "I32", "I64")
    need(len(at) == len(new) and len(set(at)) == len(at), "each position once, and a value for it")
    need(all(0 <= i < len(cells) for i in at), "positions inside the tensor")
    need(one.dtype in FLOATS and not any(_is_nan(cell, one.dtype) for cell in new), "floats that are no NaN")
    for i, cell in zip(at, new, strict=True):
        cells[i] = cell
