"""The part of report.html about the clauses of SPEC.md: a map of all, then level, text, cases and outcome of each."""

from collections import Counter

from conformance.judge.judgement import Run
from conformance.report.markup import Markup, join, sentence, tag
from conformance.report.summary import ClauseRow, chapter_of, clause_rows

__all__ = ["clause_matrix"]

_SIGNS = {
    "passed": ("✓", "every case of this run that shows it passed"),
    "failed": ("✗", "a case or property that shows it failed"),
    "waived": ("w", "a failure was forgiven"),
    "partly": ("½", "some cases passed, the rest was not judged"),
    "not judged": ("?", "no case of it could be judged"),
    "not asked": ("·", "no case of it belongs to what was asked"),
    "no case": ("–", "no case can show it"),
}


def clause_matrix(run: Run) -> Markup:
    """Return the map of clauses and the clauses themselves, by chapter."""
    chapters: dict[str, list[ClauseRow]] = {}
    for row in clause_rows(run):
        chapters.setdefault(chapter_of(row.id), []).append(row)
    counts = Counter(row.outcome for rows in chapters.values() for row in rows)
    legend = [
        tag("span", _cell(name), f" {counts[name]} {name}", title=meaning)
        for name, (_, meaning) in _SIGNS.items()
        if counts[name]
    ]
    cells = []
    for title, rows in chapters.items():
        squares = [_square(row) for row in rows]
        cells += [tag("div", title, class_="area"), tag("div", *squares, class_="cells")]
    return join(
        tag("h2", "Clauses", id="clauses"),
        tag(
            "p",
            "Every clause of SPEC.md, and how the cases and properties of this run that show it came out.",
            class_="soft",
        ),
        tag("div", *legend, class_="legend"),
        tag("div", *cells, class_="map"),
        *(_chapter(title, rows) for title, rows in chapters.items()),
    )


def _square(row: ClauseRow) -> Markup:
    sign, title = _SIGNS[row.outcome][0], f"{row.id} {row.outcome}"
    return tag("a", sign, href=f"#{row.id}", class_=_cell_class(row.outcome), title=title)


def _cell(outcome: str) -> Markup:
    return tag("span", _SIGNS[outcome][0], class_=_cell_class(outcome))


def _cell_class(outcome: str) -> str:
    return f"cell {outcome}" if outcome in ("passed", "failed", "waived", "partly") else "cell"


def _chapter(title: str, rows: list[ClauseRow]) -> Markup:
    counts = Counter(row.outcome for row in rows)
    outcomes = ", ".join(f"{counts[name]} {name}" for name in _SIGNS if counts[name])
    head = tag("summary", f"{title}: ", tag("span", f"{len(rows)} clauses, {outcomes}", class_="soft"))
    attributes = {"open": "open"} if set(counts) - {"not asked", "no case"} else {}
    return tag("details", head, *(_clause(row) for row in rows), class_="group", **attributes)


def _clause(row: ClauseRow) -> Markup:
    kind = row.outcome if row.outcome in ("passed", "failed", "waived", "partly") else "none"
    n, m = len(row.results), len(row.properties)
    shown = f"{n} case{'' if n == 1 else 's'}" if n == row.known else f"{n} of {row.known} cases"
    shown += f", {m} propert{'y' if m == 1 else 'ies'}" if m else ""
    head = tag(
        "summary",
        tag("b", row.id),
        tag("span", row.level, class_="level soft"),
        tag("span", shown, class_="soft num"),
        tag("span", row.outcome, class_=f"mark {kind}"),
    )
    parts = [tag("p", sentence(row.text))]
    if row.reason:
        parts.append(tag("p", row.reason, class_="soft"))
    by_outcome: dict[str, list[str]] = {}
    for result in row.results:
        by_outcome.setdefault(result.outcome, []).append(result.case.id)
    for one in row.properties:
        by_outcome.setdefault(f"property {one.status}", []).append(one.name)
    parts += [tag("p", tag("span", f"{name}: ", class_="soft"), ", ".join(ids)) for name, ids in by_outcome.items()]
    return tag("details", head, tag("div", *parts), class_="clause", id=row.id)
