"""The pack of bad safetensors files: complete, right about each file, refused by our readers.

`broken` is a third opinion: it judges a file from safetensors' README alone, and shares no code with a reader.
"""

import hashlib
import json
import struct
from math import prod
from pathlib import Path

import pytest

from conformance.cases.case import VECTORS
from conformance.oracle import foreign, second_reader
from conformance.oracle.select_pools import RefusedError
from formats.dialects import hf
from formats.errors import FormatError

PACK = VECTORS.with_name("badfiles")
INDEX = json.loads((PACK / "index.json").read_text(encoding="utf-8"))
FILES = {entry["file"]: entry for entry in INDEX["files"]}
BITS = {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "F16": 16, "BF16": 16, "I16": 16, "U16": 16, "F32": 32, "I32": 32}
BITS |= {"U32": 32, "F64": 64, "I64": 64, "U64": 64, "C64": 64, "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8}
BITS |= {"F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8}


def of(verdict):
    return [file for file in FILES if FILES[file]["verdict"] == verdict]


def raw(file):
    return (PACK / file).read_bytes()


def broken(data):
    """Return the rule of safetensors' README that a file breaks first, or None."""
    n = struct.unpack("<Q", data[:8])[0] if len(data) >= 8 else 2**64
    if n > len(data) - 8:
        return "length"
    text, buffer = data[8 : 8 + n], data[8 + n :]
    if text[:1] != b"{":
        return "brace"
    twice = []

    def pairs(items):
        twice.extend([1] * (len(items) - len({key for key, _ in items})))
        return dict(items)

    def constant(name):
        raise ValueError(name)

    try:
        header = json.loads(text.decode(), object_pairs_hook=pairs, parse_constant=constant)
    except (ValueError, RecursionError):
        return "header"
    if twice:
        return "duplicates"
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        return "metadata"
    malformed = next(filter(None, map(broken_entry, header.values())), None)
    if malformed:
        return malformed
    at = 0
    for begin, end in sorted(entry["data_offsets"] for entry in header.values()):
        if begin != at:
            return "holes"
        at = end
    return None if at == len(buffer) else "holes"


def broken_entry(entry):
    """Return the rule that an entry breaks by itself, or None."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        return "dict"
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        return "dtype"
    if not isinstance(shape, list) or not isinstance(offsets, list) or len(offsets) != 2:
        return "dict"
    if not all(type(x) is int and x >= 0 for x in shape + offsets):
        return "integers"
    begin, end = offsets
    return None if begin <= end and (end - begin) * 8 == prod(shape) * BITS[dtype] else "offsets"


@pytest.mark.parametrize("file", FILES)
def test_FMT_121_the_plain_reader_refuses_what_the_index_says(file):
    entry = FILES[file]
    # values are judged where a checkpoint is made
    if set(entry["seft_clauses"]) - {"FMT-070"}:
        with pytest.raises(RefusedError, match=r"FMT-(121|027)"):
            foreign.read_stock(raw(file))
        return
    tensors = foreign.read_stock(raw(file))[1].items()
    stated = {t["name"]: (t["dtype"], t["shape"], t["bytes"]) for t in entry["tensors"] or ()}
    assert entry["tensors"] is None or {n: (t.dtype, [*t.shape], t.bits.hex()) for n, t in tensors} == stated


def test_the_index_is_complete():
    there = {p.relative_to(PACK).as_posix() for p in PACK.rglob("*.safetensors")}
    assert there == FILES.keys()
    assert len(FILES) == len(INDEX["files"])
    assert sum(len(raw(file)) for file in FILES) < 100_000
    digests = [hashlib.sha256(raw(file)).hexdigest() for file in FILES]
    assert digests == [entry["sha256"] for entry in FILES.values()]
    assert len(set(digests)) == len(digests)
    for file, entry in FILES.items():
        assert file.startswith(entry["verdict"] + "/")
        assert entry["sources"]
        assert set(entry["sources"]) <= INDEX["sources"].keys()
        assert (entry["tensors"] is None) == (entry["verdict"] == "refuse") or "note" in entry, file
    assert all(FILES[FILES[file]["twin"]]["verdict"] == "accept" for file in of("refuse"))
    assert len({FILES[file]["rule"] for file in FILES}) == len(FILES)
    used = {source for entry in FILES.values() for source in entry["sources"]}
    assert used == INDEX["sources"].keys()


@pytest.mark.parametrize("file", of("refuse"))
def test_a_bad_file_breaks_a_rule_and_its_twin_none(file):
    assert broken(raw(file)) is not None
    assert broken(raw(FILES[file]["twin"])) is None


@pytest.mark.parametrize("file", of("accept"))
def test_a_good_file_keeps_every_rule_and_holds_what_the_index_says(file):
    safetensors = pytest.importorskip("safetensors")
    assert broken(raw(file)) is None
    tensors = [
        {"name": name, "dtype": t["dtype"], "shape": list(t["shape"]), "bytes": bytes(t["data"]).hex()}
        for name, t in safetensors.deserialize(raw(file))
    ]
    assert sorted(tensors, key=lambda t: t["name"]) == sorted(FILES[file]["tensors"], key=lambda t: t["name"])


def clauses_of(error):
    """Return the clauses of an error and of those that led to it."""
    named = []
    while error is not None:
        named += [error.clause] if isinstance(error, FormatError) else []
        error = error.__cause__
    return named


@pytest.mark.parametrize("file", FILES)
def test_FMT_121_a_file_of_the_pack(file, tmp_path):
    entry = FILES[file]
    (tmp_path / "model.safetensors").write_bytes(raw(file))
    if entry["seft_clauses"]:
        with pytest.raises(FormatError) as caught:
            read_all(tmp_path)
        named = clauses_of(caught.value)
        assert {clause[:7] for clause in entry["seft_clauses"]} & set(named)
        return
    found = read_all(tmp_path)
    if entry["tensors"] is not None:
        assert found == {t["name"]: (t["dtype"], t["shape"], t["bytes"]) for t in entry["tensors"]}


def read_all(folder: Path):
    with hf.open_hf(folder) as tensors:
        sections = {name: tensors.section(name) for name in tensors}
        assert {name: list(tensors[name].values.shape) for name in tensors} == {
            name: list(section.shape) for name, section in sections.items()
        }
        stored = {name: bytes(tensors._owner[name][0].raw(section)) for name, section in sections.items()}
        return {name: (s.dtype, list(s.shape), stored[name].hex()) for name, s in sections.items()}


def test_bad_files_that_our_reader_takes_are_known():
    lenient = [file for file in of("refuse") if not FILES[file]["seft_clauses"]]
    # FMT-121 lets a header begin with space, and safetensors itself takes null for no metadata
    names = ("header-space-in-front", "header-line-in-front", "metadata-null")
    assert lenient == [f"refuse/{name}.safetensors" for name in names]


@pytest.mark.parametrize("file", FILES)
def test_FMT_097_the_second_reader_refuses_what_is_no_sparse_checkpoint(file):
    with pytest.raises(second_reader.Refused, match="FMT-"):
        second_reader.read(raw(file))
