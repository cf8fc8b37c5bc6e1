"""Checkpoint files built by hand from the text of chapter 12, for the tests of the second reader."""

import copy
import hashlib
import json
import math
import random
import re
from itertools import pairwise
from pathlib import Path

import pytest

import conformance
from conformance.oracle.second_reader import BITS, Refused

ROOT = Path(conformance.__file__).parents[1]


def sha(data):
    return hashlib.sha256(data).hexdigest()


def spell(value):
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def support(encoding, shape, flat, pattern=None):
    """Sections of the support as role → (dtype, shape, bytes)."""
    C, rows, gap = (
        (shape or (1,))[-1],
        math.prod(shape[:-1]),
        [b - a - 1 for a, b in zip([-1, *flat], flat, strict=False)],
    )
    if encoding == "bitmask":
        width = -(-C // 8)
        mask = bytearray(rows * width)
        for p in flat:
            mask[p // C * width + p % C // 8] |= 1 << p % C % 8
        return {"mask": ("U8", [rows, width], bytes(mask))}
    if encoding == "csr":
        size = 2 if C <= 65536 else 4
        starts = [sum(p < r * C for p in flat) for r in range(rows + 1)]
        columns = b"".join((p % C).to_bytes(size, "little") for p in flat)
        pointers = b"".join(s.to_bytes(4, "little") for s in starts)
        return {"col_idx": (f"U{8 * size}", [len(flat)], columns), "row_ptr": ("U32", [rows + 1], pointers)}
    if encoding == "nm":
        axis, m, n = (pattern[key] for key in ("axis", "m", "n"))
        b, after, ranks = (math.comb(m, n) - 1).bit_length(), math.prod(shape[axis + 1 :]), {}
        for p in sorted(flat):
            start = p - p // after % m * after
            ranks.setdefault(start // C, {}).setdefault(start, []).append(p // after % m)
        packed = b""
        for row in sorted(ranks):
            bits = 0
            for g, start in enumerate(sorted(ranks[row])):
                bits |= sum(math.comb(p, i) for i, p in enumerate(sorted(ranks[row][start]), 1)) << (g * b)
            packed += bits.to_bytes(-(-len(ranks[row]) * b // 8), "little")
        return {"ranks": ("U8", [len(ranks), len(packed) // len(ranks)], packed)}
    if encoding == "gap8":
        gaps = b"".join(b"\xff" * (g // 255) + bytes([g % 255]) for g in gap)
        return {"gaps": ("U8", [len(gaps)], gaps)}
    if encoding == "varint":
        sevens = [[g >> s & 127 for s in range(0, max(g.bit_length(), 1), 7)] for g in gap]
        gaps = b"".join(bytes([*(s | 128 for s in group[:-1]), group[-1]]) for group in sevens)
        return {"gaps": ("U8", [len(gaps)], gaps)}
    return {}


def tensor(dtype, shape, encoding, flat, values, pattern=None, sections=None):
    """A tensor as `build` wants it; `sections` in place of those that follow from the support."""
    n, full = len(flat), len(flat) == math.prod(shape)
    own = sections or support(encoding, shape, flat, pattern)
    if BITS[dtype]:
        extent = shape if encoding == "dense" else [n]
        own |= {"values": ("U8", [len(values)], values) if BITS[dtype] < 8 else (dtype, list(extent), values)}
    digested = {"dtype": dtype, "nnz": n, "shape": list(shape), "support": None, "values": None}
    if not full:
        both = (support("bitmask", shape, flat), support("csr", shape, flat))
        smaller = min(both, key=lambda sections: sum(len(raw) for _, _, raw in sections.values()))
        digested["support"] = {role: sha(raw) for role, (_, _, raw) in smaller.items()}
    if BITS[dtype]:
        digested["values"] = sha(values)
    entry = {
        "content_sha256": sha(spell(digested).encode()),
        "dtype": dtype,
        "encoding": encoding,
        "nnz": n,
        "shape": list(shape),
    }
    entry["sections"] = {role: {"bytes": len(data), "sha256": sha(data)} for role, (_, _, data) in own.items()}
    return entry | ({"pattern": pattern} if pattern else {}), own


def build(tensors, edit=None, header=None, data=None, respell=None, rehead=None, **manifest):
    """The bytes of a file; `edit`, `header` and `data` change objects in place, `respell` and `rehead` the texts."""
    m = {"attributes": {}, "files": {}, "kind": "model", "optional": [], "part": 0, "requires": [], "scales": {}}
    m |= {"spec": "1.0", "tensors": {name: entry for name, (entry, _) in tensors.items()}, "tied": {}}
    m = copy.deepcopy(m | manifest)
    if edit:
        edit(m)
    head, body = {}, bytearray()
    for name in sorted(tensors):
        for role, (dtype, shape, raw) in sorted(tensors[name][1].items()):
            begin, end, pad = len(body), len(body) + len(raw), -(len(body) + len(raw)) % 64
            head[f"{name}#{role}"] = {"data_offsets": [begin, end], "dtype": dtype, "shape": shape}
            if pad:
                head[f"{name}#{role}#pad"] = {"data_offsets": [end, end + pad], "dtype": "U8", "shape": [pad]}
            body += raw + bytes(pad)
    text = (respell or str)(spell(m))
    about = {"format": "pt", "seft.manifest": text, "seft.manifest.sha256": sha(text.encode("utf-8", "surrogatepass"))}
    head = copy.deepcopy(head | {"__metadata__": about})
    if header:
        header(head)
    if data:
        data(body)
    # ASCII escapes stay where a manifest has them: a surrogate cannot be written otherwise
    top = (rehead or str)(spell(head)).encode("utf-8", "surrogatepass")
    top = top.ljust(max(1024, 1 << (7 + len(top)).bit_length()) - 8)  # FMT-023
    return len(top).to_bytes(8, "little") + top + bytes(body)


def bits_of(n, size, seed=1):
    return random.Random(seed).randbytes(n * size)


def dense(t):
    """The bytes of a dense array (FMT-002), where a position of a mask and a small value take a byte (FMT-098)."""
    bits, C, size = BITS[t.dtype], (*t.shape, 1)[len(t.shape) - 1], max(BITS[t.dtype] // 8, 1)
    at, out = range(math.prod(t.shape)), bytearray(math.prod(t.shape) * size)
    if t.columns is not None:
        at = [r * C + c for r, (a, b) in enumerate(pairwise(t.row_pointers)) for c in t.columns[a:b].tolist()]
    for i, p in enumerate(at):
        value = int.from_bytes(t.bits, "little") >> i * bits & ((1 << bits) - 1) if bits < 8 else 0
        out[p * size : p * size + size] = (
            t.bits[i * size : i * size + size] if bits >= 8 else bytes([value or not bits])
        )
    return bytes(out)


def clause(run, *args):
    with pytest.raises(Refused) as found:
        run(*args)
    return found.value.clause


EXAMPLE = bytes.fromhex(
    "".join(
        line[6:54]
        for line in re.search(
            r"```hexdump\n(.*?)```", (ROOT / "SPEC.md").read_text("utf-8").split("## 12. Files")[1], re.S
        )[1].splitlines()
    )
)


def sparse(encoding="bitmask", sections=None, dtype="F16", values=None, shape=(2, 3), flat=(0, 2, 4)):
    values = bits_of(len(flat), 2) if values is None else values
    return tensor(dtype, shape, encoding, flat, values, sections=sections)


def mask_of(flat, shape=(2, 3), **more):
    return tensor("NONE", shape, "bitmask", flat, b"", **more)


def put(*path, to):
    def edit(m):
        for key in path[:-1]:
            m = m[key]
        m[path[-1]] = to

    return edit


W = {"w": sparse()}
HEX = "0" * 64
BIG = 2**53 - 1


def nm(m, n, axis=1, shape=(2, 4), flat=(0, 2, 5, 7), sections=None):
    return tensor("NONE", shape, "nm", flat, b"", {"axis": axis, "m": m, "n": n}, sections)


def coded(encoding, *sections, shape=(2, 3), flat=(0, 2, 4), dtype="F16", values=None):
    """The tensor w with other sections of the support."""
    return sparse(encoding, {role: (d, s, bytes(b)) for role, d, s, b in sections}, dtype, values, shape, flat)


CARD = {"card.md": {"bytes": 2, "sha256": sha(b"hi")}}


CHANGE = {"base": "1" * 64, "target": "2" * 64}
OPS = {"replace:w": sparse(), "remove:w": mask_of([1, 3])}


def delta(tensors=OPS, changes=None, edit=None, **more):
    described = {"base_sha256": HEX, "target_sha256": "f" * 64, "scales": {}, "tied": {}}
    described["tensors"] = {"w": CHANGE} if changes is None else changes
    return build(tensors, edit, kind="delta", requires=["delta"], delta=described | more)
