"""The second reader: what is legal, and that nothing but `Refused` comes out of anything else."""

import copy
import json
import math
import random
import re
import shutil
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

import conformance
from conformance.oracle import files
from conformance.oracle.files import Section, digest, on, text
from conformance.oracle.second_reader import Refused, read

ROOT = Path(conformance.__file__).parents[1]
SPEC = (ROOT / "SPEC.md").read_text(encoding="utf-8")
DUMP = re.search(r"```hexdump\n(.*?)```", SPEC.partition("## 12. Files")[2], re.DOTALL)[1]
EXAMPLE = bytes.fromhex("".join(line[6:54] for line in DUMP.splitlines()))
SPARSE = on("F16", (2, 3), [0, 2, 4], bytes.fromhex("003e 0000 00c0"))
CHANGE = {"base": "1" * 64, "target": "2" * 64}
DELTA = {"base_sha256": "0" * 64, "target_sha256": "f" * 64, "scales": {}, "tied": {}}


def clause(run, *args):
    with pytest.raises(Refused) as found:
        run(*args)
    return found.value.clause


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
    digests = {"w": "4b42d561e2c38c25f526f64b3e1d367d23920dfc0e296234998ca422506b8b76"}
    assert content.state_sha256 == digest(text({"scales": {}, "tensors": digests, "tied": {}}).encode())
    assert content.state_sha256 == "84502f1eb099dc0e16296043ffdf1f79436e7ac5124d2fb7cee7026c6c6c2264"


def test_the_supports_of_12_13_have_the_bytes_that_stand_there():
    (rows,) = re.findall(r"\| shape \| stored positions .*\n\|-.*\n((?:\|.*\n)+)", SPEC)
    for row in rows.splitlines():
        shape, positions, encoding, sections = (cell.strip() for cell in row.strip("|").split("|"))
        shape = [int(n) for n in shape.split(" × ")]
        flat = [int(r) * shape[1] + int(c) for r, c in re.findall(r"\((\d+), (\d+)\)", positions)]
        n, m, axis = map(int, (re.findall(r"(\d):(\d), axis (\d)", encoding) or ["000"])[0])
        listed = {role: bytes.fromhex(text) for role, text in re.findall(r"`(\w+)` ([0-9a-f ]+)", sections)}
        sections = files.sections_of("w", on("NONE", tuple(shape), flat, pattern=(n, m, axis)), encoding.split("`")[1])
        assert listed == {section.name[2:]: section.data for section in sections}, row
    assert len(rows.splitlines()) == 8


def test_the_digests_of_12_13_are_those_of_their_texts():
    texts = [value for value in re.findall(r"`(\{.*\})`", SPEC) if '"nnz"' in value]
    assert len(texts) == 2
    for value in texts:
        assert SPEC.count(digest(value.encode()))
    (described,) = re.findall(r'^\{"base_sha256".*$', SPEC, re.MULTILINE)
    value = json.loads(described)
    changed = {"scales": {}, "tensors": {"w": value["tensors"]["w"]["target"]}, "tied": {}}
    assert value["target_sha256"] == digest(text(changed).encode())
    after = on("F16", (2, 3), [0, 2], bytes.fromhex("003e003c"))
    assert value["tensors"]["w"]["target"] == files.content_digest(after)


def test_the_builder_writes_the_example():
    assert files.pieces({"w": SPARSE}, attributes={"step": 7}).pack() == EXAMPLE


def test_the_example_cut_anywhere_is_refused(try_read):
    for size in range(len(EXAMPLE)):
        assert clause(try_read, EXAMPLE[:size])
    assert clause(try_read, EXAMPLE + b"\0") == "FMT-035"


def test_the_example_with_any_bit_flipped_is_refused(try_read):
    for i in range(len(EXAMPLE)):
        for mask in (1, 2, 4, 8, 16, 32, 64, 128):
            assert clause(try_read, EXAMPLE[:i] + bytes([EXAMPLE[i] ^ mask]) + EXAMPLE[i + 1 :])


def test_FMT_094_FMT_102_companions_stand_beside_a_file(tmp_path):
    path, made = tmp_path / "model.sparse.safetensors", files.pieces({"w": SPARSE})
    made.manifest["files"] = {"card.md": {"bytes": 2, "sha256": digest(b"hi")}}
    path.write_bytes(made.pack())
    assert clause(read, path) == "FMT-102"
    for data in (b"ho", b"h"):
        (tmp_path / "card.md").write_bytes(data)
        assert clause(read, path) == "FMT-094"
    (tmp_path / "card.md").write_bytes(b"hi")
    assert read(path).files == ["card.md"]


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "none")


