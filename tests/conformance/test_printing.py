"""What a run prints of failures: the plainest first, the text of a clause once, a fault by its own clause."""

from dataclasses import replace
from io import StringIO

from conformance.judge.harness import Failure, Result
from conformance.report.printing import print_run
from conformance.report.terminal import Terminal
from tests.conformance.report_runs import LARGEST, run_of


def printed(*results):
    out = StringIO()
    print_run(run_of(results), Terminal(keep="\n", file=out, width=200), dict)
    return out.getvalue()


def of(case, status="fail"):
    return Result(case, ran=1, failures=[Failure("it float64", "chosen", "wrong", status=status)])


def test_the_plainest_case_of_an_operation_comes_first_and_a_clause_is_told_once():
    large = replace(LARGEST, id="select.many", clauses=("SEL-001", "SEL-002"))
    out = printed(of(large), of(LARGEST))
    assert out.index("FAILED select.largest-ties") < out.index("FAILED select.many")
    assert out.count("SEL-001 The") == 1
    assert "  SEL-001, as above" in out


def test_a_port_that_does_not_answer_breaks_no_clause_of_the_case():
    for status, clause in (("timeout", "PRT-009"), ("protocol", "PRT-002"), ("crash", "PRT-008"), ("error", "PRT-005")):
        out = printed(of(LARGEST, status))
        assert f"\n  {clause} " in out
        assert "SEL-001" not in out
