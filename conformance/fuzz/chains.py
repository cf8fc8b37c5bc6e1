"""Scenarios of the fuzzer: folders of a base model and of a chain of deltas, valid, mutated or reordered (12.10)."""

import json
import struct
from copy import deepcopy
from dataclasses import replace
from math import prod
from random import Random
from typing import Any

from conformance.fuzz import folders, grow, mutate
from conformance.fuzz.folders import Folder, Tree
from conformance.oracle import files, files_deltas
from conformance.oracle.files import BITS, Pieces, Tensor

Scenario = list[Tree]
"""The files of a base, then those of each delta in the order in which they are applied."""

WHOLE_BYTES = tuple(dtype for dtype, bits in BITS.items() if bits and bits % 8 == 0)
NAMES = ("w", "a", "a!", "b", "é", "\uff61", "\U0001f600", "layers.0.q", "z:z")
DIGEST = "0123456789abcdef" * 4


def scenario(chance: Random) -> list[Folder]:
    """Return a valid base and 0 to 3 deltas, each a folder in pieces."""
    if chance.random() < 0.35:
        return [folders.divided(chance, grow.checkpoint(chance))]
    model: dict[str, Tensor] = model_of(chance)
    links: dict[str, Any] = {"tied": {}, "scales": {}}
    made = [folders.divided(chance, _pieces(model, kind="model", **links))]
    for _ in range(chance.choice((1, 1, 1, 1, 2, 2, 3))):
        stored, gone = operations_of(chance, model)
        after = {name for name in (*model, *(key.partition(":")[2] for key in stored)) if name not in gone}
        new_links = links_of(chance, sorted(after))
        model, described = files_deltas.step(model, stored, gone, before=links, **new_links)
        links = new_links
        # a random change may leave a tensor as it was, and a delta lists only tensors that change (FMT-131)
        stored = {key: t for key, t in stored.items() if key.partition(":")[2] in described["tensors"]}
        if described["base_sha256"] == described["target_sha256"]:
            break
        attributes = {"step": chance.randrange(9)} if chance.random() < 0.5 else {}
        made.append(folders.divided(chance, _pieces(stored, kind="delta", delta=described, attributes=attributes)))
    return made


def _pieces(tensors: dict[str, Tensor], **about: Any) -> Pieces:
    # a deep copy, because the manifest is mutated later, and the next delta is made from the same objects
    return files.pieces(tensors, **deepcopy(about))


def model_of(chance: Random) -> dict[str, Tensor]:
    """Return a random model of one to four tensors."""
    names = chance.sample(NAMES, chance.choice((1, 1, 2, 2, 3, 4)))
    return {name: _tensor(chance, chance.choice((*WHOLE_BYTES, "F16", "BF16", "F32", "F64"))) for name in names}


def shape_of(chance: Random) -> tuple[int, ...]:
    """Return a shape of at least one axis and at most 4 · MOST positions."""
    while True:
        shape = grow.shape_of(chance, 1)
        if prod(shape) <= 4 * grow.MOST:
            return shape


def _tensor(chance: Random, dtype: str) -> Tensor:
    shape = shape_of(chance)
    if prod(shape) > 0 and chance.random() < 0.25:
        return Tensor(dtype, shape, grow.bits_of(chance, dtype, prod(shape)))
    return at_positions(dtype, shape, grow.support_of(chance, shape), chance)


def at_positions(dtype: str, shape: tuple[int, ...], positions: list[int], chance: Random) -> Tensor:
    """Return a tensor of random bits at flat positions; it is dense if it has all of them."""
    bits = grow.bits_of(chance, dtype, len(positions))
    if len(positions) == prod(shape) and dtype != "NONE":
        return Tensor(dtype, shape, bits)
    return Tensor(dtype, shape, bits, tuple(divmod(at, max(shape[-1], 1)) for at in positions))


def links_of(chance: Random, names: list[str]) -> dict[str, Any]:
    """Return random ties and scales among the names of a model."""
    tied = {"tied": chance.choice(names)} if names and chance.random() < 0.2 else {}
    scales: dict[str, Any] = {}
    if len(names) > 1 and chance.random() < 0.2:
        one, two = chance.sample(names, 2)
        scales = {one: {"scale": two}}
    return {"tied": tied, "scales": scales}


