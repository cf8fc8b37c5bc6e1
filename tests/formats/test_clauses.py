"""Clauses, errors and tests know each other."""

import re
from pathlib import Path

from formats import FormatError, errors

ROOT = Path(__file__).parents[2]
CLAUSE = re.compile(r"FMT[-_](\d{3})")


def texts(folder: str) -> str:
    return "\n".join(path.read_text() for path in sorted((ROOT / folder).rglob("*.py")))


def written() -> list[str]:
    chapter = next(t for t in (p.read_text() for p in ROOT.glob("SPEC*.md")) if "## 12. Files (FMT)" in t)
    return re.findall(r"^\*\*FMT-(\d{3})\*\* \((?:MUST|SHOULD|MAY)\) \S", chapter, re.MULTILINE)


def classes() -> list[type[FormatError]]:
    return [
        x for x in vars(errors).values() if isinstance(x, type) and issubclass(x, FormatError) and x is not FormatError
    ]


def test_a_clause_is_written_once():
    assert len(written()) == len(set(written()))


def test_every_error_has_a_clause_of_its_own():
    assert sorted({c.clause[4:] for c in classes()} - set(written())) == []
    clauses = [c.clause for c in classes()]
    assert sorted(clauses) == sorted(set(clauses))


def test_every_error_is_provoked_by_a_test():
    tests = texts("tests/formats")
    assert [c.__name__ for c in classes() if f"errors.{c.__name__}" not in tests] == []


def test_code_and_tests_cite_only_clauses_that_exist():
    cited = set(CLAUSE.findall(texts("formats") + texts("tests/formats"))) - {"000"}
    assert sorted(cited - set(written())) == []


def test_every_clause_is_cited_by_code_or_test():
    cited = set(CLAUSE.findall(texts("formats") + texts("tests/formats") + texts("tests/seft_cli")))
    assert sorted(set(written()) - cited) == []


def test_an_error_says_its_clause():
    assert str(errors.HeaderTooLong("no")) == "FMT-021: no"
