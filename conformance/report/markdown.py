"""summary.md: the verdict, the profiles and the first failures, for the summary of a CI job."""

import re
from collections.abc import Sequence

from conformance.cases.clauses import SPEC
from conformance.judge.judgement import REVISION, Run
from conformance.report.shown import detail_text
from conformance.report.summary import OUTCOMES, broken, failed, op_rows, profile_rows, repeat_command
from conformance.report.words import clip

__all__ = ["markdown"]

_MOST = 20
_ACTIVE = re.compile(r"([\\`*_\[\]<>|&~])")


def markdown(run: Run) -> str:
    """Return the text of summary.md."""
    verdict = run.verdict()
    lines = [
        f"# {_text(run.name)}: {_text(verdict.line)}",
        "",
        f"{verdict.passed} passed, {verdict.failed} failed, {verdict.skipped} skipped.",
        f"{SPEC.name} {run.spec_sha256[:12]}, kit {REVISION} {run.kit_sha256[:12]}, seed {_code(run.seed or 'none')}.",
        "",
    ]
    reasons = verdict.reasons
    lines += [f"- {_text(reason)}" for reason in reasons[:_MOST]] + _more(reasons) + [""] * bool(reasons)
    shown = [name for name in OUTCOMES if run.outcomes()[name]]
    if run.profiles:
        heads = ["profile", "cases", *shown, "properties", "holds"]
        lines += ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for row in profile_rows(run):
        properties = ", ".join(f"{n} {status}" for status, n in sorted(row.properties.items()))
        cells = [_text(row.name), str(row.cases), *(str(row.outcomes[name] or "") for name in shown)]
        lines.append("| " + " | ".join([*cells, properties, "yes" if row.holds else "no"]) + " |")
    lines += [""] * bool(run.profiles)
    marginal = [row for row in op_rows(run) if row.marginal]
    lines += [f"- {_code(row.op)} used {row.used:.0%} of its bound in {_code(row.worst)}" for row in marginal]
    lines += [""] * bool(marginal)
    counted = [p for p in run.properties if p.counts]
    lines += [f"- {_code(p.name)} counted {_text(p.told)}" for p in counted] + [""] * bool(counted)
    lines += _failures(run)
    return "\n".join(lines).rstrip("\n") + "\n"


def _failures(run: Run) -> list[str]:
    wrong, untrue = failed(run.results), broken(run.properties)
    lines = ["## Failures", ""] if wrong or untrue else []
    for result in wrong[:_MOST]:
        first = result.failures[0]
        detail = f"{first.variant}: {first.output} {detail_text(first).split(chr(10))[0]}"
        lines += [
            f"- **{_text(result.case.id)}** ({result.outcome}): {_text(result.case.purpose)}",
            f"  - {', '.join(result.case.clauses)}",
            f"  - {_text(clip(detail, 300))}",
            f"  - {_code(repeat_command(run, result.case))}",
        ]
    lines += _more(wrong)
    for one in untrue[:_MOST]:
        lines += [
            f"- **{_text(one.name)}** (property): {_text(one.text)}",
            f"  - {', '.join(one.clauses)}",
            f"  - {_text(clip(one.failure, 300))}",
        ]
    return lines + _more(untrue)


def _more(items: Sequence[object]) -> list[str]:
    return [f"- and {len(items) - _MOST} more"] if len(items) > _MOST else []


def _text(text: str) -> str:
    """Return a text that Markdown takes literally, on one line."""
    return _ACTIVE.sub(r"\\\1", " ".join(text.split())).replace("\\<", "&lt;").replace("\\>", "&gt;")


def _code(text: str) -> str:
    """Return a text as inline code, between more backticks than it has in a row."""
    line = " ".join(text.split())
    longest = max((len(run) for run in re.findall("`+", line)), default=0)
    fence = "`" * (longest + 1)
    pad = " " if longest else ""
    return f"{fence}{pad}{line}{pad}{fence}"