def operations_of(chance: Random, model: dict[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Return the tensors that a delta stores by `operation:name`, and the names of tensors that it removes."""
    stored: dict[str, Tensor] = {}
    gone: list[str] = []
    free = [name for name in NAMES if name not in model]
    if free and (not model or chance.random() < 0.2):
        stored[f"whole:{free[0]}"] = _tensor(chance, "F32")
    for name in chance.sample(sorted(model), chance.randint(1, len(model))) if model else ():
        base, kind = model[name], chance.randrange(12)
        if kind == 0 and len(model) - len(gone) > 1:
            gone.append(name)
        elif kind in (1, 2) or base.dtype == "NONE" or not base.shape:
            stored[f"whole:{name}"] = _tensor(chance, chance.choice(WHOLE_BYTES))
        else:
            stored |= _changed(chance, name, base, kind)
    return stored, tuple(gone)


def _changed(chance: Random, name: str, base: Tensor, kind: int) -> dict[str, Tensor]:
    cells, every = files_deltas.cells(base), range(prod(base.shape))
    at = sorted(chance.sample(every, min(len(every), chance.randint(1, 6))))
    out: dict[str, Tensor] = {}
    if kind < 6 and base.dtype in files_deltas.WIDTHS:
        dtype = chance.choice(tuple(files_deltas.WIDTHS))
        out[f"add:{name}"] = at_positions(dtype, base.shape, at, chance)
        try:
            files_deltas.change(base, {"add": out[f"add:{name}"]})
        except (AssertionError, OverflowError, struct.error):
            # another operation, because readers refuse a sum that is not finite (FMT-135)
            return {f"whole:{name}": _tensor(chance, base.dtype)}
        return out
    gone = [p for p in sorted(cells) if p not in at and chance.random() < 0.3]
    if gone and kind != 6:
        out[f"remove:{name}"] = at_positions("NONE", base.shape, gone, chance)
    if kind != 7 or not gone:
        out[f"replace:{name}"] = at_positions(base.dtype, base.shape, at, chance)
    return out


# spoiling ----------------------------------------------------------------------------------------


def spoil(chance: Random, made: list[Folder]) -> Scenario:
    """Return the files of a scenario after one mutation; one scenario in twenty stays valid."""
    kind = chance.random()
    if kind < 0.05:
        return [folder.pack() for folder in made]
    if len(made) > 1 and kind < 0.5:
        try:
            if kind < 0.3:
                _describe(chance, made)
            elif kind < 0.42:
                _restore(chance, made)
        except mutate.CANNOT:
            # the scenario stays as it is, because a delta that stores nothing has no operation to change
            pass
        packed = [folder.pack() for folder in made]
        return _ordered(chance, packed) if kind >= 0.42 else packed
    folders.spoil(chance, chance.choice(made))
    return [folder.pack() for folder in made]


def _describe(chance: Random, made: list[Folder]) -> None:
    """Change the description of a delta; in 70 % of the cases recompute the state digests (see `_follow`)."""
    delta = chance.choice(made[1:]).parts[0].manifest
    described = delta["delta"]
    names = [*described["tensors"], "nothing", "w", "tied"]
    one, two, change = chance.choice(names), chance.choice(names), chance.randrange(7)
    if change == 0:
        described["tied"][chance.choice(("tied", "new", one))] = two
    elif change == 1:
        described["scales"][one] = {"scale": two}
    elif change == 2:
        described["tied"], described["scales"] = {}, {}
    elif change == 3 and described["tensors"]:
        digests = described["tensors"][chance.choice(sorted(described["tensors"]))]
        digests[chance.choice(("base", "target"))] = chance.choice((DIGEST, None))
    elif change == 4:
        described["tensors"].pop(chance.choice(sorted(described["tensors"])))
    elif change == 5:
        described["tensors"][one] = {"base": DIGEST, "target": None}
    else:
        described[chance.choice(("base_sha256", "target_sha256"))] = DIGEST
    if chance.random() < 0.7:
        _follow(made)


def _restore(chance: Random, made: list[Folder]) -> None:
    """Rename an operation of a delta or mutate one of its parts, then recompute the state digests (see `_follow`)."""
    folder = chance.choice(made[1:])
    part = chance.choice(folder.parts)
    operations = {"replace": ("replace", "add", "whole", "remove"), "add": ("replace", "whole")}
    name = chance.choice(sorted(part.entries))
    if chance.random() < 0.3:
        old, _, rest = name.partition(":")
        new = f"{chance.choice(operations.get(old, ('replace', 'whole')))}:{rest}"
        part.manifest["tensors"][new] = part.manifest["tensors"].pop(name)
        part.sections = [
            replace(s, name=f"{new}#{s.name.rpartition('#')[2]}") if s.name.rpartition("#")[0] == name else s
            for s in part.sections
        ]
        part.sections.sort(key=lambda s: s.name.rpartition("#")[::2])
    else:
        mutate.once(chance, part, deepcopy(part))
    _follow(made)


def _follow(made: list[Folder]) -> None:
    """Give every delta the state digests that follow from the content digests it lists.

    A reader that compares digests and nothing else then accepts the chain, so its mistake shows.
    """
    state, tied, scales = _state(made[0])
    for folder in made[1:]:
        described = folder.parts[0].manifest.get("delta") if isinstance(folder.parts[0].manifest, dict) else None
        if not isinstance(described, dict):
            return
        described["base_sha256"] = files.state_digest(state, tied, scales)
        for name, ends in described["tensors"].items():
            if ends.get("target") is None:
                state.pop(name, None)
            else:
                state[name] = ends["target"]
        tied, scales = described["tied"], described["scales"]
        described["target_sha256"] = files.state_digest(state, tied, scales)


def _state(folder: Folder) -> tuple[dict[str, str], Any, Any]:
    contents = {n: e["content_sha256"] for part in folder.parts for n, e in part.entries.items()}
    first = json.loads(json.dumps(folder.parts[0].manifest))
    return contents, first["tied"], first["scales"]


def _ordered(chance: Random, packed: Scenario) -> Scenario:
    """Return a chain with one folder left out, repeated or in the wrong place."""
    kind, at = chance.randrange(5), chance.randrange(1, len(packed))
    if kind == 0:
        return [*packed[:at], *packed[at + 1 :]]
    if kind == 1:
        return [*packed[: at + 1], *packed[at:]]
    if kind == 2:
        return [packed[0], *reversed(packed[1:])]
    if kind == 3:
        return [packed[at], *packed[1:]]
    return [packed[0], packed[0], *packed[1:]]
