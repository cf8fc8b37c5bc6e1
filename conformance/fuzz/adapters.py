"""Super-Tuning and SHiRA adapters of PEFT: inputs, mutations and a plain definition (FMT-151, FMT-157, FMT-170)."""

import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from random import Random
from typing import Any

from conformance.fuzz import base_models, foreign_spoil
from conformance.fuzz.base_models import Plain
from conformance.fuzz.foreign import Case
from conformance.fuzz.foreign_files import Folder, Piece, Stock
from conformance.fuzz.strings import INTEGERS
from conformance.oracle import files_convert_adapters
from conformance.oracle.files import BITS
from conformance.oracle.files_deltas import cells
from formats.dialects.changes import Changes
from formats.dialects.shira import read_shira
from formats.dialects.super_tuning import read_super_tuning

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX, SUFFIX = "base_model.model.", ".weight"
INDICES = {"SUPERTUNING": "supertuning_indices", "SHIRA": "shira_indices"}
VALUES = {"SUPERTUNING": "supertuning_values", "SHIRA": "shira_weight"}
AMOUNTS = {"SUPERTUNING": ("F16", "BF16", "F32"), "SHIRA": ("F16", "BF16", "F32", "F64")}
WHOLE = {"SUPERTUNING": {"I32": "i", "I64": "q"}, "SHIRA": {"I32": "i", "I64": "q", "F32": "f"}}
"""Dtypes of indices, with the code of `struct`."""
FLOATS = ("F16", "BF16", "F32", "F64")
MINUS_ZERO = {"F16": b"\0\x80", "BF16": b"\0\x80", "F32": b"\0\0\0\x80", "F64": bytes(7) + b"\x80"}
KINDS = {"SUPERTUNING": "super-tuning", "SHIRA": "shira"}


@dataclass
class Draft:
    """A base, and the pieces of an adapter for it."""

    base: dict[str, Plain]
    kind: str
    folder: Folder


class Adapters:
    """The two readers of adapters, as `foreign.Reader`; `peft_type` of the draft says which one is asked."""

    def grow(self, chance: Random) -> Draft:
        """Return a base and a valid adapter for it."""
        kind, shape = (
            chance.choice(("SUPERTUNING", "SUPERTUNING", "SHIRA")),
            (chance.randint(1, 5), chance.randint(1, 5)),
        )
        names = chance.sample(("a", "b", "layers.0.q_proj"), chance.choice((1, 1, 2)))
        base = {f"{n}{SUFFIX}": base_models.random_tensor(chance, chance.choice(FLOATS), shape) for n in names}
        sparsity = chance.choice((0, 0.5, 0.9, 0.25, 1 / 3, 0.999))
        count, padded = int(prod(shape) * (1 - sparsity)), chance.random() < 0.4
        config: dict[str, Any] = {
            "peft_type": kind,
            "base_model_name_or_path": chance.choice((None, "m", "")),
            "task_type": None,
        }
        if kind == "SHIRA":
            config |= {"r": 2, "mask_type": "given-padded" if padded else "given"}
        else:
            config |= {"sparsity": sparsity, "r": None, "lora_dropout": 0.0}
        pieces: list[Piece] = []
        for name in names:
            pieces += _pieces(chance, kind, name, shape, chance.sample(range(prod(shape)), count), padded=padded)
        chance.shuffle(pieces)
        mark = {"seft.padding": "-0.0"} if padded and kind == "SUPERTUNING" else {}
        return Draft(base, kind, Folder({CONFIG: config}, {WEIGHTS: Stock(pieces, {"format": "pt"} | mark)}))

    def case(self, chance: Random, draft: Draft, *, valid: bool) -> Case:
        """Return an adapter and its base as a case; unless `valid`, one of the two is mutated."""
        if not valid and chance.random() < 0.08:
            base_models.disturbed(chance, draft.base)
        elif not valid:
            foreign_spoil.spoil(chance, draft.folder, OWN)
        return Case(
            {"adapter": foreign_spoil.pack(draft.folder)},
            (draft.kind, draft.base),
            base_models.sizes(draft.base),
            valid,
        )

    def read(self, case: Case, place: Path) -> Any:
        """Return the amounts of each tensor by position."""
        kind, base = case.memory
        read = read_super_tuning if kind == "SUPERTUNING" else read_shira
        changes: Changes = read(place / "adapter", base_models.records(base))
        tensors = {name: changes.tensors[name] for name in changes.tensors}
        return {name: (t.values.dtype.name, t.shape, base_models.stored(t)) for name, t in tensors.items()}

    def define(self, case: Case) -> Any:
        """Return the same as `read`, from the text of FMT-151 and FMT-170 alone."""
        kind, base = case.memory
        base = {name: one.tensor() for name, one in base.items()}
        made = files_convert_adapters.read(KINDS[kind], case.folders["adapter"], base).tensors
        return {name: (NUMPY[t.dtype], t.shape, cells(t)) for name, t in made.items()}


