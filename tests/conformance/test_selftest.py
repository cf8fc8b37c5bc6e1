"""The self-test of the kit: comparators, signatures, and the page; the whole matrix is run by hand and in releases."""

import numpy as np

from conformance.cases.case import load_all
from conformance.cases.signatures import SIGNATURES, signatures
from conformance.command import selftest
from conformance.wrong.kills import Kill, clauses_of_properties, matrix_of
from conformance.wrong.mutants import MUTANTS

CASES = load_all()
TABLE = signatures()


def test_comparators_hold_at_their_bounds():
    assert selftest.comparators() == []


def test_a_loose_comparator_is_noticed(monkeypatch):
    right = selftest.compare

    def loose(got, want, how, dtype="float64", bound=None, **more):
        verdict = right(got, want, how, dtype, bound, **more)
        return type(verdict)(passed=True) if isinstance(got, np.ndarray) and np.isnan(got).any() else verdict

    monkeypatch.setattr(selftest, "compare", loose)
    assert len(selftest.comparators()) >= 4


def known_kills():
    """The kills of every mutant that the table of signatures names."""
    kills = {m.name: [] for m in MUTANTS}
    for case, names in TABLE.items():
        for name in names:
            kills[name].append(Kill(case, 2.0))
    return kills


def test_a_glob_leaves_mutants_and_null_ports_out(capsys):
    assert selftest.main(["--only", "zeros"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:3] == ["null ports: 1", "  ok    zeros              fail, pass"]
    assert lines[3].startswith("mutants: 0 of 0 killed")


def test_a_glob_that_matches_nothing_or_leaves_a_page_incomplete_is_refused(verify, tmp_path):
    status, out, err = verify("self-test", "--only", "nothing*")
    assert (status, out) == (2, "")
    assert err == "self-test: --only nothing* matches no operation or name of a mutant, and no null port\n"
    status, out, err = verify("self-test", "--only", "count.*", "--page", tmp_path / "page.md")
    assert (status, out) == (2, "")
    assert err == "self-test: --only count.* leaves mutants out, and --page and --write need all\n"
    assert not (tmp_path / "page.md").exists()


def test_a_mutant_that_kills_other_cases_than_the_file_says_is_wrong(monkeypatch, capsys):
    name = next(m.name for m in MUTANTS if m.op == "count.drop")
    (case, *_) = [case for case, names in TABLE.items() if name in names]
    kills = {name: [kill for kill in known_kills()[name] if kill.case != case]}
    monkeypatch.setattr(selftest, "kill_matrix", lambda jobs, mutants, advance: matrix_of(kills, CASES))
    assert selftest.main(["--only", name]) == 1
    assert "signatures.json is not what the matrix gives" in capsys.readouterr().out


def test_signatures_name_cases_and_mutants_that_exist():
    assert set(TABLE) <= {case.id for case in CASES} | set(clauses_of_properties())
    assert {name for names in TABLE.values() for name in names} == {m.name for m in MUTANTS}


def test_a_mutant_that_lives_is_a_complaint():
    kills = {m.name: [] for m in MUTANTS}
    told = matrix_of(kills, CASES).complaints()
    assert len(told) > len(MUTANTS)
    assert any("has no killed mutant and no reason" in line for line in told)


def test_the_page_lists_mutants_reasons_and_idle_cases():
    matrix = matrix_of(known_kills(), CASES)
    assert matrix.complaints() == []
    text = selftest.page(matrix)
    assert text.count("\n| `") == len(MUTANTS)
    assert f"of {len(CASES)} cases kill none" in text
    assert f"Cases that kill no mutant ({len(matrix.idle)})" in text
    assert "NO REASON" not in text


def test_the_page_is_the_one_in_docs():
    page = SIGNATURES.parents[2] / "docs" / "results" / "kill-matrix.md"
    matrix = matrix_of(known_kills(), CASES)
    assert selftest.page(matrix) == page.read_text(encoding="utf-8")
    shown, reasons = sum(map(bool, matrix.shown.values())), len(matrix.reasons)
    told = f"{shown} of {len(matrix.shown)} clauses of level MUST have one, {reasons} have a reason"
    assert told in (page.parents[1] / "explanation" / "kit.md").read_text(encoding="utf-8")
