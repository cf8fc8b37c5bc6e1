"""Everything that a GPU has to show, in one go: python tools/check_gpu.py

The kit, products against their definition, training runs against the processor's, products beside cuBLAS, torch and
cuSPARSE, memory. Writes docs/gpu.md. Exit status: 0 all held, 1 something did not, 2 there is no GPU.
"""

import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Annotated

import _cli
import typer
from _gpu import Gpu, the_gpu
from _gpu_checks import Checked, check_kernels, check_kit, check_runs, memory
from _output import require_file, write_file
from bench_gpu import HEAD, SHAPES, TOKENS, format_row, measure

PAGE = Path(__file__).resolve().parents[1] / "docs" / "gpu.md"
MARK = "<!-- what follows is written by tools/check_gpu.py -->\n"
"""Line of the page up to which it stays as it is."""


def main(
    page: Annotated[Path, typer.Option(help="Where the page goes.")] = PAGE,
    quick: Annotated[bool, typer.Option("--quick", help="One shape, two token counts, three rounds.")] = False,
) -> None:
    """Check and measure everything on this machine's GPU, and write a page of it."""
    require_file(page)
    gpu = the_gpu()
    kept, mark, _ = page.read_text(encoding="utf-8").partition(MARK) if page.is_file() else ("# The GPU\n\n", MARK, "")
    if not mark:
        raise _cli.Refused(f"{page} has no line {MARK.strip()}; add it where the results go, or name another --page")
    text, held = examined(
        gpu, "cupy", SHAPES[:1] if quick else SHAPES, (1, 128) if quick else TOKENS, 3 if quick else 7
    )
    write_file(page, (kept + MARK + text).encode())
    _cli.out.print(f"{page}: {'all held' if held else 'NOT ALL HELD'}")
    if not held:
        raise typer.Exit(1)


def examined(
    gpu: Gpu, backend: str, shapes: tuple[tuple[int, int], ...], tokens: tuple[int, ...], n_rounds: int
) -> tuple[str, bool]:
    """Return what a page says about a device, and whether everything held."""
    lines = ["", f"{datetime.now(UTC).date()}. " + "; ".join(f"{k} {v}" for k, v in gpu.told.items()) + ".", ""]
    held = True
    lines += ["| checked | held | seen |", "|---|---|---|"]
    with tempfile.TemporaryDirectory() as folder:
        checks = chain(
            _guarded("products", lambda: check_kernels(gpu)),
            _guarded("runs", lambda: check_runs(gpu, Path(folder))),
            _guarded("kit", lambda: check_kit(backend)),
        )
        for checked in checks:
            _cli.console.print(f"{checked.what}: {'held' if checked.held else 'FAILED'}, {checked.seen}")
            lines.append(f"| {checked.what} | {'yes' if checked.held else '**no**'} | {checked.seen} |")
            held &= checked.held
    lines += [
        "",
        "## Memory",
        "",
        "Bytes a stored weight as packed, and MiB that a forward and a backward product of 512",
    ]
    lines += [f"tokens take besides; {shapes[0][0]} x {shapes[0][1]}, float32.", ""]
    lines += ["| away | bytes | MiB |", "|---|---:|---:|"]
    lines += [
        f"| {pattern} | {of_weight:.2f} | {besides:.1f} |" for pattern, of_weight, besides in memory(gpu, shapes[0])
    ]
    lines += [
        "",
        "## Speed",
        "",
        "Every round runs every method; *dense / method* is the median of the rounds and their",
    ]
    lines += ["range. *ours by rows* is CSR whatever `pack` would choose; *dense* is cuBLAS by way of CuPy.", "", *HEAD]
    for row in measure(gpu, shapes, tokens, n_rounds):
        line = format_row(row)
        _cli.console.print(line, highlight=False)
        lines.append(line)
    return "\n".join(lines) + "\n", held


def _guarded(what: str, checks: Callable[[], Iterator[Checked]]) -> Iterator[Checked]:
    """Yield checks; one that breaks is one that did not hold, and the others still run."""
    try:
        yield from checks()
    except Exception as error:  # noqa: BLE001  whatever a driver or a library raises is a result
        first = next(iter(str(error).splitlines()), "")
        yield Checked(what, False, f"{type(error).__name__}: {first}")


if __name__ == "__main__":
    _cli.run(main)
