"""The reader in C refuses files in which one rule of chapter 12 of SPEC.md is broken, and survives mutated ones."""

import copy
import json
import random
import struct

import pytest

from tests.conformance.c_files import GOOD, TENSORS, TWO, D, W, build, delta, fill, sha, tensor, text

WHOLE = GOOD["bitmask"]
N = struct.unpack("<Q", WHOLE[:8])[0]
GONE = object()


def put(*path):
    """An edit that sets, or with GONE removes, what a path of keys leads to."""

    def edit(tree):
        tree = copy.deepcopy(tree)
        *way, key, value = path
        inner = tree
        for step in way:
            inner = inner[step]
        if value is GONE:
            del inner[key]
        else:
            inner[key] = value
        return tree

    return edit


def swap(old, new):
    """An edit of a text."""

    def edit(written):
        assert old in written
        return written.replace(old, new, 1)

    return edit


def manifest(*path, of=W):
    return build(of, edit=put(*path))


def entry(*path, of=W):
    return build(of, edit=put("tensors", "w", *path))


def header(*path, of=W):
    return build(of, head=put(*path))


def attribute(written):
    """A manifest whose attributes have this text."""
    return build(W, spell=swap('"attributes":{}', f'"attributes":{written}'))


def made(name, role, raw, **keys):
    """A good tensor of which one section holds other bytes; their digest is right."""
    told, sections = copy.deepcopy(TENSORS[name])
    dtype, shape, _ = sections[role]
    sections[role] = (dtype, shape if dtype != "U8" or len(shape) != 1 else [len(raw)], raw)
    return build({"w": (told | keys, sections)})


def section(name, role):
    return bytearray(TENSORS[name][1][role][2])


def change(name, role, at, value):
    raw = section(name, role)
    raw[at] = value
    return made(name, role, bytes(raw))


def shaped(words, *, edit=None, **keys):
    """A tensor with other words in its entry."""
    told, sections = copy.deepcopy(tensor(*words))
    return build({"w": (told | keys, sections)}, edit=edit)


def wide(shape, nnz, **keys):
    told, sections = TENSORS["nm 32:64"]
    return build({"w": (told | {"pattern": {"axis": 1} | keys, "shape": shape, "nnz": nnz}, sections)})


def misnamed(told):
    """The section `values` under another name in the manifest."""
    sections = told["tensors"]["w"]["sections"]
    return put(
        "tensors", "w", "sections", {("zero" if role == "values" else role): one for role, one in sections.items()}
    )(told)


def pattern(**keys):
    told, sections = TENSORS["nm"]
    return build({"w": (told | {"pattern": told["pattern"] | keys}, sections)})


def raw_csr(rows, columns, name="csr"):
    told, sections = copy.deepcopy(TENSORS[name])
    sections["row_ptr"] = ("U32", [6], struct.pack("<6I", *rows))
    sections["col_idx"] = ("U16", [17], struct.pack("<17H", *columns))
    return build({"w": (told, sections)})


ROWS = struct.unpack("<6I", section("csr", "row_ptr"))
COLUMNS = struct.unpack("<17H", section("csr", "col_idx"))
LINE, DATA = WHOLE[8 : 8 + N], WHOLE[8 + N :]
NO_GAP = (tensor("U8", [1, 600], [], "gap8")[0], {"gaps": ("U8", [1], b"\xff"), "values": ("U8", [0], b"")})
DEEP = '{"":' * 15 + "[1]" + "}" * 15
OWN = {"whole:w": {"scale": "whole:v"}}
PACKED = {"codec": "zstd", "raw_bytes": 3}
LISTED = ("delta", "tensors")

