"""The records of the operations are held against every frozen case, and bites where one is otherwise."""

from dataclasses import replace

import numpy as np
import pytest

from conformance.cases.case import load_all
from conformance.cases.ops import OPS
from tests.conformance.wire_check import disagreements

CASES = load_all()


def test_every_input_and_output_of_every_case_has_the_type_of_the_table():
    assert [(case.id, told) for case in CASES for told in disagreements(case)] == []
    # and there is no operation that no answered case shows
    assert {case.op for case in CASES if not case.refused} == set(OPS)


def test_every_input_of_a_record_is_shown_by_a_case():
    for name, op in OPS.items():
        assert {key for case in CASES if case.op == name for key in case.inputs} == set(op.inputs), name


@pytest.mark.parametrize(
    ("op", "name", "value", "says"),
    [
        ("update.drop", "delta", np.zeros(3), "float64, not i64"),
        ("update.drop", "delta", [1, 2], "list, not i64"),
        ("update.drop", "delta", np.arange(99), "has the shape"),
        ("update.drop", "n", 1.0, "float, not int"),
        ("update.drop", "n", True, "bool, not int"),
        ("rng.draws", "words", np.zeros(4, np.int64), "int64, not u64"),
        ("kernel.sparse", "x", np.zeros((3, 1)), "has the shape (3, 1)"),
        ("window.evidence", "x", [np.zeros((1, 4))], "ndarray, not list of real"),
        ("file.write", "tensors", {"w": {"dtype": "F32", "size": 1}}, "has size, which no tensor has"),
        ("config.describe", "config", {"a": np.zeros(1)}, "is an array, not a value"),
    ],
)
def test_a_case_of_another_type_is_found(op, name, value, says):
    case = next(case for case in CASES if case.op == op and not case.refused)
    told = disagreements(replace(case, inputs=case.inputs | {name: value}))
    assert any(says in text for text in told), told


def test_an_output_of_another_type_is_found():
    case = next(case for case in CASES if case.op == "update.evolve" and not case.refused)
    for value in (np.zeros(1), case.expected["age"][:-1], None):
        assert disagreements(replace(case, expected=case.expected | {"age": value}))
