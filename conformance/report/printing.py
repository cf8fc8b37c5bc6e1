"""Prints a run on the terminal: counts, failures, hints and the verdict."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from rich.table import Table

from conformance import report
from conformance.cases.ops import PROFILES
from conformance.cases.signatures import signatures
from conformance.judge.harness import Result
from conformance.judge.hints import alike, hints
from conformance.judge.judgement import Run
from conformance.properties.artifacts import read as read_artifact
from conformance.report.terminal import Terminal

__all__ = ["print_run"]

Mistakes = Callable[[], Mapping[str, Sequence[str]]]
FEW = 6
"""If at most this many properties were not tried, they are printed with their reasons."""


def print_run(run: Run, console: Terminal, mistakes: Mistakes) -> None:
    """Print a run on the terminal: counts, failures, hints and the verdict.

    mistakes  returns the clauses that each mutant breaks, by its name; called only if a hint names a mutant
    """
    _print_counts(run, console)
    printed: set[str] = set()
    for result in _plainest_first([r for r in run.results if r.failures and not r.waived]):
        console.print("\n".join(["", *report.explain(result, run.clauses, printed)]))
        again = f"  whole: seft verify ask {result.case.id} {' '.join(run.command)}"
        console.print(again.rstrip())
    _print_properties(run, console, printed)
    for line in [*hints(run.results), *_alike(run, mistakes)]:
        console.print(line)
    if run.quick:
        console.print(run.quick)
    for text in run.complaints:
        console.print(f"FAILED expectation: {text}")
    text = ", ".join(f"{n} {outcome}" for outcome, n in sorted(run.outcomes().items()))
    if run.properties:
        text += f" of cases; {sum(one.status == 'passed' for one in run.properties)} properties pass"
    console.print(f"{run.name}: {text}; seed {run.seed}; {run.seconds:.0f} s")
    console.print(run.verdict().line)


def _plainest_first(failed: list[Result]) -> list[Result]:
    """Return failed cases by operation, those with the fewest clauses and the smallest inputs first."""
    order = {op: i for i, op in enumerate(dict.fromkeys(r.case.op for r in failed))}

    def size(result: Result) -> tuple[int, int, int]:
        case = result.case
        return order[case.op], len(case.clauses), sum(len(report.whole_text(value)) for value in case.inputs.values())

    return sorted(failed, key=size)


def _alike(run: Run, mistakes: Mistakes) -> list[str]:
    """Return a line for each operation whose failed cases are nearly those that mutants fail."""
    mutants = alike(run.results, signatures())
    if not mutants:
        return []
    clauses, lines = mistakes(), []
    for op, names in mutants.items():
        flaws = "; ".join(f"{name.partition(': ')[2]} ({', '.join(clauses[name])})" for name in names)
        lines.append(f"{op} fails in the cases in which known mistakes do, and may have another: {flaws}")
    return lines


def _print_counts(run: Run, console: Terminal) -> None:
    table = Table(box=None, pad_edge=False)
    table.add_column("profile")
    for name in ("passed", "failed", "skipped", "bound used"):
        table.add_column(name, justify="right")
    for profile in PROFILES:
        mine = run.of_profile(profile)
        if mine:
            n = [sum(r.status == status for r in mine) for status in ("passed", "failed", "skipped")]
            used = max(r.ratio for r in mine)
            table.add_row(profile, str(n[0]), str(n[1] or ""), str(n[2] or ""), f"{used:.0%}" if used else "")
    console.print(table)


def _print_properties(run: Run, console: Terminal, printed: set[str]) -> None:
    behind = [one.name for one in run.properties if one.outcome == "blocked"]
    if behind:
        console.print(f"properties that were not tried, as what they ask fails already: {', '.join(behind)}")
    absent = [one for one in run.properties if one.outcome == "unsupported"]
    if absent:
        names = [f"{one.name} ({one.skipped})" if len(absent) <= FEW else one.name for one in absent]
        console.print(f"properties that need operations that are not offered: {', '.join(names)}")
    untried = Counter(one.skipped for one in run.properties if one.outcome == "notrun")
    many = {reason: n for reason, n in untried.items() if n > FEW}
    for reason, n in many.items():
        console.print(f"{n} properties were not tried: {reason}")
    for one in run.properties:
        if one.counts:
            console.print(f"{one.name}: {one.told}")
        if one.status == "passed" or one.waived or one.outcome in ("unsupported", "blocked") or one.skipped in many:
            continue
        first, *trace = (one.failure or one.skipped).split("\n")
        console.print(f"{one.status.upper()} {one.name}: {first}")
        if one.artifact is not None:
            (*_, smallest) = read_artifact(one.artifact)
            inputs = {name: value for name, value in smallest.inputs.items() if value is not None}
            lines = [f"  has to hold for all inputs: {one.text} ({' '.join(one.clauses)})"]
            lines += [f"  {name} = {report.whole_text(value)}" for name, value in inputs.items()]
            lines.append(f"  replay it: seft verify replay {one.artifact} {run.command[0]}")
            lines += report.texts_of(one.clauses, run.clauses, printed)
            console.print("\n".join(lines))
        for line in trace:
            console.print(f"    {line}")
