"""Run all checks and benchmarks of a GPU: python -m benchmarks gpu

Checks: the conformance kit, products against their definition, training runs against those on the processor, and with
MPI two processes against one. Benchmarks: products against cuBLAS, torch and cuSPARSE, and memory. The results go to
docs/results/gpu.md. Exit status: 0 if every check held, 1 if one did not, 2 if there is no GPU.
"""

import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.gpu import HEAD, SHAPES, TOKENS, format_row, measure
from benchmarks.gpu_checks import Checked, check_kernels, check_kit, check_processes, check_runs, memory
from benchmarks.gpu_here import Gpu, the_gpu
from conformance.command.runner import EXAMPLES
from seft_cli import console
from seft_cli.output import require_file, write_file

PAGE = Path(__file__).resolve().parents[1] / "docs" / "results" / "gpu.md"
MARK = "<!-- what follows is written by tools/check_gpu.py -->\n"
"""The line of the page below which each run replaces the text."""
UNFINISHED = "**The run has not come to its end.**"
"""The last line of a page whose run is still going on or was killed."""


def main(
    page: Annotated[Path, typer.Option(help="Where the page goes.")] = PAGE,
    quick: Annotated[
        bool, typer.Option("--quick", help="One shape, two token counts, three rounds, two examples of a property.")
    ] = False,
) -> None:
    """Check and measure everything on this machine's GPU, and write each result to the page as soon as it is known."""
    require_file(page)
    gpu = the_gpu()
    kept, mark, _ = page.read_text(encoding="utf-8").partition(MARK) if page.is_file() else ("# The GPU\n\n", MARK, "")
    if not mark:
        raise console.Refused(f"{page} has no line {MARK.strip()}; add it where the results go, or name another --page")
    extent = (SHAPES[:1], (1, 128), 3, 2) if quick else (SHAPES, TOKENS, 7, EXAMPLES)
    lines, all_held = [], True
    for line, well in examined(gpu, "cupy", *extent):
        lines.append(line)
        all_held &= well
        _write(page, kept, [*lines, "", UNFINISHED])
    _write(page, kept, lines)
    console.out.print(f"{page}: {'all held' if all_held else 'NOT ALL HELD'}")
    if not all_held:
        raise typer.Exit(1)


def examined(
    gpu: Gpu, backend: str, shapes: tuple[tuple[int, int], ...], tokens: tuple[int, ...], n_rounds: int, examples: int
) -> Iterator[tuple[str, bool]]:
    """Yield the lines of the page about a device, each with whether its check held (True for plain text)."""
    versions = "; ".join(f"{k} {v}" for k, v in gpu.told.items())
    yield from _plain("", f"{datetime.now(UTC).date()}. {versions}.", "", "| checked | held | seen |", "|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        checks = chain(
            _guarded("products", lambda: check_kernels(gpu)),
            _guarded("runs", lambda: check_runs(gpu, Path(folder))),
            _guarded("processes", lambda: check_processes(Path(folder))),
            _guarded("kit", lambda: check_kit(backend, examples)),
        )
        for checked in checks:
            console.err.print(f"{checked.what}: {'held' if checked.held else 'FAILED'}, {checked.seen}")
            yield f"| {checked.what} | {'yes' if checked.held else '**no**'} | {checked.seen} |", checked.held
    yield from _plain(
        "",
        "## Memory",
        "",
        "Bytes a stored weight as packed, and MiB that a forward and a backward product of 512",
        f"tokens take besides; {shapes[0][0]} x {shapes[0][1]}, float32.",
        "",
        "| away | bytes | MiB |",
        "|---|---:|---:|",
    )
    rows = (f"| {pattern} | {size:.2f} | {besides:.1f} |" for pattern, size, besides in memory(gpu, shapes[0]))
    yield from _table("memory", rows)
    yield from _plain(
        "",
        "## Speed",
        "",
        "Every round runs every method; *dense / method* is the median of the rounds and their",
        "range. *ours by rows* is CSR whatever `pack` would choose; *dense* is cuBLAS by way of CuPy.",
        "",
        *HEAD,
    )
    yield from _table("speed", map(format_row, measure(gpu, shapes, tokens, n_rounds)))


def _plain(*lines: str) -> Iterator[tuple[str, bool]]:
    return ((line, True) for line in lines)


def _table(what: str, rows: Iterator[str]) -> Iterator[tuple[str, bool]]:
    """Yield the rows of a table; if an error ends them, a line says so and the rows before it stay."""
    try:
        for row in rows:
            console.err.print(row)
            yield row, True
    except (Exception, SystemExit) as error:  # noqa: BLE001  as in `_guarded`; a benchmark exits if a result is off
        console.err.print(f"{what}: FAILED, {_first(error)}")
        yield "", False
        yield f"**Broke off**: {_first(error)}", False


def _guarded(what: str, checks: Callable[[], Iterator[Checked]]) -> Iterator[Checked]:
    """Yield checks; one that raises counts as one that did not hold, so that the others still run."""
    try:
        yield from checks()
    except (Exception, SystemExit) as error:  # noqa: BLE001  whatever a driver or a library raises is a result
        yield Checked(what, False, _first(error))


def _first(error: BaseException) -> str:
    """Return the type of an error and the first line of its message."""
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"


def _write(page: Path, kept: str, lines: list[str]) -> None:
    write_file(page, (kept + MARK + "\n".join(lines) + "\n").encode())
