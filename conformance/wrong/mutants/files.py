"""Mutants of readers and writers of files (FMT)."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conformance.engine.files import read
from conformance.protocol.port import Refused
from conformance.wrong.mutants.base import REFUSALS, Mutant, Operation, Values, after, changed, mutants, right

__all__ = ["MUTANTS"]
Bytes = NDArray[np.uint8]


def unverified(a: Values) -> Values:
    return read(a, verified=False)


def stored_zeros_lost(a: Values) -> Values:
    out = right("file.read")(a)
    for t in out["tensors"].values():
        size = len(t["bits"]) // max(len(t["columns"]), 1) if t["columns"] is not None else 0
        if not size:
            continue
        keep = t["bits"].reshape(-1, size).any(axis=1)
        t["row_pointers"] = np.concatenate([[0], np.cumsum(keep)])[t["row_pointers"]]
        t["columns"], t["bits"] = t["columns"][keep], t["bits"].reshape(-1, size)[keep].reshape(-1)
    return out


def trailing_bytes_cut(a: Values) -> Values:
    whole = len(a["raw"]) // 64 * 64
    return right("file.read")(a | {"raw": a["raw"][:whole]})


def written_with_spaces(a: Values) -> Values:
    raw = right("file.write")(a)["raw"].tobytes()
    n = int.from_bytes(raw[:8], "little")
    return {"raw": np.frombuffer((n + 64).to_bytes(8, "little") + raw[8 : 8 + n] + b" " * 64 + raw[8 + n :], np.uint8)}


def parts_of(raw: Bytes) -> tuple[Values, Values, int]:
    """Return header, manifest and the offset of the data."""
    n = int.from_bytes(raw[:8].tobytes(), "little")
    header = json.loads(raw[8 : 8 + n].tobytes())
    return header, json.loads(header["__metadata__"]["seft.manifest"]), 8 + n


def columns_of(encoding: str, change: Callable[[NDArray[Any], Values, int], NDArray[Any]]) -> Operation:
    """Return a reader that changes the columns of tensors of one encoding."""

    def f(out: Values, a: Values) -> Values:
        entries = parts_of(a["raw"])[1]["tensors"]
        tensors = dict(out["tensors"])
        for name, t in tensors.items():
            if entries[name]["encoding"] == encoding and t["columns"] is not None and len(t["columns"]):
                last = int(t["shape"][-1])
                tensors[name] = t | {"columns": change(t["columns"], entries[name], last).astype(t["columns"].dtype)}
        return {"tensors": tensors}

    return after("file.read", f)


def top_bit_first(columns: NDArray[Any], _: Values, last: int) -> NDArray[Any]:
    return np.minimum(columns // 8 * 8 + 7 - columns % 8, last - 1)


def mirrored_in_groups(columns: NDArray[Any], entry: Values, _: int) -> NDArray[Any]:
    m = entry["pattern"]["m"]
    return columns // m * m + m - 1 - columns % m


def one_further(columns: NDArray[Any], _: Values, last: int) -> NDArray[Any]:
    return (columns + 1) % last


def bits_of(encoding: str, change: Callable[[Bytes, int], Bytes]) -> Operation:
    """Return a reader that changes the values of tensors of one encoding, or of `any`."""

    def f(out: Values, a: Values) -> Values:
        entries = parts_of(a["raw"])[1]["tensors"]
        tensors = {}
        for name, t in out["tensors"].items():
            count = int(np.prod(t["shape"])) if t["columns"] is None else len(t["columns"])
            size = len(t["bits"]) // count if count else 0
            mine = encoding in ("any", entries[name]["encoding"])
            tensors[name] = t | {"bits": change(t["bits"], size)} if mine and size else t
        return {"tensors": tensors}

    return after("file.read", f)


def big_endian(bits: Bytes, size: int) -> Bytes:
    return bits.reshape(-1, size)[:, ::-1].reshape(-1)


def no_minus_zero(bits: Bytes, size: int) -> Bytes:
    if size not in (2, 4, 8):
        return bits
    values = bits.reshape(-1, size).copy()
    values[(values[:, :-1] == 0).all(axis=1) & (values[:, -1] == 0x80)] = 0
    return values.reshape(-1)


def last_first(bits: Bytes, size: int) -> Bytes:
    return bits.reshape(-1, size)[::-1].reshape(-1)


def one_on(bits: Bytes, size: int) -> Bytes:
    return np.roll(bits, size)


def of_tensors(change: Callable[[Values], Values]) -> Operation:
    """Return a reader that changes some entries of every tensor."""
    return after("file.read", lambda out, _: {"tensors": {n: t | change(t) for n, t in out["tensors"].items()}})


def nibbles_exchanged(t: Values) -> Values:
    return {"bits": t["bits"] << 4 | t["bits"] >> 4} if t["dtype"] == "F4" else {}


def pointers_always(t: Values) -> Values:
    if t["columns"] is not None or t["shape"].size == 0:
        return {}
    columns = int(t["shape"][-1])
    rows = int(np.prod(t["shape"][:-1]))
    return {
        "row_pointers": np.arange(rows + 1, dtype=np.int64) * columns,
        "columns": np.tile(np.arange(columns, dtype=np.int32), rows),
    }


def without_attributes(_: Values, __: Values) -> Values:
    return {"attributes": "{}"}


def digest_of_the_file(out: Values, a: Values) -> Values:
    return {"state": parts_of(a["raw"])[0]["__metadata__"]["seft.manifest.sha256"]}


def planes_left_apart(out: Values, a: Values) -> Values:
    """Leave compressed values in planes, as they are in the frame."""
    entries = parts_of(a["raw"])[1]["tensors"]
    tensors = dict(out["tensors"])
    for name, t in tensors.items():
        count = int(np.prod(t["shape"])) if t["columns"] is None else len(t["columns"])
        if count and "codec" in entries[name]["sections"].get("values", {}):
            tensors[name] = t | {"bits": t["bits"].reshape(count, -1).T.reshape(-1)}
    return {"tensors": tensors}


def nothing_in_later_versions(out: Values, a: Values) -> Values:
    return {"tensors": {}} if parts_of(a["raw"])[1]["spec"] != "1.0" else {}


def companions_ignored(a: Values) -> Values:
    try:
        return right("file.read")(a)
    except REFUSALS as error:
        if error.clause != "FMT-102":
            raise
    return {}


def under_one_number(a: Values) -> Values:
    try:
        return right("file.read")(a)
    except REFUSALS as error:
        raise Refused("FMT-001", str(error)) from error


def rewritten(change: Callable[[Bytes], Bytes]) -> Operation:
    """Return a writer whose bytes are changed afterwards."""
    return after("file.write", lambda out, _: {"raw": change(out["raw"].copy())})


def section(role: str, change: Callable[[Bytes], Bytes]) -> Operation:
    """Return a writer that changes sections of one role and leaves the digests of the right bytes."""

    def f(raw: Bytes) -> Bytes:
        header, _, start = parts_of(raw)
        for name, entry in header.items():
            if name.endswith(f"#{role}"):
                begin, end = (start + int(n) for n in entry["data_offsets"])
                raw[begin:end] = change(raw[begin:end])
        return raw

    return rewritten(f)


def bits_mirrored(section_bytes: Bytes) -> Bytes:
    return np.packbits(np.unpackbits(section_bytes), bitorder="little")


def written_as(encoding: str, other: str) -> Operation:
    """Return a writer that uses `other` when `encoding` is asked for."""
    return changed("file.write", encoding=lambda a: other if a["encoding"] == encoding else a["encoding"])


def padded_with_nul(raw: Bytes) -> Bytes:
    n = int.from_bytes(raw[:8].tobytes(), "little")
    head = raw[8 : 8 + n].tobytes()
    used = len(head.rstrip(b" "))
    raw[8 + used : 8 + n] = 0
    return raw


def upper_case_digest(raw: Bytes) -> Bytes:
    digest = parts_of(raw)[0]["__metadata__"]["seft.manifest.sha256"].encode()
    return np.frombuffer(raw.tobytes().replace(digest, digest.upper()), np.uint8)


def pads_of_ones(raw: Bytes) -> Bytes:
    header, _, start = parts_of(raw)
    for name, entry in header.items():
        if name.endswith("#pad"):
            begin, end = (start + int(n) for n in entry["data_offsets"])
            raw[begin:end] = 1
    return raw


def as_part_one(raw: Bytes) -> Bytes:
    return np.frombuffer(raw.tobytes().replace(b'\\"part\\":0', b'\\"part\\":1'), np.uint8)


def of_applied(change: Callable[[Values, Values], Values]) -> Operation:
    """Return an application of deltas with the resulting tensors changed."""
    return after("delta.apply", lambda out, a: {"tensors": change(out["tensors"], a)})


def of_base(raw: Bytes) -> Values:
    return right("file.read")({"raw": raw})["tensors"]


def only_values(tensors: Values, a: Values) -> Values:
    """Keep the supports of the base, so that positions are neither added nor removed."""
    base = of_base(a["base"])
    keep = ("row_pointers", "columns")
    return {n: t | {k: base[n][k] for k in keep} if n in base else t for n, t in tensors.items()}


def only_the_last(a: Values) -> Values:
    """Return the base unchanged if there is more than one delta."""
    names = sorted(a["deltas"])
    out = right("delta.apply")(a)
    return out | ({"tensors": of_base(a["base"])} if len(names) > 1 else {})


def rounded_down(tensors: Values, _: Values) -> Values:
    """Clear the last bit of every byte of values."""
    return {n: t | {"bits": t["bits"] & np.uint8(0xFE)} for n, t in tensors.items()}


def no_whole(tensors: Values, a: Values) -> Values:
    base = of_base(a["base"])
    return {n: base.get(n, t) for n, t in tensors.items()}


MUTANTS: list[Mutant] = [
    *mutants("file.read",
        ("FMT-090 FMT-091", unverified, "digests not looked at"),
        ("FMT-003", stored_zeros_lost, "stored zeros lost"),
        ("FMT-035", trailing_bytes_cut, "bytes at the end ignored"),
        ("FMT-001", without_attributes, "attributes lost"),
        ("FMT-002", bits_of("any", big_endian), "values big-endian"),
        ("FMT-002", bits_of("any", no_minus_zero), "−0 becomes +0"),
        ("FMT-004", bits_of("any", last_first), "values backwards"),
        ("FMT-005", of_tensors(pointers_always), "full supports kept apart from dense"),
        ("FMT-006", of_tensors(lambda t: {"dtype": "F16"} if t["dtype"] == "BF16" else {}), "BF16 taken for F16"),
        ("FMT-071", of_tensors(nibbles_exchanged), "the upper half first"),
        ("FMT-060", bits_of("dense", one_on), "dense values one place on"),
        ("FMT-061", columns_of("bitmask", top_bit_first), "the top bit first"),
        ("FMT-065", columns_of("csr", one_further), "columns from 1"),
        ("FMT-052", columns_of("nm", mirrored_in_groups), "offsets from the end of the group"),
        ("FMT-054", columns_of("gap8", one_further), "gap8 a column off"),
        ("FMT-055", columns_of("varint", one_further), "varint a column off"),
        ("FMT-099", digest_of_the_file, "the digest of the file for that of the model"),
        ("FMT-010", lambda o, _: {"tied": {}}, "tied names lost"),
        ("FMT-016", lambda o, _: {"scales": "{}"}, "scales lost"),
        ("FMT-131", lambda o, _: {"delta": "null"}, "what a delta leads to lost"),
        ("FMT-140", planes_left_apart, "planes left apart"),
        ("FMT-160", nothing_in_later_versions, "nothing in later versions"),
        ("FMT-013", companions_ignored, "companions of a single file ignored"),
        ("FMT-097", under_one_number, "one number for all refusals"),
        unchecked="FMT-006 FMT-007 FMT-008 FMT-009 FMT-010 FMT-012 FMT-016 FMT-017 FMT-020 FMT-021 FMT-022 FMT-023 "
        "FMT-024 FMT-025 FMT-026 FMT-027 FMT-028 FMT-029 FMT-030 FMT-031 FMT-032 FMT-033 FMT-034 FMT-035 "
        "FMT-036 FMT-040 FMT-041 FMT-042 FMT-043 FMT-044 FMT-045 FMT-046 FMT-047 FMT-048 FMT-049 FMT-050 "
        "FMT-051 FMT-053 FMT-056 FMT-057 FMT-058 FMT-059 FMT-062 FMT-063 FMT-064 FMT-066 FMT-067 FMT-068 "
        "FMT-069 FMT-070 FMT-072 FMT-073 FMT-090 FMT-091 FMT-093 FMT-130 FMT-131 FMT-132 FMT-141 FMT-142"),
    *mutants("file.write",
        ("FMT-080 FMT-023", written_with_spaces, "another spelling"),
        ("FMT-023", rewritten(padded_with_nul), "the header padded with NUL"),
        ("FMT-081 FMT-083", {"encoding": lambda a: "csr"}, "always csr"),
        ("FMT-092", rewritten(upper_case_digest), "a digest in capitals"),
        ("FMT-111", rewritten(as_part_one), "a single file called part 1"),
        ("FMT-034", rewritten(pads_of_ones), "pads that are not zero"),
        ("FMT-060", section("values", lambda x: x[::-1]), "values backwards"),
        ("FMT-061", section("mask", bits_mirrored), "the top bit first"),
        ("FMT-065", section("col_idx", lambda x: x[::-1]), "columns big-endian and backwards"),
        ("FMT-052", section("ranks", bits_mirrored), "ranks from the top bit"),
        ("FMT-054", written_as("gap8", "varint"), "varint for gap8"),
        ("FMT-055", written_as("varint", "gap8"), "gap8 for varint"),
        unchecked="FMT-009 FMT-010 FMT-011 FMT-012 FMT-016 FMT-051 FMT-082 FMT-084 FMT-130"),
    *mutants("delta.apply",
        ("FMT-134", of_applied(only_values), "positions neither added nor taken out"),
        ("FMT-135", of_applied(rounded_down), "sums rounded down"),
        ("FMT-136", of_applied(no_whole), "whole tensors not replaced"),
        ("FMT-139", only_the_last, "a chain that changes nothing"),
        unchecked="FMT-010 FMT-016 FMT-131 FMT-133 FMT-135 FMT-137 FMT-138 FMT-139"),
]  # fmt: skip
