"""The second reader, on files that are built here by hand from the text of chapter 12."""

import copy
import hashlib
import json
import math
import random
import re
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

import conformance
from conformance.second_reader import Content, Refused, dense, read, read_folder
from conformance.second_tensor import BITS

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
    digested = spell({"dtype": dtype, "nnz": n, "shape": list(shape)}).encode() + b"\n"
    if not full:
        csr = support("csr", shape, flat)
        digested += csr["row_ptr"][2] + csr["col_idx"][2]
    entry = {
        "content_sha256": sha(digested + values),
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
    top += b" " * (-(8 + len(top)) % 64)
    return len(top).to_bytes(8, "little") + top + bytes(body)


def bits_of(n, size, seed=1):
    return random.Random(seed).randbytes(n * size)


@pytest.fixture
def try_read(tmp_path):
    def run(raw):
        (tmp_path / "x.seft").write_bytes(raw)
        return read(tmp_path / "x.seft")

    return run


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


# what is legal


@pytest.mark.parametrize("module", ["second_reader", "second_tensor"])
def test_the_reader_stays_short(module):
    assert len((ROOT / "conformance" / f"{module}.py").read_text("utf-8").splitlines()) <= 300


def test_the_example_of_12_13(try_read):
    content = try_read(EXAMPLE)
    w = content.tensors["w"]
    assert (content.kind, content.attributes, w.dtype, w.shape) == ("model", {"step": 7}, "F16", (2, 3))
    assert (w.row_pointers.tolist(), w.columns.tolist()) == ([0, 2, 3], [0, 2, 1])
    assert w.row_pointers.dtype == w.columns.dtype == np.int64
    assert w.bits == bytes.fromhex("003e 0000 00c0")
    assert dense(w).tobytes() == bytes.fromhex("003e 0000 0000  0000 00c0 0000")
    digests = {"w": "97c502a31ecac54560b42a027699f04dc25cc099a923898461f62895a4333ef3"}
    assert content.state_sha256 == sha(spell({"scales": {}, "tensors": digests, "tied": {}}).encode())


def test_the_builder_writes_the_example():
    values = bytes.fromhex("003e 0000 00c0")
    assert build({"w": sparse(values=values)}, attributes={"step": 7}) == EXAMPLE


def test_the_example_cut_anywhere_is_refused(try_read):
    for size in range(len(EXAMPLE)):
        assert clause(try_read, EXAMPLE[:size])
    assert clause(try_read, EXAMPLE + b"\0") == "FMT-035"


def test_the_example_with_any_bit_flipped_is_refused(try_read):
    for i in range(len(EXAMPLE)):
        for mask in (1, 2, 4, 8, 16, 32, 64, 128, 255):
            assert clause(try_read, EXAMPLE[:i] + bytes([EXAMPLE[i] ^ mask]) + EXAMPLE[i + 1 :])


@pytest.mark.parametrize("encoding", ["bitmask", "csr", "gap8", "varint"])
@pytest.mark.parametrize("shape", [(1,), (11,), (3, 5), (2, 3, 9), (1, 70000), (4, 600), (5, 0), (0, 5), (2, 0, 3)])
@pytest.mark.parametrize("share", [0, 0.01, 0.5, 1])
def test_FMT_061_FMT_065_FMT_054_FMT_055_supports(try_read, encoding, shape, share):
    rng, numel = random.Random(7), math.prod(shape)
    if encoding == "bitmask" and shape[-1] == 0:
        return
    flat = sorted(rng.sample(range(numel), math.ceil(share * numel)))
    values = bits_of(len(flat), 4)
    content = try_read(build({"w": tensor("F32", shape, encoding, flat, values)}))
    w = content.tensors["w"]
    assert (w.row_pointers is None) == (w.columns is None) == (len(flat) == numel)
    if w.columns is not None:
        rows = math.prod(shape[:-1])
        assert [
            r * shape[-1] + c for r in range(rows) for c in w.columns[w.row_pointers[r] : w.row_pointers[r + 1]]
        ] == flat
    want = bytearray(4 * numel)
    for i, p in enumerate(flat):
        want[4 * p : 4 * p + 4] = values[4 * i : 4 * i + 4]
    assert (w.bits, dense(w).tobytes()) == (values, bytes(want))


@pytest.mark.parametrize(
    ("shape", "axis", "m", "n"),
    [
        *[((8,), 0, 4, 2), ((3, 8), 1, 4, 2), ((8, 3), 0, 4, 2), ((2, 6, 5), 1, 3, 1), ((4, 3, 5), 0, 2, 1)],
        *[((2, 64), 1, 64, 32), ((64, 2), 0, 64, 63), ((2, 3, 32), 2, 32, 1), ((2, 3, 32), 2, 16, 9)],
    ],
)
def test_FMT_052_patterns_along_any_axis(try_read, shape, axis, m, n):
    rng, cube = random.Random(3), np.zeros(shape, bool)
    groups = np.moveaxis(cube, axis, -1).reshape(-1, m)
    for group in groups:
        group[rng.sample(range(m), n)] = True
    cube = np.moveaxis(groups.reshape(np.moveaxis(cube, axis, -1).shape), -1, axis)
    flat = np.flatnonzero(cube).tolist()
    values = bits_of(len(flat), 2)
    raw = build({"w": tensor("BF16", shape, "nm", flat, values, {"axis": axis, "m": m, "n": n})})
    w = try_read(raw).tensors["w"]
    assert w.bits == values
    mask = dense(
        try_read(build({"w": tensor("NONE", shape, "nm", flat, b"", {"axis": axis, "m": m, "n": n})})).tensors["w"]
    )
    assert np.array_equal(mask.reshape(shape), cube)


def test_FMT_052_the_ranks_of_the_text():
    two_four = {"m": 4, "n": 2}
    assert support("nm", (2, 4), [0, 2, 5, 7], two_four | {"axis": 1})["ranks"][2] == bytes([1, 4])
    flat = sorted(4 * r + c for r, c in [(0, 0), (1, 2), (2, 1), (3, 3), (1, 1), (3, 0), (0, 3), (2, 2)])
    assert support("nm", (4, 4), flat, two_four | {"axis": 0})["ranks"][2] == bytes([0x93, 6])
    assert support("gap8", (2, 600), [600])["gaps"][2] == bytes([255, 255, 0x5A])
    assert support("varint", (2, 600), [600])["gaps"][2] == bytes([0xD8, 4])


def test_FMT_005_full_support_is_the_same_tensor_in_either_form(try_read):
    values = bits_of(6, 2)
    found = [
        try_read(build({"w": sparse(e, flat=range(6), values=values)})) for e in ("dense", "bitmask", "csr", "gap8")
    ]
    assert len({content.state_sha256 for content in found}) == 1
    assert all(content.tensors["w"].columns is None for content in found)


@pytest.mark.parametrize("dtype", [*BITS])
def test_FMT_006_every_dtype(try_read, dtype):
    flat, size = [0, 2, 4], -(-3 * BITS[dtype] // 8)
    values = bytes([1] * size)
    w = try_read(build({"w": tensor(dtype, (2, 3), "csr", flat, values)})).tensors["w"]
    assert (w.dtype, w.bits) == (dtype, values)
    if BITS[dtype] in (4, 6):
        with pytest.raises(ValueError, match="smaller than a byte"):
            dense(w)


def test_FMT_004_a_dense_scalar_and_no_tensors(try_read):
    assert dense(try_read(build({"s": tensor("F64", (), "dense", [0], bytes(range(8)))})).tensors["s"]).size == 8
    assert try_read(build({})).tensors == {}


def test_FMT_017_masks(try_read):
    content = try_read(build({"m": mask_of([1, 3]), "full": mask_of(range(6)), "none": mask_of([])}))
    assert {name: dense(m).tolist() for name, m in content.tensors.items()} == {
        "m": [0, 1, 0, 1, 0, 0],
        "full": [1] * 6,
        "none": [0] * 6,
    }


def test_FMT_098_the_limit_of_a_dense_array(try_read):
    w = try_read(build({"w": tensor("F32", (2**20, 2**30), "gap8", [], b"")})).tensors["w"]
    assert clause(dense, w) == "FMT-098"


def test_FMT_016_FMT_010_scales_and_tied_names(try_read):
    raw = build({"w": sparse(), "s": sparse()}, scales={"w": {"scale": "s"}}, tied={"head": "w"})
    content = try_read(raw)
    assert (content.scales, content.tied) == ({"w": {"scale": "s"}}, {"head": "w"})
    assert content.state_sha256 != try_read(build({"w": sparse(), "s": sparse()})).state_sha256


def test_FMT_042_FMT_044_a_later_minor_version_with_an_optional_feature(try_read):
    assert try_read(build({"w": sparse()}, spec="1.17", optional=["colour"])).tensors


# one smallest edit for each rule


def put(*path, to):
    def edit(m):
        for key in path[:-1]:
            m = m[key]
        m[path[-1]] = to

    return edit


W = {"w": sparse()}
HEX = "0" * 64
BIG = 2**53 - 1
TEXTS = {  # clause → what is done to the manifest's text
    "FMT-025": lambda t: t.replace('"tied":{}', '"tied":{},"tied":{}'),
    "FMT-026": lambda t: t.replace('"attributes":{}', '"attributes":{"a":1.0}'),
    "FMT-026 size": lambda t: t.replace('"attributes":{}', '"attributes":{"a":9007199254740992}'),
    "FMT-026 digits": lambda t: t.replace('"attributes":{}', '"attributes":{"a":' + "1" * 9000 + "}"),
    "FMT-026 NaN": lambda t: t.replace('"attributes":{}', '"attributes":{"a":NaN}'),
    "FMT-026 minus": lambda t: t.replace('"attributes":{}', '"attributes":{"a":-Infinity}'),
    "FMT-027": lambda t: t.replace('"attributes":{}', '"attributes":{"a":' + "[" * 15 + "1" + "]" * 15 + "}"),
    "FMT-027 deep": lambda t: "[" * 100000,
    "FMT-027 closed": lambda t: "[" * 400 + "]" * 400,
    "FMT-028": lambda t: t.replace(":", ": ", 1),
    "FMT-028 order": lambda t: '{"tied":{},' + t[1:].replace(',"tied":{}', ""),
    "FMT-028 minus": lambda t: t.replace('"part":0', '"part":-0'),
    "FMT-028 escape": lambda t: t.replace('"attributes"', '"\\u0061ttributes"'),
    "FMT-028 slash": lambda t: t.replace('"attributes":{}', '"attributes":{"a":"\\/"}'),
    "FMT-028 hex": lambda t: t.replace('"attributes":{}', '"attributes":{"a":"\\u001F"}'),
    "FMT-028 surrogate": lambda t: t.replace('"attributes":{}', '"attributes":{"\\ud800":"\\udfff"}'),
    "FMT-028 pair": lambda t: t.replace('"attributes":{}', '"attributes":{"a":"\\ud83d\\ude00"}'),
    "FMT-024": lambda t: t[:-1],
    "FMT-024 more": lambda t: t + "}",
    "FMT-024 mark": lambda t: "\ufeff" + t,
    "FMT-024 empty": lambda t: "",
    "FMT-041": lambda t: "[]",
}


@pytest.mark.parametrize("case", TEXTS)
def test_json_texts(try_read, case):
    assert clause(try_read, build(W, respell=TEXTS[case])) == case[:7]


HEADER_TEXTS = {
    "FMT-023": lambda t: " " + t,
    "FMT-024": lambda t: t[:-1],
    "FMT-025": lambda t: t.replace('"dtype":"U8"', '"dtype":"U8","dtype":"U8"', 1),
    "FMT-028": lambda t: t.replace(",", ", ", 1),
    "FMT-028 surrogate": lambda t: t.replace('"pt"', '"\\ud800"'),
    "FMT-024 surrogate": lambda t: t.replace('"pt"', '"\ud800"'),
    "FMT-027": lambda t: '{"a":' * 5000,
}


@pytest.mark.parametrize("case", HEADER_TEXTS)
def test_header_texts(try_read, case):
    assert clause(try_read, build(W, rehead=HEADER_TEXTS[case])) == case[:7]


def test_FMT_027_sixteen_objects_are_legal(try_read):
    assert try_read(
        build(W, respell=lambda t: t.replace('"attributes":{}', '"attributes":{"a":' + "[" * 15 + "]" * 15 + "}"))
    )


def test_FMT_020_FMT_021_FMT_022_FMT_023_the_length(try_read):
    assert clause(try_read, b"") == clause(try_read, b"\0" * 7) == "FMT-020"
    assert clause(try_read, b"\xff" * 8) == clause(try_read, (2**40).to_bytes(8, "little") + bytes(64)) == "FMT-021"
    raw = (25_000_056).to_bytes(8, "little") + bytes(25_000_056)
    assert clause(try_read, raw) == "FMT-021"
    assert clause(try_read, bytes(8)) == "FMT-022"
    assert clause(try_read, (56).to_bytes(8, "little") + b" " * 56) == "FMT-023"
    n = int.from_bytes(EXAMPLE[:8], "little")
    raw = (n + 64).to_bytes(8, "little") + EXAMPLE[8 : 8 + n] + b" " * 64 + EXAMPLE[8 + n :]
    assert clause(try_read, raw) == "FMT-023"


HEADERS = [
    ("FMT-029", lambda h: h.pop("__metadata__")),
    ("FMT-029", put("__metadata__", to="pt")),
    ("FMT-029", put("__metadata__", "format", to="tf")),
    ("FMT-029", put("__metadata__", "more", to="")),
    ("FMT-029", put("__metadata__", "seft.manifest", to=1)),
    ("FMT-093", put("__metadata__", "seft.manifest.sha256", to=HEX)),
    ("FMT-030", put("w#mask", to=[])),
    ("FMT-030", put("w#mask", "more", to=0)),
    ("FMT-041", put("w#mask", "data_offsets", 0, to=False)),
    ("FMT-041", put("w#mask", "shape", to="2")),
    ("FMT-006", put("w#mask", "dtype", to="U9")),
    ("FMT-031", lambda h: h.pop("w#mask")),
    ("FMT-032", put("w#more", to={"data_offsets": [0, 0], "dtype": "U8", "shape": [0]})),
    ("FMT-033", put("w#mask", "dtype", to="I8")),
    ("FMT-033", put("w#mask", "shape", to=[1, 2])),
    ("FMT-034", put("w#mask", "data_offsets", to=[0, 1])),
    ("FMT-034", put("w#values", "data_offsets", to=[2, 8])),
    ("FMT-034", lambda h: h.pop("w#mask#pad")),
]


@pytest.mark.parametrize(("want", "edit"), HEADERS)
def test_headers(try_read, want, edit):
    assert clause(try_read, build(W, header=edit)) == want


MANIFESTS = [
    ("FMT-040", lambda m: m.pop("tied")),
    ("FMT-040", lambda m: m.pop("spec")),
    ("FMT-040", put("more", to=0)),
    ("FMT-040", put("tensors", "w", "pattern", to={})),
    ("FMT-040", put("tensors", "w", "sections", "mask", "more", to=1)),
    ("FMT-041", put("attributes", to=[])),
    ("FMT-041", put("part", to=False)),
    ("FMT-041", put("part", to=-1)),
    ("FMT-041", put("tensors", "w", "nnz", to=True)),
    ("FMT-041", put("tensors", "w", to=None)),
    ("FMT-042", put("spec", to="2.0")),
    ("FMT-042", put("spec", to="1.01")),
    ("FMT-042", put("spec", to="1.10000")),
    ("FMT-042", put("spec", to="1.0\n")),
    ("FMT-042", put("spec", to="1.\u0661")),
    ("FMT-043", put("requires", to=["zstd"])),
    ("FMT-044", put("requires", to=["delta", "delta"])),
    ("FMT-044", put("optional", to=["b", "a"])),
    ("FMT-044", put("optional", to=["A"])),
    ("FMT-050", put("requires", to=["delta"])),
    ("FMT-050", put("tensors", "w", "sections", "mask", "codec", to="zstd")),
    ("FMT-012", put("kind", to="Model")),
    ("FMT-012", put("kind", to="m" * 65)),
    ("FMT-013", put("files", to={"a": {"bytes": 0, "sha256": HEX}})),
    ("FMT-014", put("files", to={"a": {"bytes": 50_000_001, "sha256": HEX}})),
    ("FMT-047", put("files", to={"a": {"bytes": 0, "sha256": "A" * 64}})),
    ("FMT-048", put("part", to=1)),
    ("FMT-130", put("delta", to={})),
    ("FMT-130", put("kind", to="delta")),
    ("FMT-009", put("tensors", "", to={})),
    ("FMT-009", put("tied", to={"a#": "w"})),
    ("FMT-009", put("tied", to={"\x7f": "w"})),
    ("FMT-009", put("tied", to={"é" * 257: "w"})),
    ("FMT-010", put("tied", to={"a": "b"})),
    ("FMT-010", put("tied", to={"a": "a"})),
    ("FMT-010", put("tied", to={"w": "w"})),
    ("FMT-010", put("tied", to={"a": "b", "b": "w"})),
    ("FMT-016", put("scales", to={"w": {}})),
    ("FMT-016", put("scales", to={"w": {"scale": "w"}})),
    ("FMT-016", put("scales", to={"w": {"scale": "v"}})),
    ("FMT-016", put("scales", to={"v": {"scale": "w"}})),
    ("FMT-016", put("scales", to={"w": {"Scale": "v"}})),
    ("FMT-006", put("tensors", "w", "dtype", to="F12")),
    ("FMT-017", lambda m: m["tensors"]["w"].update(dtype="NONE", encoding="dense", nnz=6)),
    ("FMT-007", put("tensors", "w", "shape", to=[2, 3, 1, 1, 1, 1, 1, 1, 1])),
    ("FMT-007", put("tensors", "w", "shape", to=[BIG, BIG, 0])),
    ("FMT-008", put("tensors", "w", "shape", to=[2, 2**31])),
    ("FMT-008", put("tensors", "w", "shape", to=[2**31, 3])),
    ("FMT-008", lambda m: m["tensors"]["w"].update(shape=[], nnz=1)),
    ("FMT-045", put("tensors", "w", "encoding", to="coo")),
    ("FMT-046", put("tensors", "w", "nnz", to=7)),
    ("FMT-046", put("tensors", "w", "encoding", to="dense")),
    ("FMT-031", put("tensors", "w", "encoding", to="csr")),
    ("FMT-031", lambda m: m["tensors"]["w"]["sections"].pop("mask")),
    ("FMT-031", put("tensors", "w", "dtype", to="NONE")),
    ("FMT-047", put("tensors", "w", "content_sha256", to=HEX[1:])),
    ("FMT-049", put("tensors", "w", "sections", "mask", "bytes", to=3)),
    ("FMT-049", put("tensors", "w", "nnz", to=2)),
    ("FMT-064", lambda m: m["tensors"]["w"].update(shape=[5, 0], nnz=0)),
    ("FMT-090", put("tensors", "w", "sections", "mask", "sha256", to=HEX)),
    ("FMT-091", put("tensors", "w", "content_sha256", to=HEX)),
]


@pytest.mark.parametrize(("want", "edit"), MANIFESTS)
def test_manifests(try_read, want, edit):
    assert clause(try_read, build(W, edit=edit)) == want


def nm(m, n, axis=1, shape=(2, 4), flat=(0, 2, 5, 7), sections=None):
    return tensor("NONE", shape, "nm", flat, b"", {"axis": axis, "m": m, "n": n}, sections)


def coded(encoding, *sections, shape=(2, 3), flat=(0, 2, 4), dtype="F16", values=None):
    """The tensor w with other sections of the support."""
    return sparse(encoding, {role: (d, s, bytes(b)) for role, d, s, b in sections}, dtype, values, shape, flat)


PTR, COL = ("row_ptr", "U32", [3]), ("col_idx", "U16", [3])
BROKEN = [
    ("FMT-063", coded("bitmask", ("mask", "U8", [2, 1], [5, 3]))),
    ("FMT-062", coded("bitmask", ("mask", "U8", [2, 1], [5, 8]))),
    ("FMT-066", coded("csr", (*COL, [0, 0, 2, 0, 1, 0]), (*PTR, [1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0]))),
    ("FMT-066", coded("csr", (*COL, [0, 0, 2, 0, 1, 0]), (*PTR, [0, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0]))),
    ("FMT-067", coded("csr", (*COL, [0, 0, 2, 0, 1, 0]), (*PTR, [0, 0, 0, 0, 255, 255, 255, 255, 3, 0, 0, 0]))),
    ("FMT-068", coded("csr", (*COL, [0, 0, 3, 0, 1, 0]), (*PTR, [0, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0]))),
    ("FMT-069", coded("csr", (*COL, [2, 0, 2, 0, 1, 0]), (*PTR, [0, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0]))),
    ("FMT-058", coded("gap8", ("gaps", "U8", [3], [0, 1, 255]))),
    ("FMT-058", coded("varint", ("gaps", "U8", [4], [0, 1, 1, 128]))),
    ("FMT-058", coded("varint", ("gaps", "U8", [4], [0, 1, 1, 0]))),
    ("FMT-057", coded("gap8", ("gaps", "U8", [4], [0, 1, 255, 0]))),
    ("FMT-057", coded("varint", ("gaps", "U8", [2], [0, 1]))),
    ("FMT-057", coded("varint", ("gaps", "U8", [25], [128] * 22 + [1] * 3))),
    ("FMT-059", coded("gap8", ("gaps", "U8", [3], [0, 1, 3]))),
    ("FMT-059", coded("varint", ("gaps", "U8", [3], [0, 1, 3]))),
    ("FMT-059", coded("varint", ("gaps", "U8", [18], [*[255] * 7, 127, *[255] * 7, 127, 0, 0]), flat=(0, 1, 2, 4))),
    ("FMT-073", coded("varint", ("gaps", "U8", [4], [128, 0, 1, 1]))),
    ("FMT-073", coded("varint", ("gaps", "U8", [11], [*[128] * 8, 1, 1, 1]))),
    ("FMT-056", tensor("NONE", (2**20 + 1, 1), "gap8", [], b"", sections={"gaps": ("U8", [0], b"")})),
    ("FMT-070", sparse(dtype="BOOL", values=bytes([0, 1, 2]))),
    ("FMT-072", sparse(dtype="F4", values=bytes([0x21, 0x13]))),
    ("FMT-072", sparse(dtype="F6_E2M3", values=bytes([0, 0, 4]))),
    ("FMT-072", nm(4, 2, sections={"ranks": ("U8", [2, 1], bytes([9, 4]))})),
    ("FMT-053", nm(4, 2, sections={"ranks": ("U8", [2, 1], bytes([1, 6]))})),
    ("FMT-051", nm(4, 3, sections={"ranks": ("U8", [1, 1], b"\0")})),
    ("FMT-051", nm(4, 4, sections={"ranks": ("U8", [1, 1], b"\0")})),
    ("FMT-051", nm(3, 2, sections={"ranks": ("U8", [1, 1], b"\0")})),
    ("FMT-051", nm(4, 2, axis=2, sections={"ranks": ("U8", [1, 1], b"\0")})),
    ("FMT-051", nm(128, 64, sections={"ranks": ("U8", [1, 1], b"\0")})),
    ("FMT-051", nm(4, 2, shape=(0, 4), flat=(), sections={"ranks": ("U8", [0, 1], b"")})),
]


@pytest.mark.parametrize(("want", "w"), BROKEN)
def test_sections(try_read, want, w):
    assert clause(try_read, build({"w": w})) == want


def test_FMT_036_a_pad(try_read):
    assert clause(try_read, build(W, data=put(2, to=1))) == clause(try_read, build(W, data=put(127, to=1))) == "FMT-036"


@pytest.mark.parametrize("encoding", ["dense", "bitmask", "csr", "gap8", "varint", "nm"])
def test_FMT_096_large_numbers_take_no_memory(try_read, encoding):
    def edit(m):
        m["tensors"]["w"].update(encoding=encoding, shape=[2**20, 2**31 - 2], nnz=2**20 * (2**30 - 1))
        if encoding == "nm":
            m["tensors"]["w"]["pattern"] = {"axis": 0, "m": 2, "n": 1}
        roles = {"bitmask": ["mask"], "csr": ["row_ptr", "col_idx"], "nm": ["ranks"], "dense": []}.get(
            encoding, ["gaps"]
        )
        m["tensors"]["w"]["sections"] = {role: {"bytes": 2**51, "sha256": HEX} for role in [*roles, "values"]}

    raw = build(W, edit=edit)
    tracemalloc.start()
    found = clause(try_read, raw)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (found in {"FMT-046", "FMT-049", "FMT-057"}, peak < 1_000_000) == (True, True)


# folders


def folder(path, files):
    path.mkdir()
    for name, raw in files.items():
        (path / name).write_bytes(raw)
    return path


def parts(edit=(None, None), index=None, names=("a", "b"), tensors=None, **first):
    made = tensors or [{name: sparse()} for name in names]
    raws = [build(made[0], part=1, edit=edit[0], **first)]
    keep = {key: first[key] for key in ("kind", "requires") if key in first}
    raws.append(build(made[1], part=2, edit=edit[1], **keep))
    roots = [re.search(rb'"seft.manifest.sha256":"(\w+)"', raw)[1].decode() for raw in raws]
    whole = {f"model.sparse-0000{i}-of-00002.safetensors": raw for i, raw in enumerate(raws, 1)}
    weights = {name: file for file, tensors in zip(whole, made, strict=True) for name in tensors}
    value = {"metadata": {"manifests": roots, "spec": "1.0"}, "weight_map": weights}
    if index:
        index(value)
    return whole | {"model.sparse.index.json": spell(value).encode()}


WHOLE = "model.sparse.safetensors"
FIRST, SECOND = (f"model.sparse-0000{i}-of-00002.safetensors" for i in (1, 2))
CARD = {"card.md": {"bytes": 2, "sha256": sha(b"hi")}}


def test_FMT_100_FMT_094_folders(tmp_path):
    one = read_folder(folder(tmp_path / "one", {WHOLE: build(W, files=CARD), "card.md": b"hi", "other": b""}))
    assert isinstance(one, Content)
    assert (one.files, [*one.tensors]) == ({"card.md": b"hi"}, ["w"])
    made = parts(files=CARD, tied={"c": "b"}, scales={"b": {"scale": "a"}}, attributes={"x": [1]})
    two = read_folder(folder(tmp_path / "two", made | {"card.md": b"hi"}))
    assert ([*two.tensors], two.tied, two.attributes) == (["a", "b"], {"c": "b"}, {"x": [1]})
    with pytest.raises(FileNotFoundError):
        read_folder(tmp_path / "none")
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "none")


NAMES = [".a", "a" * 256, "a b", "Model.Sparse-x", "a.BIN", "x.index.json", "card.MD"]
FOLDERS = [
    *(("FMT-013", {WHOLE: build(W, files=CARD | {name: CARD["card.md"]}), "card.md": b"hi"}) for name in NAMES),
    ("FMT-102", {}),
    ("FMT-102", {WHOLE: build(W, files=CARD)}),
    ("FMT-094", {WHOLE: build(W, files=CARD), "card.md": b"ho"}),
    ("FMT-094", {WHOLE: build(W, files=CARD), "card.md": b"h"}),
    ("FMT-103", {WHOLE: build(W), "Model.Sparse.txt": b""}),
    ("FMT-103", {WHOLE: build(W), "model.sparse.index.json": b""}),
    ("FMT-048", {WHOLE: build(W, part=1)}),
    ("FMT-102", {name: raw for name, raw in parts().items() if name != SECOND}),
    ("FMT-102", {name: raw for name, raw in parts().items() if "index" not in name}),
    ("FMT-028", parts() | {"model.sparse.index.json": parts()["model.sparse.index.json"] + b"\n"}),
    ("FMT-100", parts(index=lambda i: i["metadata"]["manifests"].pop())),
    ("FMT-104", parts(index=put("metadata", "manifests", 1, to=HEX))),
    ("FMT-047", parts(index=put("metadata", "manifests", 1, to="x"))),
    ("FMT-101", parts(index=put("metadata", "spec", to="1.1"))),
    ("FMT-101", parts(index=put("weight_map", "a", to=SECOND))),
    ("FMT-101", parts(index=put("weight_map", "c", to=SECOND))),
    ("FMT-040", parts(index=put("more", to=0))),
    ("FMT-104", parts((None, put("part", to=3)))),
    ("FMT-104", parts((None, put("kind", to="other")))),
    ("FMT-104", parts((None, put("spec", to="1.1")))),
    ("FMT-104", parts((None, put("attributes", to={"a": 1})))),
    ("FMT-104", parts((None, put("tied", to={"c": "b"})))),
    ("FMT-104", parts(names=("b", "a"))),
    ("FMT-104", parts(names=("a", "a"))),
    ("FMT-104", parts(tensors=({"a": sparse()}, {}))),
    ("FMT-010", parts(tied={"b": "a"})),
    ("FMT-016", parts(scales={"a": {"scale": "c"}})),
]


@pytest.mark.parametrize(("want", "files"), FOLDERS)
def test_folders(tmp_path, want, files):
    assert clause(read_folder, folder(tmp_path / "x", files)) == want


@pytest.mark.parametrize(
    "name", ["model.safetensors", "Adapter_model.safetensors", "pytorch_model-1-of-02.safetensors"]
)
def test_FMT_112_names_of_dense_files(tmp_path, name):
    folder(tmp_path / "x", {name: EXAMPLE})
    assert clause(read, tmp_path / "x" / name) == "FMT-112"


def test_FMT_101_the_size_of_an_index(tmp_path):
    folder(tmp_path / "x", parts())
    with (tmp_path / "x" / "model.sparse.index.json").open("r+b") as index:
        index.truncate(100_000_001)
    assert clause(read_folder, tmp_path / "x") == "FMT-101"


# deltas

CHANGE = {"base": "1" * 64, "target": "2" * 64}
OPS = {"replace:w": sparse(), "remove:w": mask_of([1, 3])}


def delta(tensors=OPS, changes=None, edit=None, **more):
    described = {"base_sha256": HEX, "target_sha256": "f" * 64, "scales": {}, "tied": {}}
    described["tensors"] = {"w": CHANGE} if changes is None else changes
    return build(tensors, edit, kind="delta", requires=["delta"], delta=described | more)


def test_FMT_131_FMT_132_a_delta(try_read, tmp_path):
    content = try_read(delta())
    assert content.delta["tensors"] == {"w": CHANGE}
    gone = {"w": {"base": HEX, "target": None}, "n:x": {"base": None, "target": HEX}}
    assert try_read(delta({"whole:n:x": sparse()}, gone)).delta
    assert try_read(delta({"add:w": sparse()})).delta
    assert try_read(delta({}, {})).delta
    described = {"base_sha256": HEX, "target_sha256": HEX, "scales": {}, "tied": {}, "tensors": {"w": CHANGE}}
    made = parts(tensors=({"remove:w": mask_of([1])}, OPS | {}), kind="delta", requires=["delta"], delta=described)
    assert clause(read_folder, folder(tmp_path / "d", made)) == "FMT-104"
    split = ({"remove:w": mask_of([1])}, {"replace:w": sparse()})
    made = parts(tensors=split, kind="delta", requires=["delta"], delta=described)
    assert read_folder(folder(tmp_path / "e", made)).delta == described


DELTAS = [
    ("FMT-050", delta(edit=put("requires", to=[]))),
    ("FMT-040", delta(more={})),
    ("FMT-047", delta(base_sha256="x")),
    ("FMT-041", delta(base_sha256=None)),
    ("FMT-041", delta(changes={"w": {"base": 1, "target": None}})),
    ("FMT-047", delta(changes={"w": {"base": "1", "target": None}})),
    ("FMT-131", delta(changes={"w": {"base": HEX, "target": HEX}})),
    ("FMT-131", delta(changes={"w": {"base": None, "target": None}})),
    ("FMT-009", delta(changes={"w#": CHANGE})),
    ("FMT-010", delta(tied={"a": "b", "b": "c"})),
    ("FMT-016", delta(scales={"a": {}})),
    ("FMT-016", delta(scales={"a": {"scale": "b"}}, tied={"b": "c"})),
    ("FMT-132", delta({"w": sparse()})),
    ("FMT-132", delta({"put:w": sparse()})),
    ("FMT-132", delta({"replace:v": sparse()})),
    ("FMT-132", delta({})),
    ("FMT-132", delta(OPS | {"whole:w": sparse()})),
    ("FMT-132", delta({"add:w": sparse(), "remove:w": mask_of([1])})),
    ("FMT-132", delta(changes={"w": {"base": HEX, "target": None}})),
    ("FMT-132", delta(changes={"w": {"base": None, "target": HEX}})),
    ("FMT-133", delta({"replace:w": sparse(), "remove:w": mask_of([1, 3], (6,))})),
    ("FMT-133", delta({"remove:w": sparse()})),
    ("FMT-133", delta({"add:w": sparse(dtype="I16")})),
    ("FMT-133", delta({"replace:w": sparse(), "remove:w": mask_of([1, 2])})),
    ("FMT-133", delta({"replace:w": sparse(), "remove:w": mask_of(range(6))})),
]


@pytest.mark.parametrize(("want", "raw"), DELTAS)
def test_deltas(try_read, want, raw):
    assert clause(try_read, raw) == want


# whatever the bytes are, nothing but Refused comes out


def outcome(run, raw):
    try:
        run(raw)
    except Refused as refused:
        return refused.clause
    return "read"


def paths(value, at=()):
    yield at
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from paths(item, (*at, key))


STRANGE = [None, True, 0, -1, BIG, "", "x", "delta", "nm", "gap8", "varint", "csr", "dense", "NONE", "F4", [], {}, [[]]]
STRANGE += [[BIG], [0, BIG], [BIG, 0], {"a": {}}, {"": None}, {"a": {"b": "c"}}, {"gaps": {}}, ["zstd"]]


@pytest.mark.parametrize("where", ["manifest", "header"])
def test_FMT_097_any_value_anywhere_is_read_or_refused(try_read, where):
    tensors, whole = OPS | {"whole:n": nm(4, 2), "whole:s": sparse("varint")}, []
    described = {"base_sha256": HEX, "target_sha256": HEX, "scales": {"w": {"s": "v"}}, "tied": {"a": "b"}}
    described["tensors"] = {"w": CHANGE, "n": CHANGE, "s": CHANGE}
    more = {"kind": "delta", "requires": ["delta"], "delta": described, "tied": {"t": "whole:s"}}
    more |= {"scales": {"whole:s": {"scale": "whole:n"}}, "optional": ["a"]}
    assert try_read(build(tensors, **more, **{"edit" if where == "manifest" else "header": whole.append}))
    found = []
    for path in paths(whole[0]):
        for value in STRANGE:
            edit = put(*path, to=copy.deepcopy(value)) if path else lambda m, value=value: m.clear()
            found.append(
                outcome(try_read, build(tensors, **more, **{"edit" if where == "manifest" else "header": edit}))
            )
    assert all(re.fullmatch(r"read|FMT-\d{3}", word) for word in found)
    assert found.count("read") < 0.05 * len(found)


def test_FMT_097_any_bytes_of_a_support_are_read_or_refused(try_read):
    rng, found = random.Random(11), set()
    roles = {"bitmask": ("mask", [2, 1]), "gap8": ("gaps", [3]), "varint": ("gaps", [5])}
    for _ in range(600):
        encoding = rng.choice([*roles])
        role, shape = roles[encoding]
        raw = bytes(rng.choice([0, 1, 2, 127, 128, 255]) for _ in range(math.prod(shape)))
        found.add(outcome(try_read, build({"w": coded(encoding, (role, "U8", shape, raw))})))
    assert {"FMT-058", "FMT-059", "FMT-063", "FMT-073", "FMT-091"} <= found
