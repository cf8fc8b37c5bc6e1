"""What a run prints of failures: the plainest first, the text of a clause once, a fault by its own clause."""

import textwrap
from dataclasses import replace
from io import StringIO

import numpy as np

from conformance.cases.signatures import signatures
from conformance.command import app
from conformance.judge.harness import Failure, Result
from conformance.judge.judgement import PropertyResult
from conformance.properties.artifacts import save
from conformance.properties.trial import Seen
from conformance.report import explain
from conformance.report.printing import print_run
from conformance.report.terminal import Terminal
from tests.conformance.report_runs import LARGEST, all_cases, clauses, run_of

DTYPES = ("float64", "float32")


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


def test_the_first_screen_of_a_failed_case_has_clause_purpose_and_difference():
    asked = 0
    for case in all_cases():
        output = next((n for n, x in case.expected.items() if isinstance(x, np.ndarray) and x.size), None)
        if output is None:
            continue
        place = [int(i) for i in np.unravel_index(case.expected[output].size - 1, case.expected[output].shape)]
        detail = f"at {place} expected 1.0000000000000002, got 1.0000000000000004"
        failures = [Failure(f"it {dtype}", output, detail, 2.5e10, got=case.expected[output]) for dtype in DTYPES]
        lines = explain(Result(case, ran=2, failures=failures), clauses())
        screen = [row for line in lines for row in textwrap.wrap(line, 80, subsequent_indent="  ") or [""]][:23]
        shown = " ".join(" ".join(screen).split())
        assert f"FAILED {case.id} ({case.op}): " in shown
        assert all(name in shown for name in case.clauses if not name.startswith("NUM-"))
        assert f"meant to catch: {' '.join(case.purpose.split())}" in shown
        assert all(f"it {dtype}: {output} {detail}" in shown for dtype in DTYPES), case.id
        asked += 1
    assert asked > 900


def test_texts_of_clauses_inputs_and_whole_outputs_follow_the_difference():
    case = next(case for case in all_cases() if case.id == "adamw.decay")
    want = case.expected["values"]
    failure = Failure("it float64", "values", "at [3] expected 1.0, got 2.0\nmore of it", got=want + 1)
    lines = explain(Result(case, ran=1, failures=[failure]), clauses())
    parts = (
        "\n  meant to catch: ",
        "\n  it float64: values at [3] expected 1.0, got 2.0\n    expected float64, shape [12]; [0:8] = ",
        "\n  OPT-001 For each slot ",
        "\n  gradient = [",
        "\n  it float64: values\n    more of it\n    expected [",
    )
    assert sorted(parts, key="\n".join(lines).index) == list(parts)


def test_a_property_says_what_has_to_hold_before_the_texts_of_clauses(tmp_path):
    failure = Failure("it float64", "chosen", "wrong")
    artifact = save(tmp_path / "it", Seen((LARGEST,), failure), "it", "0a")
    one = PropertyResult(
        "select.order", ("SEL-001",), "core", 1, "it: chosen: wrong\nmore of it", artifact, text="sorted"
    )
    out = StringIO()
    print_run(run_of(properties=[one]), Terminal(keep="\n", file=out, width=200), dict)
    parts = (
        "FAILED select.order: it: chosen: wrong\n  has to hold for all inputs: sorted (SEL-001)\n  scores = ",
        "  replay it: seft verify replay ",
        "  SEL-001 The k largest",
        "    more of it",
    )
    assert sorted(parts, key=out.getvalue().index) == list(parts)


def test_properties_that_cannot_be_tried_for_one_reason_are_counted_in_a_line():
    reason = "hypothesis is not installed; pip install hypothesis"
    for n, shown in ((7, f"\n7 properties were not tried: {reason}\n"), (2, f"\nSKIPPED select.0: {reason}\nSKIPPED")):
        untried = [PropertyResult(f"select.{i}", ("SEL-001",), "core", skipped=reason) for i in range(n)]
        out = StringIO()
        print_run(run_of(properties=untried), Terminal(keep="\n", file=out, width=200), dict)
        assert shown in out.getvalue()
        assert out.getvalue().count(reason) == (1 if n == 7 else 2)


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