READER = Adapters()

NUMPY = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}


def _pieces(
    chance: Random, kind: str, name: str, shape: tuple[int, int], at: list[int], *, padded: bool
) -> list[Piece]:
    """Return the two tensors of a module with amounts at flat positions."""
    whole, dtype = chance.choice(sorted(WHOLE[kind])), chance.choice(AMOUNTS[kind])
    numbers = at if kind == "SUPERTUNING" else [*(i // shape[1] for i in at), *(i % shape[1] for i in at)]
    indices = struct.pack(f"<{len(numbers)}{WHOLE[kind][whole]}", *numbers)
    width = BITS[dtype] // 8
    amounts = [MINUS_ZERO[dtype] if padded and chance.random() < 0.3 else chance.randbytes(width) for _ in at]
    index_shape = [len(at)] if kind == "SUPERTUNING" else [2, len(at)]
    path = f"{PREFIX}{name}."
    return [
        Piece(path + INDICES[kind], whole, index_shape, indices),
        Piece(path + VALUES[kind], dtype, [len(at)], b"".join(amounts)),
    ]


def _positions(chance: Random, folder: Folder) -> None:
    """Change one index, for example to one that is there already or just outside the tensor."""
    piece = chance.choice([p for p in folder.pieces() if p.name.endswith("indices")])
    code = {"I32": "i", "I64": "q", "F32": "f"}[piece.dtype]
    width, data = struct.calcsize(code), bytearray(piece.data)
    at, other = (chance.randrange(len(data) // width) * width for _ in range(2))
    old = struct.unpack(f"<{code}", data[at : at + width])[0]
    kind = chance.randrange(4)
    if kind == 0:
        data[at : at + width] = data[other : other + width]
    elif kind == 1 and code == "f":
        data[at : at + width] = struct.pack("<f", chance.choice((old + 0.5, float("nan"), float("inf"), -0.0, 2.0**24)))
    else:
        new = int(chance.choice((old + 1, -1, old * 5, chance.randrange(30), *INTEGERS)))
        wide = (new % 2**64).to_bytes(8, "little")
        data[at : at + width] = struct.pack("<f", float(new)) if code == "f" else wide[:width]
    piece.data = bytes(data)


def _words(chance: Random, folder: Folder) -> None:
    """Change an option, the metadata of the weights, or the name of a tensor."""
    config, kind = folder.texts[CONFIG], chance.randrange(5)
    if kind < 2:
        old = config.get("sparsity", 0)
        config["sparsity"] = chance.choice((str(old), old + 0.01, 1, 1.0, -0.0, -1, 0.9999, None, True, "none", 10**15))
    elif kind == 2:
        key = chance.choice(("r", "mask_type", "use_dora", "lora_alpha", "peft_type", "fan_in_fan_out", "x"))
        config[key] = chance.choice(
            (0, 0.0, "0.0", 8, None, "none", "given-padded", "SHIRA", "SUPERTUNING", [], {}, False, True)
        )
    elif kind == 3:
        folder.files[WEIGHTS].metadata = chance.choice(
            ({"seft.padding": "-0.0"}, {"seft.padding": "0.0"}, {}, None, {"seft.padding": None})
        )
    else:
        piece = chance.choice([*folder.pieces()])
        piece.name = chance.choice(
            (piece.name[len(PREFIX) :], f"{PREFIX}supertuning_values", PREFIX + piece.name, f"{piece.name}x")
        )


def _zeros(chance: Random, folder: Folder) -> None:
    """Make an amount −0.0 or +0.0."""
    piece = chance.choice([p for p in folder.pieces() if p.dtype in MINUS_ZERO])
    width = BITS[piece.dtype] // 8
    at = chance.randrange(len(piece.data) // width) * width
    zero = chance.choice((MINUS_ZERO[piece.dtype], bytes(width)))
    piece.data = piece.data[:at] + zero + piece.data[at + width :]


OWN: foreign_spoil.Weighted = ((_positions, 20), (_words, 20), (_zeros, 8))
