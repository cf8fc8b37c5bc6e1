"""A model and deltas that lead on from it, as folders: valid, spoiled, or in another order (12.10)."""

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
"""A base, and deltas in the order in which they are applied."""

WHOLE_BYTES = tuple(dtype for dtype, bits in BITS.items() if bits and bits % 8 == 0)
NAMES = ("w", "a", "a!", "b", "é", "\uff61", "\U0001f600", "layers.0.q", "z:z")
DIGEST = "0123456789abcdef" * 4


def scenario(chance: Random) -> list[Folder]:
    """Return a valid base and 0 to 3 deltas, each a folder in pieces."""
    if chance.random() < 0.35:
        return [folders.divided(chance, grow.checkpoint(chance))]
    model: dict[str, Tensor] = _model(chance)
    links: dict[str, Any] = {"tied": {}, "scales": {}}
    made = [folders.divided(chance, _pieces(model, kind="model", **links))]
    for _ in range(chance.choice((1, 1, 1, 1, 2, 2, 3))):
        stored, gone = _operations(chance, model)
        after = {name for name in (*model, *(key.partition(":")[2] for key in stored)) if name not in gone}
        new_links = _links(chance, sorted(after))
        model, described = files_deltas.step(model, stored, gone, before=links, **new_links)
        links = new_links
        # a change by chance may leave a tensor as it was, and a delta lists what changes only (FMT-131)
        stored = {key: t for key, t in stored.items() if key.partition(":")[2] in described["tensors"]}
        if described["base_sha256"] == described["target_sha256"]:
            break
        attributes = {"step": chance.randrange(9)} if chance.random() < 0.5 else {}
        made.append(folders.divided(chance, _pieces(stored, kind="delta", delta=described, attributes=attributes)))
    return made


def _pieces(tensors: dict[str, Tensor], **about: Any) -> Pieces:
    # the manifest is changed later and must share nothing with what the next delta is made of
    return files.pieces(tensors, **deepcopy(about))


def _model(chance: Random) -> dict[str, Tensor]:
    names = chance.sample(NAMES, chance.choice((1, 1, 2, 2, 3, 4)))
    return {name: _tensor(chance, chance.choice((*WHOLE_BYTES, "F16", "BF16", "F32", "F64"))) for name in names}


def shape_of(chance: Random) -> tuple[int, ...]:
    """Return a shape of few positions."""
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
    """Return a sparse tensor of random bits at flat positions; one of every position is dense."""
    bits = grow.bits_of(chance, dtype, len(positions))
    if len(positions) == prod(shape) and dtype != "NONE":
        return Tensor(dtype, shape, bits)
    return Tensor(dtype, shape, bits, tuple(divmod(at, max(shape[-1], 1)) for at in positions))


def _links(chance: Random, names: list[str]) -> dict[str, Any]:
    tied = {"tied": chance.choice(names)} if names and chance.random() < 0.2 else {}
    scales: dict[str, Any] = {}
    if len(names) > 1 and chance.random() < 0.2:
        one, two = chance.sample(names, 2)
        scales = {one: {"scale": two}}
    return {"tied": tied, "scales": scales}


def _operations(chance: Random, model: dict[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Return what a delta stores, and the names that it takes away."""
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
        out[f"add:{name}"] = replace(at_positions(dtype, base.shape, at, chance))
        try:
            files_deltas.change(base, {"add": out[f"add:{name}"]})
        except (AssertionError, OverflowError, struct.error):
            # a sum that is not finite is no delta; SPEC asks for a refusal (FMT-135)
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
    """Return the files of a scenario that differs from a valid one, or now and then does not."""
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
            # a delta that stores nothing has no operation to change
            pass
        packed = [folder.pack() for folder in made]
        return _ordered(chance, packed) if kind >= 0.42 else packed
    folders.spoil(chance, chance.choice(made))
    return [folder.pack() for folder in made]


def _describe(chance: Random, made: list[Folder]) -> None:
    """Change what a delta says of its base or its target; digests of the whole follow in half of the cases."""
    delta = chance.choice(made[1:]).parts[0].manifest
    told = delta["delta"]
    names = [*told["tensors"], "nothing", "w", "tied"]
    one, two, change = chance.choice(names), chance.choice(names), chance.randrange(7)
    if change == 0:
        told["tied"][chance.choice(("tied", "new", one))] = two
    elif change == 1:
        told["scales"][one] = {"scale": two}
    elif change == 2:
        told["tied"], told["scales"] = {}, {}
    elif change == 3 and told["tensors"]:
        listed = told["tensors"][chance.choice(sorted(told["tensors"]))]
        listed[chance.choice(("base", "target"))] = chance.choice((DIGEST, None))
    elif change == 4:
        told["tensors"].pop(chance.choice(sorted(told["tensors"])))
    elif change == 5:
        told["tensors"][one] = {"base": DIGEST, "target": None}
    else:
        told[chance.choice(("base_sha256", "target_sha256"))] = DIGEST
    if chance.random() < 0.7:
        _follow(made)


def _restore(chance: Random, made: list[Folder]) -> None:
    """Change an operation of a delta: another support, shape or dtype; digests follow as far as they can."""
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
    """Let every delta say what its description leads to: state digests are those of the content digests it lists.

    A reader that forgets to compare anything but digests then accepts, and its mistake is seen.
    """
    state, tied, scales = _state(made[0])
    for folder in made[1:]:
        told = folder.parts[0].manifest.get("delta") if isinstance(folder.parts[0].manifest, dict) else None
        if not isinstance(told, dict):
            return
        told["base_sha256"] = files.state_digest(state, tied, scales)
        for name, ends in told["tensors"].items():
            if ends.get("target") is None:
                state.pop(name, None)
            else:
                state[name] = ends["target"]
        tied, scales = told["tied"], told["scales"]
        told["target_sha256"] = files.state_digest(state, tied, scales)


def _state(folder: Folder) -> tuple[dict[str, str], Any, Any]:
    contents = {n: e["content_sha256"] for part in folder.parts for n, e in part.entries.items()}
    first = json.loads(json.dumps(folder.parts[0].manifest))
    return contents, first["tied"], first["scales"]


def _ordered(chance: Random, packed: Scenario) -> Scenario:
    """Return a chain in which something is missing, twice, or elsewhere."""
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
