"""The command line of the kit: judge our engine clause by clause."""

import json
import sys
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from conformance import report
from conformance.cases import Case, load_all
from conformance.clauses import Clause, read_clauses
from conformance.coverage import Coverage, coverage, elsewhere
from conformance.harness import Result, Variant, run
from conformance.ops import OPS

__all__ = ["app", "main", "variants_of_engine"]

PASSED, FAILED, USAGE, KIT = 0, 1, 2, 4

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def variants_of_engine() -> list[Variant]:
    """Return how our engine is called: both dtypes, compiled kernels, a strict library on a foreign device."""
    from conformance.ports.engine import EnginePort, compiled_kernels, strict_like

    engine, arrays = EnginePort("engine"), ("rule", "layer", "whole")
    out = [Variant(engine, "float64"), Variant(engine, "float32", arrays)]
    compiled = compiled_kernels()
    if compiled is not None:
        port = EnginePort("engine with kernels.cpu", kernels=compiled)
        out += [Variant(port, dtype, ("layer", "whole")) for dtype in ("float64", "float32")]
    like = strict_like()
    if like is not None:
        out.append(Variant(EnginePort("engine on array-api-strict", like), "float32", ("rule", "layer")))
    return out


@app.command()
def verify(
    *,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write every result to FILE as JSON.")
    ] = None,
    only: Annotated[
        str | None,
        typer.Option(metavar="GLOB", help="Only cases that GLOB matches, by id or clause."),
    ] = None,
    show_list: Annotated[bool, typer.Option("--list", help="List clauses and cases; run nothing.")] = False,
) -> None:
    """Judge our engine by SPEC.md, clause by clause.

    Ends with a line "N passed, N failed, N skipped". Exit status: 0 nothing failed, 1 a check failed, 2 wrong use,
    4 the kit itself is broken or nothing ran.
    """
    console = Console(highlight=False, soft_wrap=True)
    if json_file is not None and not json_file.parent.is_dir():
        _stop(f"--json {json_file}: the folder {json_file.parent} does not exist; create it first", USAGE)
    try:
        clauses = read_clauses()
        cases = load_all()
        unknown = next((case for case in cases if case.op not in OPS), None)
        if unknown is not None:
            _stop(f"case {unknown.id} asks for {unknown.op}, which ops.py does not have", KIT)
        covered = coverage(clauses, cases, elsewhere())
    except Exception as error:  # noqa: BLE001  whatever is wrong with the kit's own files is the kit's fault
        _stop(f"the kit cannot be read: {type(error).__name__}: {error}", KIT)
    shown = list(covered.values())
    if only is not None:
        cases = [case for case in cases if report.matches(case, only)]
        shown = [c for c in shown if fnmatchcase(c.clause.id, only)]
        if not cases and not shown:
            _stop(f"--only {only!r} matches no case and no clause; --list shows what there is", USAGE)
    if show_list:
        _list(console, cases, shown)
        raise typer.Exit(PASSED)
    if not cases:
        _stop("no case ran: the vectors are empty, or what --only names has none; see --list", KIT)
    variants = variants_of_engine()
    results = run(cases, variants)
    _print(console, results, shown, clauses)
    if json_file is not None:
        whole = report.as_json(results, shown, [v.name for v in variants], only)
        text = json.dumps(whole, indent=1, allow_nan=False)
        json_file.write_text(text + "\n", encoding="utf-8")
    passed, failed, skipped = report.counts(results, shown)
    console.print(f"{passed} passed, {failed} failed, {skipped} skipped")
    raise typer.Exit(FAILED if failed else PASSED)


def _stop(line: str, status: int) -> NoReturn:
    print(f"verify: {line}", file=sys.stderr)
    raise typer.Exit(status)


def _list(console: Console, cases: Sequence[Case], shown: Sequence[Coverage]) -> None:
    for c in shown:
        how = f"{len(c.cases)} cases" if c.cases else c.reason or "NOT COVERED"
        console.print(Text(f"{c.clause.id} {c.clause.level}  {how}"))
    for case in cases:
        console.print(Text(f"{case.id}  {case.op}  {' '.join(case.clauses)}  {case.purpose}"))
    console.print(f"{len(shown)} clauses, {len(cases)} cases")


def _print(console: Console, results: Sequence[Result], shown: Sequence[Coverage], clauses: dict[str, Clause]) -> None:
    table = Table(box=None, pad_edge=False)
    table.add_column("area")
    for name in ("passed", "failed", "skipped", "bound used"):
        table.add_column(name, justify="right")
    for area, passed, failed, skipped, used in report.table_rows(results):
        table.add_row(area, str(passed), str(failed or ""), str(skipped or ""), f"{used:.0%}" if used else "")
    console.print(table)
    for result in results:
        if result.failures:
            console.print(Text("\n".join(["", *report.explain(result, clauses)])))
        elif result.skipped:
            console.print(Text(f"skipped {result.case.id}: {result.skipped}"))
    for c in shown:
        if not c.covered:
            console.print(Text(f"FAILED {c.clause.id}: no case, no test elsewhere and no reason; {c.clause.text}"))
        elif not c.cases:
            console.print(Text(f"skipped {c.clause.id}: {c.reason}"))


def main() -> int:
    """Run the command; the exit status."""
    try:
        status = app(standalone_mode=False)
    except Exception as error:
        # typer may bring its own click, so that the class of a usage error has no public name
        tell = getattr(error, "format_message", None)
        if tell is None:
            raise
        print(f"verify: {tell()} See --help.", file=sys.stderr)
        return USAGE
    return status if isinstance(status, int) else PASSED
