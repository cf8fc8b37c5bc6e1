"""SEFT adapters of PEFT: inputs, mutations and a plain definition (FMT-171)."""

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from conformance.fuzz import base_models, foreign_spoil
from conformance.fuzz.base_models import Plain
from conformance.fuzz.foreign import Case
from conformance.fuzz.foreign_files import Folder, Piece, Stock
from conformance.oracle.files import Tensor
from conformance.oracle.files_convert_adapters import CONFIG, PREFIX, WEIGHTS, adapter
from conformance.oracle.files_deltas import cells, number, rounded
from conformance.oracle.foreign import Refused, need, numbers
from formats.dialects.changes import Changes
from formats.dialects.seft_adapter import read_seft
from formats.records import flat

SUFFIX = ".weight"
NUMPY = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}
FLOATS = tuple(NUMPY)
INDICES, VALUES, PRUNED = "seft_delta.indices", "seft_delta.values", "seft_delta.pruned"
WHOLE = {"I32": "i", "I64": "q"}
AMOUNTS = {"F32": "f", "F64": "d"}
"""Dtypes of positions and amounts, with the code of `struct`."""
KNOWN = """adapt adapts budget_by candidates counts density drop drop_fraction drop_schedule drops
event_replaces_step events evolve_every evolve_until evolves exclude_modules exempt first_event gradient_window grow
grow_scope init_weights initial_positions initial_scope layers_pattern layers_to_transform moments optimizer pattern
preset rank regrow scope seed slots start stored support"""
"""Options that do not affect values."""
OPTIONS: tuple[Any, ...] = (0, 0.0, 8, None, "none", "SEFT", "SHIRA", [], {}, False, True)
WORDS = dict.fromkeys(("peft_type", "use_dora", "alpha", "slots", "density", "x"), OPTIONS)
"""Values that mutations give to options."""


@dataclass
class Draft:
    """A base, and the pieces of an adapter for it."""

    base: dict[str, Plain]
    folder: Folder


class SeftAdapters:
    """The reader of SEFT adapters, as `foreign.Reader`."""

    def grow(self, chance: Random) -> Draft:
        """Return a base and a valid adapter for it."""
        shape = (chance.randint(1, 5), chance.randint(1, 5))
        names = chance.sample(("a", "b", "layers.0.q_proj"), chance.choice((1, 1, 2)))
        base = {f"{n}{SUFFIX}": _finite(chance, shape) for n in names}
        prunes = chance.random() < 0.6
        pieces: list[Piece] = []
        for name in names:
            pieces += _pieces(chance, name, base[f"{name}{SUFFIX}"], prunes=prunes)
        chance.shuffle(pieces)
        config = {"peft_type": "SEFT", "base_model_name_or_path": chance.choice((None, "m", "")), "density": 0.5}
        return Draft(base, Folder({CONFIG: config}, {WEIGHTS: Stock(pieces, {"format": "pt"})}))

    def case(self, chance: Random, draft: Draft, *, valid: bool) -> Case:
        """Return an adapter and its base as a case; unless `valid`, one of the two is mutated."""
        if not valid and chance.random() < 0.08:
            base_models.disturbed(chance, draft.base)
        elif not valid:
            second = self.grow(chance).folder
            foreign_spoil.spoil(chance, draft.folder, foreign_spoil.exchanging(WORDS, second))
        return Case({"adapter": foreign_spoil.pack(draft.folder)}, draft.base, base_models.sizes(draft.base), valid)

    def read(self, case: Case, place: Path) -> Any:
        """Return the operation, its values by tensor and position, and the positions that leave each tensor."""
        changes: Changes = read_seft(place / "adapter", base_models.records(case.memory))
        tensors = {name: changes.tensors[name] for name in changes.tensors}
        values = {name: (t.values.dtype.name, t.shape, base_models.stored(t)) for name, t in tensors.items()}
        return changes.op, values, {name: flat(changes.removed[name]).tolist() for name in changes.removed}

    def define(self, case: Case) -> Any:
        """Return the same as `read`, from the text of FMT-171 alone."""
        tree, base = case.folders["adapter"], case.memory
        _, _, modules = adapter(tree, "SEFT", ((INDICES, VALUES, PRUNED),), KNOWN)
        parts = {f"{m}{SUFFIX}": _parts(sections, base[f"{m}{SUFFIX}"]) for m, sections in modules.items()}
        if not any(gone for _, _, gone in parts.values()):
            return "add", {n: (NUMPY[of], base[n].shape, amounts) for n, (of, amounts, _) in parts.items()}, {}
        made = {n: _values(base[n], *part) for n, part in parts.items()}
        values = {n: (NUMPY[base[n].dtype], base[n].shape, new) for n, new in made.items()}
        removed = {n: sorted(gone - set(a)) for n, (_, a, gone) in parts.items() if base[n].sparse}
        return "replace", values, removed


