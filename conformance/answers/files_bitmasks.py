"""Folders of compressed-tensors with packed sparse tensors, read and written (FMT-150, FMT-158, FMT-179)."""

from contextlib import suppress
from typing import Any

from conformance.answers.answer import Inputs, answers, refuse
from conformance.answers.files_content import content, tensors_of, tree_of
from conformance.answers.files_convert import checked_companions
from conformance.oracle import files_bitmasks, foreign
from conformance.oracle.files import BITS, digest, text
from conformance.oracle.files_bitmasks import BITMASK, CONFIG, ROLES, TWO_OF_FOUR

__all__: list[str] = []


@answers("convert.bitmasks")
def _bitmasks(a: Inputs) -> dict[str, Any]:
    tree = tree_of(a["files"])
    folder = files_bitmasks.read(tree)
    companions, _ = checked_companions({name: len(raw) for name, raw in tree.items()}, folder.read)
    return {
        "tensors": content(folder.tensors),
        "companions": {name: digest(tree[name]) for name in companions if name != CONFIG},
        "config": text(folder.config),
    }


@answers("convert.pack_bitmasks")
def _pack(a: Inputs) -> dict[str, Any]:
    tensors, companions = tensors_of(a["tensors"]), tree_of(a["files"])
    refuse(FMT_154=any(not BITS[t.dtype] for t in tensors.values()))
    sparse = {name: t for name, t in tensors.items() if t.support is not None}
    refuse(FMT_179=not sparse or not _config_may_be_extended(companions.get(CONFIG)))
    stems = {name.removesuffix(".weight") for name in sparse}
    odd = any(not name.endswith(".weight") or name.endswith(".weight.weight") for name in sparse)
    odd |= any(not t.shape[-1] for t in sparse.values())
    refuse(FMT_179=odd or any(f"{stem}.{role}" in tensors for stem in stems for role in ROLES[BITMASK]))
    form = TWO_OF_FOUR if all(map(files_bitmasks.fit, sparse.values())) else BITMASK
    made = {name: t for name, t in tensors.items() if name not in sparse}
    zeros = 0
    for name, t in sparse.items():
        whole = files_bitmasks.filled(t) if form == TWO_OF_FOUR else t
        zeros += whole.nnz - t.nnz
        for role, part in files_bitmasks.parts(whole, form).items():
            made[f"{name.removesuffix('.weight')}.{role}"] = part
    return {
        "names": sorted(made, key=str.encode),
        # FMT-150.2: no reader reads the row offsets, so any will do
        "tensors": content({name: t for name, t in made.items() if not name.endswith(".row_offsets")}),
        "companions": {name: digest(raw) for name, raw in companions.items() if name != CONFIG},
        "format": form,
        "config": text(foreign.parsed(companions[CONFIG], constants=True)),
        "zeros": zeros,
    }


def _config_may_be_extended(raw: bytes | None) -> bool:
    """Return whether a `config.json` is an object that describes neither a quantisation nor sparsity (FMT-179.5)."""
    with suppress(foreign.Refused, ValueError, RecursionError, TypeError):
        config = foreign.parsed(raw, constants=True)
        stated: set[str] = set()
        foreign.without_sparsity(config, stated)
        described = any(foreign.described(config)) or stated or {*foreign.DESCRIPTIONS} & {*config}
        return isinstance(config, dict) and not described
    return False
