"""What the failures of an operation have in common: said only where it points at one thing."""

from collections.abc import Iterable, Sequence

from conformance.judge.harness import Result

__all__ = ["hints"]

LEAST = 3
"""Cases that have to fail before anything is said: one or two may fail for any reason."""
MOST = 3
"""Clauses that are named for one operation; with more the failures point at nothing."""


def hints(results: Iterable[Result]) -> list[str]:
    """Return for each operation whose failures are exactly the cases of a clause a line that names it.

    A clause is named if all its cases of the operation that were judged fail, no other case of the operation does, and
    there are at least three. Elsewhere nothing is said: a hint that is wrong costs more than none.
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
