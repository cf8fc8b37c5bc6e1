"""report.html: a page in one file that loads no other files and needs no scripts."""

from collections import Counter
from pathlib import Path

from conformance.judge.judgement import REVISION, Run
from conformance.report.markup import Markup, join, tag
from conformance.report.page_clauses import clause_matrix
from conformance.report.page_failures import failure_cards
from conformance.report.summary import MARGINAL, OUTCOMES, broken, failed, op_rows, profile_rows

__all__ = ["page"]

_REASONS = 12
_STYLE = Path(__file__).parent / "style.css"


def page(run: Run) -> str:
    """Return the text of report.html."""
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", f"{run.name}: {run.verdict().line}"),
        tag("style", Markup("\n" + _STYLE.read_text(encoding="utf-8"))),
    )
    main = tag(
        "main",
        tag("h1", f"SEFT conformance report of {run.name}"),
        _verdict(run),
        _tiles(run),
        _contents(run),
        _facts(run),
        _profiles(run),
        failure_cards(run),
        _tolerance(run),
        _not_judged(run),
        clause_matrix(run),
    )
    return f'<!DOCTYPE html>\n<html lang="en">\n{head}\n<body>{main}</body>\n</html>\n'


def _verdict(run: Run) -> Markup:
    verdict = run.verdict()
    kind = "good" if verdict.conformant else "mild" if verdict.met else "bad"
    word, _, rest = verdict.line.partition(": ")
    lines = [tag("li", reason) for reason in verdict.reasons[:_REASONS]]
    if len(verdict.reasons) > _REASONS:
        lines.append(tag("li", f"and {len(verdict.reasons) - _REASONS} more"))
    basis = tag("p", f"SPEC {REVISION.split('-', maxsplit=1)[0]}, kit {REVISION}", class_="soft")
    shown = join(tag("ul", *lines), basis) if lines else tag("p", rest)
    return tag("div", tag("strong", word), shown, class_=f"verdict {kind}")


def _tiles(run: Run) -> Markup:
    verdict = run.verdict()
    tiles = [
        tag("div", tag("b", str(n)), name, class_="tile bad" if name == "failed" and n else "tile")
        for n, name in ((verdict.passed, "passed"), (verdict.failed, "failed"), (verdict.skipped, "skipped"))
    ]
    return tag("div", *tiles, class_="tiles")


def _contents(run: Run) -> Markup:
    parts = [("profiles", "Profiles"), ("tolerance", "Tolerance"), ("unjudged", "Not judged"), ("clauses", "Clauses")]
    n = len(failed(run.results)) + len(broken(run.properties)) + len(run.complaints)
    if n:
        parts.insert(1, ("failures", f"{n} failures"))
    return tag("nav", *(tag("a", text, href=f"#{name}") for name, text in parts))


def _facts(run: Run) -> Markup:
    facts = {
        "Port": ", ".join(f"{k} {v}" for k, v in run.port.items() if isinstance(v, str | int)),
        "Classes": ", ".join(run.classes),
        "Command": " ".join(run.command),
        "Started": f"{run.started}, took {run.seconds:.1f} s" if run.started else f"took {run.seconds:.1f} s",
        "Seed": f"{run.seed}{'' if run.fresh else ' (given, not drawn)'}",
        "Left out": run.filtered,
        "SPEC.md": run.spec_sha256,
        "Cases": run.kit_sha256,
    }
    code = ("Command", "Seed", "SPEC.md", "Cases")
    rows = [
        join(tag("dt", name), tag("dd", tag("code", text) if name in code else text))
        for name, text in facts.items()
        if text
    ]
    return tag("dl", *rows, class_="facts")


def _profiles(run: Run) -> Markup:
    rows = profile_rows(run)
    shown = [name for name in OUTCOMES if any(row.outcomes[name] for row in rows)]
    numbers = ["cases", *shown]
    heads = [tag("th", "profile"), tag("th", "holds"), *(tag("th", name, class_="n") for name in numbers)]
    if any(row.properties for row in rows):
        heads.append(tag("th", "properties"))
    body = []
    for row in rows:
        mark = tag("span", "yes", class_="mark passed") if row.holds else tag("span", "no", class_="mark failed")
        cells = [tag("td", tag("b", row.name)), tag("td", mark), tag("td", str(row.cases), class_="n")]
        cells += [tag("td", str(row.outcomes[name] or ""), class_="n") for name in shown]
        if len(heads) > len(cells):
            cells.append(tag("td", ", ".join(f"{n} {status}" for status, n in sorted(row.properties.items()))))
        body.append(tag("tr", *cells))
    table = (
        tag("div", tag("table", tag("tr", *heads), *body), class_="scroll") if rows else tag("p", "None was asked for.")
    )
    return join(tag("h2", "Profiles", id="profiles"), table)


def _tolerance(run: Run) -> Markup:
    rows = op_rows(run)
    used = [row for row in rows if row.used]
    bars = []
    for row in used:
        kind = "fill mild" if row.marginal else "fill"
        fill = tag("div", class_=kind, style=f"width:{100 * min(row.used, 1):.1f}%")
        track = tag("div", fill, tag("div", class_="limit"), class_="track")
        number = "under 1%" if row.used < 0.01 else f"{row.used:.0%}"
        shown = tag("div", f"{number}{' high' if row.marginal else ''}", class_="n", title=row.worst)
        bars += [tag("div", row.op, class_="op", title=f"most by {row.worst}"), track, shown]
    marginal = [row for row in used if row.marginal]
    text = f"The most of its bound that a passing answer used, by operation; the dashed line is {MARGINAL:.0%}."
    if len(rows) > len(used):
        text += f" {len(rows) - len(used)} more operations with a bound used none of it."
    parts = [tag("h2", "How much of the tolerance was used", id="tolerance"), tag("p", text, class_="soft")]
    if marginal:
        worst = ", ".join(f"{row.op} ({row.worst})" for row in marginal)
        parts.append(tag("p", tag("b", f"Above {MARGINAL:.0%}: "), worst))
    return join(*parts, tag("div", *bars, class_="bars"))


def _not_judged(run: Run) -> Markup:
    groups: Counter[tuple[str, str]] = Counter()
    for r in run.results:
        if r.outcome in ("unsupported", "blocked", "notrun", "waived"):
            groups[r.outcome, r.waived or r.skipped] += 1
    for p in run.properties:
        if p.status == "skipped":
            groups["waived" if p.waived else "property skipped", p.waived or p.skipped] += 1
        if p.counts:
            groups["counted", f"{p.name}: {p.told}"] += 1
    head = tag("h2", "Not judged, or forgiven", id="unjudged")
    if not groups:
        return join(head, tag("p", "Nothing."))
    lines = [
        tag("li", tag("span", kind, class_="mark waived" if kind == "waived" else "mark none"), f" {n} × {why}")
        for (kind, why), n in sorted(groups.items())
    ]
    return join(head, tag("ul", *lines, style="padding-left:20px;overflow-wrap:anywhere"))
