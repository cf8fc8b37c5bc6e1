"""A second reader of folders and a second way to apply deltas, to be read beside 12.9 and 12.10; without `zstd`.

It shares no code with `formats`. Deltas are applied to dicts from flat position to the bits of a value as an integer.
"""

import math
import struct
from collections import namedtuple
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from conformance.oracle import second_reader as whole
from conformance.oracle.second_reader import BITS, DIGEST, Content, Refused, Tensor, form, need, sha256, spell

__all__ = ["Content", "Refused", "apply", "read", "read_folder"]
WHOLE, INDEX = "model.sparse.safetensors", "model.sparse.index.json"
SUMMED = {"F16": "<e", "BF16": "<f", "F32": "<f", "F64": "<d"}
"""Dtypes that `add` takes (FMT-133), with the code of `struct`; a BF16 is the upper half of an F32."""

Part = namedtuple("Part", "manifest arrays root")


def read(path: Path) -> Content:
    """Return the checkpoint of a folder or of a single file."""
    return read_folder(path) if path.is_dir() else whole.read(path)


def read_folder(folder: Path) -> Content:
    """Return the checkpoint of a folder, every digest verified."""
    present = {entry.name for entry in folder.iterdir()}
    index = read_index(folder) if INDEX in present else None
    roots = [] if index is None else index["metadata"]["manifests"]
    names = [f"model.sparse-{i:05}-of-{len(roots):05}.safetensors" for i in range(1, len(roots) + 1)] or [WHOLE]
    ours = {name for name in present if name.lower().startswith("model.sparse")} - {INDEX}
    stray = ours - set(names)
    need(str(sorted(ours)), "FMT-102" + " FMT-103" * bool(stray), ours >= set(names))
    need(str(sorted(ours)), "FMT-103" + " FMT-102" * (WHOLE in stray), not stray)
    parts = [read_part(folder / name, alone=index is None) for name in names]
    first = parts[0].manifest
    if index is not None:
        check_parts(parts, roots)
        need("the index", "FMT-101", index["metadata"]["spec"] == first["spec"])
        weight_map = {name: names[i] for i, part in enumerate(parts) for name in part.manifest["tensors"]}
        need("the index", "FMT-101", index["weight_map"] == weight_map)
    entries = {name: e for part in parts for name, e in part.manifest["tensors"].items()}
    arrays = {name: sections for part in parts for name, sections in part.arrays.items()}
    whole.check_links({**first, "tensors": entries}, first.get("delta"))
    tensors = {name: whole.read_tensor(name, e, arrays[name]) for name, e in entries.items()}
    for name, stated in first["files"].items():
        file = folder / name
        need(name, "FMT-102", file.is_file())
        need(name, "FMT-094", file.stat().st_size == stated["bytes"] and sha256(file.read_bytes()) == stated["sha256"])
    digests = {name: e["content_sha256"] for name, e in entries.items()}
    state = state_of(digests, first)
    about = (first["kind"], first["attributes"], first["tied"], first["scales"], first.get("delta"))
    return Content(*about, [*first["files"]], tensors, state)


def read_index(folder: Path) -> Any:
    """Return the index, after checking the rules that need no part (FMT-101)."""
    file = folder / INDEX
    need(INDEX, "FMT-102", file.is_file(), "FMT-101", file.stat().st_size <= 100_000_000)
    index = whole.parse(file.read_bytes(), "the index")
    form(index, {"metadata": dict, "weight_map": dict}, "the index")
    early = {key: index["metadata"][key] for key in ("spec",) if key in index["metadata"]}
    form(early, {"spec": whole.EARLY["spec"]}, "the index")
    form(index["metadata"], {"manifests": list, "spec": str}, "metadata of the index")
    roots = index["metadata"]["manifests"]
    need("the index", "FMT-101", 2 <= len(roots) <= 99_999)
    for root in roots:
        form(root, DIGEST, "the index")
    return index


def read_part(file: Path, *, alone: bool) -> Part:
    """Return the manifest, section arrays and root digest of one file of a folder (FMT-092)."""
    need(file.name, "FMT-102", file.is_file())
    raw = file.read_bytes()
    header, text, start = whole.read_header(raw)
    m = whole.read_manifest(text, whole=False)
    sections = {name: whole.implied(name, e) for name, e in m["tensors"].items()}
    need(file.name, "FMT-048 FMT-102 FMT-103", not alone or m["part"] == 0)
    return Part(m, whole.locate(header, sections, raw[start:]), sha256(text))


