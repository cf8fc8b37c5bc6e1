"""The files of the vectors mean one thing to the reader that gave the answers, to the second and to that in C."""

import hashlib
import json
import random
import struct

import numpy as np
import pytest

from conformance.cases.case import VECTORS, load
from conformance.oracle.second_reader import Refused
from tests.conformance.checkpoint_bytes import spell
from tests.conformance.test_c_refusals import mutate

CASES = {case.id: case for path in sorted(VECTORS.glob("file*.json")) for case in load(path) if case.op == "file.read"}
BEFORE_FEATURES = {f"FMT-{number:03}" for number in (*range(20, 31), 42, 93)}  # the order of 12.8


def needs_zstd(raw):
    """Whether a manifest that can be found requires zstd, the feature that neither reader has."""
    size = struct.unpack("<Q", raw[:8].ljust(8, b"\0"))[0]
    try:
        return "zstd" in json.loads(json.loads(raw[8 : 8 + size])["__metadata__"]["seft.manifest"])["requires"]
    except (ValueError, KeyError, TypeError):
        return False


def legal_verdicts(case):
    """The clauses that a reader without zstd may name; none for a file that it reads."""
    if needs_zstd(bytes(case.inputs["raw"])):
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
    answer["tied"] = spell(case.expected["tied"])
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
    texts = {key: spell(getattr(found, key)) for key in ("attributes", "scales", "delta", "tied")}
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
    texts = {key: spell(lines[0][key]) for key in ("attributes", "scales", "delta", "tied")}
    keys = ("dtype", "shape", "row_pointers_sha256", "columns_sha256", "values_sha256")
    tensors = {line["name"]: tuple(line[key] for key in keys) for line in lines[1:]}
    assert (texts | {key: lines[0][key] for key in ("kind", "state")}, tensors) == as_told(case)


def test_the_vectors_have_all_that_is_told_apart_here():
    verdicts = [legal_verdicts(case) for case in CASES.values()]
    assert verdicts.count(set()) > 100
    assert verdicts.count({"FMT-043"}) > 5
    assert len(set().union(*verdicts)) > 40


def test_mutated_files_are_read_by_both_readers_or_by_none(c_reader, try_read):
    chance, clauses = random.Random(12), set()
    sources = [bytes(case.inputs["raw"]) for case in CASES.values() if len(case.inputs["raw"]) < 10_000]
    for raw in (mutate(source, chance) for source in sources * 4 if len(source) > 8):
        clause, _ = judge(try_read, raw)
        code, other, lines = c_reader.judge(raw)
        assert code == bool(clause), (clause, lines)
        clauses |= {clause, other}
    assert len(clauses) > 30
