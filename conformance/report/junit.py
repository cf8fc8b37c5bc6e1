"""junit.xml for CI systems, with a suite for each profile.

A wrong answer is a failure, a missing answer is an error. A case that was not judged, or is forgiven, is skipped.
"""

from collections import Counter
from xml.sax.saxutils import escape, quoteattr

from conformance.cases.ops import OPS
from conformance.judge.harness import Result
from conformance.judge.judgement import PropertyResult, Run
from conformance.report.words import clip, visible

__all__ = ["junit"]

_KINDS = {"fail": "failure", "error": "error", "crash": "error", "timeout": "error", "protocol": "error"}
_MESSAGE = 200


def junit(run: Run) -> str:
    """Return the text of junit.xml."""
    suites: dict[str, list[tuple[str, str, float]]] = {}
    for result in run.results:
        suites.setdefault(OPS[result.case.op].profile, []).append(_of_case(result))
    for one in run.properties:
        suites.setdefault(f"{one.profile} properties", []).append(_of_property(one))
    if run.complaints:
        suites["expected failures"] = [_of_complaint(text) for text in run.complaints]
    everything = [one for members in suites.values() for one in members]
    lines = ['<?xml version="1.0" encoding="UTF-8"?>', f"<testsuites{_counts(run.name, everything)}>"]
    for name, members in suites.items():
        stamp = f" timestamp={_quoted(run.started)}" if run.started else ""
        lines.append(f"  <testsuite{_counts(name, members)}{stamp}>")
        lines += [text for text, _, _ in members]
        lines.append("  </testsuite>")
    return "\n".join([*lines, "</testsuites>", ""])


def _counts(name: str, members: list[tuple[str, str, float]]) -> str:
    kinds = Counter(kind for _, kind, _ in members)
    seconds = sum(took for _, _, took in members)
    return (
        f' name={_quoted(name)} tests="{len(members)}" failures="{kinds["failure"]}" errors="{kinds["error"]}"'
        f' skipped="{kinds["skipped"]}" time="{seconds:.3f}"'
    )


def _of_case(result: Result) -> tuple[str, str, float]:
    case, kind = result.case, _KINDS.get(result.outcome, "")
    suite = f"{OPS[case.op].profile}.{case.op}"
    if kind:
        details = [f"{f.variant}: {f.output} {f.detail}".strip() for f in result.failures]
        body = "\n".join([f"meant to catch: {case.purpose}", f"clauses: {' '.join(case.clauses)}", *details])
        return _test(suite, case.id, result.seconds, kind, details[0], body, result.outcome)
    if result.outcome == "pass":
        return _test(suite, case.id, result.seconds)
    why = f"{result.outcome}: {result.waived or result.skipped}"
    return _test(suite, case.id, result.seconds, "skipped", why)


def _of_property(one: PropertyResult) -> tuple[str, str, float]:
    suite = f"{one.profile}.properties"
    if one.status == "failed":
        return _test(suite, one.name, one.seconds, "failure", one.failure, one.failure, "property")
    if one.status == "skipped":
        return _test(suite, one.name, one.seconds, "skipped", f"waived: {one.waived}" if one.waived else one.skipped)
    return _test(suite, one.name, one.seconds)


def _of_complaint(text: str) -> tuple[str, str, float]:
    return _test("expected failures", clip(text, 80), 0.0, "failure", text, text, "manifest")


def _test(
    classname: str, name: str, seconds: float, kind: str = "", message: str = "", body: str = "", what: str = ""
) -> tuple[str, str, float]:
    """Return the XML element of a test, its kind (failure, error, skipped or empty), and its seconds."""
    start = f'    <testcase classname={_quoted(classname)} name={_quoted(name)} time="{seconds:.6f}"'
    if not kind:
        return f"{start}/>", "", seconds
    short = _quoted(clip(message, _MESSAGE))
    if kind == "skipped":
        return f"{start}><skipped message={short}/></testcase>", kind, seconds
    inside = f"<{kind} message={short} type={_quoted(what)}>{escape(visible(body))}</{kind}>"
    return f"{start}>{inside}</testcase>", kind, seconds


def _quoted(text: str) -> str:
    return quoteattr(visible(text))
