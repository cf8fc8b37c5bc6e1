"""Right implementations stay well inside the bounds of numeric cases, mutants well outside."""

from conformance.cases.case import load_all
from conformance.judge.harness import run
from conformance.wrong import margins

CASES = {case.id: case for case in load_all() if margins.numeric(case)}


def test_every_numeric_case_has_a_row_and_no_other():
    assert set(margins.read()) == set(CASES)


def test_margins_are_wide_or_allowed_with_a_reason():
    assert margins.too_narrow(margins.read(), margins.allowed()) == []
    assert all(len(reason) > 20 for reason in margins.allowed().values())


def test_what_is_written_is_what_comes_out():
    some = [case for case in CASES.values() if case.op in ("kernel.sparse", "layer.rmsnorm", "adamw.step")]
    rows = margins.read()
    for result in run(some, margins.right_variants()):
        assert not result.failures, result.case.id
        # other machines round otherwise, but not by half a bound
        assert result.ratio <= max(2 * rows[result.case.id][0], margins.LARGEST_RIGHT / 2), result.case.id


def test_a_narrow_margin_is_told():
    rows = {"a": (0.6, 9.0, "m"), "b": (0.1, 3.9, "m"), "c": (0.1, None, None), "d": (0.5, 4.0, "m")}
    assert [line.split(":")[0] for line in margins.too_narrow(rows, {})] == ["a", "b"]
    assert margins.too_narrow(rows, {"a": "why", "b": "why"}) == []
    assert margins.too_narrow(rows, {"a": "why", "b": "why", "d": "why"}) == ["d: needs no allowance"]
