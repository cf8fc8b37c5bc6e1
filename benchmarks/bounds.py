"""Measure the upper limits of a sparse product on this processor: of its instructions, its loop and a whole product.

Each row adds one cost to the row before it: loads of operands, lookups of columns, ends of rows, and a matrix that
does not fit into a cache. On processors that have them, a last row is for dot products of bfloat16. All rows use one
thread, because the limits are those of one core.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import typer

from benchmarks.rounds import JsonFile, machine, restart_in_clean_environment
from seft_cli.output import write_json

STORED = 19
"""Stored entries of a row of a panel at 70 % sparsity."""
LONG = 4096
"""Entries of a row that is so long that the cost of its end does not count."""
TOKENS, WIDTH, SPARSITY = 128, 2048, 0.7


def bounds(
    json_file: JsonFile = None,
    n_rounds: Annotated[int, typer.Option("--rounds", min=1)] = 9,
    work: Annotated[float, typer.Option(min=1e-3, help="Billions of operations of a timed block.")] = 4.0,
) -> None:
    """Print for each limit how many billion multiplications and additions this processor makes in a second."""
    restart_in_clean_environment(1)
    rows = []
    for what, operations, run in _methods():
        repeats = max(1, round(1e9 * work / operations))
        run(repeats)
        seconds = [_seconds(run, repeats) for _ in range(n_rounds)]
        paces = sorted(operations * repeats / 1e9 / one for one in seconds)
        row = {"what": what, "billions": statistics.median(paces), "range": (paces[0], paces[-1])}
        rows.append(row)
        print(f"{what:58} {row['billions']:7.1f} ({paces[0]:.1f} to {paces[-1]:.1f})", flush=True)
    write_json(json_file, {"machine": machine(1), "rounds": n_rounds, "rows": rows})


def _seconds(run: Callable[[int], None], repeats: int) -> float:
    start = time.perf_counter()
    run(repeats)
    return time.perf_counter() - start


def _methods() -> Iterator[tuple[str, float, Callable[[int], None]]]:
    """Yield for each row its name, the operations of one repeat, and a function that runs n repeats."""
    import numpy as np
    from numba.core.registry import cpu_target

    from benchmarks import chains
    from seft_ref.kernels import cpu
    from seft_ref.kernels.cpu.panels import run
    from seft_ref.topology.csr import from_flat

    rng = np.random.default_rng(0)
    lines = _aligned(64 * TOKENS)
    sums = _aligned(max(chains.CHAINS * 16, TOKENS))

    def chain(task: Any) -> Callable[[int], None]:
        return lambda n: run(task, (lines, sums, n), 1, 1)

    yield "multiply-adds of registers", chains.CHAINS * 32, chain(chains.from_registers)
    yield "with one load from the first-level cache each", chains.CHAINS * 32, chain(chains.from_memory)
    for what, stored in ((f"rows of {LONG} entries in one panel", LONG), (f"rows of {STORED} entries", STORED)):
        values, index = rng.standard_normal(stored, dtype=np.float32), rng.integers(0, 64, stored, dtype=np.uint8)

        def of_rows(n: int, values: Any = values, index: Any = index) -> None:
            run(chains.of_one_row, (values, index, values.size, lines, sums, n), 1, 1)

        yield what, 2 * stored * TOKENS, of_rows
    topology = from_flat((WIDTH, WIDTH), np.flatnonzero(rng.random(WIDTH * WIDTH, dtype=np.float32) >= SPARSITY))
    packed = cpu.pack(topology, rng.standard_normal(topology.nnz, dtype=np.float32))
    x = rng.standard_normal((TOKENS, WIDTH), dtype=np.float32)

    def product(n: int) -> None:
        for _ in range(n):
            cpu.matmul(x, packed)

    yield f"forward, {WIDTH} x {WIDTH} at 70 %, {TOKENS} tokens", 2 * topology.nnz * TOKENS, product
    *_, features = cpu_target.target_context.codegen().magic_tuple()
    if "+avx512bf16" in features.split(","):
        yield "dot products of pairs of bfloat16", chains.CHAINS * 64, chain(chains.of_bfloat16)


def _aligned(n: int) -> Any:
    """Return n float32 zeros that start at a page of memory, because their alignment would change the speed."""
    import numpy as np

    raw = np.zeros(4 * n + 4096, dtype=np.uint8)
    return raw[-raw.ctypes.data % 4096 :][: 4 * n].view(np.float32)
