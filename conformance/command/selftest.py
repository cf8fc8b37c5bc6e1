"""The self-test of the kit: mutants are refused, null ports are never conformant, comparators are exact.

    python -m conformance.command.selftest [--page PATH] [--write] [--jobs N] [--only GLOB]

--page writes the kill matrix as a page, --write the signatures and margins (`signatures.json` and `margins.json` in
`conformance/registry`). --only tests the mutants and null ports that it matches, and writes nothing. The exit status is
0 if everything is as it should be, 1 if not, and 2 for arguments that do not go together.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np

from conformance.cases.case import Bound, load_all
from conformance.cases.compare import compare, tau
from conformance.cases.signatures import SIGNATURES, signatures
from conformance.report.progress import tell_pace
from conformance.wrong import margins
from conformance.wrong.kills import Matrix, kill_matrix
from conformance.wrong.mutants import CONTROLS, MUTANTS
from conformance.wrong.nulls.expected import EXPECTED, complaints, judged
from formats.atomic import write_file

__all__ = ["Matrix", "comparators", "kill_matrix", "main", "page", "signatures_text"]


def comparators() -> list[str]:
    """Return a line for each wrong verdict of a comparator: at and on both sides of a bound, on NaN, on infinities."""
    faults = []
    for dtype, unit in (("float64", 2.0**-53), ("float32", 2.0**-24)):
        # the gauge is a power of two, so that an error in the dtype can equal the bound exactly
        limit = tau(0) * unit * 2.0**20
        bound = Bound(np.array([2.0**20]), 0)
        want = np.zeros(1)
        for error, passes in (
            (limit, True),
            (
                math.nextafter(limit, 0)
                if dtype == "float64"
                else float(np.nextafter(np.float32(limit), np.float32(0))),
                True,
            ),
            (float(np.nextafter(np.array(limit, dtype), np.array(math.inf, dtype))), False),
            (-limit, True),
            (math.nan, False),
            (math.inf, False),
        ):
            answer = np.array([error], dtype=dtype)
            if compare(answer, want, "gauge", dtype, bound).passed != passes:
                faults.append(f"gauge {dtype}: an error of {error!r} where {limit!r} is allowed")
        relative = 1e-9 if dtype == "float64" else 1e-4
        for error, passes in ((relative * 0.99, True), (relative * 1.01, False), (math.nan, False)):
            answer = np.array([1.0 + error], dtype=dtype)
            if compare(answer, np.ones(1), "relative", dtype).passed != passes:
                faults.append(f"relative {dtype}: an error of {error!r}")
        faults += _exactly(dtype)
    return faults


def _exactly(dtype: str) -> list[str]:
    """Return a line for each wrong verdict of exact and value: on zeros, NaN, infinities, empty and unlike arrays."""
    zero, minus, one = np.zeros(1, dtype), -np.zeros(1, dtype), np.ones(1, dtype)
    none, nan = np.zeros((0, 3), dtype), np.full(1, np.nan, dtype)
    next_one = np.nextafter(one, 2 * one)
    rows: list[tuple[str, object, object, bool]] = [
        ("exact", one, np.ones(1), True),
        ("exact", next_one, np.ones(1), False),
        ("exact", minus, np.zeros(1), False),
        ("value", minus, np.zeros(1), True),
        ("value", next_one, np.ones(1), False),
        ("exact", nan, np.full(1, np.nan), False),
        ("exact", np.full(1, np.inf, dtype), np.full(1, np.inf), True),
        ("exact", none, np.zeros((0, 3)), True),
        ("exact", np.zeros((3, 0), dtype), np.zeros((0, 3)), False),
        ("exact", zero, np.zeros((1, 1)), False),
        ("exact", one.astype(np.float16), np.ones(1), False),
        ("exact", [], np.zeros(0), False),
        ("exact", None, np.zeros(0), False),
    ]
    return [
        f"{how} {dtype}: {answer!r} beside {want!r}"
        for how, answer, want, passes in rows
        if compare(answer, want, how, dtype).passed != passes  # type: ignore[arg-type]
    ]


def signatures_text(matrix: Matrix) -> str:
    """Return the text of the file of signatures, one case per line."""
    rows = [
        f" {json.dumps(case)}: {json.dumps(names, ensure_ascii=False)}" for case, names in matrix.signatures().items()
    ]
    return "{\n" + ",\n".join(rows) + "\n}\n"


def page(matrix: Matrix) -> str:
    """Return the kill matrix as a page in Markdown."""
    killed = sum(bool(kills) for kills in matrix.kills.values())
    shown = sum(bool(names) for names in matrix.shown.values())
    lines = [
        "# Which mistakes the kit refuses",
        "",
        f"The kit kills {killed} of {len(MUTANTS)} mutants.",
        "A mutant is our engine with one operation replaced by a plausible mistake.",
        "It is killed if, for each clause that it breaks, a case of that clause refuses it.",
        "Some mistakes show only on inputs that are too large for a frozen case: a property counts as a case there.",
        f"Of {len(matrix.shown)} clauses of level MUST {shown} have a killed mutant.",
        f"{len(matrix.idle)} of {matrix.n_cases} cases kill none: they are listed at the end as unproven.",
        "",
        "![Mutants by operation, and how many cases refuse each](kill-matrix.svg)",
        "",
        "`python -m conformance.command.selftest --write --page docs/results/kill-matrix.md` judges them anew.",
        "That takes ten minutes on two cores.",
        "`conformance/registry/signatures.json` says which mutants each case refuses; a test makes this page from it.",
        "`python docs/figures/results.py` draws the picture.",
        "",
        "## Mutants",
        "",
        "| operation | mistake | clauses | cases that refuse it |",
        "|---|---|---|---|",
    ]
    cell = {m.name: m.flaw.replace("|", "\\|") for m in MUTANTS}
    lines += [f"| `{m.op}` | {cell[m.name]} | {' '.join(m.clauses)} | {len(matrix.kills[m.name])} |" for m in MUTANTS]
    lines += ["", "## Clauses without a killed mutant", "", "| clause | why |", "|---|---|"]
    lines += [f"| {clause} | {reason or 'NO REASON'} |" for clause, reason in matrix.reasons.items()]
    lines += ["", f"## Cases that kill no mutant ({len(matrix.idle)})", "", "| area | cases |", "|---|---|"]
    areas: dict[str, list[str]] = {}
    for case in matrix.idle:
        area, name = case.split(".", 1)
        areas.setdefault(area, []).append(name)
    lines += [f"| {area} | {', '.join(names)} |" for area, names in areas.items()]
    return "\n".join(lines) + "\n"


def _nulls(modes: Iterable[str]) -> list[str]:
    faults = []
    for mode in modes:
        run = judged(mode)
        outcomes = ", ".join(sorted({r.outcome for r in run.results}))
        wrong = complaints(mode, run)
        faults += wrong
        print(f"  {'WRONG' if wrong else 'ok':5} {mode:18} {outcomes}")
    return faults


def _signatures_of(mutants: Iterable[str]) -> dict[str, list[str]]:
    """Return case -> those of some mutants that it kills, from the file of signatures."""
    names = set(mutants)
    table = {case: [name for name in killed if name in names] for case, killed in signatures().items()}
    return {case: killed for case, killed in table.items() if killed}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the self-test and return its exit status."""
    parser = argparse.ArgumentParser(prog="self-test", description=__doc__.splitlines()[0])
    parser.add_argument("--page", type=Path, metavar="PATH", help="write the kill matrix as a page")
    parser.add_argument("--write", action="store_true", help="write the signatures and margins in conformance/registry")
    parser.add_argument("--jobs", type=int, metavar="N", help="processes for the matrix; one a core unless told")
    parser.add_argument("--only", metavar="GLOB", help="test the mutants and null ports that GLOB matches")
    options = parser.parse_args(arguments)
    start = time.monotonic()
    only: str | None = options.only
    mutants = [m for m in MUTANTS if only is None or fnmatchcase(m.op, only) or fnmatchcase(m.name, only)]
    modes = [mode for mode in EXPECTED if only is None or fnmatchcase(mode, only)]
    if only is not None and (options.write or options.page is not None):
        print(f"self-test: --only {only} leaves mutants out, and --page and --write need all", file=sys.stderr)
        return 2
    if not mutants and not modes:
        print(f"self-test: --only {only} matches no operation or name of a mutant, and no null port", file=sys.stderr)
        return 2
    faults = comparators()
    print(f"comparators: {len(faults)} wrong")
    print(f"null ports: {len(modes)}")
    faults += _nulls(modes)
    with tell_pace("mutants", lambda line: print(line, file=sys.stderr), len(mutants)) as advance:
        matrix = kill_matrix(options.jobs, mutants, advance)
    faults += matrix.complaints() if only is None else matrix.survivors()
    text = signatures_text(matrix)
    if options.write:
        SIGNATURES.write_text(text, encoding="utf-8", newline="\n")
        rows = margins.margins_of(matrix, load_all())
        margins.MARGINS.write_text(margins.text(rows), encoding="utf-8", newline="\n")
        faults += margins.too_narrow(rows, margins.allowed())
    elif (
        matrix.signatures() != _signatures_of(matrix.kills)
        if only is not None
        else text != SIGNATURES.read_text(encoding="utf-8")
    ):
        faults.append(f"{SIGNATURES.name} is not what the matrix gives; write it anew with --write")
    if options.page is not None:
        write_file(options.page, page(matrix).encode())
    killed = sum(bool(kills) for kills in matrix.kills.values())
    print(f"mutants: {killed} of {len(mutants)} killed, by all but {len(matrix.idle)} of {matrix.n_cases} cases")
    for line in faults:
        print(f"WRONG {line}")
    print(f"{len(faults)} wrong, {len(CONTROLS)} controls in the tests, {time.monotonic() - start:.0f} s")
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
