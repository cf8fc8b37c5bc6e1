"""The second reader: what is legal, and that nothing but `Refused` comes out of anything else."""

import copy
import json
import math
import random
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

from conformance.oracle.second_reader import BITS, Refused
from tests.conformance.checkpoint_bytes import (
    BIG,
    CHANGE,
    EXAMPLE,
    HEX,
    OPS,
    ROOT,
    bits_of,
    build,
    clause,
    coded,
    dense,
    mask_of,
    nm,
    put,
    sha,
    sparse,
    spell,
    support,
    tensor,
)

SPEC = (ROOT / "SPEC.md").read_text(encoding="utf-8")


def test_the_reader_stays_short():
    assert len((ROOT / "conformance" / "oracle" / "second_reader.py").read_text("utf-8").splitlines()) <= 300


def test_the_reader_works_alone(tmp_path):
    shutil.copy(ROOT / "conformance" / "oracle" / "second_reader.py", tmp_path)
    (tmp_path / "one.sparse").write_bytes(EXAMPLE)
    program = (
        "import sys; sys.path.insert(0, '.'); import second_reader; print(*second_reader.read('one.sparse').tensors)"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.split()


def test_the_example_of_12_13(try_read):
    content = try_read(EXAMPLE)
    w = content.tensors["w"]
    assert (content.kind, content.attributes, w.dtype, w.shape) == ("model", {"step": 7}, "F16", (2, 3))
    assert (w.row_pointers.tolist(), w.columns.tolist()) == ([0, 2, 3], [0, 2, 1])
    assert w.row_pointers.dtype == w.columns.dtype == np.int64
    assert w.bits == bytes.fromhex("003e 0000 00c0")
    assert dense(w) == bytes.fromhex("003e 0000 0000  0000 00c0 0000")
    digests = {"w": "4b42d561e2c38c25f526f64b3e1d367d23920dfc0e296234998ca422506b8b76"}
    assert content.state_sha256 == sha(spell({"scales": {}, "tensors": digests, "tied": {}}).encode())
    assert content.state_sha256 == "84502f1eb099dc0e16296043ffdf1f79436e7ac5124d2fb7cee7026c6c6c2264"


def test_the_supports_of_12_13_have_the_bytes_that_stand_there():
    (rows,) = re.findall(r"\| shape \| stored positions .*\n\|-.*\n((?:\|.*\n)+)", SPEC)
    for row in rows.splitlines():
        shape, positions, encoding, sections = (cell.strip() for cell in row.strip("|").split("|"))
        shape = [int(n) for n in shape.split(" × ")]
        flat = [int(r) * shape[1] + int(c) for r, c in re.findall(r"\((\d+), (\d+)\)", positions)]
        n, m, axis = map(int, (re.findall(r"(\d):(\d), axis (\d)", encoding) or ["000"])[0])
        listed = {role: bytes.fromhex(text) for role, text in re.findall(r"`(\w+)` ([0-9a-f ]+)", sections)}
        made = support(encoding.split("`")[1], shape, flat, {"axis": axis, "m": m, "n": n})
        assert listed == {role: data for role, (_, _, data) in made.items()}, row
    assert len(rows.splitlines()) == 8


def test_the_digests_of_12_13_are_those_of_their_texts():
    texts = [text for text in re.findall(r"`(\{.*\})`", SPEC) if '"nnz"' in text]
    assert len(texts) == 2
    for text in texts:
        assert SPEC.count(sha(text.encode()))
    (described,) = re.findall(r'^\{"base_sha256".*$', SPEC, re.MULTILINE)
    value = json.loads(described)
    changed = {"scales": {}, "tensors": {"w": value["tensors"]["w"]["target"]}, "tied": {}}
    assert value["target_sha256"] == sha(spell(changed).encode())
    after = tensor("F16", [2, 3], "bitmask", [0, 2], bytes.fromhex("003e003c"))
    assert value["tensors"]["w"]["target"] == after[0]["content_sha256"]


def test_the_builder_writes_the_example():
    values = bytes.fromhex("003e 0000 00c0")
    assert build({"w": sparse(values=values)}, attributes={"step": 7}) == EXAMPLE


def test_the_example_cut_anywhere_is_refused(try_read):
    for size in range(len(EXAMPLE)):
        assert clause(try_read, EXAMPLE[:size])
    assert clause(try_read, EXAMPLE + b"\0") == "FMT-035"


def test_the_example_with_any_bit_flipped_is_refused(try_read):
    for i in range(len(EXAMPLE)):
        for mask in (1, 2, 4, 8, 16, 32, 64, 128):
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
    assert (w.bits, dense(w)) == (values, bytes(want))


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
    raw = build({"w": tensor("NONE", shape, "nm", flat, b"", {"axis": axis, "m": m, "n": n})})
    assert dense(try_read(raw).tensors["w"]) == cube.tobytes()


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
    assert sum(map(bool, dense(w))) == {0: 3, 4: 2, 6: 3}.get(BITS[dtype], size)


def test_FMT_004_a_dense_scalar_and_no_tensors(try_read):
    assert dense(try_read(build({"s": tensor("F64", (), "dense", [0], bytes(range(8)))})).tensors["s"]) == bytes(
        range(8)
    )
    assert try_read(build({})).tensors == {}


def test_FMT_017_masks(try_read):
    content = try_read(build({"m": mask_of([1, 3]), "full": mask_of(range(6)), "none": mask_of([])}))
    assert {name: [*dense(m)] for name, m in content.tensors.items()} == {
        "m": [0, 1, 0, 1, 0, 0],
        "full": [1] * 6,
        "none": [0] * 6,
    }


def test_FMT_016_FMT_010_scales_and_tied_names(try_read):
    raw = build({"w": sparse(), "s": sparse()}, scales={"w": {"scale": "s"}}, tied={"head": "w"})
    content = try_read(raw)
    assert (content.scales, content.tied) == ({"w": {"scale": "s"}}, {"head": "w"})
    assert content.state_sha256 != try_read(build({"w": sparse(), "s": sparse()})).state_sha256


def test_FMT_042_FMT_044_a_later_minor_version_with_an_optional_feature(try_read):
    assert try_read(build({"w": sparse()}, spec="1.17", optional=["colour"])).tensors


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
    more = {"kind": "delta", "requires": ["delta"], "delta": described}
    more |= {"optional": ["a"]}
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
