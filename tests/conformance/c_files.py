"""Checkpoint files built by hand from chapter 12 of SPEC.md, for the reader in C."""

import hashlib
import itertools
import json
import math
import random
import struct

BITS = {"NONE": 0, "F4": 4, "F6_E2M3": 6, "BOOL": 8, "U8": 8, "F16": 16, "F32": 32, "C64": 64}


def text(value):
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def sha(data):
    return hashlib.sha256(data).hexdigest()


def fill(line):
    """A header with its spaces (FMT-023)."""
    return line.ljust(max(1024, 1 << (7 + len(line)).bit_length()) - 8)


def csr(shape, at):
    columns = shape[-1]
    rows = math.prod(shape[:-1])
    row_ptr = struct.pack(f"<{rows + 1}I", *(sum(p < r * columns for p in at) for r in range(rows + 1)))
    col_idx = struct.pack(f"<{len(at)}{'H' if columns <= 65536 else 'I'}", *(p % columns for p in at))
    return {
        "col_idx": ("U16" if columns <= 65536 else "U32", [len(at)], col_idx),
        "row_ptr": ("U32", [rows + 1], row_ptr),
    }


def bitmask(shape, at):
    rows, columns = math.prod(shape[:-1]), shape[-1]
    mask = [sum(1 << c for c in range(columns) if r * columns + c in at) for r in range(rows)]
    stride = -(-columns // 8)
    return {"mask": ("U8", [rows, stride], b"".join(bits.to_bytes(stride, "little") for bits in mask))}


def nm(shape, at, n, m, axis):
    inner, groups = math.prod(shape[axis + 1 :]), {}
    for p in at:
        offset = p // inner % m
        groups.setdefault(p - offset * inner, []).append(offset)
    b, rows = (math.comb(m, n) - 1).bit_length(), []
    for _, starts in itertools.groupby(sorted(groups), lambda start: start // shape[-1]):
        ranks = [sum(math.comb(p, i) for i, p in enumerate(sorted(groups[s]), 1)) for s in starts]
        rows.append(sum(r << i * b for i, r in enumerate(ranks)).to_bytes(-(-len(ranks) * b // 8), "little"))
    return {"ranks": ("U8", [len(rows), len(rows[0])], b"".join(rows))}


def gaps(at, spell):
    code = b"".join(spell(p - before - 1) for before, p in itertools.pairwise([-1, *at]))
    return {"gaps": ("U8", [len(code)], code)}


def gap8(gap):
    return b"\xff" * (gap // 255) + bytes([gap % 255])


def varint(gap):
    return bytes([gap]) if gap < 128 else bytes([gap % 128 + 128]) + varint(gap // 128)


def tensor(dtype, shape, at=None, encoding="dense", pattern=None, values=None):
    """The entry of a tensor and its sections; values are counted up unless they are given."""
    numel, bits = math.prod(shape), BITS[dtype]
    at = list(range(numel)) if at is None else sorted(at)
    size = -(-len(at) * bits // 8)
    values = bytes(i % 2 if dtype == "BOOL" else i % 251 for i in range(size)) if values is None else values
    packed = bits in (4, 6)
    codes = {"bitmask": lambda: bitmask(shape, at), "csr": lambda: csr(shape, at), "dense": dict}
    codes |= {
        "gap8": lambda: gaps(at, gap8),
        "varint": lambda: gaps(at, varint),
        "nm": lambda: nm(shape, at, **pattern),
    }
    sections = codes[encoding]()
    if dtype != "NONE":
        sections["values"] = (
            "U8" if packed else dtype,
            [size] if packed else shape if encoding == "dense" else [len(at)],
            values,
        )
    content = {"dtype": dtype, "nnz": len(at), "shape": shape, "support": None, "values": sha(values) if bits else None}
    if len(at) < numel:
        both = (bitmask(shape, at), csr(shape, at))
        smaller = min(both, key=lambda sections: sum(len(raw) for _, _, raw in sections.values()))
        content["support"] = {role: sha(raw) for role, (_, _, raw) in smaller.items()}
    entry = {"content_sha256": sha(text(content).encode()), "dtype": dtype, "encoding": encoding, "nnz": len(at)}
    return entry | {"shape": shape} | ({"pattern": pattern} if pattern else {}), sections


def build(tensors, *, edit=None, spell=None, head=None, spell_head=None, body=None, **keys):
    """The file of a checkpoint; the functions edit manifest, its text, header, its text and the data on the way."""
    empty = {"attributes": {}, "files": {}, "optional": [], "requires": [], "scales": {}, "tensors": {}, "tied": {}}
    manifest = empty | {"kind": "model", "part": 0, "spec": "1.0"} | keys
    header, data = {}, b""
    for name in sorted(tensors):
        entry, sections = tensors[name]
        listed = {role: {"bytes": len(raw), "sha256": sha(raw)} for role, (_, _, raw) in sections.items()}
        manifest["tensors"][name] = {**entry, "sections": listed}
        for role, (dtype, shape, raw) in sorted(sections.items()):
            begin, pad = len(data), -(len(data) + len(raw)) % 64
            data += raw + bytes(pad)
            end = begin + len(raw)
            header[f"{name}#{role}"] = {"data_offsets": [begin, end], "dtype": dtype, "shape": shape}
            if pad:
                header[f"{name}#{role}#pad"] = {"data_offsets": [end, end + pad], "dtype": "U8", "shape": [pad]}
    manifest = (edit or (lambda m: m))(manifest)
    written = (spell or (lambda t: t))(text(manifest))
    seal = {
        "format": "pt",
        "seft.manifest": written,
        "seft.manifest.sha256": sha(written.encode("utf-8", "surrogatepass")),
    }
    header = (head or (lambda h: h))({"__metadata__": seal, **header})
    line = (spell_head or (lambda t: t))(text(header)).encode("utf-8", "surrogatepass")
    line = fill(line)
    return struct.pack("<Q", len(line)) + line + (body or (lambda b: b))(data)


# --------------------------------------------------------------------------------------------------- good files


def regular(shape, n, m, axis, seed=0):
    """Positions of which exactly n of m neighbours along an axis are there."""
    chance, inner, at = random.Random(seed), math.prod(shape[axis + 1 :]), []
    for start in range(math.prod(shape)):
        if start // inner % m == 0:
            at += [start + p * inner for p in chance.sample(range(m), n)]
    return at


SOME = random.Random(7).sample(range(5 * 11), 17)
FAR = [0, 1, 254, 510, 1000, 1254, 1510, 3999]
SHAPES = {
    "dense": ("F32", [3, 5], None, "dense"),
    "scalar": ("F16", [], None, "dense"),
    "empty": ("F32", [0, 7], None, "dense"),
    "complex": ("C64", [2, 2, 2], [0, 3, 7], "csr"),
    "bitmask": ("F16", [5, 11], SOME, "bitmask"),
    "csr": ("F16", [5, 11], SOME, "csr"),
    "csr wide": ("U8", [2, 70000], [65535, 65536, 69999, 70000, 139999], "csr"),
    "csr without columns": ("U8", [4, 0], [], "csr"),
    "gap8": ("F16", [4, 1000], FAR, "gap8"),
    "varint": ("F16", [4, 1000], FAR, "varint"),
    "no support": ("U8", [4, 10], [], "gap8"),
    "full": ("BOOL", [3, 3], list(range(9)), "varint"),
    "F4": ("F4", [3, 5], None, "dense"),
    "F6 sparse": ("F6_E2M3", [5, 11], SOME, "bitmask"),
    "mask": ("NONE", [5, 11], SOME, "bitmask"),
    "mask of all": ("NONE", [2, 3], list(range(6)), "csr"),
    "mask of gaps": ("NONE", [5, 11], SOME, "gap8"),
}
for label, shape, n, m, axis in [
    ("nm", [3, 8], 2, 4, 1),
    ("nm across", [8, 3], 2, 4, 0),
    ("nm middle", [3, 8, 5], 3, 8, 1),
    ("nm first of three", [4, 3, 5], 1, 2, 0),
    ("nm vector", [12], 5, 6, 0),
    ("nm 32:64", [2, 128], 32, 64, 1),
    ("nm 31:64 across", [64, 3], 31, 64, 0),
]:
    SHAPES[label] = ("F16", shape, regular(shape, n, m, axis), "nm", {"n": n, "m": m, "axis": axis})
TENSORS = {name: tensor(*words) for name, words in SHAPES.items()}
for name, words in SHAPES.items():  # the bits past the last packed value are 0
    if words[0] in ("F4", "F6_E2M3"):
        entry, sections = TENSORS[name]
        whole = int.from_bytes(sections["values"][2], "little") & ((1 << entry["nnz"] * BITS[words[0]]) - 1)
        TENSORS[name] = tensor(*words, values=whole.to_bytes(sections["values"][1][0], "little"))
NAMES = {'a"b\\c': 1, "a": 2, "a!": 3, " ": 4, "ü": 5, "\U0001f600": 6, "\uffff": 7, "é" * 256: 8}
W = {"w": tensor("F16", [2, 3], [0, 2, 4], "bitmask")}
TWO = {"a": tensor("F16", [2]), "b": tensor("F32", [1])}
D = {"a": "0" * 64, "b": "1" * 64}


def delta(tensors, edit=None, **listed):
    """A delta; of each listed tensor, o is an old digest, n a new one, - none."""
    digests = {"o": D["a"], "n": D["b"], "-": None}
    told = {"base_sha256": D["a"], "target_sha256": D["b"], "scales": {}, "tied": {}}
    told["tensors"] = {name: {"base": digests[pair[0]], "target": digests[pair[1]]} for name, pair in listed.items()}
    stored = {name: tensor("U8", [1]) for name in tensors}
    return build(stored, kind="delta", requires=["delta"], delta=told, edit=edit)


GOOD = {name: build({"t": one}) for name, one in TENSORS.items()} | {
    "all": build(TENSORS),
    "nothing": build({}),
    "names": build({name: tensor("U8", [size]) for name, size in NAMES.items()}),
    "tied": build(TWO, tied={"c": "a", "d": "a"}),
    "scales": build(TWO, scales={"a": {"scale": "b"}}),
    "attributes": build(
        W, attributes={"x": [None, True, -(2**53 - 1), {"": "\x00\x1f\x7f\b\t\n\f\r\u2028\U0001f600"}]}
    ),
    "16 levels": build(W, attributes=json.loads('{"":' * 14 + "[1]" + "}" * 14)),
    "later minor version": build(W, spec="1.9999", optional=["a", "b"]),
    "delta": delta(["replace:r", "remove:r", "add:a", "whole:w"], r="on", a="on", w="-n", gone="o-"),
    "delta of nothing": delta([]),
}