READER = SeftAdapters()


def _finite(chance: Random, shape: tuple[int, int]) -> Plain:
    """Return a matrix of finite floats."""
    while True:
        one = base_models.random_tensor(chance, chance.choice(FLOATS), shape)
        if all(math.isfinite(number(one.dtype, cell)) for cell in one.cells()):
            return one


def _pieces(chance: Random, name: str, one: Plain, *, prunes: bool) -> list[Piece]:
    """Return the three tensors of a module."""
    size = len(one.cells())
    at = chance.sample(range(size), chance.randint(0, size))
    stored = [i for i, cell in enumerate(one.cells()) if not one.sparse or any(cell)]
    gone = chance.sample(stored, chance.randint(0, len(stored))) if prunes else []
    of, of_values = chance.choice(sorted(WHOLE)), chance.choice(sorted(AMOUNTS))
    amounts = [chance.choice((0.0, -0.0, 1.5, -(2.0**-30), chance.uniform(-2, 2))) for _ in at]
    path = f"{PREFIX}{name}."
    return [
        Piece(path + INDICES, of, [len(at)], struct.pack(f"<{len(at)}{WHOLE[of]}", *at)),
        Piece(path + VALUES, of_values, [len(at)], struct.pack(f"<{len(at)}{AMOUNTS[of_values]}", *amounts)),
        Piece(path + PRUNED, of, [len(gone)], struct.pack(f"<{len(gone)}{WHOLE[of]}", *gone)),
    ]


# the definition ----------------------------------------------------------------------------------


def _parts(sections: dict[str, Tensor], one: Plain) -> tuple[str, dict[int, bytes], set[int]]:
    """Return the dtype of the amounts of a module, the amounts by position, and the pruned positions."""
    indices, values, pruned = sections.values()
    need(len(one.shape) == 2 and one.dtype.startswith(("F", "BF")), "a matrix of floats")
    need(values.dtype in AMOUNTS and len(values.shape) == 1, "one dimension of amounts")
    at, gone = _of_indices(indices, one), _of_indices(pruned, one)
    need(not one.sparse or all(any(one.cells()[i]) for i in gone), "pruned positions that are stored")
    return values.dtype, dict(zip(at, cells(values).values(), strict=True)), {*gone}


def _of_indices(t: Tensor, one: Plain) -> list[int]:
    at = numbers(t, *WHOLE)
    need(len(t.shape) == 1, "one dimension of positions")
    need(len({*at}) == len(at) and all(0 <= i < len(one.cells()) for i in at), "positions once and inside")
    return at


def _values(one: Plain, of: str, amounts: dict[int, bytes], gone: set[int]) -> dict[int, bytes]:
    """Return the new values by position: sums at the indices, and in a dense base +0 at other pruned positions."""
    need(one.dtype in FLOATS, "a dtype that is added to")
    new = {}
    for at, raw in amounts.items():
        before = 0.0 if at in gone else number(one.dtype, one.cells()[at])
        total = before + number(of, raw)
        need(math.isfinite(total), "a finite sum")
        try:
            new[at] = rounded(one.dtype, total)
        except OverflowError:
            raise Refused("a sum that the dtype holds") from None
        need(math.isfinite(number(one.dtype, new[at])), "a sum that the dtype holds")
    return new | ({} if one.sparse else {at: bytes(one.width) for at in gone - set(amounts)})