def check_parts(parts: Sequence[Part], roots: Sequence[str]) -> None:
    """Refuse parts that do not fit each other or the roots of the index (FMT-104)."""
    first, last = parts[0].manifest, ""
    swapped = {part.manifest["part"] for part in parts} == {*range(1, len(parts) + 1)}
    for number, (part, root) in enumerate(zip(parts, roots, strict=True), start=1):
        m = part.manifest
        need(label := f"part {number}", "FMT-104 FMT-101", part.root == root)
        need(label, "FMT-104" + " FMT-101" * swapped, m["part"] == number)
        need(label, "FMT-104", (m["kind"], m["spec"]) == (first["kind"], first["spec"]))
        need(label, "FMT-104", number == 1 or not any(m[key] for key in ("attributes", "files", "scales", "tied")))
        # Python orders strings by scalar values, which is the order of their UTF-8 bytes (FMT-009)
        need(label, "FMT-104", m["tensors"] and min(m["tensors"]) > last)
        last = max(m["tensors"])


def state_of(digests: dict[str, str], links: Any) -> str:
    """Return the state digest (FMT-099)."""
    return sha256({"scales": links["scales"], "tensors": digests, "tied": links["tied"]})


def apply(base: Content, deltas: Sequence[Content]) -> Content:
    """Return a base after deltas, applied one after the other (FMT-133 to FMT-139)."""
    need("the base", "FMT-131", base.delta is None)
    result, digests = base, {name: content_digest(t) for name, t in base.tensors.items()}
    for number, delta in enumerate(deltas):
        need(f"delta {number}", "FMT-131", delta.delta is not None)
        result, digests = applied(result, digests, delta, first=number == 0)
    return result


def applied(base: Content, digests: dict[str, str], delta: Content, *, first: bool) -> tuple[Content, dict[str, str]]:
    """Return a base after one delta, and the content digests of the result."""
    about = delta.delta
    need("the base", "FMT-137" if first else "FMT-139", base.state_sha256 == about["base_sha256"])
    for name, change in about["tensors"].items():
        need(name, "FMT-137", digests.get(name) == change["base"])
    tensors, after = dict(base.tensors), dict(digests)
    for name, change in about["tensors"].items():
        del_or_make = {key.partition(":")[0]: t for key, t in delta.tensors.items() if key.partition(":")[2] == name}
        if change["target"] is None:
            del tensors[name], after[name]
            continue
        tensors[name] = changed(tensors.get(name), del_or_make, name)
        after[name] = content_digest(tensors[name])
        need(name, "FMT-138", after[name] == change["target"])
    need("the result", "FMT-138", state_of(after, about) == about["target_sha256"])
    for name, target in about["tied"].items():
        need(name, "FMT-010", target in tensors and name not in tensors)
    for name, roles in about["scales"].items():
        need(name, "FMT-016", {name, *roles.values()} <= tensors.keys())
    files = sorted({*base.files, *delta.files})
    result = Content(
        base.kind, delta.attributes, about["tied"], about["scales"], None, files, tensors, about["target_sha256"]
    )
    return result, after


def changed(base: Any, operations: dict[str, Any], name: str) -> Any:
    """Return a tensor after its operations (FMT-133 to FMT-136)."""
    if "whole" in operations:
        return operations["whole"]
    need(name, "FMT-133", base is not None and base.dtype != "NONE")
    cells = cells_of(base)
    for operation, t in operations.items():
        need(name, "FMT-133", t.shape == base.shape, "FMT-133", (t.dtype == "NONE") == (operation == "remove"))
        need(name, "FMT-133", operation != "replace" or t.dtype == base.dtype)
        need(name, "FMT-133", operation != "add" or {t.dtype, base.dtype} <= SUMMED.keys())
    new = cells_of(operations["replace"]) if "replace" in operations else {}
    if "remove" in operations:
        gone = cells_of(operations["remove"])
        need(name, "FMT-133", gone.keys() <= cells.keys() and not gone.keys() & new.keys())
        cells = {at: value for at, value in cells.items() if at not in gone}
    cells |= new
    if "add" in operations:
        amounts = operations["add"]
        for at, amount in cells_of(amounts).items():
            cells[at] = added(base.dtype, cells.get(at, 0), amounts.dtype, amount, name)
    return tensor_of(base.dtype, base.shape, cells)