def test_FMT_131_a_delta_says_of_its_target_what_it_need_not_store(try_read):
    links = {"scales": {"a": {"scale": "b"}}, "tied": {"b": "c", "c": "d"}}
    described = DELTA | {"tensors": {"w": CHANGE}} | links
    assert try_read(files.pieces({"replace:w": SPARSE}, kind="delta", delta=described).pack()).delta == described


@pytest.mark.parametrize("encoding", ["dense", "bitmask", "csr", "gap8", "varint", "nm"])
def test_FMT_096_large_numbers_take_no_memory(try_read, encoding):
    made = files.pieces({"w": SPARSE}, {"w": "bitmask"})
    entry = made.manifest["tensors"]["w"]
    entry.update(encoding=encoding, shape=[2**20, 2**31 - 2], nnz=2**20 * (2**30 - 1))
    if encoding == "nm":
        entry["pattern"] = {"axis": 0, "m": 2, "n": 1}
    support = {"bitmask": ["mask"], "csr": ["row_ptr", "col_idx"], "nm": ["ranks"], "dense": []}
    roles = [*support.get(encoding, ["gaps"]), "values"]
    entry["sections"] = {role: {"bytes": 2**51, "sha256": "0" * 64} for role in roles}
    raw = made.pack()
    tracemalloc.start()
    found = clause(try_read, raw)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (found in {"FMT-046", "FMT-049", "FMT-057"}, peak < 1_000_000) == (True, True)


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


BIG = 2**53 - 1
STRANGE = [None, True, 0, -1, BIG, "", "x", "delta", "nm", "gap8", "varint", "csr", "dense", "NONE", "F4", [], {}, [[]]]
STRANGE += [[BIG], [0, BIG], [BIG, 0], {"a": {}}, {"": None}, {"a": {"b": "c"}}, {"gaps": {}}, ["zstd"]]


@pytest.mark.parametrize("where", ["manifest", "header"])
def test_FMT_097_any_value_anywhere_is_read_or_refused(try_read, where):
    removed = on("NONE", (2, 3), [1, 3])
    tensors = {"replace:w": SPARSE, "remove:w": removed, "whole:n": on("NONE", (2, 4), [0, 2, 5, 7], pattern=(2, 4, 1))}
    tensors["whole:s"] = SPARSE
    links = {"scales": {"w": {"s": "v"}}, "tied": {"a": "b"}}
    described = DELTA | links | {"tensors": {"w": CHANGE, "n": CHANGE, "s": CHANGE}}
    encodings = dict.fromkeys(tensors, "bitmask") | {"whole:n": "nm", "whole:s": "varint"}
    made = files.pieces(tensors, encodings, kind="delta", delta=described)
    made.manifest["optional"] = ["a"]
    headers, found = [], []
    assert try_read(files.assemble(text(made.manifest), made.sections, change=headers.append))
    whole = made.manifest if where == "manifest" else headers[0]
    for path in paths(whole):
        for value in STRANGE:
            edit = put(*path, to=copy.deepcopy(value)) if path else lambda m, value=value: m.clear()
            edited = copy.deepcopy(made.manifest)
            if where == "manifest":
                edit(edited)
            raw = files.assemble(text(edited), made.sections, change=edit if where == "header" else None)
            found.append(outcome(try_read, raw))
    assert all(re.fullmatch(r"read|FMT-\d{3}", word) for word in found)
    assert found.count("read") < 0.05 * len(found)


def put(*path, to):
    def edit(m):
        for key in path[:-1]:
            m = m[key]
        m[path[-1]] = to

    return edit


def test_FMT_097_any_bytes_of_a_support_are_read_or_refused(try_read):
    rng, found = random.Random(11), set()
    roles = {"bitmask": ("mask", [2, 1]), "gap8": ("gaps", [3]), "varint": ("gaps", [5])}
    for _ in range(600):
        encoding = rng.choice([*roles])
        role, shape = roles[encoding]
        raw = bytes(rng.choice([0, 1, 2, 127, 128, 255]) for _ in range(math.prod(shape)))
        made = files.pieces({"w": SPARSE}, {"w": encoding})
        made.sections[0] = Section(f"w#{role}", "U8", shape, raw)
        made.manifest["tensors"]["w"]["sections"][role] = files.stored(made.sections[0])
        found.add(outcome(try_read, made.pack()))
    assert {"FMT-058", "FMT-059", "FMT-063", "FMT-073", "FMT-091"} <= found
