"""report.jsonl: a header, a line for each case and each property, a footer with the counts.

Lines are JSON in ASCII. Infinite numbers are written as null.
"""

import json
import math
import os
import platform
from collections import Counter
from typing import Any

from conformance.cases.profiles import profiles_of_case
from conformance.judge.harness import Failure, Result
from conformance.judge.judgement import REVISION, PropertyResult, Run

__all__ = ["VERSION", "report_lines"]

VERSION = 2
"""Version of the format of report.jsonl and summary.json."""


def report_lines(run: Run) -> str:
    """Return the text of report.jsonl."""
    rows = [header(run), *(case_row(r) for r in run.results), *(property_row(p) for p in run.properties), footer(run)]
    return "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)


def header(run: Run) -> dict[str, Any]:
    """Return the header of a report: port, kit, host, options and verdict."""
    return {
        "type": "header",
        "report": VERSION,
        "spec": REVISION.split("-", maxsplit=1)[0],
        "kit": REVISION,
        "spec_sha256": run.spec_sha256,
        "kit_sha256": run.kit_sha256,
        "seed": run.seed,
        "fresh": run.fresh,
        "deterministic": run.deterministic,
        "zstd": run.zstd,
        "port": run.port,
        "host": {
            "system": platform.system(),
            "machine": platform.machine(),
            "processors": os.cpu_count(),
            "python": platform.python_version(),
        },
        "options": {
            "profiles": list(run.profiles),
            "classes": list(run.classes),
            "filtered": run.filtered,
            "command": run.command,
        },
        "complaints": run.complaints,
        "started": run.started,
        "seconds": round(run.seconds, 3),
        "verdict": verdict_row(run),
    }


def verdict_row(run: Run) -> dict[str, Any]:
    """Return the verdict of a run as a dict, with the profiles that could be claimed."""
    verdict = run.verdict()
    return {
        "line": verdict.line,
        "conformant": verdict.conformant,
        "met": verdict.met,
        "reasons": list(verdict.reasons),
        "claimable": list(verdict.claimable),
        "classes": {name: list(run.classes_of(name)) for name in verdict.claimable},
        "badge": verdict.badge,
        "status": int(verdict.status),
    }


def case_row(result: Result) -> dict[str, Any]:
    """Return the line of a case."""
    case = result.case
    return {
        "type": "case",
        "id": case.id,
        "op": case.op,
        "clauses": list(case.clauses),
        "profiles": sorted(profiles_of_case(case)),
        "outcome": result.outcome,
        "ran": result.ran,
        "ratio": _finite(result.ratio),
        "seconds": round(result.seconds, 6),
        "reason": result.reason,
        "skipped": result.skipped,
        "waived": result.waived,
        "failures": [_failure_row(f) for f in result.failures],
    }


def _failure_row(failure: Failure) -> dict[str, Any]:
    return {
        "variant": failure.variant,
        "output": failure.output,
        "status": failure.status,
        "detail": failure.detail,
        "ratio": _finite(failure.ratio),
    }


def property_row(one: PropertyResult) -> dict[str, Any]:
    """Return the line of a property."""
    return {
        "type": "property",
        "id": one.name,
        "clauses": list(one.clauses),
        "profile": one.profile,
        "outcome": one.status,
        "examples": one.examples,
        "seconds": round(one.seconds, 6),
        "skipped": one.skipped,
        "failure": one.failure,
        "waived": one.waived,
        "artifact": None if one.artifact is None else one.artifact.name,
        "counts": one.counts,
        "asked_new": list(one.asked_new),
    }


def footer(run: Run) -> dict[str, Any]:
    """Return the footer: the counts of the lines before it."""
    verdict = run.verdict()
    return {
        "type": "footer",
        "cases": len(run.results),
        "properties": len(run.properties),
        "outcomes": dict(run.outcomes()),
        "property_outcomes": dict(Counter(p.status for p in run.properties)),
        "passed": verdict.passed,
        "failed": verdict.failed,
        "skipped": verdict.skipped,
    }


def _finite(ratio: float) -> float | None:
    return float(ratio) if math.isfinite(ratio) else None