def added(dtype: str, value: int, other: str, amount: int, name: str) -> int:
    """Return the bits of value + amount: added in binary64, rounded to F32 first unless the dtype is F64 (FMT-135)."""
    total = number_of(dtype, value) + number_of(other, amount)
    need(name, "FMT-135", math.isfinite(total))
    try:
        raw = struct.pack("<d" if dtype == "F64" else "<f", total)
        if dtype == "F16":
            raw = struct.pack("<e", struct.unpack("<f", raw)[0])
    except OverflowError:
        raise Refused("FMT-135", name) from None
    bits = int.from_bytes(raw, "little")
    if dtype == "BF16":
        # adding 0x7FFF plus the last bit of the upper half rounds the upper half to nearest, ties to even
        bits = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    need(name, "FMT-135", math.isfinite(number_of(dtype, bits)))
    return bits


def number_of(dtype: str, bits: int) -> float:
    """Return the number that bits stand for."""
    size = BITS[dtype] // 8
    raw = bits.to_bytes(size, "little")
    return float(struct.unpack(SUMMED[dtype], b"\0\0" + raw if dtype == "BF16" else raw)[0])


def positions_of(t: Any) -> list[int]:
    """Return the flat positions of the support."""
    if t.columns is None:
        return list(range(prod(t.shape)))
    rows = np.repeat(np.arange(len(t.row_pointers) - 1), np.diff(t.row_pointers))
    flat: list[int] = (rows * t.shape[-1] + t.columns.astype(np.int64)).tolist()
    return flat


def cells_of(t: Any) -> dict[int, int]:
    """Return flat position -> bits of its value, 0 for a mask."""
    width, places = BITS[t.dtype], positions_of(t)
    if width % 8 == 0:
        size = width // 8
        return {at: int.from_bytes(t.bits[i * size : (i + 1) * size], "little") for i, at in enumerate(places)}
    packed = int.from_bytes(t.bits, "little")
    return {at: packed >> i * width & (1 << width) - 1 for i, at in enumerate(places)}


def tensor_of(dtype: str, shape: tuple[int, ...], cells: dict[int, int]) -> Any:
    """Return the tensor with these bits by flat position; the inverse of `cells_of`."""
    width, places = BITS[dtype], sorted(cells)
    if width % 8:
        packed = sum(cells[at] << i * width for i, at in enumerate(places))
        bits = packed.to_bytes(-(-len(places) * width // 8), "little")
    else:
        bits = b"".join(cells[at].to_bytes(width // 8, "little") for at in places)
    if len(places) == prod(shape):
        return Tensor(dtype, shape, None, None, bits)
    row, columns = np.divmod(np.array(places, np.int64), shape[-1])
    pointers = np.cumsum(np.bincount(row + 1, minlength=prod(shape[:-1]) + 1), dtype=np.int64)
    return Tensor(dtype, shape, pointers, columns, bits)


def content_digest(t: Any) -> str:
    """Return the content digest (FMT-091)."""
    numel, n = prod(t.shape), len(positions_of(t)) if t.columns is not None else prod(t.shape)
    support = None
    if n < numel:
        columns = t.shape[-1]
        arrays = {"col_idx": t.columns.astype("<u2" if columns <= 65536 else "<u4")}
        arrays["row_ptr"] = t.row_pointers.astype("<u4" if n < 2**32 else "<u8")
        if (len(t.row_pointers) - 1) * -(-columns // 8) <= sum(part.nbytes for part in arrays.values()):
            present = np.zeros(numel, bool)
            present[positions_of(t)] = True
            arrays = {"mask": np.packbits(present.reshape(-1, columns), axis=1, bitorder="little")}
        support = {role: sha256(part.tobytes()) for role, part in arrays.items()}
    values = None if t.dtype == "NONE" else sha256(t.bits)
    return sha256({"dtype": t.dtype, "nnz": n, "shape": list(t.shape), "support": support, "values": values})


def spelled(content: Content) -> tuple[str, ...]:
    """Return kind and state digest, then attributes, delta, scales and ties as canonical JSON texts."""
    texts = map(spell, (content.attributes, content.delta, content.scales, content.tied))
    return (content.kind, content.state_sha256, *texts)
