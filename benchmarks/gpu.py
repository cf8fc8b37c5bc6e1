"""Benchmark of products on a GPU against cuBLAS through CuPy, torch's dense product, and cuSPARSE.

All methods are checked before one is timed. Then each round runs every method, so that a disturbance of the machine
slows all of them. A timed block is many calls and one wait for the device.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu_here import Gpu, the_gpu
from seft_cli.output import write_json
from seft_ref.arrays.library import from_numpy, to_numpy
from seft_ref.kernels.gpu.packed import by_rows_and_columns
from seft_ref.topology.csr import Topology, flat, from_flat, placed_like

SHAPES = ((2048, 2048), (5632, 2048), (2048, 5632))
PATTERNS = ("50%", "2:4", "70%", "90%", "99%")
TOKENS = (1, 16, 128, 2048)
BLOCK_SECONDS = 0.02
"""Least duration of a timed block."""


@dataclass(frozen=True, slots=True)
class Row:
    """One method on one product, matrix and number of tokens, compared with the dense product."""

    product: str
    shape: tuple[int, int]
    pattern: str
    tokens: int
    method: str
    seconds: float
    ratio: float
    """Time of the dense product over that of this method, median of the rounds."""
    lowest: float
    highest: float


def measure(gpu: Gpu, shapes: tuple[tuple[int, int], ...], tokens: tuple[int, ...], n_rounds: int) -> Iterator[Row]:
    """Yield a row for every method on every matrix, product by product."""
    rng = np.random.default_rng(0)
    for shape in shapes:
        for pattern in PATTERNS:
            topology = placed_like(pruned(rng, shape, pattern), gpu.like)
            values = from_numpy(rng.standard_normal(topology.nnz, dtype=np.float32), gpu.like)
            weight = gpu.xp.zeros(topology.numel, dtype=np.float32)
            weight[flat(topology)] = values
            weight = weight.reshape(shape)
            packed = gpu.kernels.pack(topology, values)
            rows = by_rows_and_columns(gpu.xp, topology, values)
            for n in tokens:
                x, dy = (from_numpy(rng.standard_normal((n, k), dtype=np.float32), gpu.like) for k in shape[::-1])
                peers = gpu.peers(weight, topology, values, x, dy)
                ours: dict[str, dict[str, Callable[[], Any]]] = {
                    "forward": {
                        "ours": partial(gpu.kernels.matmul, x, packed),
                        "ours by rows": partial(gpu.kernels.matmul, x, rows),
                    },
                    "dx": {
                        "ours": partial(gpu.kernels.matmul_transposed, dy, packed),
                        "ours by rows": partial(gpu.kernels.matmul_transposed, dy, rows),
                    },
                    "sample": {"ours": partial(gpu.kernels.sample, dy, x, topology)},
                }
                for product, mine in ours.items():
                    methods = peers[product] | mine
                    _check(product, methods)
                    for method, times, ratios in interleaved(methods, n_rounds, gpu.finish):
                        numbers = (statistics.median(times), statistics.median(ratios), min(ratios), max(ratios))
                        yield Row(product, shape, pattern, n, method, *numbers)


def kernels(json_file: Path | None, *, quick: bool) -> None:
    """Time every method on this machine's GPU, print the rows, and write them to a file if one is given."""
    gpu = the_gpu()
    print("; ".join(f"{name} {what}" for name, what in gpu.told.items()))
    print("\n".join(HEAD))
    rows = []
    for row in measure(gpu, SHAPES[:1] if quick else SHAPES, (1, 128) if quick else TOKENS, 3 if quick else 7):
        rows.append(row)
        print(format_row(row), flush=True)
    write_json(json_file, {"machine": gpu.told, "rows": [asdict(r) for r in rows]})


def pruned(rng: np.random.Generator, shape: tuple[int, int], pattern: str) -> Topology:
    """Return a random topology: N of every M positions are stored for `N:M`, all but about 70 % for `70%`."""
    n = shape[0] * shape[1]
    if ":" in pattern:
        n_keep, width = map(int, pattern.split(":"))
        order = np.argsort(rng.random((n // width, width), dtype=np.float32), axis=1)
        return from_flat(shape, np.flatnonzero(order.reshape(-1) < n_keep))
    return from_flat(shape, np.flatnonzero(rng.random(n, dtype=np.float32) >= float(pattern[:-1]) / 100))


def interleaved(
    methods: dict[str, Callable[[], Any]], n_rounds: int, finish: Callable[[], None]
) -> Iterator[tuple[str, list[float], list[float]]]:
    """Time each method once a round; yield its name, times, and ratios of the time of `dense` to its own."""

    def block(method: Callable[[], Any], count: int) -> float:
        finish()
        start = time.perf_counter()
        for _ in range(count):
            method()
        finish()
        return (time.perf_counter() - start) / count

    counts = {}
    for name, method in methods.items():
        block(method, 1)
        # estimate from several calls, because one call with a wait takes longer than one of many
        some = max(1, min(10, int(BLOCK_SECONDS / block(method, 1))))
        counts[name] = max(1, int(BLOCK_SECONDS / block(method, some)))
    times: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(n_rounds):
        for name, method in methods.items():
            times[name].append(block(method, counts[name]))
    for name, own in times.items():
        yield name, own, [dense / mine for dense, mine in zip(times["dense"], own, strict=True)]


def _check(product: str, methods: dict[str, Callable[[], Any]]) -> None:
    """Exit if a method's result differs from the dense product's by more than sums in float32 may."""
    expected = _on_host(methods["dense"]())
    largest = float(abs(expected).max())
    for name, method in methods.items():
        error = float(abs(_on_host(method()) - expected).max())
        if not error <= 3e-5 * largest:
            raise SystemExit(f"{product} by {name} is off by {error}, largest entry {largest}")


def _on_host(found: Any) -> Any:
    """Return the result of a method, which may be an array of CuPy or torch, as a NumPy array."""
    return found.cpu().numpy() if hasattr(found, "cpu") else to_numpy(found)


def format_row(row: Row) -> str:
    """Return a row as a line of a table."""
    shape = f"{row.shape[0]} x {row.shape[1]}"
    return (
        f"| {row.product} | {shape} | {row.pattern} | {row.tokens} | {row.method} | {row.seconds * 1e6:.1f} | "
        f"{row.ratio:.2f} ({row.lowest:.2f}..{row.highest:.2f}) |"
    )


HEAD = (
    "| product | shape | away | tokens | method | us | dense / method |",
    "|---|---|---|---:|---|---:|---:|",
)
