"""The frozen cases: reproduced byte for byte, well-formed, linked, and made by oracles that stand alone."""

import ast
import dataclasses
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest

import conformance
from conformance.cases import lock
from conformance.cases.case import VECTORS, Bound, Case, decode, dump, encode, load, load_all
from conformance.cases.clauses import read_clauses
from conformance.cases.coverage import Elsewhere, coverage, elsewhere
from conformance.cases.ops import OPS
from conformance.cases.packed import pack, unpack

ROOT = Path(conformance.__file__).parents[1]
CASES = load_all()


def test_no_published_case_changes():
    withdrawn = json.loads(lock.WITHDRAWN.read_text(encoding="utf-8"))
    assert lock.faults(CASES, lock.locked(), withdrawn) == []
    assert all(len(reason) > 20 for reason in withdrawn.values())


CHANGES = {
    "operation": {"op": "select.smallest"},
    "clauses": {"clauses": ("SEL-001",)},
    "an input": {"inputs": {"n": 2, "scores": np.array([0.5, 0.0])}},
    "the sign of a zero": {"inputs": {"n": 1, "scores": np.array([0.5, -0.0])}},
    "a whole number as a float": {"inputs": {"n": 1.0, "scores": np.array([0.5, 0.0])}},
    "a name": {"inputs": {"m": 1, "scores": np.array([0.5, 0.0])}},
    "a shape": {"inputs": {"n": 1, "scores": np.array([[0.5, 0.0]])}},
    "the answer": {"expected": {"indices": np.array([1])}},
    "a refusal": {"expected": {}, "refused": ("SEL-004",)},
    "a bound": {"bounds": {"indices": Bound(np.array([1.0]), 3)}},
    "zeros": {"zeros": ("indices",)},
    "dtypes": {"dtypes": ("float64",)},
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_lock_sees_a_change_of(change, tmp_path):
    inputs = {"n": 1, "scores": np.array([0.5, 0.0])}
    case = Case("a.b", "select.largest", ("SEL-001", "SEL-002"), "a purpose", inputs, {"indices": np.array([0])})
    releases = {"0.1.0": {"a.b": lock.digest(case)}}
    reworded = dataclasses.replace(case, purpose="another", oracle="loops")
    (tmp_path / "cases.json").write_text(dump([reworded]), encoding="utf-8")
    assert lock.faults(load(tmp_path / "cases.json"), releases, {}) == []
    changed = dataclasses.replace(case, **CHANGES[change])
    assert lock.faults([changed], releases, {}) == ["a.b changed; give it a new id"]


def test_the_lock_sees_cases_that_go_come_and_come_back():
    case = Case("a.b", "select.largest", ("SEL-001",), "a purpose", {"n": 1}, {"indices": np.array([0])})
    releases = {"0.1.0": {"a.b": lock.digest(case)}}
    assert lock.faults([], releases, {}) == ["a.b is gone, and withdrawn.json gives no reason"]
    assert lock.faults([], releases, {"a.b": "a reason"}) == []
    assert lock.faults([case], releases, {"a.b": "a reason"}) == ["a.b was withdrawn; give it a new id"]
    assert lock.faults([case], {}, {}) == ["a.b is new; run python -m conformance.cases.lock"]


def test_a_release_of_the_lock_is_sealed(tmp_path, monkeypatch):
    content = json.loads(lock.LOCK.read_text(encoding="utf-8"))
    assert lock.seal(content["releases"]["0.2.0"]) == "ada7779fc81ceddaa7d928b9eef1170ef4f4269a35693b1f1017ebe85b35397a"
    content["releases"]["0.2.0"].popitem()
    monkeypatch.setattr(lock, "LOCK", tmp_path / "cases.json")
    lock.LOCK.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ValueError, match=r"the cases of release 0.2.0 are not those that were published"):
        lock.locked()


def test_ids_are_unique_and_every_case_is_well_formed():
    assert len({case.id for case in CASES}) == len(CASES) > 300
    for case in CASES:
        op = OPS[case.op]
        assert op.inputs.keys() - op.optional <= case.inputs.keys() <= op.inputs.keys(), case.id
        assert bool(case.refused) != bool(case.expected), case.id
        assert case.refused or set(case.expected) == set(op.outputs), case.id
        gauged = {name for name, how in op.outputs.items() if how in ("gauge", "binary64")}
        assert case.refused or {n for n in gauged if case.expected[n] is not None} <= set(case.bounds), case.id
        assert case.purpose, case.id
        assert case.clauses, case.id


def test_every_operation_has_a_case():
    assert set(OPS) == {case.op for case in CASES}


def test_every_clause_is_covered_or_says_why_not():
    found = coverage(read_clauses(), CASES, elsewhere())
    assert [name for name, c in found.items() if not c.covered] == []


