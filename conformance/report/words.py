"""Makes text from a port safe to show, because it may be hostile, or a megabyte long."""

import math
from dataclasses import replace
from typing import Any

from conformance.judge.harness import Result
from conformance.judge.judgement import Run
from conformance.report import visible as foreign

__all__ = ["LONGEST", "clip", "plain", "tidy", "visible"]

LONGEST = 4000
"""The most characters of a text that a report keeps."""
_SHORT = 300
_DEEPEST = 6


def visible(text: str) -> str:
    r"""Return a text whose hidden characters are written out, ``\x1b`` for escape."""
    return foreign.visible(text, keep="\t\n")


def clip(text: str, most: int = LONGEST) -> str:
    """Return a text cut to `most` characters; if it was longer, its length is appended."""
    if len(text) <= most:
        return visible(text)
    return f"{visible(text[:most])} ... ({len(text)} characters)"


def plain(value: Any, depth: int = 0) -> Any:
    """Return a value that `json` can write, with its texts clipped and deep or long parts cut."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int) and abs(value) < 1 << 63:
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(value)
    if isinstance(value, dict | list | tuple) and depth < _DEEPEST:
        if isinstance(value, dict):
            return {clip(str(k), _SHORT): plain(v, depth + 1) for k, v in list(value.items())[:_SHORT]}
        return [plain(v, depth + 1) for v in value[:_SHORT]]
    return clip(value if isinstance(value, str) else type(value).__name__, _SHORT)


def tidy(run: Run) -> Run:
    """Return a copy of a run in which every text is safe to show."""
    return replace(
        run,
        chosen={clip(name, _SHORT): n for name, n in run.chosen.items()},
        port=plain(run.port),
        results=[_result(r) for r in run.results],
        properties=[
            replace(
                p,
                failure=clip(p.failure),
                skipped=clip(p.skipped, _SHORT),
                waived=clip(p.waived, _SHORT),
                name=clip(p.name, _SHORT),
            )
            for p in run.properties
        ],
        filtered=clip(run.filtered, _SHORT),
        complaints=[clip(c, _SHORT) for c in run.complaints],
        command=[clip(c, _SHORT) for c in run.command],
    )


def _result(result: Result) -> Result:
    failures = [
        replace(f, variant=clip(f.variant, _SHORT), output=clip(f.output, _SHORT), detail=clip(f.detail))
        for f in result.failures
    ]
    skipped, waived = clip(result.skipped, _SHORT), clip(result.waived, _SHORT)
    return replace(result, failures=failures, skipped=skipped, waived=waived)
