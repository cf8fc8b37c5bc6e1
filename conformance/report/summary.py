"""Rows of a run by profile, by clause and by operation, from which the page, the table and the JSON are made."""

import re
import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from glob import escape
from typing import Any

from conformance.cases.case import Case
from conformance.cases.clauses import SPEC
from conformance.cases.ops import OPS
from conformance.judge.harness import Result
from conformance.judge.judgement import PropertyResult, Run

__all__ = [
    "MARGINAL",
    "OUTCOMES",
    "ClauseRow",
    "OpRow",
    "ProfileRow",
    "as_summary",
    "badge",
    "chapter_of",
    "clause_rows",
    "op_rows",
    "profile_rows",
    "repeat_command",
]

OUTCOMES = ("pass", "fail", "error", "crash", "timeout", "protocol", "unsupported", "blocked", "notrun", "waived")
"""Every outcome that a case may have."""
WRONG = frozenset(("fail", "error", "crash", "timeout", "protocol"))
MARGINAL = 0.8
"""Share of a bound above which a passing operation is marked."""
_CHAPTER = re.compile(r"^## (\d+\. .+?) \(([A-Z]{3,4}(?:, [A-Z]{3,4})*)\)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class ProfileRow:
    """One profile: outcomes of its cases and properties, and whether everything passed."""

    name: str
    cases: int
    outcomes: Counter[str]
    properties: Counter[str]
    holds: bool


@dataclass(slots=True)
class ClauseRow:
    """One clause of SPEC.md.

    Attributes:
        reason: why the kit has no case for it, else empty.
        known: number of cases that the kit has for it.
        results: the results of its cases in this run.
        properties: the results of its properties in this run.
    """

    id: str
    level: str
    text: str
    reason: str = ""
    known: int = 0
    results: list[Result] = field(default_factory=list)
    properties: list[PropertyResult] = field(default_factory=list)

    @property
    def outcome(self) -> str:
        """Return passed, failed, waived, partly (some passed, others not judged), not judged, not asked or no case."""
        outcomes = [r.outcome for r in self.results]
        outcomes += [p.outcome for p in self.properties]
        if not outcomes:
            return "not asked" if self.known else "no case"
        if WRONG & set(outcomes):
            return "failed"
        if "waived" in outcomes:
            return "waived"
        passed = outcomes.count("pass")
        return "passed" if passed == len(outcomes) else "partly" if passed else "not judged"


@dataclass(frozen=True, slots=True)
class OpRow:
    """One operation that is compared with a tolerance: the largest share of it that was used, and the case that did."""

    op: str
    used: float
    worst: str
    cases: int

    @property
    def marginal(self) -> bool:
        """Return whether a case used more than `MARGINAL` of its bound."""
        return self.used > MARGINAL


def profile_rows(run: Run) -> list[ProfileRow]:
    """Return one row per profile, in the order in which they were asked for."""
    claimable = set(run.verdict().claimable)
    rows = []
    for name in run.profiles:
        results = run.of_profile(name)
        own = Counter(p.status for p in run.properties if p.profile == name)
        rows.append(ProfileRow(name, len(results), Counter(r.outcome for r in results), own, name in claimable))
    return rows


def clause_rows(run: Run) -> list[ClauseRow]:
    """Return one row per clause, in the order of SPEC.md."""
    rows = {name: ClauseRow(name, clause.level, clause.text) for name, clause in run.clauses.items()}
    for c in run.coverage:
        if c.clause.id in rows:
            rows[c.clause.id].reason, rows[c.clause.id].known = c.reason, len(c.cases)
    for result in run.results:
        for row in _named(rows, result.case.clauses):
            row.results.append(result)
    for one in run.properties:
        for row in _named(rows, one.clauses):
            row.properties.append(one)
    return list(rows.values())


def _named(rows: dict[str, ClauseRow], names: Iterable[str]) -> list[ClauseRow]:
    return [rows[name] for name in dict.fromkeys(names) if name in rows]


def op_rows(run: Run) -> list[OpRow]:
    """Return one row for each answered operation that is compared with a tolerance, largest use first."""
    by_op: dict[str, list[Result]] = {}
    for result in run.results:
        if result.ran and set(OPS[result.case.op].outputs.values()) - {"exact", "value"}:
            by_op.setdefault(result.case.op, []).append(result)
    rows = []
    for op, results in by_op.items():
        worst = max(results, key=lambda r: r.ratio)
        rows.append(OpRow(op, worst.ratio, worst.case.id, len(results)))
    return sorted(rows, key=lambda row: (-row.used, row.op))


def failed(results: Sequence[Result]) -> list[Result]:
    """Return the results that are wrong and not forgiven."""
    return [r for r in results if r.outcome in WRONG]


def broken(properties: Sequence[PropertyResult]) -> list[PropertyResult]:
    """Return the properties that fail and are not forgiven."""
    return [p for p in properties if p.status == "failed"]


def repeat_command(run: Run, case: Case) -> str:
    """Return the command line that asks one case again."""
    return " ".join(["seft verify", *run.command, f"--only {shlex.quote(escape(case.id))}"])


@cache
def _chapters() -> dict[str, str]:
    headings = _CHAPTER.findall(SPEC.read_text(encoding="utf-8"))
    return {area: title for title, areas in headings for area in areas.split(", ")}


def chapter_of(clause: str) -> str:
    """Return the heading in SPEC.md of the chapter of a clause."""
    area = clause.split("-", maxsplit=1)[0]
    return _chapters().get(area, area)


def badge(run: Run) -> dict[str, Any]:
    """Return a badge in the format of a shields.io endpoint: a claim of all that was asked for, or no claim."""
    verdict = run.verdict()
    color = "brightgreen" if verdict.conformant else "lightgrey" if verdict.badge == "no claim" else "red"
    return {"schemaVersion": 1, "label": "SEFT", "message": verdict.badge, "color": color}


def as_summary(run: Run, version: int) -> dict[str, Any]:
    """Return the content of summary.json: the run in numbers."""
    verdict = run.verdict()
    return {
        "report": version,
        "verdict": verdict.line,
        "conformant": verdict.conformant,
        "met": verdict.met,
        "reasons": list(verdict.reasons),
        "port": run.port,
        "passed": verdict.passed,
        "failed": verdict.failed,
        "skipped": verdict.skipped,
        "badge": verdict.badge,
        "status": int(verdict.status),
        "waivers": run.waivers,
        "outcomes": dict(run.outcomes()),
        "claimable": list(verdict.claimable),
        "profiles": {
            row.name: {
                "cases": row.cases,
                "outcomes": dict(row.outcomes),
                "properties": dict(row.properties),
                "holds": row.holds,
            }
            for row in profile_rows(run)
        },
        "clauses": {
            row.id: {"level": row.level, "outcome": row.outcome, "cases": len(row.results)} for row in clause_rows(run)
        },
        "bounds_used": {row.op: {"used": row.used, "case": row.worst} for row in op_rows(run)},
        "failures": [r.case.id for r in failed(run.results)] + [p.name for p in broken(run.properties)],
    }
