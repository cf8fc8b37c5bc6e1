"""The part of report.html about the failures: each with inputs, clauses, expected and actual output."""

import math
from collections import Counter
from collections.abc import Sequence

from conformance.judge.harness import Failure, Result
from conformance.judge.hints import hints
from conformance.judge.judgement import PropertyResult, Run
from conformance.report.markup import Markup, join, sentence, tag
from conformance.report.shown import detail_text, difference, first_index, value_text
from conformance.report.summary import broken, failed, repeat_command

__all__ = ["failure_cards"]

_OPEN, _MOST, _FEW = 3, 300, 2


def failure_cards(run: Run) -> Markup:
    """Return the section of complaints about the manifest and of failures; empty if there are none."""
    wrong, untrue = failed(run.results), broken(run.properties)
    if not (wrong or untrue or run.complaints):
        return Markup("")
    parts = [tag("h2", "Failures", id="failures")]
    if run.complaints:
        parts.append(tag("p", tag("b", "The expected-failure manifest does not fit this run:")))
        parts.append(tag("ul", *(tag("li", text) for text in run.complaints), style="overflow-wrap:anywhere"))
    if wrong:
        ops = Counter(r.case.op for r in wrong).most_common()
        counts = ", ".join(f"{op} {n}" for op, n in ops)
        parts.append(tag("p", f"{len(wrong)} cases of {len(ops)} operations: {counts}.", class_="soft"))
    parts += [tag("p", line, class_="like") for line in hints(run.results)]
    parts += [_card(run, r, at < _OPEN) for at, r in enumerate(wrong[:_MOST])]
    if len(wrong) > _MOST:
        parts.append(tag("p", f"{len(wrong) - _MOST} more are in report.jsonl."))
    parts += [_property_card(run, p) for p in untrue[:_MOST]]
    return join(*parts)


def _card(run: Run, result: Result, is_open: bool) -> Markup:  # noqa: FBT001  private
    case = result.case
    parts = [tag("p", tag("span", "meant to catch: ", class_="soft"), case.purpose)]
    parts += [_failure(result, failure) for failure in result.failures]
    parts += [_inputs(result, is_open), *_clauses(run, case.clauses)]
    parts.append(tag("p", tag("span", "once more: ", class_="soft"), tag("code", repeat_command(run, case))))
    head = tag(
        "summary",
        tag("span", result.outcome, class_="mark failed"),
        " ",
        tag("b", case.id),
        f" {case.op}: {' '.join(case.clauses)}",
    )
    return tag("details", head, tag("div", *parts), class_="card", **_open(is_open))


def _open(is_open: bool) -> dict[str, str]:  # noqa: FBT001  private
    return {"open": "open"} if is_open else {}


def _inputs(result: Result, is_open: bool) -> Markup:  # noqa: FBT001  private
    shown = {name: value_text(value) for name, value in result.case.inputs.items() if value is not None}
    rows = [
        join(tag("dt", name), tag("dd", tag("pre", text) if "\n" in text else tag("code", text)))
        for name, text in shown.items()
    ]
    head = tag("summary", f"Inputs ({len(rows)})")
    return tag("details", head, tag("dl", *rows, class_="facts"), class_="part", **_open(is_open))


def _clauses(run: Run, names: Sequence[str]) -> list[Markup]:
    rows = [
        join(tag("dt", tag("a", name, href=f"#{name}")), tag("dd", sentence(run.clauses[name].text)))
        for name in names
        if name in run.clauses
    ]
    head = tag("summary", f"Clauses ({', '.join(names)})")
    return [tag("details", head, tag("dl", *rows, class_="facts"), class_="part", **_open(len(rows) <= _FEW))]


def _failure(result: Result, failure: Failure) -> Markup:
    case = result.case
    head: list[str] = [tag("b", failure.variant)]
    if failure.output:
        head += [", output ", tag("code", failure.output)]
    if index := first_index(failure):
        head += [", first at ", tag("code", index)]
    if math.isfinite(failure.ratio):
        head.append(f", {failure.ratio:.3g} times the bound")
    parts = [tag("div", *head), tag("pre", detail_text(failure), class_="wrap")]
    if failure.output and failure.output in case.expected:
        want, answer = difference(failure, case.expected[failure.output])
        sides = [
            tag("div", tag("div", name, class_="k"), tag("pre", text))
            for name, text in (("expected", want), ("got", answer))
        ]
        parts.append(tag("div", *sides, class_="why pair"))
    return tag("div", *parts, class_="variant")


def _property_card(run: Run, one: PropertyResult) -> Markup:
    parts = [tag("p", tag("span", "has to hold for all inputs: ", class_="soft"), one.text)] if one.text else []
    parts += [tag("pre", one.failure, class_="wrap"), *_clauses(run, one.clauses)]
    if one.artifact is not None:
        parts.append(tag("p", tag("span", "kept in ", class_="soft"), tag("code", one.artifact.name)))
    head = tag(
        "summary", tag("span", "property", class_="mark failed"), " ", tag("b", one.name), f": {' '.join(one.clauses)}"
    )
    return tag("details", head, tag("div", *parts), class_="card")
