"""What a run prints of failures: the plainest first, the text of a clause once, a fault by its own clause."""

from dataclasses import replace
from io import StringIO

from conformance.cases.signatures import signatures
from conformance.command import app
from conformance.judge.harness import Failure, Result
from conformance.report.printing import print_run
from conformance.report.terminal import Terminal
from tests.conformance.report_runs import LARGEST, all_cases, run_of


def printed(*results, mistakes=dict):
    out = StringIO()
    print_run(run_of(results), Terminal(keep="\n", file=out, width=200), mistakes)
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
    for status, clause in (("timeout", "PRT-009"), ("protocol", "PRT-002"), ("crash", "PRT-005"), ("error", "PRT-005")):
        out = printed(of(LARGEST, status))
        assert f"\n  {clause} " in out
        assert "SEL-001" not in out


def test_known_mistakes_that_fail_the_same_cases_are_named_with_their_clauses():
    name = "adamw.step: one step counter"
    failing = {case for case, names in signatures().items() if name in names}
    results = [
        of(case) if case.id in failing else Result(case, ran=1) for case in all_cases() if case.op == "adamw.step"
    ]
    assert 3 <= len(failing) < len(results)
    out = printed(*results, mistakes=app._mistakes)
    assert "adamw.step fails in the cases in which known mistakes do" in out
    assert "one step counter (OPT-001)" in out