# name: (the clauses that may be named, the file)
BAD = {
    "empty": ("FMT-020", b""),
    "7 bytes": ("FMT-020", b"\0" * 7),
    "n too large": ("FMT-021", struct.pack("<Q", 2**25 - 8) + LINE + DATA),
    "n past the file": ("FMT-021", struct.pack("<Q", len(WHOLE) - 7) + LINE + DATA),
    "n of 64 bits": ("FMT-021", b"\xff" * 8 + LINE + DATA),
    "unaligned": ("FMT-022", struct.pack("<Q", N + 1) + LINE + b" " + DATA),
    "no power of two": ("FMT-022", struct.pack("<Q", N + 64) + LINE + b" " * 64 + DATA),
    "small header": ("FMT-022", struct.pack("<Q", 504) + LINE[:504] + DATA),
    "no header": ("FMT-022", bytes(8)),
    "a power of two more": ("FMT-023", struct.pack("<Q", 2 * N + 8) + LINE + b" " * (N + 8) + DATA),
    "no object": ("FMT-023", struct.pack("<Q", N) + b"[" + LINE[1:] + DATA),
    "no JSON": ("FMT-024", build(W, spell_head=lambda t: t[:-1])),
    "manifest is no JSON": ("FMT-024", build(W, spell=lambda t: t[:-1])),
    "manifest is empty": ("FMT-024", build(W, spell=lambda _: "")),
    "byte order mark": ("FMT-024", build(W, spell=lambda t: "\ufeff" + t)),
    "not UTF-8": ("FMT-024", build(W, attributes={"a": "\udc80"})),
    "NaN": ("FMT-024", attribute('{"a":NaN}')),
    "raw control character": ("FMT-024", attribute('{"a":"\x1f"}')),
    "half a word": ("FMT-024", attribute('{"a":nulx}')),
    "text ends in a word": ("FMT-024", build(W, spell=lambda _: "t")),
    "text ends in an escape": ("FMT-024", build(W, spell=lambda _: '"\\')),
    "text ends in a long escape": ("FMT-024", build(W, spell=lambda _: '"\\u')),
    "escape without digits": ("FMT-024", attribute('{"a":"\\u00g1"}')),
    "escape of another letter": ("FMT-024", attribute('{"a":"\\v001f"}')),
    "unknown escape": ("FMT-024", attribute('{"a":"\\x"}')),
    "key twice": ("FMT-025", attribute('{"a":1,"a":1}')),
    "key of the header twice": (
        "FMT-025",
        build(W, spell_head=lambda t: t[:-1] + "," + t[t.rindex('"w#values#pad"') :]),
    ),
    "fraction": ("FMT-026", attribute('{"a":1.0}')),
    "exponent": ("FMT-026", attribute('{"a":1e2}')),
    "2^53": ("FMT-026", attribute('{"a":9007199254740992}')),
    "-2^53": ("FMT-026", attribute('{"a":-9007199254740992}')),
    "2^64": ("FMT-026", attribute('{"a":18446744073709551616}')),
    "17 levels": ("FMT-027", build(W, attributes=json.loads(DEEP))),
    "17 levels, an empty list": ("FMT-027", build(W, attributes=json.loads(DEEP.replace("1", "")))),
    "100000 deep": ("FMT-027", attribute("[" * 100_000 + "]" * 100_000)),
    "space": ("FMT-028", attribute('{"a": 1}')),
    "space in the header": ("FMT-028", build(W, spell_head=swap('"w#mask":', '"w#mask": '))),
    "tab": ("FMT-028", attribute('{"a":\t1}')),
    "carriage return": ("FMT-028", attribute('{"a"\r:1}')),
    "newline at the end": ("FMT-028", build(W, spell=lambda t: t + "\n")),
    "unsorted": ("FMT-028", attribute('{"b":1,"a":1}')),
    "sorted by UTF-16": ("FMT-028", attribute('{"\U0001f600":1,"\uffff":1}')),
    "leading zero": ("FMT-024", attribute('{"a":01}')),
    "negative zero": ("FMT-028", attribute('{"a":-0}')),
    "escaped slash": ("FMT-028", attribute('{"a":"\\/"}')),
    "escaped letter": ("FMT-028", attribute('{"a":"\\u0041"}')),
    "escape past U+00FF": ("FMT-028", attribute('{"a":"\\u1010"}')),
    "long escape": ("FMT-028", attribute('{"a":"\\u000a"}')),
    "upper-case escape": ("FMT-028", attribute('{"a":"\\u001F"}')),
    "surrogate escape": ("FMT-028 FMT-011", attribute('{"a":"\\ud83d\\ude00"}')),
    "no metadata": ("FMT-029", header("__metadata__", GONE)),
    "metadata too many": ("FMT-029", header("__metadata__", "x", "y")),
    "format": ("FMT-029", header("__metadata__", "format", "np")),
    "metadata no string": ("FMT-029", header("__metadata__", "seft.manifest.sha256", 1)),
    "format no string": ("FMT-029", header("__metadata__", "format", 1)),
    "manifest no string": ("FMT-029", header("__metadata__", "seft.manifest", {})),
    "root in upper case": ("FMT-047 FMT-093", header("__metadata__", "seft.manifest.sha256", "A" * 64)),
    "key of a section": ("FMT-030", header("w#mask", "x", 1)),
    "no dtype": ("FMT-030", header("w#mask", "dtype", GONE)),
    "one offset": ("FMT-030", header("w#mask", "data_offsets", [0])),
    "three offsets": ("FMT-030", header("w#mask", "data_offsets", [0, 2, 2])),
    "negative shape": ("FMT-030", header("w#mask", "shape", [-2, -1])),
    "dtype of the header": ("FMT-006", header("w#mask", "dtype", "U9")),
    "NONE in the header": ("FMT-006 FMT-033", header("w#mask", "dtype", "NONE")),
    "no section": ("FMT-031", header("w#mask", GONE)),
    "role too few": ("FMT-031", entry("sections", "mask", GONE)),
    "role too many": ("FMT-031", entry("sections", "zeros", {"bytes": 0, "sha256": D["a"]})),
    "other role": ("FMT-031", entry("encoding", "gap8")),
    "no role of that name": ("FMT-031", shaped(("U8", [1, 0], [], "csr"), edit=misnamed)),
    "section too many": ("FMT-032", header("x", {"data_offsets": [0, 0], "dtype": "U8", "shape": [0]})),
    "dtype of a section": ("FMT-033", header("w#values", "dtype", "BF16")),
    "shape of a section": ("FMT-033", header("w#values", "shape", [3, 1])),
    "begin": ("FMT-034", header("w#values", "data_offsets", [0, 70])),
    "end": ("FMT-034", header("w#values", "data_offsets", [64, 71])),
    "no pad": ("FMT-034", header("w#mask#pad", GONE)),
    "wrong pad": ("FMT-034", header("w#mask#pad", "data_offsets", [2, 63])),
    "dtype of a pad": ("FMT-034", header("w#mask#pad", "dtype", "I8")),
    "shape of a pad": ("FMT-034", header("w#mask#pad", "shape", [31, 2])),
    "too short": ("FMT-035", build(W, body=lambda b: b[:-1])),
    "too long": ("FMT-035", build(W, body=lambda b: b + bytes(64))),
    "pad": ("FMT-036", build(W, body=lambda b: b[:2] + b"\1" + b[3:])),
    "last byte of a pad": ("FMT-036", build(W, body=lambda b: b[:-1] + b"\1")),
    "key too many": ("FMT-040", manifest("x", 1)),
    "key too few": ("FMT-040", manifest("tied", GONE)),
    "no spec": ("FMT-040", manifest("spec", GONE)),
    "no requires": ("FMT-040", manifest("requires", GONE)),
    "list as manifest": ("FMT-040 FMT-041", build(W, spell=lambda _: "[]")),
    "key of a tensor": ("FMT-040", entry("x", 1)),
    "pattern of csr": ("FMT-040", entry("pattern", {"axis": 0, "m": 2, "n": 1})),
    "no pattern": ("FMT-040", build({"w": TENSORS["nm"]}, edit=put("tensors", "w", "pattern", GONE))),
    "true is no integer": ("FMT-041", manifest("part", True)),
    "attributes": ("FMT-041", manifest("attributes", [])),
    "kind is no string": ("FMT-041", manifest("kind", 1)),
    "nnz is negative": ("FMT-041", entry("nnz", -1)),
    "dimension is negative": ("FMT-041 FMT-007", entry("shape", [-2, 3])),
    "files is a list": ("FMT-041", manifest("files", [])),
    "bytes is a string": ("FMT-041", entry("sections", "mask", "bytes", "2")),
    "spec 2.0": ("FMT-042", manifest("spec", "2.0")),
    "spec 1.01": ("FMT-042", manifest("spec", "1.01")),
    "spec 1.": ("FMT-042", manifest("spec", "1.")),
    "spec 1.10000": ("FMT-042", manifest("spec", "1.10000")),
    "feature": ("FMT-043", manifest("requires", ["quantum"])),
    "zstd": ("FMT-043", build(W, requires=["zstd"], new=1)),
    "feature first": ("FMT-043", build(W, requires=["quantum"], new=1, kind=7)),
    "codec": ("FMT-043", entry("sections", "mask", {"bytes": 2, "codec": "lz4", "raw_bytes": 3, "sha256": D["a"]})),
    "feature name": ("FMT-044", manifest("optional", ["A"])),
    "features unsorted": ("FMT-044", manifest("optional", ["b", "a"])),
    "feature twice": ("FMT-044", manifest("optional", ["a", "a"])),
    "feature in both lists": ("FMT-044", delta([], edit=put("optional", ["delta"]))),
    "encoding": ("FMT-045", entry("encoding", "coo")),
    "dtype": ("FMT-006", entry("dtype", "F12")),
    "nnz too large": ("FMT-046", entry("nnz", 7)),
    "nnz of dense": ("FMT-046", shaped(("U8", [2, 2]), nnz=3)),
    "digest in upper case": ("FMT-047", entry("content_sha256", "A" * 64)),
    "short digest": ("FMT-047", entry("sections", "mask", "sha256", "0" * 63)),
    "part": ("FMT-048", manifest("part", 1)),
    "bytes": ("FMT-049", entry("sections", "values", "bytes", 8)),
    "raw_bytes alone": ("FMT-040", entry("sections", "mask", {"bytes": 2, "raw_bytes": 3, "sha256": D["a"]})),
    "codec alone": ("FMT-040", entry("sections", "mask", {"bytes": 2, "codec": "zstd", "sha256": D["a"]})),
    "zstd is not required": ("FMT-050", entry("sections", "mask", {"bytes": 2, **PACKED, "sha256": D["a"]})),
    "codec is a number": ("FMT-041", entry("sections", "mask", {"bytes": 2, **PACKED, "codec": 1, "sha256": D["a"]})),
    "requires too many": ("FMT-050", manifest("requires", ["delta"])),
    "requires too few": ("FMT-050", delta([], edit=put("requires", []))),
    "companion": ("FMT-102", manifest("files", {"a": {"bytes": 0, "sha256": D["a"]}})),
    "kind": ("FMT-012", manifest("kind", "Model")),
    "long kind": ("FMT-012", manifest("kind", "m" * 65)),
    "9 dimensions": ("FMT-007", shaped(("U8", [1] * 8), shape=[1] * 9)),
    "2^53 positions": ("FMT-007", shaped(("U8", [0, 1]), shape=[2**27, 2**26, 0])),
    "rows past 2^31": ("FMT-008", shaped(("U8", [4, 0], [], "csr"), shape=[2**31, 0])),
    "columns past 2^31": ("FMT-008", shaped(("U8", [1, 9], [], "gap8"), shape=[1, 2**31])),
    "sparse scalar": ("FMT-008 FMT-004", shaped(("U8", [1], [0], "gap8"), shape=[])),
    "number sign": ("FMT-009", build({"a#b": TENSORS["dense"]})),
    "no name": ("FMT-009", build({"": TENSORS["dense"]})),
    "long name": ("FMT-009", build({"é" * 256 + "x": TENSORS["dense"]})),
    "control character": ("FMT-009", build({"a\x7f": TENSORS["dense"]})),
    "tied to nothing": ("FMT-010", build(TWO, tied={"c": "x"})),
    "tied but stored": ("FMT-010", build(TWO, tied={"a": "b"})),
    "tied to a tied one": ("FMT-010", build(TWO, tied={"c": "d", "d": "a"})),
    "scales of nothing": ("FMT-016", build(TWO, scales={"x": {"scale": "b"}})),
    "scale not stored": ("FMT-016", build(TWO, scales={"a": {"scale": "x"}})),
    "scale of itself": ("FMT-016", build(TWO, scales={"a": {"scale": "a"}})),
    "no role": ("FMT-016", build(TWO, scales={"a": {}})),
    "role": ("FMT-016", build(TWO, scales={"a": {"zero-point": "b"}})),
    "dense mask": ("FMT-017", shaped(("NONE", [2, 3], list(range(6)), "bitmask"), encoding="dense")),
    "gap rows": ("FMT-056", shaped(("U8", [1, 0], [], "gap8"), shape=[2**20 + 1, 0])),
    "gap rows of no gaps": ("FMT-056", shaped(("U8", [1, 0], [], "varint"), shape=[2**16 + 1, 0])),
    "gap rows of one gap": ("FMT-056", shaped(("U8", [1, 1], [0], "gap8"), shape=[2**17 + 1, 1])),
    "bitmask without columns": ("FMT-064", shaped(("U8", [4, 0], [], "csr"), encoding="bitmask")),
    "axis": ("FMT-051", pattern(axis=2)),
    "m": ("FMT-051", pattern(m=65, n=32)),
    "n": ("FMT-051", pattern(n=4)),
    "n of 0": ("FMT-051", pattern(n=0)),
    "m does not divide": ("FMT-051", pattern(m=6, n=3)),
    "nnz of nm": ("FMT-051", pattern(n=1)),
    "m past 64": ("FMT-051", wide([2, 130], 128, n=32, m=65)),
    "nm of everything": ("FMT-051", wide([2, 64], 128, n=64, m=64)),
    "nm of nothing": ("FMT-051", wide([2, 64], 0, n=0, m=64)),
    "nm of no groups": ("FMT-051", wide([0, 64], 0, n=32, m=64)),
    "pattern key": ("FMT-040", pattern(x=1)),
    "rank": ("FMT-053", change("nm", "ranks", 0, 7)),
    "bits past the last rank": ("FMT-072", change("nm", "ranks", 0, section("nm", "ranks")[0] | 64)),
    "too few gaps": ("FMT-057", made("gap8", "gaps", b"\0" * 7)),
    "too many bytes": ("FMT-057", made("gap8", "gaps", b"\xff" * 15 + b"\0" * 9)),
    "too many bytes of varint": ("FMT-057", made("varint", "gaps", b"\x80" * 65)),
    "gaps left over": ("FMT-058", made("gap8", "gaps", b"\0" * 9)),
    "gaps missing": ("FMT-058", made("gap8", "gaps", b"\xff\xff" + b"\0" * 7)),
    "unfinished gap": ("FMT-058", made("varint", "gaps", b"\0" * 8 + b"\x80")),
    "bytes for no gap": ("FMT-058", build({"w": NO_GAP})),
    "gap past the end": ("FMT-059", change("gap8", "gaps", 0, 254)),
    "gap of 2^56": ("FMT-059", made("varint", "gaps", b"\xff" * 7 + b"\x7f" + b"\0" * 7)),
    "varint of 9 bytes": ("FMT-073", made("varint", "gaps", b"\xff" * 8 + b"\1" + b"\0" * 7)),
    "varint with a zero": ("FMT-073", made("varint", "gaps", b"\x80\0" + b"\0" * 7)),
    "bits past the last column": ("FMT-062", change("bitmask", "mask", 1, 0x80)),
    "bits too few": ("FMT-063", change("bitmask", "mask", 0, 0)),
    "row_ptr from 1": ("FMT-066", raw_csr((1, *ROWS[1:]), COLUMNS)),
    "row_ptr to 18": ("FMT-066", raw_csr((*ROWS[:-1], 18), COLUMNS)),
    "row_ptr decreases": ("FMT-067", raw_csr((0, 9, 8, *ROWS[3:]), range(17))),
    "row_ptr wraps": ("FMT-067", raw_csr((0, 2**32 - 1, *ROWS[2:]), COLUMNS)),
    "column": ("FMT-068", raw_csr(ROWS, (*COLUMNS[:-1], 11))),
    "columns equal": ("FMT-069", raw_csr(ROWS, (COLUMNS[1], *COLUMNS[1:]))),
    "BOOL": ("FMT-070", made("full", "values", b"\1" * 8 + b"\2")),
    "bits past the last value": ("FMT-072", change("F4", "values", 7, 0x1F)),
    "section digest": ("FMT-090", entry("sections", "values", "sha256", D["a"])),
    "content digest": ("FMT-091", entry("content_sha256", D["a"])),
    "root": ("FMT-093", header("__metadata__", "seft.manifest.sha256", D["a"])),
    "delta without description": ("FMT-040", build({}, kind="delta", requires=["delta"])),
    "description without delta": ("FMT-040", manifest("delta", {})),
    "description": ("FMT-040", delta([], edit=put("delta", "scales", GONE))),
    "description too many": ("FMT-040", delta([], edit=put("delta", "x", 1))),
    "own tied name": ("FMT-130", delta(["whole:w"], w="on", edit=put("tied", {"c": "whole:w"}))),
    "own scales": ("FMT-130", delta(["whole:w", "whole:v"], w="on", v="on", edit=put("scales", OWN))),
    "scale of its own in the target": ("FMT-016", delta([], edit=put("delta", "scales", {"a": {"scale": "a"}}))),
    "no scale in the target": ("FMT-016", delta([], edit=put("delta", "scales", {"a": {}}))),
    "digest of the base": ("FMT-047", delta([], edit=put("delta", "base_sha256", "x"))),
    "digest of the target": ("FMT-047", delta([], edit=put("delta", "target_sha256", "x"))),
    "scales of the target": ("FMT-009", delta([], edit=put("delta", "scales", {"": {"scale": "b"}}))),
    "scale of the target": ("FMT-009", delta([], edit=put("delta", "scales", {"a": {"scale": "#"}}))),
    "tied name of the target": ("FMT-009", delta([], edit=put("delta", "tied", {"": "b"}))),
    "tied to no name of the target": ("FMT-009", delta([], edit=put("delta", "tied", {"a": "#"}))),
    "tied to itself": ("FMT-010", delta([], edit=put("delta", "tied", {"a": "a"}))),
    "listed name": ("FMT-009", delta([], edit=put("delta", "tensors", {"#": {"base": D["a"], "target": None}}))),
    "unchanged": ("FMT-131", delta(["whole:w"], w="nn")),
    "never there": ("FMT-131", delta([], w="--")),
    "listed key": ("FMT-040", delta(["whole:w"], w="on", edit=put(*LISTED, "w", "x", 1))),
    "listed digest": ("FMT-047", delta(["whole:w"], w="on", edit=put(*LISTED, "w", "target", "x"))),
    "not listed": ("FMT-132", delta(["whole:w"])),
    "no prefix": ("FMT-132", delta(["w"], w="on")),
    "not stored": ("FMT-132", delta([], w="on")),
    "added and replaced": ("FMT-132", delta(["add:w", "replace:w"], w="on")),
    "whole and removed": ("FMT-132", delta(["remove:w", "whole:w"], w="on")),
    "new but not whole": ("FMT-132", delta(["replace:w"], w="-n")),
    "gone but stored": ("FMT-132", delta(["whole:w"], w="o-")),
}


