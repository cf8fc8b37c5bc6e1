"""Files of chapter 12: read, written, compressed, named and expanded; deltas that are applied."""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from math import prod
from typing import Any

from conformance.answers.answer import Answer, Inputs, Refusal, answers, refuse
from conformance.answers.files_content import raw_array, tensors_of
from conformance.answers.files_reading import read, wire
from conformance.oracle import files, files_names, second_folder, second_reader
from conformance.oracle.files import BITS, Pieces, Tensor

__all__ = ["checkpoint_of", "chosen"]


@answers("file.read")
def _read(a: Inputs) -> dict[str, Any]:
    return wire(read(a["raw"].tobytes()))


@answers("delta.apply")
def _apply(a: Inputs) -> dict[str, Any]:
    links = [a["base"], *(raw for _, raw in sorted(a["deltas"].items()))]
    base, *deltas = (read(raw.tobytes()) for raw in links)
    made = wire(second_folder.apply(base, deltas))
    return {key: made[key] for key in ("tensors", "tied", "scales", "state")}


@answers("file.name")
def _name(a: Inputs) -> dict[str, Any]:
    files_names.check_name(a["name"])
    return {"ok": 1}


@answers("file.expand")
def _expand(a: Inputs) -> dict[str, Any]:
    t = read(a["raw"].tobytes()).tensors[a["name"]]
    at = None if t.columns is None else second_folder.positions_of(t)
    return {"bits": raw_array(files_names.expanded(t.dtype, t.shape, at, t.bits, BITS[t.dtype], a["limit"]))}


@answers("file.write")
def _write(a: Inputs) -> dict[str, Any]:
    return {"raw": raw_array(_packed(a).pack())}


@answers("file.compress")
def _compress(a: Inputs) -> Answer:
    """Compress exactly the sections of which each plane is one byte, because every compressor makes them smaller."""
    made = _packed(a)
    plain = raw_array(made.pack())
    for section in made.sections:
        data, width = section.data, max(1, BITS[section.dtype] // 8)
        if 200 < len(data) <= 2**13 and data == data[:width] * (len(data) // width):
            section.frame = files.runs_frame([(byte, len(data) // width) for byte in data[:width]])
            name, role = section.name.rsplit("#", 1)
            made.manifest["tensors"][name]["sections"][role] = files.stored(section)
    names = [section.name for section in made.sections if section.frame is not None]
    made.manifest["requires"] = made.manifest["requires"] + ["zstd"] * bool(names)
    return Answer({"raw": {"raw": plain, "packed": names}}, written={"raw": raw_array(made.pack())})


def _packed(a: Inputs) -> Pieces:
    """Return the file of a checkpoint, after reading it, because a writer refuses what no reader takes."""
    tensors, more = checkpoint_of(a)
    if a["encoding"] not in ("auto", "dense") and "w" in tensors:
        # the tensor `w` gets a support even if it is full, so that an encoding can be asked of it
        tensors["w"] = _supported(tensors["w"])
    tensors, encodings = chosen(tensors, a["encoding"])
    made = files.pieces(tensors, encodings, **more)
    read(made.pack())
    return made


def checkpoint_of(a: Inputs) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors of a checkpoint that is to be written, and its other parts as `files.pieces` takes them."""
    texts = {key: json.loads(a[key]) for key in ("scales", "delta")}
    try:
        # the manifest around them is a level of its own
        attributes = second_reader.parse(b'{"attributes":%s}' % a["attributes"].encode(), "attributes")
    except second_reader.Refused as refused:
        raise Refusal("FMT-011", refused.clause) from None
    refuse(FMT_130=(a["kind"] == "delta") != (texts["delta"] is not None))
    tensors = {name: _supported(t) if t.dtype == "NONE" else t for name, t in tensors_of(a["tensors"]).items()}
    return tensors, texts | attributes | {"kind": a["kind"], "tied": a["tied"]}


def _supported(t: Tensor) -> Tensor:
    """Return a tensor with its support, even if that is full."""
    columns = t.shape[-1] if t.shape else 1
    return replace(t, support=tuple(divmod(at, columns) for at in range(prod(t.shape)))) if t.support is None else t


def chosen(tensors: Mapping[str, Tensor], asked: str) -> tuple[dict[str, Tensor], dict[str, str] | None]:
    """Return the tensors with the pattern that is asked for, and the encoding of each; None for `auto`."""
    encoding, *pattern = asked.split(":")
    numbers = [int(x) for x in pattern if re.fullmatch("[0-9]{1,9}", x)]
    odd = encoding not in ("auto", "dense", "bitmask", "nm", "csr", "gap8", "varint")
    refuse(FMT_084=odd or len(numbers) < len(pattern) or len(numbers) not in ((0, 2, 3) if encoding == "nm" else (0,)))
    if encoding == "auto":
        return dict(tensors), None
    made = {}
    for name, t in tensors.items():
        full = t.nnz == prod(t.shape)
        refuse(FMT_082=encoding == "dense" and (not full or t.dtype == "NONE"))
        made[name] = t
        if encoding == "nm" and t.support is not None:
            n, m, axis = [*numbers, len(t.shape) - 1][:3] if numbers else ([*files.fitting_patterns(t), (0, 0, 0)])[0]
            refuse(FMT_051=not files.fits(t, (n, m, axis)), FMT_084=bool(numbers) and not 1 <= n < m <= 64)
            made[name] = replace(t, pattern=(n, m, axis))
    return made, {name: "dense" if t.support is None else encoding for name, t in made.items()}
