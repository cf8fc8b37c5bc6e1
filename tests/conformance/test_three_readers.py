"""Files mean one thing to the engine, to the second reader and to that in C: those of the vectors, and broken ones."""

import hashlib
import json
import random
import struct

import numpy as np
import pytest

import formats
from conformance.cases.case import VECTORS, load, load_all
from conformance.cases.profiles import requires_zstd
from conformance.engine.port import EnginePort
from conformance.judge.harness import Variant, run
from conformance.oracle import files
from conformance.oracle.files import on, text
from conformance.oracle.second_reader import Refused

CASES = {case.id: case for path in sorted(VECTORS.glob("file*.json")) for case in load(path) if case.op == "file.read"}
BEFORE_FEATURES = {f"FMT-{number:03}" for number in (*range(20, 31), 42, 93)}  # the order of 12.8


def legal_verdicts(case):
    """The clauses that a reader without zstd may name; none for a file that it reads."""
    if requires_zstd(bytes(case.inputs["raw"])):
        return {"FMT-043"} | ((BEFORE_FEATURES | {"FMT-044"}) & set(case.refused[:1]))
    return set(case.refused)


def judge(read, raw):
    """The clause by which the second reader refuses a file and None, or an empty string and the content."""
    try:
        return "", read(raw)
    except Refused as refused:
        return refused.clause, None


def sha(data):
    return hashlib.sha256(data).hexdigest()


def as_told(case):
    """The answer of a vector; of a tensor digests, in the order of dtype, shape, row pointers, columns and values."""
    answer = {key: case.expected[key] for key in ("kind", "attributes", "scales", "delta", "state")}
    answer["tied"] = text(case.expected["tied"])
    return answer, {
        name: (
            tensor["dtype"],
            [int(d) for d in tensor["shape"]],
            *(None if tensor[key] is None else sha(tensor[key].astype("<i8").tobytes()) for key in SUPPORT),
            sha(tensor["bits"].tobytes()),
        )
        for name, tensor in case.expected["tensors"].items()
    }


SUPPORT = ("row_pointers", "columns")


@pytest.mark.parametrize("name", CASES)
def test_the_second_reader_agrees(try_read, name):
    case = CASES[name]
    legal = legal_verdicts(case)
    clause, found = judge(try_read, bytes(case.inputs["raw"]))
    assert clause in (legal or {""})
    if legal:
        return
    texts = {key: text(getattr(found, key)) for key in ("attributes", "scales", "delta", "tied")}
    tensors = {}
    for key, t in found.tensors.items():
        assert all(array is None or array.dtype == np.int64 for array in (t.row_pointers, t.columns))
        support = [None if array is None else sha(array.tobytes()) for array in (t.row_pointers, t.columns)]
        tensors[key] = (t.dtype, list(t.shape), *support, sha(t.bits))
    assert (texts | {"kind": found.kind, "state": found.state_sha256}, tensors) == as_told(case)


@pytest.mark.parametrize("name", CASES)
def test_the_reader_in_C_agrees(c_reader, name):
    case = CASES[name]
    legal = legal_verdicts(case)
    code, clause, lines = c_reader.judge(bytes(case.inputs["raw"]))
    assert code == bool(legal), lines
    assert clause in (legal or {""}), lines
    if legal:
        return
    texts = {key: text(lines[0][key]) for key in ("attributes", "scales", "delta", "tied")}
    keys = ("dtype", "shape", "row_pointers_sha256", "columns_sha256", "values_sha256")
    tensors = {line["name"]: tuple(line[key] for key in keys) for line in lines[1:]}
    assert (texts | {key: lines[0][key] for key in ("kind", "state")}, tensors) == as_told(case)


def test_the_vectors_have_all_that_is_told_apart_here():
    verdicts = [legal_verdicts(case) for case in CASES.values()]
    assert verdicts.count(set()) > 100
    assert verdicts.count({"FMT-043"}) > 5
    assert len(set().union(*verdicts)) > 40


def test_the_engine_agrees():
    cases = [case for case in load_all() if case.op.startswith(("file.", "folder.")) or case.op == "delta.apply"]
    results = run(cases, [Variant(EnginePort(), "float64")])
    assert [(r.case.id, r.failures) for r in results if not r.ran or r.failures] == []


def test_the_engine_refuses_what_is_broken_without_its_digests_too(tmp_path):
    for case in CASES.values():
        if case.refused and not {"FMT-090", "FMT-091"} & set(case.refused):
            path = tmp_path / case.id
            path.write_bytes(bytes(case.inputs["raw"]))
            with pytest.raises(formats.FormatError) as error:
                formats.read(path, verify=False)
            assert error.value.clause in case.refused, case.id


