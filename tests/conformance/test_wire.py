"""The table of types that OPERATIONS.md shows is held against every frozen case, and bites where one is otherwise."""

from dataclasses import replace

import numpy as np
import pytest

from conformance.cases.case import load_all
from conformance.cases.ops import OPS
from conformance.cases.wire import INPUTS, OF, OUTPUTS, type_of
from tests.conformance.wire_check import disagreements

CASES = load_all()


def test_every_input_and_output_of_every_case_has_the_type_of_the_table():
    assert [(case.id, told) for case in CASES for told in disagreements(case)] == []
    # and there is no operation that no answered case shows
    assert {case.op for case in CASES if not case.refused} == set(OPS)


def test_the_table_has_every_name_and_no_other():
    for op, one in OPS.items():
        assert all(type_of(op, name, output=False) for name in one.names)
        assert all(type_of(op, name, output=True) for name in one.outputs)
    for op, (inputs, outputs) in OF.items():
        assert set(inputs) <= set(OPS[op].names), op
        assert set(outputs) <= set(OPS[op].outputs), op
    assert set(INPUTS) <= {name for one in OPS.values() for name in one.names}
    assert set(OUTPUTS) <= {name for one in OPS.values() for name in one.outputs}


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
