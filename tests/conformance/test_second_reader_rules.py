"""The second reader: one smallest edit for each rule of a file."""

import tracemalloc

import pytest

from tests.conformance.checkpoint_bytes import BIG, EXAMPLE, HEX, W, build, clause, coded, nm, put, sparse, tensor

TEXTS = {  # clause → what is done to the manifest's text
    "FMT-025": lambda t: t.replace('"tied":{}', '"tied":{},"tied":{}'),
    "FMT-026": lambda t: t.replace('"attributes":{}', '"attributes":{"a":1.0}'),
    "FMT-026 size": lambda t: t.replace('"attributes":{}', '"attributes":{"a":9007199254740992}'),
    "FMT-026 digits": lambda t: t.replace('"attributes":{}', '"attributes":{"a":' + "1" * 9000 + "}"),
    "FMT-024 NaN": lambda t: t.replace('"attributes":{}', '"attributes":{"a":NaN}'),
    "FMT-024 minus": lambda t: t.replace('"attributes":{}', '"attributes":{"a":-Infinity}'),
    "FMT-027": lambda t: t.replace('"attributes":{}', '"attributes":{"a":' + "[" * 15 + "]" * 15 + "}"),
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
    "FMT-027": lambda t: '{"a":' * 5000 + "1" + "}" * 5000,
}


@pytest.mark.parametrize("case", HEADER_TEXTS)
def test_header_texts(try_read, case):
    assert clause(try_read, build(W, rehead=HEADER_TEXTS[case])) == case[:7]


def test_FMT_027_sixteen_levels_are_legal(try_read):
    assert try_read(
        build(W, respell=lambda t: t.replace('"attributes":{}', '"attributes":{"a":' + "[" * 14 + "1" + "]" * 14 + "}"))
    )


def test_FMT_020_FMT_021_FMT_022_FMT_023_the_length(try_read):
    assert clause(try_read, b"") == clause(try_read, b"\0" * 7) == "FMT-020"
    assert clause(try_read, b"\xff" * 8) == clause(try_read, (2**40).to_bytes(8, "little") + bytes(64)) == "FMT-021"
    for size in (2**24 + 8, 2**25):
        assert clause(try_read, (size - 8).to_bytes(8, "little") + bytes(size)) == "FMT-021"
    assert clause(try_read, (2**24 - 8).to_bytes(8, "little") + b" " * 2**24) == "FMT-023"
    for n in (0, 504, 1015, 1080):
        assert clause(try_read, n.to_bytes(8, "little") + bytes(n)) == "FMT-022"
    n = int.from_bytes(EXAMPLE[:8], "little")
    raw = (2 * n + 8).to_bytes(8, "little") + EXAMPLE[8 : 8 + n] + b" " * (n + 8) + EXAMPLE[8 + n :]
    assert clause(try_read, raw) == "FMT-023"


def test_FMT_023_a_header_that_fills_its_size(try_read):
    for more in range(1024 - 64, 1024 + 64):
        raw = build(W, attributes={"a": "a" * more})
        size = 8 + int.from_bytes(raw[:8], "little")
        assert size in (1024, 2048, 4096)
        assert try_read(raw).attributes == {"a": "a" * more}
    assert {8 + int.from_bytes(build(W, attributes={"a": "a" * n})[:8], "little") for n in (0, 200, 1200)} == {
        1024,
        2048,
        4096,
    }


HEADERS = [
    ("FMT-029", lambda h: h.pop("__metadata__")),
    ("FMT-029", put("__metadata__", to="pt")),
    ("FMT-029", put("__metadata__", "format", to="tf")),
    ("FMT-029", put("__metadata__", "more", to="")),
    ("FMT-029", put("__metadata__", "seft.manifest", to=1)),
    ("FMT-093", put("__metadata__", "seft.manifest.sha256", to=HEX)),
    ("FMT-030", put("w#mask", to=[])),
    ("FMT-030", put("w#mask", "more", to=0)),
    ("FMT-030", put("w#mask", "data_offsets", 0, to=False)),
    ("FMT-030", put("w#mask", "shape", to="2")),
    ("FMT-030", put("w#mask", "dtype", to="U9")),
    ("FMT-030", put("w#mask", "data_offsets", to=[-2, 0])),
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


EMPTY = {"base_sha256": HEX, "target_sha256": HEX, "scales": {}, "tied": {}, "tensors": {}}
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
    ("FMT-044", lambda m: m.update(requires=["delta"], optional=["delta"], kind="delta", delta=EMPTY)),
    ("FMT-040", put("tensors", "w", "sections", "mask", "codec", to="zstd")),
    ("FMT-040", put("tensors", "w", "sections", "mask", "raw_bytes", to=9)),
    ("FMT-043", lambda m: m["tensors"]["w"]["sections"]["mask"].update(codec="lz4", raw_bytes=9)),
    ("FMT-050", lambda m: m["tensors"]["w"]["sections"]["mask"].update(codec="zstd", raw_bytes=9)),
    ("FMT-012", put("kind", to="Model")),
    ("FMT-012", put("kind", to="m" * 65)),
    ("FMT-102", put("files", to={"a": {"bytes": 0, "sha256": HEX}})),
    ("FMT-014", put("files", to={"a": {"bytes": 50_000_001, "sha256": HEX}})),
    ("FMT-047", put("files", to={"a": {"bytes": 0, "sha256": "A" * 64}})),
    ("FMT-048", put("part", to=1)),
    ("FMT-040", put("delta", to={})),
    ("FMT-040", put("kind", to="delta")),
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
    ("FMT-056", tensor("NONE", (2**16 + 1, 0), "varint", [], b"", sections={"gaps": ("U8", [0], b"")})),
    ("FMT-056", tensor("NONE", (2**17 + 1, 1), "gap8", [0], b"", sections={"gaps": ("U8", [1], b"\0")})),
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