def seal(data):
    """A mutated file with the digest of the manifest that it has now, so that later rules are reached."""
    size = struct.unpack("<Q", data[:8])[0]
    try:
        told = json.loads(data[8 : 8 + size])
        told["__metadata__"]["seft.manifest.sha256"] = sha(told["__metadata__"]["seft.manifest"].encode())
        return files.frame(text(told).encode()) + data[8 + size :]
    except (ValueError, KeyError, TypeError, AttributeError):
        return data


def mutate(data, chance):
    """Some bytes of a file changed, most of them to bytes that mean something in JSON."""
    data = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 5))):
        at = chance.randrange(len(data))
        data[at] = chance.choice((chance.randrange(256), *b'0129-[]{},:"\\'))
    return seal(bytes(data)) if chance.random() < 0.7 else bytes(data)


def test_mutated_files_are_read_by_both_readers_or_by_none(c_reader, try_read):
    chance, clauses = random.Random(12), set()
    sources = [bytes(case.inputs["raw"]) for case in CASES.values() if len(case.inputs["raw"]) < 10_000]
    for raw in (mutate(source, chance) for source in sources * 4 if len(source) > 8):
        clause, _ = judge(try_read, raw)
        code, other, lines = c_reader.judge(raw)
        assert code == bool(clause), (clause, lines)
        clauses |= {clause, other}
    assert len(clauses) > 30


# ------------------- broken files that are too large for a vector, or of which readers may name a clause more than one

W = files.pieces({"w": on("F16", (2, 3), [0, 2, 4])}, {"w": "bitmask"})


def attributes(written):
    """A file with another text for its attributes."""
    return files.assemble(text(W.manifest).replace('"attributes":{}', f'"attributes":{written}', 1), W.sections)


def reheaded(old, new):
    """A file with other bytes in its header."""
    raw = W.pack()
    size = 8 + int.from_bytes(raw[:8], "little")
    line = raw[8:size].rstrip(b" ")
    assert old in line
    return files.frame(line.replace(old, new, 1)) + raw[size:]


def edited(edit):
    """A file with a manifest that was edited."""
    manifest = json.loads(text(W.manifest))
    edit(manifest)
    return files.assemble(text(manifest), W.sections)


BROKEN = [  # the clauses of which a reader names one, the file
    ("FMT-024 FMT-026", attributes('{"a":-Infinity}')),
    ("FMT-024 FMT-026", reheaded(b'"shape":[2,1]', b'"shape":[NaN]')),
    ("FMT-026", attributes('{"a":' + "1" * 9000 + "}")),
    ("FMT-026", reheaded(b'"shape":[2,1]', b'"shape":[%s]' % (b"9" * 5000))),
    ("FMT-027", attributes("[" * 100_000 + "]" * 100_000)),
    ("FMT-027", reheaded(b'"shape":[2,1]', b'"shape":' + b"[" * 90_000 + b"]" * 90_000)),
    ("FMT-030 FMT-034", reheaded(b'"data_offsets":[0,2]', b'"data_offsets":[0]')),
    ("FMT-006 FMT-033", reheaded(b'"dtype":"U8","shape":[2,1]', b'"dtype":"NONE","shape":[2,1]')),
    ("FMT-041 FMT-007", edited(lambda m: m["tensors"]["w"].update(shape=[-2, 3]))),
    ("FMT-041 FMT-044", edited(lambda m: m.update(requires=[1]))),
]


@pytest.mark.parametrize(("clauses", "raw"), BROKEN)
def test_a_broken_file_is_refused_by_each_reader(c_reader, try_read, tmp_path, clauses, raw):
    legal = clauses.split()
    assert judge(try_read, raw)[0] in legal
    code, clause, lines = c_reader.judge(raw)
    assert code == 1
    # the reader in C has a file alone, so that no companion is there
    assert clause in legal or (clause == "FMT-102" and b'files\\":{}' not in raw)
    assert lines == [{"clause": clause, "message": lines[0]["message"]}]
    (tmp_path / "opened").write_bytes(raw)
    with pytest.raises(formats.FormatError) as error:
        formats.read(tmp_path / "opened")
    assert error.value.clause in legal


def test_FMT_021_a_header_past_its_limit_is_refused_before_it_is_read(c_reader, try_read):
    for size, clause in ((2**24 + 8, "FMT-021"), (2**25, "FMT-021"), (2**24, "FMT-023")):
        raw = struct.pack("<Q", size - 8) + b" " * (size - 8)
        assert judge(try_read, raw)[0] == c_reader.judge(raw)[1] == clause


def test_files_are_judged_under_sanitizers_as_without(c_reader, tmp_path):
    chance, sources = random.Random(20240), [bytes(case.inputs["raw"]) for case in CASES.values()]
    mutated = [mutate(chance.choice([raw for raw in sources if len(raw) > 1000]), chance) for _ in range(800)]
    raws = [*sources, *(raw for _, raw in BROKEN), *mutated]
    said = c_reader.judge_many(raws, tmp_path)
    assert said == [f"{code} {clause or '-'}" for code, clause, _ in map(c_reader.judge, raws)]
    assert len(set(said)) > 15
