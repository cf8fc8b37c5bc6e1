"""Results as text and as JSON: the rows of a table, and every failure with inputs, clauses and outputs."""

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from conformance.cases.case import Case
from conformance.cases.clauses import SPEC, Clause
from conformance.cases.coverage import Coverage
from conformance.judge.harness import Failure, Result
from conformance.report.shown import difference

__all__ = ["as_json", "counts", "explain", "matches", "shown_value", "table_rows", "texts_of"]

_SMALL = 24
_FEW = 8
"""Outputs with more entries are shown around their first difference before they are shown whole."""
_LEAD = 220
"""The most characters of an output that come before the texts of clauses: three lines of a terminal."""


def matches(case: Case, pattern: str) -> bool:
    """Return whether a glob matches the id of a case, or the id of one of its clauses."""
    return any(fnmatchcase(name, pattern) for name in (case.id, *case.clauses))


def counts(results: Sequence[Result], coverage: Sequence[Coverage]) -> tuple[int, int, int]:
    """Return how many checks passed, failed and were skipped.

    Every case is a check, and so is every clause without cases: skipped if there is a reason for that, else failed.
    """
    statuses = Counter(result.status for result in results)
    bare = [c for c in coverage if not c.cases]
    return (
        statuses["passed"],
        statuses["failed"] + sum(not c.covered for c in bare),
        statuses["skipped"] + sum(c.covered for c in bare),
    )


def table_rows(results: Sequence[Result]) -> list[tuple[str, int, int, int, float]]:
    """Return for each area its name, how many cases passed, failed and were skipped, and the largest use of a bound."""
    areas: dict[str, list[Result]] = {}
    for result in results:
        areas.setdefault(result.case.id.split(".")[0], []).append(result)
    rows = []
    for area, members in areas.items():
        statuses = Counter(result.status for result in members)
        used = max(result.ratio for result in members)
        rows.append((area, statuses["passed"], statuses["failed"], statuses["skipped"], used))
    return rows


def shown_value(value: Any) -> str:
    """Return a value on one line: small arrays whole, large ones by dtype and shape."""
    if isinstance(value, np.ndarray):
        if value.size <= _SMALL:
            return np.array2string(value, max_line_width=100_000, separator=", ", floatmode="unique")
        return f"{value.dtype.name} array {value.shape}"
    if isinstance(value, dict):
        if len(value) > _SMALL or any(isinstance(v, np.ndarray | dict | list) for v in value.values()):
            return f"{len(value)} entries: {', '.join(list(value)[:3])} ..."
        return str(value)
    if isinstance(value, list) and len(value) > _SMALL:
        return f"{len(value)} entries"
    return str(value)


_NO_ANSWER = {
    "error": ("PRT-005",),
    "protocol": ("PRT-001", "PRT-002"),
    "timeout": ("PRT-009",),
    "crash": ("PRT-005",),
}
"""Statuses of a port that gave no answer, and the clauses of which it broke one."""


def explain(result: Result, clauses: dict[str, Clause], printed: set[str] | None = None) -> list[str]:
    """Return the lines that describe the failures of a case.

    The ids of its clauses, its purpose and every difference come first, so that they fit on a screen. The texts of the
    clauses, the inputs and whole outputs follow.

    printed  clauses whose text was printed before, so that only their ids are printed; those of this case are added
    """
    case = result.case
    printed = set() if printed is None else printed
    every = list(dict.fromkeys(case.clauses))
    named = [name for name in every if not name.startswith("NUM-")] or every
    if all(failure.status in _NO_ANSWER for failure in result.failures):
        # the clauses of a case say nothing about a port that does not answer
        broken = {name for failure in result.failures for name in _NO_ANSWER[failure.status]}
        named = sorted(broken & clauses.keys())
    lines = [f"FAILED {case.id} ({case.op}): {' '.join(named)}", f"  meant to catch: {case.purpose}"]
    whole: list[str] = []
    for failure in result.failures:
        first, *trace = failure.detail.split("\n")
        head = f"  {failure.variant}:{f' {failure.output}' if failure.output else ''}"
        ratio = f" ({failure.ratio:.3g} times the bound)" if math.isfinite(failure.ratio) else ""
        short, full = _both(failure, case, _FEW), _both(failure, case)
        lines += [f"{head} {first}{ratio}", *short]
        more = [f"    {line}" for line in trace] + (full if full != short else [])
        whole += [head, *more] if more else []
    lines += texts_of(named, clauses, printed)
    lines += [f"  {name} = {shown_value(value)}" for name, value in case.inputs.items() if value is not None]
    return lines + whole


def texts_of(names: Sequence[str], clauses: dict[str, Clause], printed: set[str]) -> list[str]:
    """Return lines with the texts of clauses; those that were printed before are named only. Adds them to `printed`."""
    lines = [f"  {name} {clauses[name].text}" for name in names if name not in printed]
    if again := [name for name in names if name in printed]:
        lines.append(f"  {' '.join(again)}, as above")
    printed |= {*names}
    return lines


def _both(failure: Failure, case: Case, few: int = 0) -> list[str]:
    """Return lines with the expected and the actual output; none if there is no output to compare.

    few  arrays with more entries are shown around the first difference, and there are no lines for texts that are
         longer than `_LEAD`; 0 shows up to 64 entries whole
    """
    if failure.got is None or failure.output not in case.expected:
        return []
    expected = case.expected[failure.output]
    pair = difference(failure, expected, few) if few else difference(failure, expected)
    texts = [" ".join(text.split()) for text in pair]
    if few and max(map(len, texts)) > _LEAD:
        return []
    return [f"    {name} {text}" for name, text in zip(("expected", "got     "), texts, strict=True)]


def as_json(
    results: Sequence[Result], coverage: Sequence[Coverage], variants: Sequence[str], pattern: str | None
) -> dict[str, Any]:
    """Return all results as a dict that `json` can write."""
    passed, failed, skipped = counts(results, coverage)
    status = {result.case.id: result.status for result in results}
    return {
        "spec_sha256": hashlib.sha256(SPEC.read_bytes()).hexdigest(),
        "variants": list(variants),
        "only": pattern,
        "passed": passed,
        "failed": failed,
        "skipped": skipped,
        "cases": [_case_row(result) for result in results],
        "clauses": [_clause_row(c, status) for c in coverage],
    }


def _case_row(result: Result) -> dict[str, Any]:
    return {
        "id": result.case.id,
        "op": result.case.op,
        "clauses": list(result.case.clauses),
        "status": result.status,
        "reason": result.skipped,
        "bound_used": result.ratio,
        "failures": [
            {
                "variant": f.variant,
                "output": f.output,
                "detail": f.detail,
                "ratio": f.ratio if math.isfinite(f.ratio) else None,
            }
            for f in result.failures
        ],
    }


def _clause_row(c: Coverage, status: dict[str, str]) -> dict[str, Any]:
    ran = [status[name] for name in c.cases if name in status]
    verdict = "passed" if "passed" in ran else "skipped"
    if not c.covered or "failed" in ran:
        verdict = "failed"
    return {
        "id": c.clause.id,
        "level": c.clause.level,
        "status": verdict,
        "cases": len(c.cases),
        "reason": c.reason,
    }