@pytest.mark.parametrize("name", BAD)
def test_a_file_that_breaks_a_rule_is_refused_by_its_clause(c_reader, name):
    clauses, data = BAD[name]
    code, clause, lines = c_reader.judge(data)
    assert code == 1
    assert clause in clauses.split(), lines
    assert lines == [{"clause": clause, "message": lines[0]["message"]}]


def test_what_is_refused_is_refused_under_sanitizers_too(c_reader, tmp_path):
    files = [*GOOD.values(), *(data for _, data in BAD.values())]
    said = c_reader.judge_many(files, tmp_path)
    assert said == [f"{code} {clause or '-'}" for code, clause, _ in map(c_reader.judge, files)]


def seal(data):
    """A mutated file with the digest of the manifest that it has now, so that later rules are reached."""
    size = struct.unpack("<Q", data[:8])[0]
    try:
        told = json.loads(data[8 : 8 + size])
        seals = told["__metadata__"]
        seals["seft.manifest.sha256"] = sha(seals["seft.manifest"].encode())
        line = text(told).encode()
    except (ValueError, KeyError, TypeError, AttributeError):
        return data
    line = fill(line)
    return struct.pack("<Q", len(line)) + line + data[8 + size :]


def mutate(data, chance):
    """Some bytes of a file changed, most of them to bytes that mean something in JSON."""
    data = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 5))):
        at = chance.randrange(len(data))
        data[at] = chance.choice((chance.randrange(256), *b'0129-[]{},:"\\'))
    return seal(bytes(data)) if chance.random() < 0.7 else bytes(data)


