"""Conversions of foreign folders to sparse checkpoints and to changes of one, and back (12.11)."""

import json
import re
from contextlib import suppress
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from conformance.answers.answer import Answer, Inputs, Refusal, answers, refuse
from conformance.answers.files_content import content, raw_array, tensors_of, tree_of
from conformance.answers.files_libraries import LIBRARIES
from conformance.oracle import (
    files_codes,
    files_convert,
    files_convert_adapters,
    files_versions,
    foreign,
    foreign_codes,
    second_folder,
    second_reader,
)
from conformance.oracle.files import BITS, Tensor, digest, text
from conformance.oracle.second_reader import COMPANION, NAME
from conformance.oracle.train_around import FORMATS

__all__ = ["checked_companions"]

DAMAGE = ("FMT-124", "FMT-090", "FMT-091", "FMT-036", "FMT-062", "FMT-067")


def checked_companions(sizes: dict[str, int], read: list[str]) -> tuple[list[str], list[str]]:
    """Return the names of companions and of entries that are left out; refuse names that no companion may have."""
    companions, left_out = files_convert.sorted_out(sizes, read)
    odd = len({name.lower() for name in companions}) < len(companions)
    odd |= not all(re.fullmatch(COMPANION[1], name) for name in companions)
    refuse(FMT_013=odd, FMT_123=odd)
    return companions, left_out


@answers("convert.from_hf")
def _from_hf(a: Inputs) -> dict[str, Any]:
    tree, large = tree_of(a["files"]), a["large"] or {}
    odd, wrong = a["zeros"] not in ("any", "positive"), a["cast"] not in (None, *FORMATS)
    refuse(FMT_127=odd, FMT_126=wrong, FMT_084=odd or wrong)
    tensors, read = foreign.read_folder(tree)
    _check_tensors(tensors)
    companions, left_out = checked_companions({name: len(raw) for name, raw in tree.items()} | large, read)
    made = files_convert.converted(tensors, a["encoding"], a["zeros"], a["cast"])
    _check_storable(made.tensors, a["encoding"])
    quantised = False
    with suppress(KeyError, ValueError, RecursionError):
        quantised = any(foreign.described(json.loads(tree["config.json"])))
    return {
        "kind": "model",
        "tensors": content(made.tensors),
        "attributes": text(made.attributes),
        "tied": {},
        "scales": text({}),
        "companions": {name: digest(tree[name] if name in tree else bytes(large[name])) for name in companions},
        "left_out": left_out,
        "quantised": int(quantised),
    }


def _check_tensors(tensors: dict[str, Tensor]) -> None:
    """Refuse names that no tensor may have, and flags that are neither 0 nor 1."""
    flags = any(t.dtype == "BOOL" and max(t.bits, default=0) > 1 for t in tensors.values())
    names = not all(re.fullmatch(NAME[1].encode(), name.encode()) for name in tensors)
    refuse(FMT_009=names, FMT_070=flags, FMT_121=names or flags)


def _check_storable(tensors: dict[str, Tensor], encoding: str) -> None:
    """Refuse an encoding that does not exist, or cannot store a tensor."""
    odd = not all(files_convert.storable(t, encoding) for t in tensors.values())
    refuse(FMT_084=odd, FMT_051=odd)
    refuse(FMT_082=encoding == "dense" and any(t.nnz < prod(t.shape) for t in tensors.values()))


@answers("convert.codes")
def _codes(a: Inputs) -> dict[str, Any]:
    tree = tree_of(a["files"])
    if a["expand_quantised"]:
        folder = foreign_codes.read(tree)
        made = {name: files_codes.weights(matrix) for name, matrix in folder.matrices.items()} | folder.others
        stated = {"source": folder.source, "expanded": sorted(folder.matrices)}
    else:
        folder = foreign_codes.unread(tree)
        made, stated = folder.others, {}
    dense = {name: t for name, t in made.items() if t.support is None}
    converted = files_convert.converted(dense, a["encoding"], "any", None)
    made |= converted.tensors
    _check_tensors(made)
    _check_storable(made, a["encoding"])
    companions, _ = checked_companions({name: len(raw) for name, raw in tree.items()}, folder.read)
    return {
        "tensors": content(made),
        "attributes": text(converted.attributes | stated),
        "companions": {name: digest(tree[name]) for name in companions},
        "config": text(folder.config),
    }


@answers("convert.adapter")
def _adapter(a: Inputs) -> dict[str, Any]:
    tree, base = tree_of(a["files"]), tensors_of(a["tensors"])
    if a["kind"] == "weight-sync":
        return {"how": "replace", "tensors": content(files_versions.changes(tree, base, LIBRARIES)), "left_out": {}}
    changes = files_convert_adapters.read(a["kind"], tree, base)
    return {"how": changes.how, "tensors": content(changes.tensors), "left_out": changes.left_out}


@answers("convert.to_hf")
def _to_hf(a: Inputs) -> Answer:
    odd = a["cast"] not in (None, *FORMATS)
    refuse(FMT_126=odd, FMT_084=odd or a["part_bytes"] < 1)
    with TemporaryDirectory() as folder:
        for name, raw in tree_of(a["files"]).items():
            (Path(folder) / name).write_bytes(raw)
        try:
            read = second_folder.read_folder(Path(folder))
        except second_reader.Refused as refused:
            # FMT-124.7: a conversion verifies every digest, in any order with other rules of values and supports
            raise Refusal(*(DAMAGE if refused.clause in DAMAGE else (refused.clause,))) from None
    sizes = {name: BITS[t.dtype] * prod(t.shape) for name, t in read.tensors.items()}
    refuse(FMT_154=read.kind != "model" or any(not BITS[t.dtype] for t in read.tensors.values()))
    refuse(FMT_154=any(size % 8 for size in sizes.values()))
    dense = {}
    for name, t in read.tensors.items():
        support = None if t.columns is None else tuple(divmod(at, t.shape[-1]) for at in second_folder.positions_of(t))
        dense[name] = files_convert.expanded(Tensor(t.dtype, t.shape, t.bits, support), a["cast"])
    companions = {name: a["files"][name] for name in read.files}
    described = {"tensors": content(dense), "files": companions, "part_bytes": a["part_bytes"]}
    weights = {name: raw_array(raw) for name, raw in files_convert.sharded(dense, a["part_bytes"]).items()}
    return Answer({"files": described}, written={"files": weights | companions})
