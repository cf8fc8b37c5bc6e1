"""Hints point at what is wrong or are not given; a quick run takes the cases that refuse the known mutants."""

import pytest

from conformance.cases.case import load_all
from conformance.cases.clauses import read_clauses
from conformance.cases.signatures import covering, refused_by, signatures
from conformance.judge.harness import Failure, Result
from conformance.judge.hints import alike, hints
from conformance.wrong.mutants import MUTANTS

CASES = load_all()
TABLE = signatures()
FAILS_AT = {m.name: set() for m in MUTANTS}
for case, names in TABLE.items():
    for name in names:
        FAILS_AT[name].add(case)


def judged(op, failed):
    """The results of all cases of an operation, of which some failed."""
    mine = [Result(case, ran=1) for case in CASES if case.op == op]
    for result in mine:
        if result.case.id in failed:
            result.failures.append(Failure("it", "", "wrong"))
    return mine


def test_a_hint_names_a_clause_that_the_program_breaks():
    said = wrong = 0
    clauses = set(read_clauses())
    for mutant in MUTANTS:
        lines = hints(judged(mutant.op, FAILS_AT[mutant.name]))
        named = {word.strip(",") for line in lines for word in line.split()} & clauses
        said += bool(lines)
        wrong += bool(lines) and not named & set(mutant.clauses)
    assert said >= 40
    assert wrong <= said // 10, (wrong, said)


def test_a_known_mistake_that_is_named_breaks_a_clause_that_the_program_breaks():
    said = wrong = itself = 0
    clauses = {m.name: set(m.clauses) for m in MUTANTS}
    for mutant in MUTANTS:
        results = judged(mutant.op, FAILS_AT[mutant.name])
        itself += mutant.name in alike(results, TABLE).get(mutant.op, ())
        others = TABLE | {case: [n for n in TABLE[case] if n != mutant.name] for case in FAILS_AT[mutant.name]}
        for names in alike(results, others).values():
            said += 1
            wrong += not any(clauses[name] & set(mutant.clauses) for name in names)
    assert itself >= 500
    assert said >= 250
    assert wrong <= said // 3, (wrong, said)


def test_no_mistake_is_named_where_any_fits_or_no_answer_came():
    drop = [case.id for case in CASES if case.op == "update.drop"]
    assert alike(judged("update.drop", drop), TABLE) == {}
    assert alike(judged("update.drop", drop[:2]), TABLE) == {}
    (name,) = [m.name for m in MUTANTS if m.name == "adamw.step: one step counter"]
    lost = judged("adamw.step", FAILS_AT[name])
    assert alike(lost, TABLE) == {"adamw.step": [name]}
    for result in lost:
        result.failures = [Failure("it", "", "late", status="timeout") for _ in result.failures]
    assert alike(lost, TABLE) == {}
    assert hints(lost) == []


@pytest.mark.parametrize("n", [0, 1, 2])
def test_nothing_is_said_of_one_or_two_failures(n):
    ids = [case.id for case in CASES if case.op == "update.drop"][:n]
    assert hints(judged("update.drop", ids)) == []


def test_nothing_is_said_of_failures_that_share_no_clause_or_too_many():
    assert hints(judged("update.drop", {case.id for case in CASES if case.op == "update.drop"})) == []
    assert hints([]) == []


def test_what_was_not_judged_is_no_evidence():
    results = judged("select.smallest", {"select.smallest-example"})
    for result in results:
        if not result.failures:
            result.ran, result.reason = 0, "blocked"
    assert hints(results) == []


def test_the_cases_of_a_quick_run_refuse_every_known_mutant_and_show_every_clause():
    few = covering(CASES, TABLE)
    assert len(few) < len(CASES) / 3
    assert refused_by(few, TABLE) == refused_by(CASES, TABLE)
    assert {name for case in few for name in case.clauses} == {name for case in CASES for name in case.clauses}
    assert covering(CASES[::-1], TABLE)[:50] == few[:50]
    part = [case for case in CASES if case.op == "select.largest"]
    assert refused_by(covering(part, TABLE), TABLE) == refused_by(part, TABLE)