def test_mutated_files_are_judged_without_faults(c_reader, tmp_path):
    chance = random.Random(20240)
    sources = [*GOOD.values(), *(data for _, data in BAD.values() if len(data) > 1000)]
    files = [mutate(chance.choice(sources), chance) for _ in range(800)]
    said = c_reader.judge_many(files, tmp_path)
    assert said == [f"{code} {clause or '-'}" for code, clause, _ in map(c_reader.judge, files)]
    assert len(set(said)) > 15


def test_a_header_past_its_limit_is_refused_before_it_is_read_FMT_021(c_reader):
    assert c_reader.judge(struct.pack("<Q", 2**25 - 8) + b" " * (2**25 - 8))[1] == "FMT-021"
    assert c_reader.judge(struct.pack("<Q", 2**24 - 8) + b" " * (2**24 - 8))[1] == "FMT-023"


def test_headers_of_many_small_members_stay_within_the_memory_bound_FMT_096(c_reader):
    many = 20_000
    for told in (dict.fromkeys((f"{i:x}" for i in range(many)), 0), [[]] * many, [[[0] * many]]):
        assert c_reader.judge(build({}, edit=put("tensors", told)))[0] == 1
        assert c_reader.judge(build({}, attributes={"a": told}))[0] == 0
    empty = {f"{i:x}": {"data_offsets": [0, 0], "dtype": "U8", "shape": []} for i in range(many)}
    assert c_reader.judge(build({}, head=lambda h: h | empty))[1] == "FMT-032"
