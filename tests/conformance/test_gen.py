"""Frozen vectors against generated ones: last bits of binary64 numbers may differ, and nothing else."""

import copy
import json
import sys

import numpy as np
import pytest

from conformance.cases.case import encode
from conformance.gen import __main__
from conformance.gen.__main__ import alike

REALS = np.array([[1e3, -1.0, 0.1], [0.0, -0.0, 3e-9]])
FROZEN = [{"id": "a", "expected": {"y": encode(REALS), "loss": encode(0.1), "n": encode(np.arange(3)), "k": [1, None]}}]


def changed(name, value):
    other = copy.deepcopy(FROZEN)
    other[0]["expected"][name] = encode(value)
    return json.loads(json.dumps(other))


@pytest.mark.parametrize(
    ("name", "value"), [("y", REALS + 1e-10), ("y", np.nextafter(REALS, 9)), ("loss", 0.1 + 5e-17)]
)
def test_last_bits_of_numbers_may_differ(name, value):
    assert changed(name, value) != FROZEN
    assert alike(FROZEN, changed(name, value))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("y", REALS + 1e-8),
        ("y", np.where(REALS == -1, np.nan, REALS)),
        ("y", REALS.reshape(-1)),
        ("y", REALS[:1]),
        ("y", REALS.astype(np.float32)),
        ("loss", 0.1 + 1e-12),
        ("loss", None),
        ("n", np.arange(1, 4)),
        ("k", [1, 2]),
        ("k", [1]),
        ("k", [True, None]),
        ("loss", np.inf),
    ],
)
def test_nothing_else_may_differ(name, value):
    assert not alike(FROZEN, changed(name, value))


def test_infinities_and_nan_stand_where_they_stood():
    def case(*numbers, of="expected"):
        return json.loads(json.dumps([{of: {"y": encode(np.array(numbers))}}]))

    frozen = case(np.inf, 0.1, np.nan)
    assert alike(frozen, case(np.inf, np.nextafter(0.1, 1), np.nan))
    for other in ((np.inf, 77.1, np.nan), (3.3, 0.1, np.nan), (-np.inf, 0.1, np.nan), (np.inf, 0.1, 0.1)):
        assert not alike(frozen, case(*other))
    # a number that binary32 holds is written in another dtype than its neighbour
    assert alike(case(0.5), case(np.nextafter(0.5, 1)))
    # an input is no result
    assert not alike(case(0.3, of="inputs"), case(np.nextafter(0.3, 1), of="inputs"))


def test_another_option_writes_nothing(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["conformance.gen", "--help"])
    monkeypatch.setattr(__main__, "files", lambda: pytest.fail("files are made"))
    assert __main__.main() == 2
    assert "no option but --check" in capsys.readouterr().out
