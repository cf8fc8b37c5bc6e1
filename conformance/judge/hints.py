"""Finds the clauses that explain all failures of an operation, if there are such clauses."""

from collections.abc import Iterable, Sequence

from conformance.judge.harness import Result

__all__ = ["hints"]

LEAST = 3
"""A hint needs so many failed cases, because one or two may fail for any reason."""
MOST = 3
"""A hint names at most so many clauses, because with more the failures point at nothing."""


def hints(results: Iterable[Result]) -> list[str]:
    """Return one line for each operation whose failed cases are exactly the cases of a clause; it names the clause.

    A clause is named if all its judged cases of the operation fail, no other case of the operation does, and there are
    at least three. Otherwise there is no line, because a wrong hint costs more than none.
    """
    by_op: dict[str, list[Result]] = {}
    for result in results:
        if result.ran or result.failures:
            by_op.setdefault(result.case.op, []).append(result)
    return [line for op, members in by_op.items() if (line := _of_operation(op, members))]


def _of_operation(op: str, results: Sequence[Result]) -> str:
    failed = {r.case.id for r in results if r.failures}
    cases_of: dict[str, set[str]] = {}
    for result in results:
        for name in result.case.clauses:
            cases_of.setdefault(name, set()).add(result.case.id)
    named = [name for name, ids in sorted(cases_of.items()) if ids == failed and not name.startswith("NUM-")]
    if len(failed) < LEAST or not 0 < len(named) <= MOST:
        return ""
    return f"{op} fails in all {len(failed)} cases of {', '.join(named)} and in no other: `explain {named[0]}`"