def test_what_is_covered_elsewhere_is_there():
    for clause, one in elsewhere().items():
        path, _, name = one.test.partition("::")
        assert bool(one.why) != bool(one.every_run), clause
        assert (ROOT / path).is_file(), f"{clause}: {path} does not exist"
        assert f"def {name}(" in (ROOT / path).read_text(encoding="utf-8"), f"{clause}: {one.test} does not exist"


def test_a_link_to_a_clause_that_does_not_exist_is_an_error():
    case = Case("x.y", "select.largest", (f"SEL-{999}",), "nothing", {})
    with pytest.raises(ValueError, match=f"SEL-{999}"):
        coverage(read_clauses(), [case], {})
    with pytest.raises(ValueError, match=f"SEL-{998}"):
        coverage(read_clauses(), [], {f"SEL-{998}": Elsewhere("a", why="b")})


@pytest.mark.parametrize(
    "value",
    [
        3,
        "text",
        None,
        0.1,
        -0.0,
        [1, None, "a", 2.5],
        {"a": np.arange(3), "b": {"c": 0.5}},
        np.array([0.1, -0.0, 5e-324, math.inf, math.nan]),
        np.array([[1.5, 2.0]]),
        np.zeros((0, 3)),
        np.resize(np.array([0.1, -0.0, math.nan]), (70, 90)),
        np.array([2**64 - 1], dtype=np.uint64),
        np.array([-(2**63)]),
        np.array([True, False]),
    ],
)
def test_values_come_back_exactly(value):
    back = decode(json.loads(json.dumps(encode(value), allow_nan=False)))
    assert type(back) is type(value)
    if isinstance(value, np.ndarray):
        assert back.dtype == value.dtype
        assert back.shape == value.shape
        assert back.tobytes() == value.tobytes()
    elif isinstance(value, dict):
        np.testing.assert_array_equal(back["a"], value["a"])
        assert back["b"] == value["b"]
    elif isinstance(value, float):
        assert back.hex() == value.hex()
    else:
        assert back == value


def test_a_case_survives_its_file(tmp_path):
    bound = {"y": Bound(np.array([1.0]), 3)}
    case = Case("a.b", "layer.rope", ("LYR-004",), "p", {"x": 1}, {"y": np.array([2.0])}, bounds=bound, zeros=("y",))
    path = tmp_path / "a.json"
    path.write_text(dump([case]), encoding="utf-8")
    (back,) = load(path)
    assert dump([back]) == dump([case])


def test_vectors_stay_small():
    # half of it are whole files, among them training states, and folders of other programs with a header each
    assert sum(path.stat().st_size for path in VECTORS.glob("*.json")) < 9_000_000


@pytest.mark.parametrize(
    "raw",
    [b"", b"a", b"abcdefgh" * 9, bytes(3000), b"\x00" * 7 + b"x" * 300 + b"abcdefghij" + b"x" * 140 + b"defghij" * 2],
)
def test_bytes_of_files_survive_packing(raw):
    assert unpack(pack(raw)) == raw
    mixed = bytes(b ^ (i // 50) for i, b in enumerate(raw * 3))
    assert unpack(pack(mixed)) == mixed
    assert len(pack(bytes(3000))) < 20


@pytest.mark.parametrize("n", [0, 1023, 1024])
def test_values_that_many_names_share_survive_their_file(n):
    told = {str(i): {"x": np.array([1]), "y": None} for i in range(n)}
    assert decode(encode(told)) == told
    assert len(json.dumps(encode(told | {"last": {"x": np.array([2]), "y": None}}))) > 60 * n
    if n == 1024:
        assert len(json.dumps(encode(told))) < 12 * n


def test_what_differs_by_dtype_is_asked_in_both():
    """A case of core for one dtype has a twin of the same inputs for the other: no answer would be right in both.

    Refused numbers may be beyond the other dtype.
    """
    inputs = {}
    for case in CASES:
        if OPS[case.op].profile == "core" and len(case.dtypes) == 1 and not case.refused:
            inputs.setdefault(case.id.removesuffix(f"-{case.dtypes[0]}"), []).append((*case.dtypes, repr(case.inputs)))
    assert len(inputs) == 2
    for name, twins in inputs.items():
        (one, given), (other, same) = twins
        assert {one, other} == {"float64", "float32"}, name
        assert given == same, name


def test_oracles_import_nothing_of_the_engine_and_only_numpy_beside_the_standard_library():
    for path in (ROOT / "conformance" / "oracle").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module]
            for name in names:
                assert name.split(".")[0] in {*sys.stdlib_module_names, "numpy", "conformance"}, (
                    path.name,
                    name,
                )
                assert not name.startswith("conformance") or name.startswith("conformance.oracle"), (
                    path.name,
                    name,
                )
