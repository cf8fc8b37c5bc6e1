"""Mutations that know the file format: each changes one thing on one level; `pack` then recomputes digests above it."""

import struct
from collections.abc import Callable
from math import prod
from random import Random
from typing import Any

import zstandard

from conformance.fuzz import grow, spelling, spoil
from conformance.fuzz.parts import CONTENT, NOTHING, SECTIONS, Parts, copied
from conformance.fuzz.sections import of_role, put, some_bytes
from conformance.fuzz.strings import INTEGERS, NAMED, a_string
from conformance.oracle import files
from conformance.oracle.files import BITS, Section

Mutation = Callable[[Random, Parts], object]


def entry_of(chance: Random, parts: Parts) -> tuple[str, dict[str, Any]]:
    """Return name and entry of a random tensor; raise IndexError if there is none."""
    entries = parts.entries
    name = chance.choice(sorted(entries))
    return name, entries[name]


def walk(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[tuple[Any, ...], Any]]:
    """Return (path of keys, value) for a JSON value and every value inside it."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [(path, value)] + [place for key, item in inner for place in walk(item, (*path, key))]


def other(chance: Random, value: Any) -> Any:
    """Return another value of the same type, or sometimes of another type."""
    kind = chance.random()
    if kind < 0.15:
        return chance.choice((None, True, False, 0, "", "0", [], {}, [0], {"a": 0}))
    if isinstance(value, bool) or value is None:
        return chance.choice((True, False, None, 0, 1))
    if isinstance(value, int):
        return chance.choice((value + 1, value - 1, value * 2, value ^ 1, -value, chance.choice(INTEGERS)))
    if isinstance(value, str):
        return a_string(chance, value)
    if isinstance(value, list):
        changed = [*value]
        if changed and chance.random() < 0.5:
            changed.pop(chance.randrange(len(changed)))
        else:
            changed.insert(chance.randint(0, len(changed)), chance.choice((0, 1, 2, "a", *changed)))
        return changed
    return {**value, a_string(chance, "a"): chance.choice((0, "", {}, [], *value.values()))}


def anywhere(chance: Random, parts: Parts) -> None:
    """Change, remove or rename one random value of the manifest."""
    path, value = chance.choice(walk(parts.manifest))
    if not path:
        parts.manifest = other(chance, value) if chance.random() < 0.3 else parts.manifest
        return
    owner = parts.manifest
    for key in path[:-1]:
        owner = owner[key]
    kind = chance.random()
    if kind < 0.7:
        owner[path[-1]] = other(chance, value)
    elif kind < 0.85 or isinstance(owner, list):
        owner.pop(path[-1])
    else:
        owner[a_string(chance, path[-1])] = owner.pop(path[-1])


def number(chance: Random, parts: Parts) -> None:
    """Change a count, size or dimension of a tensor."""
    _, entry = entry_of(chance, parts)
    shape = entry["shape"]
    kind = chance.randrange(6)
    if kind == 0:
        entry["nnz"] = other(chance, entry["nnz"])
    elif kind == 1 and shape:
        at = chance.randrange(len(shape))
        shape[at] = other(chance, shape[at])
    elif kind == 2:
        shape.insert(chance.randint(0, len(shape)), chance.choice((0, 1, 1, 2, 3, *INTEGERS)))
    elif kind == 3 and shape:
        shape.pop(chance.randrange(len(shape)))
    elif kind == 4:
        chance.shuffle(shape)
    elif "pattern" in entry:
        key = chance.choice(("n", "m", "axis"))
        entry["pattern"][key] = chance.choice((0, 1, 2, 3, 4, 7, 8, 63, 64, 65, other(chance, entry["pattern"][key])))
        if chance.random() < 0.5:
            share = entry["pattern"]
            entry["nnz"] = prod(map(int, shape)) * int(share["n"]) // int(share["m"])


def dtype(chance: Random, parts: Parts) -> None:
    """Give values another dtype, in the manifest and mostly in the header as well."""
    name, entry = entry_of(chance, parts)
    same = [name for name in BITS if BITS[name] == BITS.get(entry["dtype"])]
    entry["dtype"] = chance.choice((*same, *same, *BITS, "F15", "f16", "F128"))
    for at, section in enumerate(parts.sections):
        if section.name == f"{name}#values" and chance.random() < 0.8:
            small = 0 < BITS.get(entry["dtype"], 8) < 8
            parts.sections[at] = copied(section, dtype="U8" if small else entry["dtype"])


def encoding(chance: Random, parts: Parts) -> None:
    """Give a tensor another encoding, and mostly rename the section of its support to fit."""
    name, entry = entry_of(chance, parts)
    entry["encoding"] = chance.choice(("dense", "bitmask", "nm", "csr", "gap8", "varint", "coo", ""))
    roles = {"bitmask": "mask", "nm": "ranks", "gap8": "gaps", "varint": "gaps"}
    if entry["encoding"] == "nm" and chance.random() < 0.9:
        shape = entry["shape"]
        entry["pattern"] = {"axis": max(len(shape) - 1, 0), "m": chance.choice((2, 4, 8)), "n": 1}
    elif chance.random() < 0.8:
        entry.pop("pattern", None)
    role, old = roles.get(entry["encoding"]), [r for r in roles.values() if r in entry["sections"]]
    if role and old and chance.random() < 0.8:
        entry["sections"][role] = entry["sections"].pop(old[0])
        for at, section in enumerate(parts.sections):
            if section.name == f"{name}#{old[0]}":
                parts.sections[at] = copied(section, name=f"{name}#{role}")


def stated(chance: Random, parts: Parts) -> None:
    """State a wrong size, digest, role or codec of a section, and let `pack` recompute no digests."""
    _, entry = entry_of(chance, parts)
    role = chance.choice(sorted(entry["sections"]))
    kind = chance.randrange(5)
    own = entry["sections"][role]
    if kind == 0:
        own["bytes"] = other(chance, own["bytes"])
    elif kind == 1:
        own["sha256"] = chance.choice(("0" * 64, own["sha256"].upper(), own["sha256"][:-1], own["sha256"][::-1]))
    elif kind == 2:
        entry["sections"][a_string(chance, role)] = own if chance.random() < 0.5 else entry["sections"].pop(role)
    elif kind == 3:
        entry["content_sha256"] = chance.choice((own["sha256"], "f" * 64, "F" * 64))
    else:
        own |= {
            "codec": chance.choice(("zstd", "zstd", "lz4", "")),
            "raw_bytes": chance.choice((own["bytes"] * 2, *INTEGERS)),
        }
    parts.seal = NOTHING


def sections(chance: Random, parts: Parts) -> None:
    """Move, remove, repeat or rename a section."""
    kind, stored = chance.randrange(6), parts.sections
    at = chance.randrange(len(stored))
    if kind == 0:
        stored.pop(at)
    elif kind == 1:
        stored.insert(
            chance.randint(0, len(stored)), copied(stored[at], name=f"{stored[at].name}{chance.choice(NAMED)}")
        )
    elif kind == 2:
        stored.insert(chance.randint(0, len(stored)), stored.pop(at))
    elif kind == 3:
        stored[at] = copied(stored[at], name=a_string(chance, stored[at].name))
    elif kind == 4:
        stored[at] = copied(stored[at], shape=other(chance, stored[at].shape))
    else:
        stored[at] = copied(stored[at], dtype=chance.choice((*BITS, "F15", "")))


def rename(chance: Random, parts: Parts) -> None:
    """Give a tensor another name, in the manifest and in the names of its sections."""
    name, entry = entry_of(chance, parts)
    new = chance.choice(
        (a_string(chance, name), *grow.NAMES, f"whole:{name}", f"add:{name}", "#", "a\n", "é" * 257, "")
    )
    parts.manifest["tensors"].pop(name)
    parts.manifest["tensors"][new] = entry
    for at, section in enumerate(parts.sections):
        owner, _, role = section.name.rpartition("#")
        if owner == name:
            parts.sections[at] = copied(section, name=f"{new}#{role}")
    if chance.random() < 0.8:
        parts.sections.sort(key=lambda s: tuple(s.name.rpartition("#")[::2]))


def compressed(chance: Random, parts: Parts) -> None:
    """Compress a section in planes, sometimes with a wrong frame, size or feature (FMT-140 to FMT-142)."""
    at = chance.randrange(len(parts.sections))
    section = parts.sections[at]
    name, _, role = section.name.rpartition("#")
    data = bytes([section.data[0]]) * len(section.data) if chance.random() < 0.8 else section.data
    if chance.random() < 0.3:
        frame = files.rle_frame(len(data), data[0])
    else:
        size = max(BITS.get(section.dtype, 8) // 8, 1)
        options: dict[str, Any] = {"write_checksum": chance.random() < 0.2, "write_content_size": chance.random() < 0.9}
        planes = b"".join(data[i::size] for i in range(size))
        frame = zstandard.ZstdCompressor(level=chance.randint(1, 19), **options).compress(planes)
    if chance.random() < 0.3:
        i = chance.randrange(len(frame))
        frame = chance.choice((frame[:i], frame + b"\0", frame[:i] + chance.randbytes(1) + frame[i + 1 :], frame * 2))
    parts.sections[at] = Section(section.name, section.dtype, section.shape, data, frame)
    own = parts.manifest["tensors"][name]["sections"][role]
    own |= {"codec": "zstd", "raw_bytes": chance.choice((len(data), len(data), len(data), len(data) + 1, 2**20, 0))}
    if chance.random() < 0.9:
        parts.manifest["requires"] = sorted({*parts.manifest["requires"], "zstd"})


def splice(chance: Random, parts: Parts, second: Parts) -> None:
    """Copy tensors, sections or descriptions from another file."""
    kind = chance.randrange(4)
    if kind == 0:
        key = chance.choice(("attributes", "delta", "kind", "scales", "tied", "tensors", "requires"))
        if key in second.manifest:
            parts.manifest[key] = second.manifest[key]
    elif kind == 1:
        for name, entry in second.entries.items():
            if name not in parts.entries:
                parts.manifest["tensors"][name] = entry
                parts.sections += second.of(name).values()
        parts.sections.sort(key=lambda s: tuple(s.name.rpartition("#")[::2]))
    elif kind == 2:
        one, two = chance.randrange(len(parts.sections)), chance.randrange(len(second.sections))
        put(parts, one, second.sections[two].data)
    else:
        (_, entry_one), (_, entry_two) = entry_of(chance, parts), entry_of(chance, second)
        key = chance.choice(("dtype", "shape", "nnz", "encoding", "content_sha256", "sections"))
        entry_one[key] = entry_two[key]


CANNOT = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError, struct.error)
"""Errors that a mutation or `pack` raises if an earlier mutation broke the parts."""

WITHIN: tuple[tuple[Mutation, int], ...] = (
    (anywhere, 12),
    (number, 10),
    (dtype, 4),
    (encoding, 5),
    (some_bytes, 18),
    (of_role, 22),
    (stated, 5),
    (sections, 4),
    (rename, 3),
    (compressed, 3),
    (spoil.described, 8),
    (spoil.container, 7),
    (spelling.spelling, 7),
)


def mutate(chance: Random, parts: Parts, second: Parts) -> bytes:
    """Return the bytes of a file after one to three mutations, sealed to a random depth."""
    parts.seal = chance.choices((CONTENT, SECTIONS, NOTHING), (8, 1, 1))[0]
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        once(chance, parts, second)
    try:
        raw = parts.pack()
    except CANNOT:
        raw = b""
    return spoil.bytes_of(chance, raw) if chance.random() < 0.04 else raw


def once(chance: Random, parts: Parts, second: Parts) -> None:
    """Apply one mutation to parts; a splice copies from `second`. A mutation that does not apply is skipped."""
    chosen = chance.choices([m for m, _ in WITHIN], [weight for _, weight in WITHIN])[0]
    try:
        if chance.random() < 0.05:
            splice(chance, parts, second)
        else:
            chosen(chance, parts)
    except CANNOT:
        # an earlier mutation left parts that this one does not apply to
        return
