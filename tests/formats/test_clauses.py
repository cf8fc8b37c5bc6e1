"""Clauses, errors and tests know each other."""

import ast
import copy
import pickle
import re
from functools import cache
from pathlib import Path

import pytest

from conformance.cases.clauses import read_clauses
from formats import FormatError, errors
from tests.conformance.test_three_readers import CASES

ROOT = Path(__file__).parents[2]
CLAUSE = re.compile(r"FMT[-_](\d{3})")


@cache
def texts(folder: str) -> str:
    return "\n".join(path.read_text() for path in sorted((ROOT / folder).rglob("*.py")))


def written() -> list[str]:
    chapter = next(t for t in (p.read_text() for p in ROOT.glob("SPEC*.md")) if "## 12. Files (FMT)" in t)
    return re.findall(r"^\*\*FMT-(\d{3})\*\* \((?:MUST|SHOULD|MAY)\) \S", chapter, re.MULTILINE)


def kinds() -> dict[str, type[FormatError]]:
    return {name: x for name, x in vars(errors).items() if isinstance(x, type) and issubclass(x, FormatError)}


@cache
def raised() -> set[tuple[str, str]]:
    """Return the kind and the clause of every error that the sources of formats make, as both are written."""
    calls = [node for node in ast.walk(ast.parse(texts("formats"))) if isinstance(node, ast.Call)]
    return {(call.func.id, ast.unparse(call.args[0]).strip("'")) for call in calls if ast.unparse(call.func) in kinds()}


@cache
def passed_on() -> set[str]:
    """Return every clause id that stands alone in the sources of formats: what is raised, here or by a callee."""
    values = [node.value for node in ast.walk(ast.parse(texts("formats"))) if isinstance(node, ast.Constant)]
    return {value for value in values if isinstance(value, str) and re.fullmatch(r"[A-Z]+-\d+", value)}


def test_a_clause_is_written_once():
    assert len(written()) == len(set(written()))


def test_every_clause_that_is_raised_is_one_of_the_specification():
    assert sorted(passed_on() - set(read_clauses())) == []
    assert {clause for _, clause in raised()} - passed_on() == {"clause", "error.clause"}


def test_every_kind_is_raised_and_each_special_one_with_one_clause():
    literal = {(kind, clause) for kind, clause in raised() if clause in passed_on()}
    assert {kind for kind, _ in literal} == set(kinds())
    special = {"CannotHold": "FMT-154", "DestinationExists": "FMT-110", "ExpansionTooLarge": "FMT-098"}
    assert {(kind, c) for kind, c in literal if kind in special or c in special.values()} == set(special.items())


def test_every_clause_that_is_raised_is_provoked_by_a_test():
    # test_three_readers asks the engine every stored file
    tests = texts("tests/formats") + " ".join(clause for case in CASES.values() for clause in case.refused)
    assert sorted(c for c in passed_on() if c not in tests and c.replace("-", "_") not in tests) == []


def test_code_and_tests_cite_only_clauses_that_exist():
    cited = set(CLAUSE.findall(texts("formats") + texts("tests/formats"))) - {"000"}
    assert sorted(cited - set(written())) == []


def test_every_clause_is_cited_by_code_or_test():
    cited = set(CLAUSE.findall(texts("formats") + texts("tests/formats") + texts("tests/seft_cli")))
    assert sorted(set(written()) - cited) == []


@pytest.mark.parametrize("kind", kinds().values(), ids=kinds())
def test_an_error_says_its_clause_and_outlives_a_copy(kind):
    error = kind("FMT-021", "no")
    error.add_note("in part 2")
    for same in (error, copy.copy(error), copy.deepcopy(error), pickle.loads(pickle.dumps(error))):
        assert type(same) is kind
        assert str(same) == "FMT-021: no"
        assert (same.clause, same.message, same.__notes__) == ("FMT-021", "no", ["in part 2"])
