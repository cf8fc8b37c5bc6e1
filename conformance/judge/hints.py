"""Hints about failed cases: a clause of which every case fails, or a mutant that fails the same cases."""

from collections.abc import Iterable, Mapping, Sequence

from conformance.judge.harness import Result

__all__ = ["alike", "hints"]

LEAST = 3
"""A hint needs at least this many failed cases, because one or two may fail for any reason."""
MOST = 3
"""A hint names at most this many clauses or mutants, because a longer list points nowhere."""
NEAR = 0.8
"""The least overlap of the cases that failed with those that a mutant fails, as intersection over union."""


def hints(results: Iterable[Result]) -> list[str]:
    """Return one line for each operation whose failed cases are exactly the cases of a clause; it names the clause.

    A clause is named if all its judged cases of the operation fail, no other case of the operation fails, and there are
    at least three. Otherwise there is no line, because a wrong hint is worse than none.
    """
    return [line for op, members in _judged(results).items() if (line := _of_clauses(op, members))]


def alike(results: Iterable[Result], refused: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Return for each operation the mutants whose failed cases are closest to the cases that failed.

    refused  by id of a case the names of the mutants that fail it (`cases.signatures`)

    An operation is left out if fewer than three of its cases failed, or all, because then any mutant fits. It is also
    left out if more than three mutants fit equally well. The names only say where to look first: when every mutant was
    compared with all others, three in ten broke no clause that the named mutants break.
    """
    alike_by_op: dict[str, list[str]] = {}
    for op, members in _judged(results).items():
        failed = {r.case.id for r in members if r.failures}
        if len(failed) < LEAST or len(failed) == len(members):
            continue
        cases_of: dict[str, set[str]] = {}
        for result in members:
            for name in refused.get(result.case.id, ()):
                cases_of.setdefault(name, set()).add(result.case.id)
        share = {name: len(ids & failed) / len(ids | failed) for name, ids in cases_of.items()}
        best = max(share.values(), default=0.0)
        names = sorted(name for name, one in share.items() if one == best)
        if best >= NEAR and len(names) <= MOST:
            alike_by_op[op] = names
    return alike_by_op


def _judged(results: Iterable[Result]) -> dict[str, list[Result]]:
    """Return the judged cases by operation, without operations that crashed or raised, because these give no hint."""
    by_op: dict[str, list[Result]] = {}
    for result in results:
        if result.ran or result.failures:
            by_op.setdefault(result.case.op, []).append(result)
    return {
        op: members for op, members in by_op.items() if all(f.status == "fail" for r in members for f in r.failures)
    }


def _of_clauses(op: str, results: Sequence[Result]) -> str:
    failed = {r.case.id for r in results if r.failures}
    cases_of: dict[str, set[str]] = {}
    for result in results:
        for name in result.case.clauses:
            cases_of.setdefault(name, set()).add(result.case.id)
    named = [name for name, ids in sorted(cases_of.items()) if ids == failed and not name.startswith("NUM-")]
    if len(failed) < LEAST or not 0 < len(named) <= MOST:
        return ""
    return f"{op} fails in all {len(failed)} cases of {', '.join(named)} and in no other: `explain {named[0]}`"
